"""How observed latents are shown to the score network while others are generated.

A rule has three methods. `hold` returns z with the observed latents as shown at
time t; `times` and `flags` say which time, and whether it is observed, the network
is told for each modality. The rule
must be the one that the network was trained for: a network that saw all
modalities at one noise level goes with 'noised' (or, as published, 'paper').
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.samplers.noise import row_normal

# Apart from the steps of any sampler, whose keys are folded with small numbers.
_STREAM = 0x7E1D0B5E


@dataclasses.dataclass(frozen=True)
class Clean:
  """Observed latents clean at every time, the network told the common time."""

  def _shown(self, keys, t, sde, z_observed):
    del keys, t, sde
    return z_observed

  def hold(self, keys, z, t, *, sde, z_observed, observed_dims):
    """Puts the observed latents in place.

    Args:
      keys: typed keys [B].
      z: current latents [B, D].
      t: time, a scalar or [B, 1].
      sde: the process.
      z_observed: clean latents [B, D]; arbitrary where nothing is observed.
      observed_dims: [B, D] bool.

    Returns:
      z [B, D], changed only where `observed_dims`.
    """
    shown = self._shown(keys, t, sde, z_observed)
    return jnp.where(observed_dims, shown, z)

  def times(self, t: jax.Array, observed: jax.Array) -> jax.Array:
    """Network times [B, M], given t (scalar or [B, 1]) and observed [B, M] bool."""
    return jnp.broadcast_to(t, observed.shape)

  def flags(self, observed: jax.Array) -> jax.Array:
    """What the network is told of observed [B, M]: nothing, as in its training."""
    return jnp.zeros_like(observed)


@dataclasses.dataclass(frozen=True)
class Noised(Clean):
  """Observed latents noised to level t (the imputation of arXiv 2011.13456, App. I).

  The noise is fresh at every time, and the same for all evaluations at one time.
  """

  def _shown(self, keys, t, sde, z_observed):
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _STREAM)
    # A time has no step number; its bits serve as one.
    bits = jax.lax.bitcast_convert_type(jnp.asarray(t, jnp.float32), jnp.int32)
    bits = jnp.broadcast_to(bits.reshape(-1), keys.shape)
    noise = row_normal(keys, bits, z_observed.shape[1:])
    return sde.perturb(z_observed, noise, t)


@dataclasses.dataclass(frozen=True)
class Paper(Clean):
  """(alpha + sigma) z, as published: the latent stands in for its own noise."""

  def _shown(self, keys, t, sde, z_observed):
    return sde.perturb(z_observed, z_observed, t)


@dataclasses.dataclass(frozen=True)
class TimeZero(Clean):
  """Clean, with time 0 for observed modalities (arXiv 2306.04445).

  For a network trained with a time per modality: it then is the exact score of
  the conditional distribution, and sampling has no imputation error.
  """

  def times(self, t, observed):
    return jnp.where(observed, 0.0, t)

  def flags(self, observed):
    return observed


CONDITIONING = {
  'clean': Clean,
  'noised': Noised,
  'paper': Paper,
  'time_zero': TimeZero,
}
