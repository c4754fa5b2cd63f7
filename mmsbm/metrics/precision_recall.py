"""Improved precision and recall (Kynkäänniemi et al., 2019, arXiv 1904.06991).

The support of a distribution is estimated by balls around its samples, each
reaching to the k-th nearest neighbour. Precision (quality) is the share of
generated samples inside the real support, recall (variety) the share of real
samples inside the generated support. Both depend on the numbers of samples: the
paper takes equally many real and generated ones.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.metrics.base import (
  MIN_EXAMPLES,
  Better,
  Estimate,
  Target,
  features,
  too_few,
)


def _squared_distances(x: jax.Array, points: jax.Array) -> jax.Array:
  """Squared distances [N] of x [D] to points [N, D]; one matrix product if mapped.

  HIGHEST because |x|^2 + |y|^2 - 2 x y cancels: the TF32 or bfloat16 products that
  accelerators use by default would leave few correct digits for neighbours.
  """
  product = jnp.matmul(points, x, precision=jax.lax.Precision.HIGHEST)
  return jnp.maximum(jnp.sum(points**2, axis=1) + jnp.sum(x**2) - 2 * product, 0.0)


@jax.jit(static_argnames=('k', 'chunk'))
def squared_radii(points: jax.Array, *, k: int, chunk: int) -> jax.Array:
  """Squared distance [N] of every point [N, D] to its k-th nearest other point."""

  def radius(indexed):
    index, x = indexed
    columns = jnp.arange(len(points))
    # The point itself is excluded by index: its computed distance is rarely 0.
    distances = jnp.where(columns == index, jnp.inf, _squared_distances(x, points))
    # k is small, and k - 1 removals take a seventh of the time of `lax.top_k` on a CPU.
    for _ in range(k - 1):
      distances = jnp.where(columns == jnp.argmin(distances), jnp.inf, distances)
    return jnp.min(distances)

  return jax.lax.map(radius, (jnp.arange(len(points)), points), batch_size=chunk)


@jax.jit(static_argnames=('chunk',))
def inside(x: jax.Array, points: jax.Array, radii: jax.Array, *, chunk: int):
  """Bool [B]: is x [B, D] in any ball around points [N, D] of squared radii [N]?"""
  return jax.lax.map(
    lambda row: jnp.any(_squared_distances(row, points) <= radii), x, batch_size=chunk
  )


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
  """Two shares and their binomial standard errors.

  The standard errors count the samples that are tested and take the balls as
  given: they are lower bounds, since the balls are random as well.
  """

  precision: float
  precision_stderr: float
  recall: float
  recall_stderr: float


def precision_recall(
  real: np.ndarray, generated: np.ndarray, *, k: int = 3, chunk: int = 512
) -> PrecisionRecall:
  """Improved precision and recall of generated features.

  Args:
    real: features [N, D].
    generated: features [N', D].
    k: neighbours that a ball reaches (3 in the paper).
    chunk: rows of the distance matrix in memory at once (512 of 10,000 float32
      columns are 20 MB). The result does not depend on it.
  """
  real, generated = _centred(real, generated, k)
  precision = _share_inside(generated, real, k, chunk)
  recall = _share_inside(real, generated, k, chunk)
  return PrecisionRecall(*precision, *recall)


def _centred(real: np.ndarray, generated: np.ndarray, k: int):
  """Both sets of features about the mean of the real ones, as float32."""
  if min(len(real), len(generated)) <= k:
    raise ValueError(
      f'{k} neighbours need more than {k} examples, not {len(real)} and '
      f'{len(generated)}.'
    )
  # Distances do not change under a shift; float32 rounding does. What is left is
  # an error of about 1e-7 |x|^2 in a squared distance, |x| from the centre.
  centre = np.mean(real, axis=0, dtype=np.float64)
  return tuple(
    jnp.asarray(np.asarray(a, np.float64) - centre, jnp.float32)
    for a in (real, generated)
  )


def _share_inside(x, points, k: int, chunk: int = 512) -> tuple[float, float]:
  """Share of x [N, D] in the balls around points [N', D], and its standard error."""
  radii = squared_radii(points, k=k, chunk=chunk)
  value = float(np.mean(np.asarray(inside(x, points, radii, chunk=chunk))))
  return value, math.sqrt(value * (1 - value) / len(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
  """The share of generated examples inside the support of the real ones.

  Attributes:
    reader: the name of a reader; '' for all that have features.
    num_neighbours: k of the balls, 3 in the paper.
  """

  reader: str = ''
  num_neighbours: int = 3

  name: ClassVar[str] = 'precision'
  better: ClassVar[Better] = 'high'
  paired: ClassVar[bool] = False
  about: ClassVar[str] = (
    'The share of generated examples whose features lie among those of real ones '
    '(improved precision): quality.'
  )

  def __post_init__(self):
    if not 1 <= self.num_neighbours < MIN_EXAMPLES:
      raise UserError(
        f'num_neighbours is {self.num_neighbours}; it must be from 1 to '
        f'{MIN_EXAMPLES - 1}.'
      )

  def __call__(self, target: Target) -> list[Estimate]:
    """Returns a number for each reader with features; see `OfSets`."""
    return [
      self._estimate(real, generated, {'features': name})
      for name, real, generated in features(target, self.reader)
    ]

  def _estimate(self, real, generated, fields):
    if len(generated) < MIN_EXAMPLES:
      return too_few(**fields)
    pair = _centred(real, generated, self.num_neighbours)
    return Estimate(*self._share(*pair), fields=fields)

  def _share(self, real, generated):
    return _share_inside(generated, real, self.num_neighbours)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(Precision):
  """The share of real examples inside the support of the generated ones."""

  name: ClassVar[str] = 'recall'
  about: ClassVar[str] = (
    'The share of real examples whose features lie among those of generated ones '
    '(improved recall): variety.'
  )

  def _share(self, real, generated):
    return _share_inside(real, generated, self.num_neighbours)
