"""Posteriors and likelihoods, written out."""

import abc
import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from mmsbm.infra.errors import UserError


@struct.dataclass
class Posterior(abc.ABC):
  """A distribution of independent dimensions, known by mean and variance.

  The prior of a family has zero mean and unit variance.

  Attributes:
    mean: [..., D].
    log_var: logarithm of the variance, [..., D].
  """

  mean: jax.Array
  log_var: jax.Array

  @abc.abstractmethod
  def sample(self, key: jax.Array) -> jax.Array:
    """One reparametrised draw, [..., D]."""

  @abc.abstractmethod
  def log_prob(self, z: jax.Array) -> jax.Array:
    """Log density at z [..., D], summed over the last axis."""

  @abc.abstractmethod
  def kl_to(self, other: 'Posterior') -> jax.Array:
    """KL(self || other) of the same family, summed over the last axis."""

  def prior_like(self, z: jax.Array) -> 'Posterior':
    """The prior of the family, of the shape of z [..., D]."""
    zeros = jnp.zeros_like(z)
    return type(self)(zeros, zeros)

  def kl_to_prior(self) -> jax.Array:
    """KL to the prior of the family, summed over the last axis."""
    return self.kl_to(self.prior_like(self.mean))


@struct.dataclass
class DiagGaussian(Posterior):
  """A Gaussian with diagonal covariance."""

  def sample(self, key):
    noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(0.5 * self.log_var) * noise

  def log_prob(self, z):
    square = jnp.square(z - self.mean) * jnp.exp(-self.log_var)
    return -0.5 * (square + self.log_var + math.log(2 * math.pi)).sum(-1)

  def kl_to(self, other):
    ratio = self.log_var - other.log_var
    square = jnp.square(self.mean - other.mean) * jnp.exp(-other.log_var)
    return 0.5 * (square + jnp.exp(ratio) - 1.0 - ratio).sum(-1)


@struct.dataclass
class DiagLaplace(Posterior):
  """Independent Laplace distributions; their scale is sqrt(variance / 2)."""

  @property
  def log_scale(self) -> jax.Array:
    return 0.5 * (self.log_var - math.log(2))

  def sample(self, key):
    noise = jax.random.laplace(key, self.mean.shape, self.mean.dtype)
    return self.mean + jnp.exp(self.log_scale) * noise

  def log_prob(self, z):
    residual = jnp.abs(z - self.mean) * jnp.exp(-self.log_scale)
    return -(residual + self.log_scale + math.log(2)).sum(-1)

  def kl_to(self, other):
    distance = jnp.abs(self.mean - other.mean)
    ratio = self.log_scale - other.log_scale
    inverse = jnp.exp(-self.log_scale)
    near = jnp.exp(ratio - distance * inverse) + distance * jnp.exp(-other.log_scale)
    return (near - 1.0 - ratio).sum(-1)


POSTERIORS = {'normal': DiagGaussian, 'laplace': DiagLaplace}


class Likelihood(Protocol):
  """p(x | decoder output), factorised over all entries of an example."""

  def log_prob(self, output: jax.Array, x: jax.Array) -> jax.Array:
    """Log density or probability of x [B, ...], summed per example, [B]."""

  def mean(self, output: jax.Array) -> jax.Array:
    """E[x] for decoder output [B, ...], in the units of x."""


def _check_scale(scale: float) -> None:
  if not scale > 0:
    raise UserError(f'scale={scale} must be positive.')


def _sum_per_example(x: jax.Array) -> jax.Array:
  return x.reshape(x.shape[0], -1).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normal:
  """N(output, scale^2)."""

  scale: float = 1.0

  def __post_init__(self):
    _check_scale(self.scale)

  def log_prob(self, output, x):
    residual = jnp.square((x - output) / self.scale)
    return _sum_per_example(
      -0.5 * residual - math.log(self.scale) - 0.5 * math.log(2 * math.pi)
    )

  def mean(self, output):
    return output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace:
  """Laplace(output, scale)."""

  scale: float = 1.0

  def __post_init__(self):
    _check_scale(self.scale)

  def log_prob(self, output, x):
    residual = jnp.abs(x - output) / self.scale
    return _sum_per_example(-residual - math.log(2 * self.scale))

  def mean(self, output):
    return output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bernoulli:
  """Independent coins; the output holds the logits."""

  def log_prob(self, output, x):
    # log sigmoid is evaluated on the side where it does not overflow.
    return _sum_per_example(
      x * jax.nn.log_sigmoid(output) + (1 - x) * jax.nn.log_sigmoid(-output)
    )

  def mean(self, output):
    return jax.nn.sigmoid(output)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical:
  """One of K classes; the output holds logits [B, ..., K], x is one-hot."""

  def log_prob(self, output, x):
    return _sum_per_example(x * jax.nn.log_softmax(output, axis=-1))

  def mean(self, output):
    return jax.nn.softmax(output, axis=-1)


LIKELIHOODS = {
  'normal': Normal,
  'laplace': Laplace,
  'bernoulli': Bernoulli,
  'categorical': Categorical,
}
