"""The diffusion decoder p(x | z): a diffusion model of one modality given a latent."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import SDE
from mmsbm.infra.rng import DECODER_START, row_normal


@dataclasses.dataclass(frozen=True)
class DiffusionDecoder:
  """Denoising diffusion of examples, conditional on latents (arXiv 2408.16883).

  The diffusion is of the flat u = (x - offset) / scale, [B, D], x being an example as
  networks see it. u is to have about unit variance, as the preconditioning `edm` and
  the times 'lognormal' assume. The network is told the logarithm of the noise level
  sigma / alpha, and sees no time.

  Attributes:
    network: (x [B, *shape], log noise level [B], z [B, d], train) -> [B, *shape].
    shape: of an example.
    diffusion: process, prediction, times and weighting.
    offset: about the mean of the entries of x; 0.5 is that of images in [0, 1].
    scale: about their standard deviation, 0.3 to 0.4 in PolyMNIST and the digits.
    drop_probability: share of training examples that come with the latent 0 in place
      of their own, so that the network learns p(x) too, which guidance needs.
  """

  network: nn.Module
  shape: tuple[int, ...]
  diffusion: Diffusion
  offset: float = 0.5
  scale: float = 0.35
  drop_probability: float = 0.0

  @property
  def sde(self) -> SDE:
    return self.diffusion.sde

  def init(self, key: jax.Array, z: jax.Array) -> Any:
    """Linen variables; z [B, d] gives its size only."""
    x = jnp.zeros((1, *self.shape), z.dtype)
    return self.network.init(key, x, jnp.zeros(1, z.dtype), z[:1], False)

  def score(
    self,
    variables: Any,
    u: jax.Array,
    t: jax.Array,
    z: jax.Array,
    *,
    train: bool = False,
    rngs: Any = None,
  ) -> jax.Array:
    """Score of the noisy examples given z.

    Args:
      variables: of the network.
      u: noisy examples, scaled and flat, [B, D].
      t: times, broadcastable to [B, 1].
      z: latents [B, d].
      train: dropout on.
      rngs: for dropout.

    Returns:
      [B, D].
    """
    level = jnp.broadcast_to(jnp.log(self.sde.noise_level(t)), (u.shape[0], 1))

    def network_fn(u_in, level):
      x = u_in.reshape(-1, *self.shape)
      out = self.network.apply(variables, x, level[:, 0], z, train, rngs=rngs)
      return out.reshape(u_in.shape)

    return self.diffusion.score(network_fn, u, t, level)

  def loss(
    self,
    variables: Any,
    x: jax.Array,
    z: jax.Array,
    rngs: Mapping[str, jax.Array],
    *,
    train: bool,
  ) -> jax.Array:
    """Stands in an ELBO for -log p(x | z): half the weighted squared error.

    The sum over the entries of x of w(t) (sigma score + eps)^2 / 2, at one time and one
    noise per example. With the weighting 'likelihood', w = g^2 / sigma^2, and times
    'uniform' or 'importance', its expectation is an upper bound of -log p(x | z), up
    to terms that depend on no parameter and on no latent (arXiv 2101.09258, theorem 3;
    arXiv 2107.00630, eq. 17): as the half of a squared residual is for a Gaussian. With
    'edm' or 'uniform' it is no bound, but one that counts coarse structure more: then
    its weight against the other terms of an ELBO has to be chosen. Nor is it one with
    latents that are dropped.

    Args:
      variables: of the network.
      x: examples as networks see them, [B, *shape].
      z: latents [B, d]; gradients reach them.
      rngs: keys 'time' and 'noise', and 'dropout' if the network needs it.
      train: dropout on.

    Returns:
      [B].
    """
    u = (x.reshape(x.shape[0], -1) - self.offset) / self.scale
    time_key = rngs['time']
    if self.drop_probability:
      time_key, drop_key = jax.random.split(time_key)
      dropped = jax.random.bernoulli(drop_key, self.drop_probability, (u.shape[0], 1))
      z = jnp.where(dropped, 0.0, z)
    t, factor = self.diffusion.draw_times(time_key, (u.shape[0], 1))
    noise = jax.random.normal(rngs['noise'], u.shape, u.dtype)
    dropout = {name: key for name, key in rngs.items() if name == 'dropout'}

    def score_fn(u_t, t):
      return self.score(variables, u_t, t, z, train=train, rngs=dropout)

    losses = self.diffusion.loss(score_fn, u, noise, t)
    return 0.5 * u.shape[-1] * factor[:, 0] * losses

  def sample(
    self,
    variables: Any,
    keys: jax.Array,
    z: jax.Array,
    sampler: Callable[..., jax.Array],
    guidance: DecoderGuidance | None = None,
  ) -> jax.Array:
    """Draws x given z; row i depends on keys[i] and z[i] only.

    Args:
      variables: of the network.
      keys: typed keys [B], not used for anything else.
      z: latents [B, d].
      sampler: one of `samplers.SAMPLERS`.
      guidance: of a decoder that was trained with a `drop_probability`.

    Returns:
      Examples as networks see them, [B, *shape]; not clipped to their range.
    """
    start = self.sde.prior_std * row_normal(
      keys, DECODER_START, (math.prod(self.shape),)
    )

    def score_fn(u, t):
      score = self.score(variables, u, t, z)
      if guidance is None:
        return score
      # The branch that is not taken is not computed.
      return jax.lax.cond(
        guidance.active(self.sde, t),
        lambda: guidance.guided(
          score, lambda: self.score(variables, u, t, jnp.zeros_like(z))
        ),
        lambda: score,
      )

    def hold(keys, u, t, visit):
      del keys, t, visit  # Nothing is observed: z is all there is to know.
      return u

    u = sampler(keys, score_fn, start, sde=self.sde, hold=hold)
    return (self.offset + self.scale * u).reshape(-1, *self.shape)
