"""Randomness as a pure function of names and numbers: seed, learner, step, row.

In training, keys follow from names: `fold_in_name` and `step_rngs`. In sampling, every
row has a key of its own (`row_keys`), and whatever draws for that row folds in one of
the numbers below, or the step of a sampler, which is small. The numbers are arbitrary,
but fixed: another one gives other samples of every run that was ever made.
"""

import hashlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp

# Streams of one row. In models, of latents:
START = 0x57A27  # where the sampler starts, or the draw from a mixture of Gaussians
STEPS = 0x57E95  # the steps of the sampler
GUIDANCE = 0x90D3  # the half of the modalities that guidance takes where none is given
FUSION = 0xF05E  # the component of a posterior that is a mixture
SHARED = 0x5A2ED  # the draw of the shared latent from its posterior
PRIVATE = 0x921  # the draws of private latents
# In models, of examples; modality number i has the stream plus i:
REFINERS = 0x5EF19E00
DECODERS = 0xDEC0DE
# Inside one sampler or one estimate, which are given a key of their own:
DECODER_START = 0xD1FF5  # where a diffusion decoder starts
RESAMPLING = 0x3AB1E5  # jumps back to higher noise
CONDITIONING = 0x7E1D0B5E  # noise on observed latents
PROBES = 0x9B0BE5  # random directions of the estimate of a divergence


def make_key(seed: int) -> jax.Array:
  """Returns a key of one generator, whatever the environment calls its default."""
  return jax.random.key(seed, impl='threefry2x32')


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


def substream(keys: jax.Array, number: int) -> jax.Array:
  """Keys [B] whose draws are apart from those of `keys`.

  Args:
    keys: typed keys [B].
    number: one of the streams of this file.
  """
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def row_normal(keys: jax.Array, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal draws, a pure function of (key of the row, step).

  Args:
    keys: typed keys [B].
    step: integer scalar, or [B]; a stream of this file or a sampler's step.
    shape: shape of one row.

  Returns:
    Array [B, *shape].
  """
  steps = jnp.broadcast_to(step, keys.shape)
  keys = jax.vmap(jax.random.fold_in)(keys, steps)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
