"""Scores of several draws, against closed forms and expectations."""

import dataclasses
import types

import numpy as np
import pytest

from mmsbm.metrics import METRICS
from mmsbm.metrics.base import Reading, Target, kind_of
from mmsbm.metrics.draws import brier_score, log_score, pair_agreement

# Probabilities of three classes, of which the first one is true.
P = np.array([0.6, 0.3, 0.1])


def target(seen, label, name='a'):
  return Target(
    modality=types.SimpleNamespace(name=name, kind=types.SimpleNamespace(metrics=())),
    generated=np.zeros(len(seen)),
    real=np.zeros(len(seen)),
    present=np.ones(len(seen), bool),
    annotations={'class': np.asarray(label)},
    read_generated={'digit': Reading(np.asarray(seen), None, 'class')},
    read_real={},
  )


def test_brier_score_of_certain_draws():
  seen = np.array([[4, 5, 4], [4, 5, 7]])
  # Right; wrong; one of two draws: 1/4 + 1/4 less 2 * 1/4.
  np.testing.assert_allclose(brier_score(seen, np.array([4, 6, 4])), [0, 2, 0])
  # Two of three: 1/9 + 1/9 less 2 * (2/9) / 2.
  seen = np.array([[1], [1], [2]])
  np.testing.assert_allclose(brier_score(seen, np.array([1])), 0, atol=1e-15)
  np.testing.assert_allclose(brier_score(seen, np.array([2])), 8 / 9 - 2 / 9)


@pytest.mark.parametrize('num', [2, 8])
def test_brier_score_is_unbiased_in_the_number_of_draws(num):
  """Its mean over sets of draws is that of the probabilities, 0.16 + 0.09 + 0.01."""
  rng = np.random.default_rng(0)
  seen = rng.choice(3, size=(num, 40_000), p=P)
  scores = brier_score(seen, np.zeros(40_000, int))
  assert abs(scores.mean() - 0.26) < 4 * scores.std() / 200


def test_log_score_in_closed_form():
  seen = np.array([[1, 1, 3], [1, 2, 3], [1, 3, 3]])
  expected = -np.log(np.array([3.5, 1.5, 0.5]) / 4)
  np.testing.assert_allclose(log_score(seen, np.array([1, 2, 1])), expected)


def test_pair_agreement_counts_pairs_of_one_draw_or_of_different_ones():
  # Draws of three targets: all alike, then two of three.
  seen = np.array([[1, 1, 1], [2, 2, 5]])[:, :, None]
  assert pair_agreement(seen) == pytest.approx((1 + 1 / 3) / 2)
  assert pair_agreement(seen, apart=True) == 0
  # Brute force over ordered pairs of draws and pairs of targets.
  seen = np.random.default_rng(1).integers(0, 3, (4, 3, 5))
  pairs = [(0, 1), (0, 2), (1, 2)]
  same = np.mean([seen[k, s] == seen[k, t] for k in range(4) for s, t in pairs], 0)
  other = np.mean(
    [seen[k, s] == seen[j, t] for k in range(4) for j in range(4) if j != k
     for s, t in pairs], 0,
  )  # fmt: skip
  np.testing.assert_allclose(pair_agreement(seen), same)
  np.testing.assert_allclose(pair_agreement(seen, apart=True), other)


def _draws(rng, num, size, is_joint):
  """Each of two targets shows the true class 0 in 60 %, together or for itself."""
  draws = []
  for _ in range(num):
    one, two = rng.choice(3, size=(2, size), p=P)
    label = np.zeros(size, int)
    draws.append(
      {'a': target(one, label), 'b': target(one if is_joint else two, label)}
    )
  return draws


def test_agreement_sees_what_coherence_and_scores_of_single_targets_do_not():
  rng, size = np.random.default_rng(2), 4_000
  measured = {}
  for is_joint in (True, False):
    draws = _draws(rng, 4, size, is_joint)
    measured[is_joint] = {
      name: METRICS[name]()(draws)
      for name in ('brier', 'target_agreement', 'target_agreement_apart')
    }
  for of in measured.values():
    assert of['brier'].keys() == {'a', 'b'}
    assert of['brier']['b'].mean() == pytest.approx(0.26, abs=0.02)
    # What the condition alone settles: 0.36 + 0.09 + 0.01.
    apart = of['target_agreement_apart']['all'].mean()
    assert apart == pytest.approx(0.46, abs=0.02)
  assert (measured[True]['target_agreement']['all'] == 1).all()
  together = measured[False]['target_agreement']['all'].mean()
  assert together == pytest.approx(0.46, abs=0.02)


def test_what_is_not_known_is_not_measured():
  draws = [{'a': target([1, 1], [1, -1])}] * 2
  scores = METRICS['brier']()(draws)['a']
  assert scores[0] == 0 and np.isnan(scores[1])
  assert kind_of(METRICS['brier']()) == 'draws'
  # One draw makes no forecast, one target no pair, and no reader no class.
  assert METRICS['brier']()(draws[:1]) == METRICS['target_agreement']()(draws) == {}
  blind = dataclasses.replace(draws[0]['a'], read_generated={})
  assert METRICS['log_score']()([{'a': blind}] * 2) == {}


def test_a_label_is_its_own_class():
  kind = types.SimpleNamespace(metrics=('accuracy',))
  own = dataclasses.replace(
    target([0, 0], [0, 0]),
    modality=types.SimpleNamespace(name='number', kind=kind),
    generated=np.array([3, 4]),
    real=np.array([3, 3]),
    read_generated={},
  )
  np.testing.assert_allclose(
    METRICS['brier']()([{'number': own}] * 2)['number'], [0, 2]
  )
