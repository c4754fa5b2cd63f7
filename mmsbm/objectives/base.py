"""What the objectives of joint VAEs have in common."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct

from mmsbm.distributions import Posterior
from mmsbm.infra.errors import UserError

# (z [T, B, d], w [T, B, M, p] or None) -> weighted log p(x_m | z, w_m) [T, B, M], 0
# where x_m is absent. T draws are decoded as one batch.
LogLikelihood = Callable[[jax.Array, jax.Array | None], jax.Array]


@struct.dataclass
class Experts:
  """What the encoders say of a batch.

  Attributes:
    shared: q(z | x_m) of every modality alone, [B, M, d].
    present: which modalities there are, [B, M] bool. What `shared` and `private` hold
      of others has no influence.
    private: q(w_m | x_m), [B, M, p]; None without private latents.
    auxiliary: r_m(w_m), the learned priors of MMVAE+, [M, p]; None without.
  """

  shared: Posterior
  present: jax.Array
  private: Posterior | None = None
  auxiliary: Posterior | None = None


class Objective(Protocol):
  """A joint VAE: how experts make a posterior, and the bound that trains it.

  Attributes:
    families: names of the posteriors that it is defined for; None for any.
    has_private: whether modalities have private latents.
  """

  families: tuple[str, ...] | None
  has_private: bool

  def __call__(
    self, key: jax.Array, experts: Experts, log_likelihood: LogLikelihood
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of every example [B] in nats, less is better, and terms [B] to log.

    A row with nothing present has the loss 0 and no gradient.
    """

  def posterior(self, keys: jax.Array, experts: Experts) -> Posterior:
    """q(z | what is present), [B, d].

    Of a mixture it is one component, drawn by the typed keys [B]; the prior in rows
    with nothing.
    """

  def log_density(self, experts: Experts, z: jax.Array) -> jax.Array:
    """log q(z | what is present) of z [B, d], of a mixture as a whole; [B]."""


def require(name: str, value: float, holds: bool) -> None:
  """Refuses a number out of its range."""
  if not holds:
    raise UserError(f'objective: {name}={value} is out of range.')


def terms_of(log_likelihoods: jax.Array, divergence: jax.Array) -> dict:
  """The two parts of a bound, from log p(x_m|z) [B, M] and a divergence [B]."""
  return {'reconstruction': -log_likelihoods.sum(-1), 'divergence': divergence}


def masked_mean_over_modalities(values: jax.Array, present: jax.Array) -> jax.Array:
  """Mean over the modalities that are present, [..., B, M] to [..., B]; 0 if none."""
  number = jnp.maximum(present.sum(-1), 1)
  return jnp.where(present, values, 0.0).sum(-1) / number
