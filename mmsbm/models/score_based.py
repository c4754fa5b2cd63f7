"""SBM-VAE and SBM-RAE: unimodal autoencoders under one score model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmsbm.latents import LatentLayout
from mmsbm.learners.autoencoder import UnimodalAutoencoder
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality
from mmsbm.samplers.noise import row_normal

# Streams of a row's key, apart from the steps of the samplers.
_START, _STEPS = 0x57A27, 0x57E95


@dataclasses.dataclass(frozen=True)
class ScoreBasedModel:
  """Any modalities from any others (arXiv 2305.15708).

  The variables are {'unimodal': {modality: ...}, 'score': ...,
  'latents': {'mean': [D], 'std': [D]}}.

  Attributes:
    autoencoders: one per modality.
    score: the score model of the standardised latents.
    samplers: by name.
    conditioning: how observed latents are shown.
  """

  autoencoders: tuple[UnimodalAutoencoder, ...]
  score: LatentScore
  samplers: Mapping[str, Any]
  conditioning: Any

  @property
  def modalities(self) -> tuple[Modality, ...]:
    return tuple(a.modality for a in self.autoencoders)

  @property
  def layout(self) -> LatentLayout:
    return self.score.layout

  def encode(self, variables, x):
    """Standardised posterior means; see `MultimodalModel.encode`."""
    means = encode_means(self.autoencoders, variables['unimodal'], x)
    return standardise(self.layout.join(means), variables['latents'])

  def decode(self, variables, z):
    """See `MultimodalModel.decode`."""
    stats = variables['latents']
    parts = self.layout.split(z * stats['std'] + stats['mean'])
    out = []
    for autoencoder, part in zip(self.autoencoders, parts, strict=True):
      modality = autoencoder.modality
      output = autoencoder.network.apply(
        variables['unimodal'][modality.name], part, method='decode'
      )
      out.append(modality.kind.to_data(modality.likelihood.mean(output)))
    return tuple(out)

  def sample_latents(self, variables, keys, z, observed, sampler):
    """See `MultimodalModel.sample_latents`."""
    sde = self.score.sde
    observed_dims = self.layout.expand(observed)
    start = sde.prior_std * row_normal(keys, _START, z.shape[1:])

    def hold(hold_keys, current, t):
      return self.conditioning.hold(
        hold_keys,
        current,
        t,
        sde=sde,
        z_observed=z,
        observed_dims=observed_dims,
      )

    def score_fn(current, t):
      net_t = self.conditioning.times(t, observed)
      # Parametrisations divide by sigma(t) where a latent is shown clean at time
      # 0, which has no score; the time of the free dimensions is the same there.
      return self.score.score(
        variables['score'],
        current,
        self.layout.expand(net_t),
        net_t,
        self.conditioning.flags(observed),
      )

    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _STEPS)
    sampled = self.samplers[sampler](
      step_keys, score_fn, start, sde=sde, hold=hold, free=~observed_dims
    )
    return jnp.where(observed_dims, z, sampled)


def encode_means(
  autoencoders: tuple[UnimodalAutoencoder, ...],
  variables: Mapping[str, Any],
  x: tuple[jax.Array, ...],
) -> list[jax.Array]:
  """Posterior means [B, d_m] of raw examples, one array per modality."""
  return [
    a.network.apply(
      variables[a.modality.name], a.modality.kind.to_model(raw), method='encode'
    ).mean
    for a, raw in zip(autoencoders, x, strict=True)
  ]


def standardise(z: jax.Array, stats: Mapping[str, jax.Array]) -> jax.Array:
  """Latents [B, D] to zero mean and unit variance over the training split."""
  return (z - stats['mean']) / stats['std']
