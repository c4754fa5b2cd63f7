"""How well a linear classifier reads the class from latents."""

import numpy as np


def linear_probe(
  train: np.ndarray, train_label: np.ndarray, test: np.ndarray
) -> np.ndarray:
  """Fits multinomial logistic regression to latents [K, D]; classes [N] of test [N, D].

  As multimodal VAEs are compared (arXiv 2006.08242, 2105.02470), but for dimensions
  being standardised first, with the moments of the training latents. The penalty is
  scikit-learn's default, |w|^2 / 2 beside the summed log loss.
  """
  # A second of imports, which most uses of the program do without.
  from sklearn.linear_model import LogisticRegression

  mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
  # A dimension that is constant, but for rounding, says nothing.
  std = np.where(std > 1e-6 * np.abs(mean), std, np.inf)
  classes = np.unique(train_label)
  if len(classes) == 1:
    return np.full(len(test), classes[0])
  model = LogisticRegression(max_iter=1_000)
  model.fit((train - mean) / std, train_label)
  return model.predict((test - mean) / std)
