import itertools
import math

import numpy as np
import pytest

from mmsbm.evaluators import coherence
from mmsbm.infra.errors import UserError

PREDICTED = np.array([0, 0, 1, 1, 2, 2, 2, 0])
LABEL = np.array([0, 0, 0, 1, 2, 2, 1, 1])


def as_sets(subsets):
  return [tuple(np.flatnonzero(row).tolist()) for row in subsets]


class TestChooseSubsets:
  def test_all_in_lexicographic_order(self):
    subsets = coherence.choose_subsets(4, 2, 6, seed=0)
    assert subsets.dtype == bool and subsets.shape == (6, 4)
    assert as_sets(subsets) == list(itertools.combinations(range(4), 2))

  @pytest.mark.parametrize('num_given', [0, 5])
  def test_nothing_and_everything(self, num_given):
    subsets = coherence.choose_subsets(5, num_given, 3, seed=0)
    assert subsets.tolist() == [[num_given == 5] * 5]

  def test_draw_has_no_repetition_is_sorted_and_seeded(self):
    first = as_sets(coherence.choose_subsets(8, 4, 30, seed=1))
    assert len(set(first)) == 30 and first == sorted(first)
    assert all(len(s) == 4 for s in first)
    assert first == as_sets(coherence.choose_subsets(8, 4, 30, seed=1))
    assert first != as_sets(coherence.choose_subsets(8, 4, 30, seed=2))

  def test_larger_budget_keeps_the_smaller_draw(self):
    small = set(as_sets(coherence.choose_subsets(10, 5, 7, seed=3)))
    assert small < set(as_sets(coherence.choose_subsets(10, 5, 50, seed=3)))

  def test_draw_is_uniform_over_modalities(self):
    draws = np.concatenate(
      [coherence.choose_subsets(10, 3, 10, seed=seed) for seed in range(200)]
    )
    # Each modality is in 3 of 10; 2000 subsets.
    np.testing.assert_allclose(draws.mean(0), 0.3, atol=4 * math.sqrt(0.21 / 2000))

  def test_does_not_enumerate(self):
    assert coherence.choose_subsets(64, 32, 5, seed=0).sum(axis=1).tolist() == [32] * 5

  def test_mistakes(self):
    with pytest.raises(UserError, match='max_subsets'):
      coherence.choose_subsets(4, 2, 0, seed=0)
    with pytest.raises(ValueError, match='Cannot give 5 of 4'):
      coherence.choose_subsets(4, 5, 1, seed=0)


class TestAccuracy:
  def test_micro(self):
    value, stderr = coherence.accuracy(PREDICTED, LABEL)
    assert value == 0.625
    assert stderr == pytest.approx(math.sqrt(0.625 * 0.375 / 8))

  def test_macro(self):
    value, stderr = coherence.macro_accuracy(PREDICTED, LABEL)
    assert value == pytest.approx(2 / 3)
    # Classes have 3, 3, 2 examples and accuracies 2/3, 1/3, 1.
    assert stderr == pytest.approx(math.sqrt(2 * (2 / 9) / 3) / 3)

  def test_macro_mean_of_shares(self):
    value, stderr = coherence.macro_mean([1.0, 0.5, 0.0, 0.5], [3, 3, 3, 8])
    assert value == 0.5
    # Variances 1/6 of three examples, and 0 of one.
    assert stderr == pytest.approx(math.sqrt(1 / 18) / 2)

  def test_macro_ignores_classes_without_examples(self):
    assert coherence.macro_accuracy([7, 7], [1, 7])[0] == 0.5

  def test_stderr_is_the_spread_over_repetitions(self):
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [90, 10])
    for measure, p in ((coherence.accuracy, None), (coherence.macro_accuracy, None)):
      results = []
      for _ in range(1000):
        right = rng.random(100) < np.where(label == 0, 0.9, 0.5)
        results.append(measure(np.where(right, label, -5), label))
      values, errors = np.array(results).T
      assert values.std() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.12), p

  def test_unknown_labels_and_shapes(self):
    with pytest.raises(ValueError, match='labelled'):
      coherence.accuracy([0, 1], [0, -1])
    with pytest.raises(ValueError, match='N > 0'):
      coherence.accuracy([], [])


class TestJointAgreement:
  PREDICTIONS = np.array([[1, 1, 2, 3], [1, 1, 2, 0], [1, 2, 2, 2], [4, 4, 4, 4]])

  def test_mode(self):
    agreement = coherence.joint_agreement(self.PREDICTIONS)
    assert {k: v for k, (v, _) in agreement.items()} == {2: 1.0, 3: 0.5, 4: 0.25}
    assert agreement[4][1] == pytest.approx(math.sqrt(0.25 * 0.75 / 4))

  def test_first(self):
    agreement = coherence.joint_agreement(self.PREDICTIONS, reference='first')
    assert {k: v for k, (v, _) in agreement.items()} == {2: 0.75, 3: 0.25, 4: 0.25}

  def test_mean_agreement_is_the_number_of_multivae(self):
    predictions = [[1, 1, 2, 3], [1, 1, 2, 0], [1, 2, 2, 3]]
    assert coherence.mean_agreement(predictions)[0] == 0.5
    assert coherence.mean_agreement(predictions, 'first')[0] == pytest.approx(5 / 12)

  def test_independent_modalities_agree_by_chance(self):
    predictions = np.random.default_rng(0).integers(0, 10, (20_000, 3))
    agreement = coherence.joint_agreement(predictions)
    for k, p in ((2, 1 - 0.9 * 0.8), (3, 0.01)):
      assert abs(agreement[k][0] - p) < 4 * agreement[k][1]

  def test_mistakes(self):
    with pytest.raises(ValueError, match='reference'):
      coherence.joint_agreement(self.PREDICTIONS, reference='last')
    with pytest.raises(ValueError, match='N, M'):
      coherence.joint_agreement(PREDICTED)


class TestClusteredMean:
  def test_one_subset_is_binomial(self):
    correct = PREDICTED == LABEL
    expected = coherence.accuracy(PREDICTED, LABEL)
    assert coherence.clustered_mean(correct) == pytest.approx(expected)
    assert coherence.clustered_mean(correct[None]) == pytest.approx(expected)

  def test_copies_of_a_subset_add_nothing(self):
    correct = PREDICTED == LABEL
    copies = np.broadcast_to(correct, (3, 5, 8))
    assert coherence.clustered_mean(copies) == pytest.approx(
      coherence.clustered_mean(correct)
    )

  def test_closed_form(self):
    # Per-tuple means 1, 1/2, 0: mean 1/2, variance 1/6.
    value, stderr = coherence.clustered_mean([[1, 0, 0], [1, 1, 0]])
    assert (value, stderr) == pytest.approx((0.5, math.sqrt(1 / 6 / 3)))

  def test_counted_outcomes(self):
    correct = np.array([[1.0, np.nan, 0.0], [1.0, 1.0, 0.0]])
    value, stderr = coherence.clustered_mean(correct, np.isfinite(correct))
    # Ratio 3/5; residuals of the tuples 0.8, 0.4, -1.2.
    assert (value, stderr) == pytest.approx((0.6, math.sqrt(2.24) / 5))
    assert coherence.clustered_mean(correct[1], [True] * 3) == pytest.approx(
      coherence.clustered_mean(correct[1])
    )
    assert all(map(math.isnan, coherence.clustered_mean(correct, correct > 9)))

  def test_stderr_covers_dependent_subsets(self):
    rng = np.random.default_rng(1)
    results = []
    for _ in range(500):
      difficulty = rng.random(200)
      results.append(coherence.clustered_mean(rng.random((6, 200)) < difficulty))
    values, errors = np.array(results).T
    assert values.std() == pytest.approx(errors.mean(), rel=0.12)
