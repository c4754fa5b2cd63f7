"""Randomness as a pure function of (seed, learner, stream, step)."""

import hashlib
from collections.abc import Iterable

import jax


def fold_in_name(key: jax.Array, name: str) -> jax.Array:
  """Derives a child key from a string; stable across processes and runs."""
  digest = hashlib.sha1(name.encode()).digest()
  return jax.random.fold_in(key, int.from_bytes(digest[:4], 'big'))


def step_rngs(
  key: jax.Array, step: jax.Array, streams: Iterable[str]
) -> dict[str, jax.Array]:
  """One key per named stream for one training step."""
  key = jax.random.fold_in(key, step)
  return {name: fold_in_name(key, name) for name in streams}


def row_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
  """One key per example, from its index rows [B]: [B] keys.

  A sample then depends on its own index only, not on the chunk it is in.
  """
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
