"""What a kind may want to know of all raw examples of a modality together."""

import numpy as np


class Summary:
  """Range and moments of rows that come in blocks; nothing of them is kept.

  Attributes:
    count: number of rows.
    low, high: smallest and largest value.
    mean: of each entry, float64 [*shape]; of floating-point rows only.
  """

  def __init__(self):
    self.count, self.low, self.high = 0, np.inf, -np.inf
    self.mean = self._squares = np.zeros(())

  def add(self, rows: np.ndarray) -> 'Summary':
    """Adds raw examples [n, *shape]."""
    if not rows.size:
      return self
    self.low = min(self.low, rows.min())
    self.high = max(self.high, rows.max())
    count, total = self.count, self.count + len(rows)
    if rows.dtype.kind == 'f':
      # By differences from means (Chan, Golub, LeVeque 1979): sums of squares would
      # lose the spread of numbers that are far from 0.
      rows = rows.astype(np.float64)
      mean = rows.mean(0)
      delta = mean - self.mean
      self._squares = (
        self._squares
        + np.square(rows - mean).sum(0)
        + np.square(delta) * (count * len(rows) / total)
      )
      self.mean = self.mean + delta * (len(rows) / total)
    self.count = total
    return self

  @property
  def std(self) -> np.ndarray:
    """Standard deviation of each entry, float64 [*shape]."""
    return np.sqrt(self._squares / max(self.count, 1))
