"""What the network predicts, and the score that follows from it.

`network_fn(z_in [B, D], net_t [B, M]) -> [B, D]` is the bare network. `t` is the
time of every dimension, broadcastable to z [B, D], and `net_t` the times that
the network is told, one per modality. Where a latent is shown clean (t = 0,
sigma = 0) its score does not exist: the result there is finite and without use.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmsbm.diffusion.sde import SDE

NetworkFn = Callable[[jax.Array, jax.Array], jax.Array]


def _inverse(sigma: jax.Array) -> jax.Array:
  """1 / sigma, and 0 where sigma = 0."""
  return jnp.where(sigma > 0, 1 / jnp.where(sigma > 0, sigma, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class Score:
  """The network is the score, as in the published code."""

  def score(
    self, network_fn: NetworkFn, sde: SDE, z: jax.Array, t: jax.Array, net_t: jax.Array
  ) -> jax.Array:
    """Score of the marginal of z_t at z [B, D]."""
    del sde, t
    return network_fn(z, net_t)


@dataclasses.dataclass(frozen=True)
class Noise:
  """The network is E[eps | z_t] (Ho et al., 2020, arXiv 2006.11239)."""

  def score(self, network_fn, sde, z, t, net_t):
    return -network_fn(z, net_t) * _inverse(sde.sigma(t))


@dataclasses.dataclass(frozen=True)
class X0:
  """The network is the denoised latent E[z_0 | z_t]."""

  def score(self, network_fn, sde, z, t, net_t):
    inverse = _inverse(sde.sigma(t))
    # Two factors, since sigma^2 may underflow where sigma does not.
    return (sde.alpha(t) * network_fn(z, net_t) - z) * inverse * inverse


@dataclasses.dataclass(frozen=True)
class EDM:
  """Preconditioned network (Karras et al., 2022, arXiv 2206.00364, Table 1).

  In the variables of the paper, y = z / alpha and s = sigma / alpha, and with
  sigma_data = 1 because latents are standardised, the denoised latent is

    D(y) = y / (1 + s^2) + s / sqrt(1 + s^2) F(y / sqrt(1 + s^2)).

  With r^2 = alpha^2 + sigma^2 that is the score below, for any of the SDEs, of
  a network whose input and target have unit variance at every level. The target is
  (sigma z_0 - alpha eps) / r, for any SDE the one of the VP with its noise level.
  """

  def score(self, network_fn, sde, z, t, net_t):
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    r = jnp.sqrt(jnp.square(alpha) + jnp.square(sigma))
    output = network_fn(z / r, net_t)
    return alpha / r * _inverse(sigma) * output - z / jnp.square(r)


@dataclasses.dataclass(frozen=True)
class V(EDM):
  """The network is the velocity v = (alpha eps - sigma z_0) / r of z / r.

  As Salimans & Ho (2022, arXiv 2202.00512) have it for VP, where r = 1: `EDM` with the
  other sign, by which a network that is trained does not differ.
  """

  def score(self, network_fn, sde, z, t, net_t):
    return super().score(lambda *inputs: -network_fn(*inputs), sde, z, t, net_t)


PARAMETRIZATIONS = {'score': Score, 'noise': Noise, 'x0': X0, 'edm': EDM, 'v': V}
