"""Improved precision and recall (Kynkäänniemi et al., 2019, arXiv 1904.06991).

The support of a distribution is estimated by balls around its samples, each
reaching to the k-th nearest neighbour. Precision (quality) is the share of
generated samples inside the real support, recall (variety) the share of real
samples inside the generated support. Both depend on the numbers of samples: the
paper takes equally many real and generated ones.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.infra.errors import UserError
from mmsbm.metrics.averages import share
from mmsbm.metrics.base import MIN_EXAMPLES, Better, Estimate, Target, of_features


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


def share_inside(
  x: np.ndarray, points: np.ndarray, centre: np.ndarray, *, k: int = 3, chunk: int = 512
) -> tuple[float, float]:
  """Share of features x [N, D] in the balls around points [N', D].

  Precision is that of generated features in the balls around real ones, recall the
  reverse.

  Args:
    x: what is tested.
    points: centres of the balls.
    centre: [D], near both. Distances do not change under a shift; float32 rounding
      does. What is left is an error of about 1e-7 |x - centre|^2 in a squared distance.
    k: neighbours that a ball reaches (3 in the paper).
    chunk: rows of the distance matrix in memory at once (512 of 10,000 float32
      columns are 20 MB). The result does not depend on it.

  Returns:
    The share and its binomial standard error. That takes the balls as given: it is a
    lower bound, since the balls are random as well.
  """
  if min(len(x), len(points)) <= k:
    raise ValueError(
      f'{k} neighbours need more than {k} examples, not {len(x)} and {len(points)}.'
    )
  x, points = (
    jnp.asarray(np.asarray(a, np.float64) - centre, jnp.float32) for a in (x, points)
  )
  radii = squared_radii(points, k=k, chunk=chunk)
  return share(np.asarray(inside(x, points, radii, chunk=chunk)))


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
    return of_features(target, self.reader, self._measure)

  def _measure(self, real: np.ndarray, generated: np.ndarray) -> Estimate:
    centre = np.mean(real, axis=0, dtype=np.float64)
    x, points = self._roles(real, generated)
    return Estimate(*share_inside(x, points, centre, k=self.num_neighbours))

  def _roles(self, real, generated):
    """What is tested, and what the balls are around."""
    return generated, real


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(Precision):
  """The share of real examples inside the support of the generated ones."""

  name: ClassVar[str] = 'recall'
  about: ClassVar[str] = (
    'The share of real examples whose features lie among those of generated ones '
    '(improved recall): variety.'
  )

  def _roles(self, real, generated):
    return real, generated
