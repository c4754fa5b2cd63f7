"""Unimodal autoencoders: one learner per modality."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.distributions import DiagGaussian
from mmsbm.learners.base import POSITION, masked_mean
from mmsbm.learners.codec import Codec
from mmsbm.nn.batch_norm import counted_rows


class Autoencoder(nn.Module):
  """An encoder and a decoder under one set of variables.

  Attributes:
    encoder: x [B, ...] -> (mean, log_var), each [B, d].
    decoder: z [B, d] -> parameters of the likelihood [B, ...].
  """

  encoder: nn.Module
  decoder: nn.Module

  def encode(self, x: jax.Array, train: bool = False) -> DiagGaussian:
    return DiagGaussian(*self.encoder(x, train))

  def decode(self, z: jax.Array, train: bool = False) -> jax.Array:
    return self.decoder(z, train)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    return self.decode(self.encode(x, train).mean, train)


@dataclasses.dataclass(frozen=True)
class UnimodalAutoencoder:
  """What the VAE and the RAE of one modality share.

  Attributes:
    codec: networks, likelihood and preprocessing.
    index: its column in `present` [B, M].
  """

  codec: Codec
  index: int = dataclasses.field(metadata=POSITION)

  @property
  def name(self) -> str:
    return f'unimodal/{self.codec.name}'

  @property
  def network(self) -> Autoencoder:
    return Autoencoder(self.codec.encoder, self.codec.decoder)

  def init(self, key, batch):
    x = self.codec.kind.to_model(batch['x'][self.codec.name][:1])
    return self.network.init(key, x)

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`; the mean is over the examples that have the modality."""
    del frozen  # Autoencoders are the first stage.
    network, present = self.network, batch['present'][:, self.index]
    x = self.codec.kind.to_model(batch['x'][self.codec.name])
    mutable = [name for name in variables if name != 'params'] if train else []
    rng = {'dropout': rngs['dropout']}
    with counted_rows(present):
      posterior, updated = network.apply(
        variables, x, train, method='encode', mutable=mutable, rngs=rng
      )
      z, penalty = self.latent(posterior, rngs['noise'])
      output, updated = network.apply(
        {**variables, **updated}, z, train, method='decode', mutable=mutable, rngs=rng
      )
    reconstruction = -self.codec.likelihood.log_prob(output, x)
    terms = {
      'reconstruction': masked_mean(reconstruction, present),
      'penalty': masked_mean(penalty, present),
    }
    mutables = {name: updated.get(name, variables[name]) for name in mutable}
    return terms['reconstruction'] + terms['penalty'], terms, mutables


@dataclasses.dataclass(frozen=True)
class VAE(UnimodalAutoencoder):
  """beta-VAE: -E_q[log p(x|z)] + beta KL(q(z|x) || N(0, I)).

  Higgins et al., 2017, eq. 4; one draw of z per example.
  """

  beta: float = 1.0

  def latent(self, posterior, key):
    return posterior.sample(key), self.beta * posterior.kl_to_prior()


@dataclasses.dataclass(frozen=True)
class RAE(UnimodalAutoencoder):
  """Regularised deterministic autoencoder of arXiv 2305.15708, section 3.

  -log p(x | E(x) + c eps) + beta ||E(x)||^2: the norm penalty is on the code
  without noise.

  Attributes:
    beta: weight of the squared norm.
    latent_noise: c, standard deviation of the noise on the code in training.
  """

  beta: float = 1e-5
  latent_noise: float = 0.01

  def latent(self, posterior, key):
    code = posterior.mean
    noise = jax.random.normal(key, code.shape, code.dtype)
    return code + self.latent_noise * noise, self.beta * jnp.square(code).sum(-1)


AUTOENCODERS = {'vae': VAE, 'rae': RAE}
