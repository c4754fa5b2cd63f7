"""Refiners: diffusion models of examples given what an autoencoder makes of them."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.config import Section
from mmsbm.diffusion.decoder import DiffusionDecoder
from mmsbm.infra.errors import UserError
from mmsbm.learners.autoencoder import UnimodalAutoencoder
from mmsbm.learners.base import masked_mean
from mmsbm.learners.codec import make_diffusion_decoder


class ConcatConditioned(nn.Module):
  """A denoiser that sees a noisy example beside another one, channel by channel.

  Attributes:
    denoiser: one of DENOISERS, of twice as many channels.
  """

  denoiser: nn.Module

  @nn.compact
  def __call__(
    self, x: jax.Array, level: jax.Array, other: jax.Array, train: bool
  ) -> jax.Array:
    """Maps x [B, ..., C], levels [B] and the other example, flat, to [B, ..., C]."""
    both = jnp.concatenate([x, other.reshape(x.shape)], axis=-1)
    # The latent input is constant here; its weights exist but do nothing.
    no_latent = jnp.zeros((x.shape[0], 1), x.dtype)
    return self.denoiser(both, level, no_latent, train)[..., : x.shape[-1]]


@dataclasses.dataclass(frozen=True)
class Refiner:
  """Samples of p(x | x_hat) in place of the mean x_hat that an autoencoder decodes.

  The first formulation of DiffuseVAE (Pandey et al., 2022, arXiv 2201.00308): the
  autoencoder stays as it is, and a diffusion model is shown its reconstructions of the
  training examples, as arXiv 2305.15708 does for faces. Latents that are generated are
  decoded to an x_hat, from which it draws x.

  Attributes:
    autoencoder: trained before; its variables are the `frozen` of the loss.
    diffusion: process, network (`ConcatConditioned`) and loss; its latents are the
      x_hat, flat.
  """

  autoencoder: UnimodalAutoencoder
  diffusion: DiffusionDecoder

  @property
  def name(self) -> str:
    return f'refiner/{self.autoencoder.codec.name}'

  def _flat(self, x: jax.Array) -> jax.Array:
    """Examples as networks see them, scaled as the noisy ones are, [B, D]."""
    return (x.reshape(x.shape[0], -1) - self.diffusion.offset) / self.diffusion.scale

  def init(self, key, batch):
    codec = self.autoencoder.codec
    x = codec.kind.to_model(batch['x'][codec.name][:1])
    return self.diffusion.init(key, self._flat(x))

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`; `frozen` holds the autoencoders' variables by name."""
    codec, network = self.autoencoder.codec, self.autoencoder.network
    x = codec.kind.to_model(batch['x'][codec.name])
    # In the mode of evaluation, and from the mean: as latents are decoded later.
    x_hat = codec.likelihood.mean(network.apply(frozen[codec.name], x))
    losses = self.diffusion.loss(variables, x, self._flat(x_hat), rngs, train=train)
    loss = masked_mean(losses, batch['present'][:, self.autoencoder.index])
    return loss, {'denoising': loss}, {}

  def sample(
    self, variables: Any, keys: jax.Array, x_hat: jax.Array, sampler: Any
  ) -> jax.Array:
    """Draws x [B, *model_shape] given x_hat; row i depends on keys[i] and x_hat[i]."""
    return self.diffusion.sample(variables, keys, self._flat(x_hat), sampler)


def make_refiner(section: Section, autoencoder: UnimodalAutoencoder) -> Refiner:
  """Builds a refiner; the section is that of a diffusion decoder."""
  shape = autoencoder.codec.model_shape
  if not shape:
    raise UserError(f'{section.place("")}: a single number cannot be refined.')
  if section['drop_probability']:
    raise UserError(
      f'{section.place("drop_probability")}: refiners are not guided; set it to 0.'
    )
  doubled = (*shape[:-1], 2 * shape[-1])
  diffusion = make_diffusion_decoder(section, doubled)
  network = ConcatConditioned(diffusion.network)
  return Refiner(
    autoencoder, dataclasses.replace(diffusion, network=network, shape=shape)
  )
