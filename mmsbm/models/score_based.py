"""SBM-VAE and SBM-RAE: unimodal autoencoders under one score model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmsbm.config import describe
from mmsbm.guidance import (
  GUIDANCE,
  Guidance,
  GuidanceInputs,
  guided_score,
  num_evaluations,
)
from mmsbm.infra.rng import GUIDANCE as GUIDANCE_STREAM
from mmsbm.infra.rng import REFINERS, START, STEPS, row_normal, substream
from mmsbm.latents import MISSING, NOISY, OBSERVED, LatentLayout
from mmsbm.learners.autoencoder import UnimodalAutoencoder
from mmsbm.learners.energy import LatentEnergy
from mmsbm.learners.latent_score import LatentScore
from mmsbm.learners.refiner import Refiner
from mmsbm.modalities import Modality
from mmsbm.models import densities
from mmsbm.samplers import CONDITIONING, SAMPLERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSampling:
  """How latents are drawn by a score model.

  Attributes:
    sampler: one of SAMPLERS.
    conditioning: how observed latents are shown, one of CONDITIONING.
    guidance: what is added to the score.
  """

  sampler: Any
  conditioning: Any
  guidance: tuple[Guidance, ...] = ()

  def describe(self) -> dict[str, str]:
    """Returns what results say of it; guidance is '' for none."""
    return {
      'sampler': describe(SAMPLERS, self.sampler),
      'conditioning': describe(CONDITIONING, self.conditioning),
      'guidance': ' + '.join(describe(GUIDANCE, term) for term in self.guidance),
    }


@dataclasses.dataclass(frozen=True)
class ScoreBasedModel:
  """Any modalities from any others (arXiv 2305.15708).

  The variables are {'unimodal': {modality: ...}, 'score': ...,
  'latents': {'mean': [D], 'std': [D]}}, and, where there are any, 'energy' and
  'refiner': {modality: ...}.

  Attributes:
    autoencoders: one per modality.
    score: the score model of the standardised latents.
    samplings: ways of drawing samples, by name.
    energy: of pairs of latents, for samplings with that guidance.
    refiners: of what is decoded, for some of the modalities.
    refiner_sampler: one of samplers.SAMPLERS, for all of them.
  """

  autoencoders: tuple[UnimodalAutoencoder, ...]
  score: LatentScore
  samplings: Mapping[str, ScoreSampling]
  energy: LatentEnergy | None = None
  refiners: tuple[Refiner, ...] = ()
  refiner_sampler: Any = None

  latents_are_shared = False

  @property
  def modalities(self) -> tuple[Modality, ...]:
    return tuple(a.codec.modality for a in self.autoencoders)

  @property
  def layout(self) -> LatentLayout:
    return self.score.layout

  @property
  def latent_dims(self) -> dict[str, int]:
    names = [m.name for m in self.modalities]
    return dict(zip(names, self.layout.dims, strict=True))

  def uses(self, sampling, decodes=True):
    """See `MultimodalModel.uses`."""
    steps = {'unimodal', 'latents'}
    if sampling:
      steps.add('score')
      guidance = self.samplings[sampling].guidance
      steps |= {'energy'} if any(g.needs == 'energy' for g in guidance) else set()
    if decodes and self.refiners:
      steps.add('refiner')
    return frozenset(steps)

  def describe(self, sampling):
    """See `MultimodalModel.describe`."""
    return self.samplings[sampling].describe()

  def couples_rows(self, sampling):
    """See `MultimodalModel.couples_rows`; the published sampler does."""
    return getattr(self.samplings[sampling].sampler, 'batch_norms', False)

  def encode(self, variables, x):
    """Encodes to standardised posterior means [B, D]."""
    means = encode_means(self.autoencoders, variables['unimodal'], x)
    return standardise(self.layout.join(means), variables['latents'])

  def decode(self, variables, keys, latents):
    """See `HasLatents.decode`."""
    flat = self.layout.join([latents[name] for name in self.latent_dims])
    return self._decode(variables, keys, flat)

  def _decode(self, variables, keys, z):
    """Decodes standardised latents [B, D]."""
    stats = variables['latents']
    parts = self.layout.split(z * stats['std'] + stats['mean'])
    refiners = {refiner.autoencoder.codec.name: refiner for refiner in self.refiners}
    out = []
    for i, (autoencoder, part) in enumerate(zip(self.autoencoders, parts, strict=True)):
      codec = autoencoder.codec
      output = autoencoder.network.apply(
        variables['unimodal'][codec.name], part, method='decode'
      )
      x = codec.likelihood.mean(output)
      if codec.name in refiners:
        x = refiners[codec.name].sample(
          variables['refiner'][codec.name],
          substream(keys, REFINERS + i),
          x,
          self.refiner_sampler,
        )
      out.append(x)
    return tuple(out)

  def latents(self, variables, keys, encoded, observed):
    """See `HasLatents.latents`: standardised, 0 where not observed."""
    del variables, keys
    z = jnp.where(self.layout.expand(observed), encoded, 0.0)
    return dict(zip(self.latent_dims, self.layout.split(z), strict=True))

  def reconstruct(self, variables, keys, encoded):
    """See `Reconstructs.reconstruct`."""
    return self._decode(variables, keys, encoded)

  def densities(self, options):
    """See `HasDensities.densities`."""
    return densities.of_score_based(self, options)

  def num_evaluations(self, sampling, num_given):
    """See `MultimodalModel.num_evaluations`; a gradient counts as one."""
    del num_given
    chosen, sde = self.samplings[sampling], self.score.sde
    times = chosen.sampler.evaluation_times(sde, chosen.conditioning.resampling)
    total = num_evaluations(chosen.guidance, sde, times)
    return total + sum(self.refiner_sampler.num_evaluations for _ in self.refiners)

  def sample(self, variables, keys, encoded, observed, sampling):
    """See `MultimodalModel.sample`."""
    z = self.sample_latents(variables, keys.latents, encoded, observed, sampling)
    return self._decode(variables, keys.outputs, z)

  def sample_latents(self, variables, keys, z, observed, sampling):
    """Draws standardised latents [B, D]; observed ones come back unchanged."""
    chosen, sde = self.samplings[sampling], self.score.sde
    conditioning = chosen.conditioning
    observed_dims = self.layout.expand(observed)
    start = sde.prior_std * row_normal(keys, START, z.shape[1:])

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

    inputs = GuidanceInputs(
      observed=observed,
      observed_dims=observed_dims,
      keys=substream(keys, GUIDANCE_STREAM),
      expand=self.layout.expand,
      dropped_score=dropped_score,
      pair_energy=pair_energy,
    )
    sampled = chosen.sampler(
      substream(keys, STEPS),
      guided_score(chosen.guidance, score_fn, inputs, sde),
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
      variables[a.codec.name], a.codec.kind.to_model(raw), method='encode'
    ).mean
    for a, raw in zip(autoencoders, x, strict=True)
  ]


def standardise(z: jax.Array, stats: Mapping[str, jax.Array]) -> jax.Array:
  """Latents [B, D] to zero mean and unit variance over the training split."""
  return (z - stats['mean']) / stats['std']
