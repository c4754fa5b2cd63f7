"""Noise that a row draws from its own key."""

import jax
import jax.numpy as jnp


def row_normal(keys: jax.Array, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal draws, a pure function of (key of the row, step).

  Args:
    keys: typed keys [B].
    step: integer scalar, or [B].
    shape: shape of one row.

  Returns:
    Array [B, *shape].
  """
  steps = jnp.broadcast_to(step, keys.shape)
  keys = jax.vmap(jax.random.fold_in)(keys, steps)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def substream(keys: jax.Array, number: int) -> jax.Array:
  """Keys [B] whose draws are apart from those of `keys`.

  Args:
    keys: typed keys [B].
    number: a large one; the steps of samplers are small numbers.
  """
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
