"""Which examples a step sees: pure functions, so that nothing has to be saved."""

import functools
from collections.abc import Iterator

import numpy as np

from mmsbm.infra.errors import UserError


def batch_indices(
  seed: int,
  step: int,
  *,
  size: int,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> np.ndarray:
  """Examples [batch_size / process_count] int64 of one training step, out of `size`.

  The permutations of all epochs lie end to end, and step s takes the s-th stretch of
  `batch_size`, which each process takes its own share of. A batch may straddle epochs;
  no example is dropped.
  """
  if size < 1 or batch_size < 1 or batch_size % process_count:
    raise UserError(
      f'A batch of {batch_size} of {size} examples cannot be shared by '
      f'{process_count} processes; choose a batch size that they divide.'
    )
  share = batch_size // process_count
  start = int(step) * batch_size + process_index * share
  pieces = []
  while share:
    epoch, offset = divmod(start, size)
    piece = _permutation(int(seed), epoch, size)[offset : offset + share]
    pieces.append(piece)
    start, share = start + len(piece), share - len(piece)
  return np.concatenate(pieces)


def padded_chunks(size: int, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Covers 0..size-1 once in chunks of equal length, for evaluation.

  Yields:
    Indices [chunk] int64 and mask [chunk] bool. The last chunk is padded with index 0,
    masked False: one compilation serves all of them.
  """
  for start in range(0, size, chunk):
    indices = np.arange(start, start + chunk)
    mask = indices < size
    yield np.where(mask, indices, 0), mask


# Two epochs meet in a batch; one more for a second learner that is elsewhere.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """Order of the examples in an epoch, [size] int64, read-only."""
  # Philox is keyed by (seed, epoch): epochs are independent, none is skipped to.
  key = np.array([seed % 2**64, epoch], np.uint64)
  order = np.random.Generator(np.random.Philox(key=key)).permutation(size)
  order.setflags(write=False)
  return order
