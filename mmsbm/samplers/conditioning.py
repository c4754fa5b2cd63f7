"""How observed latents are shown to the score network while others are generated.

A rule has three methods and a property. `hold` returns z with the observed latents as
shown at time t; `times` and `flags` say which time, and whether it is observed, the
network is told for each modality; `resampling` says how the sampler shall jump back,
if at all. The rule must be the one that the network was trained for: a network that
saw all modalities at one noise level goes with 'noised' or 'repaint' (or, as
published, 'paper').
"""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.infra import rng
from mmsbm.samplers.resampling import Resampling


@dataclasses.dataclass(frozen=True)
class Clean:
  """Observed latents clean at every time, the network told the common time."""

  # Whether observed latents are shown with the noise of the common time.
  shows_noise = False
  # Whether the network must have been trained with some modalities observed.
  needs_observed = False

  @property
  def resampling(self) -> Resampling | None:
    """How a sampler jumps back to more noise; None: it goes down once."""
    return None

  def _shown(self, keys, t, visit, sde, z_observed):
    del keys, t, visit, sde
    return z_observed

  def hold(self, keys, z, t, visit, *, sde, z_observed, observed_dims):
    """Puts the observed latents in place.

    Args:
      keys: typed keys [B].
      z: current latents [B, D].
      t: time, a scalar or [B, 1].
      visit: how many times the sampler has come to a level before, an integer. The
        same for all evaluations between two moves; another one for each visit of a
        level to which the sampler comes back.
      sde: the process.
      z_observed: clean latents [B, D]; arbitrary where nothing is observed.
      observed_dims: [B, D] bool.

    Returns:
      z [B, D], changed only where `observed_dims`.
    """
    shown = self._shown(keys, t, visit, sde, z_observed)
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

  shows_noise = True

  def _number(self, t, visit):
    """What the noise depends on: an integer, or [B] of them."""
    del visit
    # A time has no step number; its bits serve as one.
    bits = jax.lax.bitcast_convert_type(jnp.asarray(t, jnp.float32), jnp.int32)
    return bits.reshape(-1)

  def _shown(self, keys, t, visit, sde, z_observed):
    noise = rng.row_normal(
      rng.substream(keys, rng.CONDITIONING),
      self._number(t, visit),
      z_observed.shape[1:],
    )
    return sde.perturb(z_observed, noise, t)


@dataclasses.dataclass(frozen=True)
class RePaint(Noised):
  """Noised, anew at each visit of a level, to which the sampler comes back.

  Lugmayr et al., 2022 (arXiv 2201.09865, Algorithm 1). One way down, the generated
  latents were drawn beside observed ones that noise hid, and do not fit what is seen
  of them later; going back and down again lets them adapt. Costs `num_resamples` times
  the evaluations of one way down.

  Attributes:
    jump_length: steps that the sampler jumps back over at a time; 10 is for the 250
      levels of the paper, and too long for a few tens of them.
    num_resamples: how often it goes over them.
  """

  jump_length: int = 10
  num_resamples: int = 10

  def __post_init__(self):
    Resampling(self.jump_length, self.num_resamples)  # refuses numbers below 1

  @property
  def resampling(self):
    return Resampling(self.jump_length, self.num_resamples)

  def _number(self, t, visit):
    del t
    return visit


@dataclasses.dataclass(frozen=True)
class Paper(Clean):
  """(alpha + sigma) z, as published: the latent stands in for its own noise."""

  def _shown(self, keys, t, visit, sde, z_observed):
    return sde.perturb(z_observed, z_observed, t)


@dataclasses.dataclass(frozen=True)
class TimeZero(Clean):
  """Clean, with time 0 for observed modalities (arXiv 2306.04445).

  For a network trained with a time per modality: it then is the exact score of
  the conditional distribution, and sampling has no imputation error.

  Attributes:
    jump_length: as in `RePaint`.
    num_resamples: how often each stretch is gone down, which lets what is generated
      adapt to itself, as the released program of the paper does; 1 goes down once.
  """

  jump_length: int = 10
  num_resamples: int = 1

  needs_observed = True

  def __post_init__(self):
    Resampling(self.jump_length, self.num_resamples)  # refuses numbers below 1

  @property
  def resampling(self):
    if self.num_resamples == 1:
      return None
    return Resampling(self.jump_length, self.num_resamples)

  def times(self, t, observed):
    return jnp.where(observed, 0.0, t)

  def flags(self, observed):
    return observed


CONDITIONING = {
  'clean': Clean,
  'noised': Noised,
  'paper': Paper,
  'repaint': RePaint,
  'time_zero': TimeZero,
}
