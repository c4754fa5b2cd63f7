"""SBM-VAE and SBM-RAE: unimodal autoencoders under one score model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmsbm.guidance import Draw, guided_score, num_evaluations
from mmsbm.infra.noise import row_normal, substream
from mmsbm.latents import MISSING, NOISY, OBSERVED, LatentLayout
from mmsbm.learners.autoencoder import UnimodalAutoencoder
from mmsbm.learners.energy import LatentEnergy
from mmsbm.learners.latent_score import LatentScore
from mmsbm.learners.refiner import Refiner
from mmsbm.modalities import Modality
from mmsbm.models.base import Setup

# Streams of a row's key, apart from the steps of the samplers.
_START, _STEPS, _GUIDANCE, _REFINE = 0x57A27, 0x57E95, 0x90D3, 0x5EF19E00


@dataclasses.dataclass(frozen=True)
class ScoreBasedModel:
  """Any modalities from any others (arXiv 2305.15708).

  The variables are {'unimodal': {modality: ...}, 'score': ...,
  'latents': {'mean': [D], 'std': [D]}}, and, where there are any, 'energy' and
  'refiner': {modality: ...}.

  Attributes:
    autoencoders: one per modality.
    score: the score model of the standardised latents.
    setups: ways of drawing samples, by name.
    energy: of pairs of latents, which setups with that guidance use.
    refiners: of what is decoded, for some of the modalities.
    refiner_sampler: one of samplers.SAMPLERS, for all of them.
  """

  autoencoders: tuple[UnimodalAutoencoder, ...]
  score: LatentScore
  setups: Mapping[str, Setup]
  energy: LatentEnergy | None = None
  refiners: tuple[Refiner, ...] = ()
  refiner_sampler: Any = None

  @property
  def modalities(self) -> tuple[Modality, ...]:
    return tuple(a.modality for a in self.autoencoders)

  @property
  def layout(self) -> LatentLayout:
    return self.score.layout

  @property
  def code_dim(self) -> int:
    return self.layout.total

  @property
  def latent_dims(self) -> dict[str, int]:
    names = [m.name for m in self.modalities]
    return dict(zip(names, self.layout.dims, strict=True))

  def encode(self, variables, x):
    """Standardised posterior means; see `MultimodalModel.encode`."""
    means = encode_means(self.autoencoders, variables['unimodal'], x)
    return standardise(self.layout.join(means), variables['latents'])

  def decode(self, variables, keys, latents):
    """See `MultimodalModel.decode`."""
    stats = variables['latents']
    parts = self.layout.split(latents * stats['std'] + stats['mean'])
    refiners = {refiner.autoencoder.modality.name: refiner for refiner in self.refiners}
    out = []
    for i, (autoencoder, part) in enumerate(zip(self.autoencoders, parts, strict=True)):
      modality = autoencoder.modality
      output = autoencoder.network.apply(
        variables['unimodal'][modality.name], part, method='decode'
      )
      x = modality.likelihood.mean(output)
      if modality.name in refiners:
        x = refiners[modality.name].sample(
          variables['refiner'][modality.name],
          substream(keys, _REFINE + i),
          x,
          self.refiner_sampler,
        )
      out.append(x)
    return tuple(out)

  def mean_latents(self, variables, keys, codes, observed):
    """The codes themselves, 0 where not observed."""
    del variables, keys
    return jnp.where(self.layout.expand(observed), codes, 0.0)

  def reconstruct(self, variables, keys, codes):
    """See `MultimodalModel.reconstruct`."""
    return self.decode(variables, keys, codes)

  def num_evaluations(self, setup, num_given):
    """See `MultimodalModel.num_evaluations`; a gradient counts as one."""
    del num_given
    chosen, sde = self.setups[setup], self.score.sde
    times = chosen.sampler.evaluation_times(sde, chosen.conditioning.resampling)
    total = num_evaluations(chosen.guidance, sde, times)
    return total + sum(self.refiner_sampler.num_evaluations for _ in self.refiners)

  def sample_latents(self, variables, keys, codes, observed, setup):
    """See `MultimodalModel.sample_latents`; what is observed comes back unchanged."""
    z = codes
    chosen, sde = self.setups[setup], self.score.sde
    conditioning = chosen.conditioning
    observed_dims = self.layout.expand(observed)
    start = sde.prior_std * row_normal(keys, _START, z.shape[1:])

    def hold(hold_keys, current, t, visit):
      return conditioning.hold(
        hold_keys,
        current,
        t,
        visit,
        sde=sde,
        z_observed=z,
        observed_dims=observed_dims,
      )

    def score_of(current, net_t, role):
      # Parametrisations divide by sigma(t) where a latent is shown clean at time
      # 0, which has no score; the time of the free dimensions is the same there.
      return self.score.score(
        variables['score'], current, self.layout.expand(net_t), net_t, role
      )

    def score_fn(current, t):
      shown = jnp.where(conditioning.flags(observed), OBSERVED, NOISY)
      return score_of(current, conditioning.times(t, observed), shown)

    def dropped_score(current, t, missing):
      alone = jnp.where(missing, MISSING, NOISY)
      return score_of(current, jnp.broadcast_to(t, observed.shape), alone)

    def pair_energy(current, t):
      times = jnp.broadcast_to(t, observed.shape)
      if not conditioning.shows_noise:
        # The energies have seen clean latents at time 0 only.
        current = jnp.where(observed_dims, z, current)
        times = jnp.where(observed, 0.0, times)
      return self.energy.pair_energy(variables['energy'], current, times)

    draw = Draw(
      observed=observed,
      observed_dims=observed_dims,
      keys=substream(keys, _GUIDANCE),
      expand=self.layout.expand,
      dropped_score=dropped_score,
      pair_energy=pair_energy,
    )
    sampled = chosen.sampler(
      substream(keys, _STEPS),
      guided_score(chosen.guidance, score_fn, draw, sde),
      start,
      sde=sde,
      hold=hold,
      resampling=conditioning.resampling,
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
