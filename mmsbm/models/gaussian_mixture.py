"""A Gaussian mixture on latents: the cheap alternative to a score model."""

import warnings

import numpy as np


def fit_gaussian_mixture(
  z: np.ndarray, num_components: int, seed: int
) -> dict[str, np.ndarray]:
  """Maximum likelihood by expectation maximisation, full covariances.

  Args:
    z: latents [N, d].
    num_components: K.
    seed: of the initialisation.

  Returns:
    log_weights [K], mean [K, d], scale [K, d, d], the lower triangular roots of the
    covariances.
  """
  # A second of imports, which most uses of the program do without.
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.mixture import GaussianMixture

  model = GaussianMixture(num_components, random_state=seed, reg_covar=1e-5)
  with warnings.catch_warnings():
    # After a hundred steps it is good enough to draw from.
    warnings.simplefilter('ignore', ConvergenceWarning)
    model.fit(z.astype(np.float64))
  return {
    'log_weights': np.log(model.weights_).astype(np.float32),
    'mean': model.means_.astype(np.float32),
    'scale': np.linalg.cholesky(model.covariances_).astype(np.float32),
  }
