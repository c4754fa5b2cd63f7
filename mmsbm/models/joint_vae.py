"""Joint VAEs with a prior, a Gaussian mixture or a score model on their latents."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmsbm.config import find
from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.distributions import POSTERIORS, Posterior
from mmsbm.guidance import num_evaluations
from mmsbm.infra.rng import DECODERS, FUSION, PRIVATE, SHARED, substream
from mmsbm.learners.codec import Codec
from mmsbm.learners.joint_vae import JointVAE, own_latent
from mmsbm.modalities import Modality
from mmsbm.models import densities
from mmsbm.models.priors import LatentPrior
from mmsbm.objectives import Experts


@dataclasses.dataclass(frozen=True)
class JointModel:
  """One latent z for all modalities, and private ones where the method has them.

  Examples are encoded to what the encoders say: {'mean': [B, M, d + p], 'log_var': the
  same} of every expert. A latent is {'shared': z [B, d]} and, with private latents,
  {modality: [B, p]}.

  The variables are those of the steps 'joint' and, where a prior needs them,
  'latents', 'score' and 'mixtures'.

  Attributes:
    learner: the joint VAE.
    samplings: the prior of each way of drawing samples. It has a part only in rows in
      which nothing is observed.
    decoder_sampler: one of samplers.SAMPLERS, for diffusion decoders.
    decoder_guidance: guidance of diffusion decoders; None for none.
  """

  learner: JointVAE
  samplings: Mapping[str, LatentPrior]
  decoder_sampler: Any = None
  decoder_guidance: DecoderGuidance | None = None

  latents_are_shared = True

  @property
  def codecs(self) -> tuple[Codec, ...]:
    return self.learner.codecs

  @property
  def modalities(self) -> tuple[Modality, ...]:
    return tuple(codec.modality for codec in self.codecs)

  @property
  def latent_dims(self) -> dict[str, int]:
    private = self.learner.private_dim
    private_dims = {m.name: private for m in self.modalities} if private else {}
    return {'shared': self.learner.shared_dim, **private_dims}

  def uses(self, sampling, decodes=True):
    """See `MultimodalModel.uses`."""
    del decodes
    needs = self.samplings[sampling].needs if sampling else ()
    return frozenset(('joint', *needs))

  def describe(self, sampling):
    """See `MultimodalModel.describe`."""
    prior = self.samplings[sampling].describe()
    return {'sampler': prior, 'conditioning': '', 'guidance': ''}

  def couples_rows(self, sampling):
    """See `MultimodalModel.couples_rows`."""
    sampler = getattr(self.samplings[sampling], 'sampler', None)
    return getattr(sampler, 'batch_norms', False)

  def encode(self, variables, x):
    """Encodes raw examples, one array [B, *shape] per modality."""
    raw = {m.name: a for m, a in zip(self.modalities, x, strict=True)}
    mean, log_var = self.learner.network.apply(
      variables['joint'], self.learner.to_model(raw), method='encode'
    )
    return {'mean': mean, 'log_var': log_var}

  def experts(self, variables, encoded, observed) -> Experts:
    """Returns what the encoders say, of which the observed modalities [B, M] count."""
    family = find(POSTERIORS, self.learner.family)
    posterior = family(encoded['mean'], encoded['log_var'])
    shared, private = self.learner.split(posterior)
    auxiliary = self.learner.auxiliary(variables['joint'])
    return Experts(shared, observed, private, auxiliary)

  def posterior(self, variables, keys, encoded, observed) -> Posterior:
    """q(z | observed), [B, d]; of a mixture one component, drawn by the keys."""
    experts = self.experts(variables, encoded, observed)
    return self.learner.objective.posterior(substream(keys, FUSION), experts)

  def num_evaluations(self, sampling, num_given):
    """Counts the prior where nothing is given, and all diffusion decoders."""
    total = 0 if num_given else self.samplings[sampling].num_evaluations
    guidance = () if self.decoder_guidance is None else (self.decoder_guidance,)
    for codec in self.codecs:
      if codec.diffusion is not None:
        sde = codec.diffusion.sde
        times = self.decoder_sampler.evaluation_times(sde)
        total += num_evaluations(guidance, sde, times)
    return total

  def sample(self, variables, keys, encoded, observed, sampling):
    """See `MultimodalModel.sample`."""
    latents = self.sample_latents(variables, keys.latents, encoded, observed, sampling)
    return self._decode(variables, keys.outputs, latents)

  def sample_latents(self, variables, keys, encoded, observed, sampling):
    """Draws flat latents [B, d + M p] given what is observed [B, M]."""
    latents, _ = self.draw(variables, keys, encoded, observed)
    prior, d = self.samplings[sampling], self.learner.shared_dim
    if getattr(prior, 'is_trained_one', False):
      return latents
    empty = ~observed.any(-1)

    def replace(latents):
      z = prior.draw(variables, keys, latents[:, :d])
      replaced = jnp.concatenate([z, latents[:, d:]], axis=-1)
      return jnp.where(empty[:, None], replaced, latents)

    # Skips the prior when every row has observations.
    return jax.lax.cond(empty.any(), replace, lambda latents: latents, latents)

  def draw(self, variables, keys, encoded, observed) -> tuple[jax.Array, jax.Array]:
    """One draw of all latents from their posterior given what is observed [B, M].

    Private latents of modalities that are not observed come from the prior.

    Returns:
      Latents [B, d + M p], and log prior - log posterior of them, [B].
    """
    objective = self.learner.objective
    experts = self.experts(variables, encoded, observed)
    q = objective.posterior(substream(keys, FUSION), experts)
    sample = jax.vmap(lambda key, q: q.sample(key))
    z = sample(substream(keys, SHARED), q)
    ratio = q.prior_like(z).log_prob(z) - objective.log_density(experts, z)
    if experts.private is None:
      return z, ratio
    q = jax.tree.map(lambda a: jnp.where(observed[..., None], a, 0.0), experts.private)
    w = sample(substream(keys, PRIVATE), q)
    ratio += (q.prior_like(w).log_prob(w) - q.log_prob(w)).sum(-1)
    return jnp.concatenate([z, w.reshape(w.shape[0], -1)], axis=-1), ratio

  def latents(self, variables, keys, encoded, observed):
    """See `HasLatents.latents`: means of posteriors; keys choose a component."""
    z, w = self._parts(self._mean_latents(variables, keys, encoded, observed))
    private = (
      {} if w is None else {m.name: w[:, i] for i, m in enumerate(self.modalities)}
    )
    return {'shared': z, **private}

  def _mean_latents(self, variables, keys, encoded, observed):
    """Flat latents [B, d + M p] at the mean of the posterior."""
    experts = self.experts(variables, encoded, observed)
    z = self.learner.objective.posterior(substream(keys, FUSION), experts).mean
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
    """See `HasLatents.decode`."""
    flat = jnp.concatenate([latents[name] for name in self.latent_dims], axis=-1)
    return self._decode(variables, keys, flat)

  def _decode(self, variables, keys, latents):
    """Decodes flat latents [B, d + M p]."""
    numbers = range(len(self.codecs))
    return tuple(self._decode_one(i, variables, keys, latents) for i in numbers)

  def _decode_one(self, index, variables, keys, latents):
    """Decodes examples [B, *model_shape] of modality number `index`."""
    learner, codec = self.learner, self.codecs[index]
    weights, parts = variables['joint'], self._parts(latents)
    if codec.diffusion is None:
      output = learner.network.apply(weights, index, *parts, method='decode_one')
      return codec.likelihood.mean(output)
    return codec.diffusion.sample(
      learner.denoiser_variables(weights, index),
      substream(keys, DECODERS + index),
      own_latent(*parts, index),
      self.decoder_sampler,
      self.decoder_guidance,
    )

  def reconstruct(self, variables, keys, encoded):
    """Makes every modality from itself alone, at the mean of its posterior."""
    num, out = len(self.codecs), []
    for i in range(num):
      alone = jnp.broadcast_to(jnp.arange(num) == i, (keys.shape[0], num))
      latents = self._mean_latents(variables, keys, encoded, alone)
      out.append(self._decode_one(i, variables, keys, latents))
    return tuple(out)

  def densities(self, options):
    """See `HasDensities.densities`."""
    return densities.of_joint_vae(self, options)
