import dataclasses
import math

import numpy as np
import pytest

from mmsbm.metrics import frechet
from mmsbm.metrics.base import Reading, Target
from mmsbm.metrics.frechet import FeatureStatistics

# Closed-form features of reference numbers that peers' code was run on.
K = np.arange(256)
F = np.sin(0.2 + 0.61 * K**1.5).reshape(64, 4)
G = (0.7 * np.sin(1.7 + 0.83 * K**1.5) + 0.25).reshape(64, 4)


def from_features(f, g):
  """The distance of two sets of features."""
  f, g = FeatureStatistics.of(f), FeatureStatistics.of(g)
  return frechet.frechet_distance(f.mean, f.covariance, g.mean, g.covariance)


def assert_same(a: FeatureStatistics, b: FeatureStatistics, rtol=1e-12):
  assert a.n == b.n
  np.testing.assert_allclose(a.mean, b.mean, rtol=rtol)
  np.testing.assert_allclose(a.scatter, b.scatter, rtol=rtol, atol=rtol)


class TestFeatureStatistics:
  def test_is_the_sample_mean_and_covariance(self):
    statistics = FeatureStatistics.of(F)
    np.testing.assert_allclose(statistics.mean, F.mean(0))
    np.testing.assert_allclose(statistics.covariance, np.cov(F, rowvar=False))

  def test_without_is_the_rest(self):
    whole, part = FeatureStatistics.of(F), FeatureStatistics.of(F[:10])
    assert_same(whole.without(part), FeatureStatistics.of(F[10:]))

  def test_accepts_float32_far_from_zero(self):
    features = (F + 1000).astype(np.float32)
    whole, part = (FeatureStatistics.of(f) for f in (features, features[:30]))
    expected = np.cov(features[30:].astype(np.float64), rowvar=False)
    got = whole.without(part).covariance
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)

  def test_survives_a_file(self, tmp_path):
    whole = FeatureStatistics.of(F)
    np.savez(tmp_path / 's.npz', **dataclasses.asdict(whole))
    with np.load(tmp_path / 's.npz') as file:
      assert_same(FeatureStatistics(**file), whole)

  def test_mistakes(self):
    with pytest.raises(ValueError, match='2 vectors'):
      _ = FeatureStatistics.of(F[:1]).covariance
    with pytest.raises(ValueError, match='N, D'):
      FeatureStatistics.of(F[0])
    with pytest.raises(ValueError, match='Cannot take'):
      FeatureStatistics.of(F[:2]).without(FeatureStatistics.of(F[:2]))


class TestFrechetDistance:
  def test_peers_gaussians(self):
    value = frechet.frechet_distance(np.zeros(2), np.eye(2), np.ones(2), 2 * np.eye(2))
    assert value == pytest.approx(8 - 4 * math.sqrt(2), abs=1e-10)
    assert value == pytest.approx(2.3431457505, abs=1e-10)

  def test_peers_features(self):
    assert from_features(F, G) == pytest.approx(0.483216, abs=5e-7)

  def test_covariances_that_do_not_commute(self):
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 2.0]])
    # tr (AB)^(1/2) of 2 x 2: (tr AB + 2 (det AB)^(1/2))^(1/2).
    cross = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    mean = np.array([1.0, -2.0])
    expected = 5 + 5 + 3 - 2 * cross
    value = frechet.frechet_distance(mean, a, np.zeros(2), b)
    assert value == pytest.approx(expected, rel=1e-12)
    assert frechet.frechet_distance(np.zeros(2), b, mean, a) == pytest.approx(value)

  def test_of_itself_is_zero_also_when_singular(self):
    rng = np.random.default_rng(0)
    for shape in ((200, 16), (10, 64)):
      features = rng.standard_normal(shape)
      assert from_features(features, features) < 1e-5

  def test_translation_scaling_and_rotation(self):
    shift = np.array([3.0, 0.0, -4.0, 0.0])
    assert from_features(F, F + shift) == pytest.approx(25)
    value = from_features(F, G)
    assert from_features(3 * F, 3 * G) == pytest.approx(9 * value)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    rotated = from_features(F @ rotation, G @ rotation)
    assert rotated == pytest.approx(value)

  def test_large_against_known_singular_values(self):
    # For A = X X^T, B = Y Y^T the trace term is the nuclear norm of X^T Y.
    x, y = np.random.default_rng(0).random((2, 40, 40))
    cross = np.linalg.svd(x.T @ y, compute_uv=False).sum()
    expected = np.sum(x**2) + np.sum(y**2) - 2 * cross
    value = frechet.frechet_distance(np.zeros(40), x @ x.T, np.zeros(40), y @ y.T)
    assert value == pytest.approx(expected, rel=1e-9)


class TestStandardError:
  def test_matches_the_spread_over_generated_sets(self):
    rng = np.random.default_rng(0)
    real = rng.standard_normal((1000, 8))
    estimates = []
    for seed in range(80):
      generated = 1.2 * rng.standard_normal((300, 8)) + 0.3
      estimates.append(frechet.frechet_with_stderr(real, generated, seed=seed))
    values = np.array([e.value for e in estimates])
    errors = np.array([e.stderr for e in estimates])
    # The spread of 80 is known to 1 / sqrt(160) = 8%.
    assert values.std(ddof=1) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.3)
    reference = FeatureStatistics.of(real)
    limit = frechet.frechet_distance(
      reference.mean, reference.covariance, np.full(8, 0.3), 1.44 * np.eye(8)
    )
    noise = values.std() / math.sqrt(len(values))
    assert values.mean() - limit > 5 * noise

  def test_value_and_formula(self):
    estimate = frechet.frechet_with_stderr(F, G, num_groups=64)
    assert estimate.value == pytest.approx(from_features(F, G))
    assert estimate.note == ''
    # One per group: the ordinary jackknife, whatever the seed.
    left_out = [from_features(F, np.delete(G, i, 0)) for i in range(64)]
    expected = math.sqrt(63 * np.var(left_out))
    assert estimate.stderr == pytest.approx(expected, rel=1e-9)
    again = frechet.frechet_with_stderr(F, G, num_groups=99)
    assert again.stderr == pytest.approx(estimate.stderr, rel=1e-9)

  def test_seed_deals_the_groups(self):
    a, b, c = (frechet.frechet_with_stderr(F, G, seed=s).stderr for s in (0, 0, 1))
    assert a == b != c

  def test_too_few(self):
    with pytest.raises(ValueError, match='Too few'):
      frechet.frechet_with_stderr(F, G[:2])

  def test_rank_note(self):
    assert frechet.rank_note(5, 5, 4) == ''
    note = frechet.rank_note(10_000, 2048, 2048)
    assert '2048 generated' in note and 'reference' not in note
    note = frechet.rank_note(7, 10_000, 2048)
    assert '7 reference' in note and 'generated' not in note
    estimate = frechet.frechet_with_stderr(F, G[:4], num_groups=4)
    assert '4 generated' in estimate.note


class TestMetric:
  def test_one_number_for_each_reader_with_features(self):
    target = make_target({'one': (F, G), 'classes': (None, None), 'two': (G, G)})
    one, two = frechet.Frechet()(target)
    assert (one.fields, two.fields) == ({'features': 'one'}, {'features': 'two'})
    expected = frechet.frechet_with_stderr(F, G)
    assert (one.value, one.stderr) == (expected.value, expected.stderr)
    assert two.value == pytest.approx(0, abs=1e-9)
    assert [e.value for e in frechet.Frechet(reader='one')(target)] == [one.value]
    assert frechet.Frechet(reader='classes')(target) == []

  def test_few_examples(self):
    (few,) = frechet.Frechet()(make_target({'one': (F[:7], G[:7])}))
    assert math.isnan(few.value) and few.note == 'fewer than 8 examples'
    (short,) = frechet.Frechet(num_groups=2)(make_target({'one': (F, G[:8])}))
    assert not short.note
    wide = np.concatenate([F, F**2, F**3], axis=1)
    (rank,) = frechet.Frechet()(make_target({'one': (wide[:9], wide[:9])}))
    assert 'singular covariance' in rank.note


def make_target(read):
  """A target of which readers have real and generated features."""
  return Target(
    modality=None,
    generated=None,
    real=None,
    present=None,
    annotations={},
    read_generated={name: Reading(None, pair[1]) for name, pair in read.items()},
    read_real={name: Reading(None, pair[0]) for name, pair in read.items()},
  )
