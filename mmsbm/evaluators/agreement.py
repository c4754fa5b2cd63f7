"""Generated attributes, masks and labels against those of the test example.

Where a modality holds its own meaning no classifier is needed: what is generated is
compared with what is there, entry by entry.
"""

import numpy as np


def f1_per_example(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
  """F1 of the positive entries of each example, [N].

  2 |both| / (|predicted| + |true|), and 0 where neither has any: scikit-learn's
  f1_score(average='samples') before its mean, the published metric of attributes
  and masks (arXiv 2305.15708).

  Args:
    predicted: 0/1 entries [N, ...].
    true: 0/1 entries [N, ...].
  """
  predicted = np.asarray(predicted).reshape(len(predicted), -1) > 0
  true = np.asarray(true).reshape(len(true), -1) > 0
  both = (predicted & true).sum(1)
  total = predicted.sum(1) + true.sum(1)
  return 2 * both / np.maximum(total, 1)


def agreement(
  kind_name: str, predicted: np.ndarray, true: np.ndarray
) -> tuple[str, np.ndarray] | None:
  """Name of the metric that fits a kind of modality, and its values [N].

  Returns:
    'f1' for masks and attributes, 'accuracy' for labels; None for kinds whose
    examples are not comparable entry by entry.
  """
  if kind_name in ('mask', 'attributes'):
    return 'f1', f1_per_example(predicted, true)
  if kind_name == 'label':
    return 'accuracy', np.asarray(predicted == true, np.float64)
  return None
