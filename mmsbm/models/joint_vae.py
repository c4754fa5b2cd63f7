"""Joint VAEs with a prior, a Gaussian mixture or a score model on their latents."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.distributions import POSTERIORS, Posterior
from mmsbm.guidance import num_evaluations
from mmsbm.infra.noise import row_normal, substream
from mmsbm.latents import NOISY
from mmsbm.learners.joint_vae import JointVAE, own_latent
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality
from mmsbm.models.base import Setup
from mmsbm.objectives import Experts

# Streams of a row's key, apart from the steps of the samplers.
_START, _STEPS, _FUSION, _SHARED, _PRIVATE = 0x57A27, 0x57E95, 0xF05E, 0x5A2ED, 0x921
# The first of those of diffusion decoders, one for each modality.
_DECODE = 0xDEC0DE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
  """Draws z from the prior of the family, as the model was trained to have it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMixture:
  """Draws z from a mixture of Gaussians fitted to latents of the training split.

  Attributes:
    num_components: with a full covariance each.
  """

  num_components: int = 10


PRIORS = {'prior': Prior, 'gaussian_mixture': GaussianMixture}


@dataclasses.dataclass(frozen=True)
class JointModel:
  """One latent z for all modalities, and private ones where the method has them.

  A code is what the encoders say of an example: mean and log_var of every expert. A
  latent is z followed by the private latents of all modalities, [d + M p].

  The variables are {'joint': ...} and, with a score model, 'score' and
  'latents': {'mean': [d], 'std': [d]}; with mixtures 'mixtures': {setup: ...}.

  Attributes:
    learner: the joint VAE.
    setups: ways of drawing samples, by name. Their sampler is one of PRIORS, or draws
      from the score model; it has a part only where nothing is given.
    score: auxiliary score model of z (arXiv 2408.16883).
    decoder_sampler: one of samplers.SAMPLERS, for diffusion decoders.
    decoder_guidance: of the same; None for none.
  """

  learner: JointVAE
  setups: Mapping[str, Setup]
  score: LatentScore | None = None
  decoder_sampler: Any = None
  decoder_guidance: DecoderGuidance | None = None

  @property
  def modalities(self) -> tuple[Modality, ...]:
    return self.learner.modalities

  @property
  def code_dim(self) -> int:
    return 2 * sum(m.latent_dim for m in self.modalities)

  @property
  def latent_dims(self) -> dict[str, int]:
    private = self.learner.private_dim
    own = {m.name: private for m in self.modalities} if private else {}
    return {'shared': self.learner.shared_dim, **own}

  def encode(self, variables, x):
    """Codes [B, C] of raw examples, one array [B, *shape] per modality."""
    raw = {m.name: a for m, a in zip(self.modalities, x, strict=True)}
    moments = self.learner.network.apply(
      variables['joint'], self.learner.to_model(raw), method='encode'
    )
    return jnp.stack(moments, axis=1).reshape(x[0].shape[0], -1)

  def experts(self, variables, codes, observed) -> Experts:
    """What the encoders said, of the observed modalities [B, M]."""
    moments = codes.reshape(codes.shape[0], 2, len(self.modalities), -1)
    posterior = POSTERIORS[self.learner.family](moments[:, 0], moments[:, 1])
    shared, private = self.learner.split(posterior)
    auxiliary = self.learner.auxiliary(variables['joint'])
    return Experts(shared, observed, private, auxiliary)

  def posterior(self, variables, keys, codes, observed) -> Posterior:
    """q(z | observed), [B, d]; of a mixture one component, drawn by the keys."""
    experts = self.experts(variables, codes, observed)
    return self.learner.objective.posterior(substream(keys, _FUSION), experts)

  def num_evaluations(self, setup, num_given):
    """Of the score model, where nothing is given, and of all diffusion decoders."""
    sampler, total = self.setups[setup].sampler, 0
    if not num_given and not isinstance(sampler, tuple(PRIORS.values())):
      total += sampler.num_evaluations
    guidance = () if self.decoder_guidance is None else (self.decoder_guidance,)
    for modality in self.modalities:
      if modality.diffusion is not None:
        sde = modality.diffusion.sde
        times = self.decoder_sampler.evaluation_times(sde)
        total += num_evaluations(guidance, sde, times)
    return total

  def sample_latents(self, variables, keys, codes, observed, setup):
    """See `MultimodalModel.sample_latents`."""
    latents, _ = self.draw(variables, keys, codes, observed)
    sampler = self.setups[setup].sampler
    if isinstance(sampler, Prior):
      # It is the posterior given nothing.
      return latents
    nothing = ~observed.any(-1)

    def replace(latents):
      z = self._shared_given_nothing(variables, keys, setup)
      rest = latents[:, self.learner.shared_dim :]
      other = jnp.concatenate([z, rest], axis=-1)
      return jnp.where(nothing[:, None], other, latents)

    # Where everything is given it would be for nothing.
    return jax.lax.cond(nothing.any(), replace, lambda latents: latents, latents)

  def draw(self, variables, keys, codes, observed) -> tuple[jax.Array, jax.Array]:
    """One draw of all latents from their posterior given what is observed [B, M].

    Private latents of modalities that are not observed come from the prior.

    Returns:
      Latents [B, d + M p], and log prior - log posterior of them, [B].
    """
    objective = self.learner.objective
    experts = self.experts(variables, codes, observed)
    q = objective.posterior(substream(keys, _FUSION), experts)
    sample = jax.vmap(lambda key, q: q.sample(key))
    z = sample(substream(keys, _SHARED), q)
    ratio = q.prior_like(z).log_prob(z) - objective.log_density(experts, z)
    if experts.private is None:
      return z, ratio
    q = jax.tree.map(lambda a: jnp.where(observed[..., None], a, 0.0), experts.private)
    w = sample(substream(keys, _PRIVATE), q)
    ratio += (q.prior_like(w).log_prob(w) - q.log_prob(w)).sum(-1)
    return jnp.concatenate([z, w.reshape(w.shape[0], -1)], axis=-1), ratio

  def _shared_given_nothing(self, variables, keys, setup):
    """z [B, d] as a setup draws it."""
    sampler, size = self.setups[setup].sampler, self.learner.shared_dim
    if isinstance(sampler, GaussianMixture):
      mixture = variables['mixtures'][setup]

      def draw(key):
        which, noise = jax.random.split(key)
        k = jax.random.categorical(which, mixture['log_weights'])
        e = jax.random.normal(noise, (size,))
        return mixture['mean'][k] + mixture['scale'][k] @ e

      return jax.vmap(draw)(substream(keys, _START))
    score, stats = self.score, variables['latents']

    def score_fn(z, t):
      net_t = jnp.full((z.shape[0], 1), t)
      role = jnp.full(net_t.shape, NOISY)
      return score.score(variables['score'], z, t, net_t, role)

    z = sampler(
      substream(keys, _STEPS),
      score_fn,
      score.sde.prior_std * row_normal(keys, _START, (size,)),
      sde=score.sde,
      hold=lambda keys, z, t, visit: z,
    )
    return z * stats['std'] + stats['mean']

  def mean_latents(self, variables, keys, codes, observed):
    """Latents [B, d + M p] at the mean of the posterior; keys choose a component."""
    experts = self.experts(variables, codes, observed)
    z = self.learner.objective.posterior(substream(keys, _FUSION), experts).mean
    if experts.private is None:
      return z
    w = jnp.where(observed[..., None], experts.private.mean, 0.0)
    return jnp.concatenate([z, w.reshape(w.shape[0], -1)], axis=-1)

  def _parts(self, latents) -> tuple[jax.Array, jax.Array | None]:
    """z [B, d] and w [B, M, p] of latents [B, d + M p]."""
    z, w = jnp.split(latents, [self.learner.shared_dim], axis=-1)
    if not self.learner.private_dim:
      return z, None
    return z, w.reshape(w.shape[0], len(self.modalities), -1)

  def outputs(self, variables, latents) -> tuple[jax.Array | None, ...]:
    """Parameters of the likelihoods; None for modalities with a diffusion decoder."""
    parts = self._parts(latents)
    return self.learner.network.apply(variables['joint'], *parts, method='decode')

  def decode(self, variables, keys, latents):
    """See `MultimodalModel.decode`."""
    numbers = range(len(self.modalities))
    return tuple(self._decode_one(i, variables, keys, latents) for i in numbers)

  def _decode_one(self, index, variables, keys, latents):
    """Examples [B, *model_shape] of modality number `index`."""
    learner, modality = self.learner, self.modalities[index]
    own, parts = variables['joint'], self._parts(latents)
    if modality.diffusion is None:
      output = learner.network.apply(own, index, *parts, method='decode_one')
      return modality.likelihood.mean(output)
    return modality.diffusion.sample(
      learner.denoiser_variables(own, index),
      substream(keys, _DECODE + index),
      own_latent(*parts, index),
      self.decoder_sampler,
      self.decoder_guidance,
    )

  def reconstruct(self, variables, keys, codes):
    """Every modality from itself alone, at the mean of its posterior."""
    num, out = len(self.modalities), []
    for i in range(num):
      alone = jnp.broadcast_to(jnp.arange(num) == i, (codes.shape[0], num))
      latents = self.mean_latents(variables, keys, codes, alone)
      out.append(self._decode_one(i, variables, keys, latents))
    return tuple(out)
