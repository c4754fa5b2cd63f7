"""Batch normalisation whose statistics are of the rows that are there."""

import contextlib
import contextvars
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

_counted = contextvars.ContextVar('rows of a batch that are there', default=None)


@contextlib.contextmanager
def counted_rows(present: jax.Array | None) -> Iterator[None]:
  """Makes the statistics of networks that are applied inside those of some rows.

  Args:
    present: which rows of the batch have the modality, [B]; what the others hold has
      no influence on the rest, then. None: all rows.
  """
  token = _counted.set(present)
  try:
    yield
  finally:
    _counted.reset(token)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean and variance [C] of the rows of x [B, ..., C] that count, and their number."""
  axes, present = tuple(range(x.ndim - 1)), _counted.get()
  if present is None:
    return x.mean(axes), x.var(axes), jnp.asarray(x.size // x.shape[-1], x.dtype)
  present = jnp.broadcast_to(present.reshape(-1, *[1] * (x.ndim - 1)), x.shape)
  count = present[..., 0].sum(dtype=x.dtype)
  mean = jnp.where(present, x, 0).sum(axes) / jnp.maximum(count, 1)
  square = jnp.where(present, (x - mean) ** 2, 0).sum(axes)
  return mean, square / jnp.maximum(count, 1), count


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, as PyTorch defines it.

  Differs from `nn.BatchNorm` in the running variance, which is unbiased
  (n / (n - 1)); the batch itself is normalised by the biased variance, as there. Both
  are of the rows that count, see `counted_rows`.

  Attributes:
    momentum: share of the old running statistics that is kept.
    epsilon: added to the variance.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises x [..., C]; updates collection 'batch_stats' if `train`."""
    shape = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    running_var = self.variable('batch_stats', 'var', jnp.ones, shape)
    if train:
      mean, var, count = _moments(x)
      if not self.is_initializing():
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        # Nothing is learned of no rows.
        keep = jnp.where(count > 0, self.momentum, 1.0)
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_var.value = keep * running_var.value + (1 - keep) * unbiased
    else:
      mean, var = running_mean.value, running_var.value
    return (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
