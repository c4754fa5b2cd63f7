"""A guidance: towards the mean of the latents."""

import dataclasses

import jax.numpy as jnp

from mmsbm.guidance import Guidance


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowardsMean(Guidance):
  """Adds -scale z to the score of the free latents; the mean is 0."""

  def term(self, inputs, score, z, t):
    """See `Guidance.term`."""
    del score, t
    return jnp.where(inputs.observed_dims, 0.0, -self.scale * z)
