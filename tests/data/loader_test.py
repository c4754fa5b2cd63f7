"""Batches as a pure function of the step."""

import numpy as np
import pytest

from mmsbm.data import loader
from mmsbm.infra.errors import UserError


def test_epochs_are_permutations_laid_end_to_end():
  size, batch = 10, 4
  stream = np.concatenate(
    [loader.batch_indices(3, s, size=size, batch_size=batch) for s in range(15)]
  ).reshape(6, size)
  np.testing.assert_array_equal(np.sort(stream), np.tile(np.arange(size), (6, 1)))
  assert len({tuple(row) for row in stream.tolist()}) == 6
  assert stream.dtype == np.int64


def test_order_depends_on_the_seed_only():
  take = lambda seed: loader.batch_indices(seed, 7, size=50, batch_size=20)  # noqa: E731
  expected = take(1)
  loader._permutation.cache_clear()
  np.testing.assert_array_equal(take(1), expected)
  assert not np.array_equal(take(2), expected)


def test_processes_share_the_global_batch():
  kwargs = {'size': 11, 'batch_size': 6}
  for step in range(6):
    parts = [
      loader.batch_indices(0, step, process_index=i, process_count=3, **kwargs)
      for i in range(3)
    ]
    np.testing.assert_array_equal(
      np.concatenate(parts), loader.batch_indices(0, step, **kwargs)
    )


def test_batch_larger_than_the_dataset():
  batch = loader.batch_indices(0, 5, size=3, batch_size=12)
  np.testing.assert_array_equal(np.bincount(batch), [4, 4, 4])


def test_batch_that_processes_do_not_divide():
  with pytest.raises(UserError, match='3 processes'):
    loader.batch_indices(0, 0, size=9, batch_size=4, process_count=3)


@pytest.mark.parametrize(('size', 'chunk', 'num'), [(7, 3, 3), (6, 3, 2), (2, 5, 1)])
def test_padded_chunks_cover_every_example_once(size, chunk, num):
  chunks = list(loader.padded_chunks(size, chunk))
  assert [len(i) for i, _ in chunks] == [chunk] * num
  np.testing.assert_array_equal(
    np.concatenate([i[mask] for i, mask in chunks]), np.arange(size)
  )
  indices, mask = chunks[-1]
  assert not indices[~mask].any()
