"""Which sets of modalities are given."""

import itertools
import math

import numpy as np

from mmsbm.infra.errors import UserError


def choose_subsets(
  num_modalities: int, num_given: int, max_subsets: int, seed: int
) -> np.ndarray:
  """The subsets of `num_given` modalities to condition on.

  All of them when there are at most `max_subsets`, else a uniform draw without
  repetition. The draw is keyed by (seed, num_modalities, num_given), so it does
  not change when other sizes are added or left out, and a larger `max_subsets`
  keeps the subsets of a smaller one.

  Returns:
    Bool [S, M], True where a modality is given; lexicographic order.
  """
  if not 0 <= num_given <= num_modalities:
    raise ValueError(f'Cannot give {num_given} of {num_modalities} modalities.')
  if max_subsets < 1:
    raise UserError(f'max_subsets must be at least 1, not {max_subsets}.')
  if math.comb(num_modalities, num_given) <= max_subsets:
    chosen = itertools.combinations(range(num_modalities), num_given)
  else:
    # Distinct draws one after the other: no list of all subsets, of which there
    # are 10^11 for 20 of 40.
    rng = np.random.default_rng([seed, num_modalities, num_given])
    chosen = set()
    while len(chosen) < max_subsets:
      draw = rng.permutation(num_modalities)[:num_given]
      chosen.add(tuple(sorted(draw.tolist())))
    chosen = sorted(chosen)
  return np.array([np.isin(np.arange(num_modalities), c) for c in chosen], bool)


def measured_subsets(
  num_modalities: int, num_given: int, max_subsets: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """The subsets that conditional generation is measured on.

  Given all but one modality there is one subset for each target, whatever the limit.

  Returns:
    Bool [S, M], and bool [S]: False for a prefix (m0, m1, ...) that was not drawn.
    It is measured for the incremental curve and counts in no average, which would
    otherwise depend on the order of the modalities.
  """
  if num_given == num_modalities - 1:
    return ~np.eye(num_modalities, dtype=bool), np.ones(num_modalities, bool)
  chosen = choose_subsets(num_modalities, num_given, max_subsets, seed)
  prefix = np.arange(num_modalities) < num_given
  if (chosen == prefix).all(1).any():
    return chosen, np.ones(len(chosen), bool)
  drawn = np.arange(len(chosen) + 1) < len(chosen)
  return np.concatenate([chosen, prefix[None]]), drawn


def check_num_given(num_given: tuple[int, ...], num_modalities: int) -> None:
  """Refuses numbers of given modalities that leave none to generate."""
  if not isinstance(num_given, tuple):
    raise UserError(f'num_given is {num_given!r}; it must be a list of whole numbers.')
  for count in num_given:
    if not isinstance(count, int) or not 0 < count < num_modalities:
      raise UserError(
        f'num_given: of {num_modalities} modalities, 1 to {num_modalities - 1} can be '
        f'given, not {count!r}.'
      )
