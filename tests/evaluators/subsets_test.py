"""Which modalities are given, and which of these sets count in averages."""

import itertools
import math

import numpy as np
import pytest

from mmsbm.evaluators import subsets
from mmsbm.infra.errors import UserError


def as_sets(chosen):
  return [tuple(np.flatnonzero(row).tolist()) for row in chosen]


class TestChooseSubsets:
  def test_all_in_lexicographic_order(self):
    chosen = subsets.choose_subsets(4, 2, 6, seed=0)
    assert chosen.dtype == bool and chosen.shape == (6, 4)
    assert as_sets(chosen) == list(itertools.combinations(range(4), 2))

  @pytest.mark.parametrize('num_given', [0, 5])
  def test_nothing_and_everything(self, num_given):
    chosen = subsets.choose_subsets(5, num_given, 3, seed=0)
    assert chosen.tolist() == [[num_given == 5] * 5]

  def test_draw_has_no_repetition_is_sorted_and_seeded(self):
    first = as_sets(subsets.choose_subsets(8, 4, 30, seed=1))
    assert len(set(first)) == 30 and first == sorted(first)
    assert all(len(s) == 4 for s in first)
    assert first == as_sets(subsets.choose_subsets(8, 4, 30, seed=1))
    assert first != as_sets(subsets.choose_subsets(8, 4, 30, seed=2))

  def test_larger_budget_keeps_the_smaller_draw(self):
    small = set(as_sets(subsets.choose_subsets(10, 5, 7, seed=3)))
    assert small < set(as_sets(subsets.choose_subsets(10, 5, 50, seed=3)))

  def test_draw_is_uniform_over_modalities(self):
    draws = np.concatenate(
      [subsets.choose_subsets(10, 3, 10, seed=seed) for seed in range(200)]
    )
    # Each modality is in 3 of 10; 2000 subsets.
    np.testing.assert_allclose(draws.mean(0), 0.3, atol=4 * math.sqrt(0.21 / 2000))

  def test_does_not_enumerate(self):
    assert subsets.choose_subsets(64, 32, 5, seed=0).sum(axis=1).tolist() == [32] * 5

  def test_mistakes(self):
    with pytest.raises(UserError, match='max_subsets'):
      subsets.choose_subsets(4, 2, 0, seed=0)
    with pytest.raises(ValueError, match='Cannot give 5 of 4'):
      subsets.choose_subsets(4, 5, 1, seed=0)


class TestMeasuredSubsets:
  def test_one_per_target_given_the_rest(self):
    chosen, drawn = subsets.measured_subsets(5, 4, 2, seed=0)
    np.testing.assert_array_equal(chosen, ~np.eye(5, dtype=bool))
    assert drawn.all()

  def test_prefix_is_measured_but_does_not_count(self):
    seeds = range(20)
    found = [subsets.measured_subsets(6, 2, 3, seed) for seed in seeds]
    prefix = [True, True, False, False, False, False]
    assert all(prefix in chosen.tolist() for chosen, _ in found)
    lengths = {(len(chosen), int(drawn.sum())) for chosen, drawn in found}
    assert lengths == {(3, 3), (4, 3)}
    for chosen, drawn in found:
      assert drawn[:3].all() and (drawn[3:] | (chosen[3:] == prefix).all(1)).all()


def test_check_num_given_names_the_possible_numbers():
  subsets.check_num_given((1, 2), 3)
  subsets.check_num_given((), 1)
  for wrong in ((0,), (1, 3)):
    with pytest.raises(UserError, match='of 3 modalities, 1 to 2 can be given, not'):
      subsets.check_num_given(wrong, 3)
