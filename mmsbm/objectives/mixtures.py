"""Joint VAEs whose posterior is a mixture: MoPoE, mmJSD, Hölder, MMVAE and MMVAE+."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.fusion import (
  all_subsets,
  draw_member,
  draw_subsets,
  hoelder_pool,
  mixture_log_prob,
  prior_where,
  product_of_experts,
  select,
)
from mmsbm.infra.errors import UserError
from mmsbm.objectives.base import masked_mean_over_modalities, require, terms_of
from mmsbm.objectives.products import Product


class Mixture:
  """A posterior that is the mean of the experts: of a row it is one of them."""

  families: ClassVar[tuple[str, ...] | None] = ('normal',)
  has_private: ClassVar[bool] = False

  def posterior(self, keys, experts):
    members = experts.present
    chosen = jax.vmap(draw_member)(keys, members)
    return prior_where(~members.any(-1), select(experts.shared, chosen))

  def log_density(self, experts, z):
    return mixture_log_prob(experts.shared, experts.present, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoPoE(Product):
  """Mixture of products of experts (Sutter et al., arXiv 2105.02470, eq. 6).

  q(z|X) is the mean of the products q_S over all non-empty subsets S of what is there:

    E_{q(z|X)}[-sum_m log p(x_m|z)] + beta mean_S KL(q_S || N(0, I)).

  Each example draws its own S for the expectation, all equally likely. (The published
  program gives the rows of a batch to subsets in turn, so that a batch smaller than
  2^M - 1 trains the full subset only.)

  Attributes:
    beta: weight of the divergence.
    prior_expert: products that have N(0, I) as one more factor: 'none', 'all' or, as in
      the published program, 'full', the product of all M modalities.
    max_subsets: with more subsets than that, so many are drawn for the mean of the
      divergence, anew for every example and step.
  """

  beta: float = 2.5
  prior_expert: str = 'none'
  max_subsets: int = 64

  def __post_init__(self):
    require('max_subsets', self.max_subsets, self.max_subsets >= 1)
    if self.prior_expert not in ('none', 'all', 'full'):
      raise UserError(
        f"prior_expert={self.prior_expert!r}: choose from 'none', 'all', 'full'."
      )

  def product(self, experts, used):
    """q_S for subsets used [..., B, M]."""
    prior = {'none': False, 'all': True, 'full': used.all(-1)}[self.prior_expert]
    return product_of_experts(experts.shared, used, prior=prior)

  def __call__(self, key, experts, log_likelihood):
    keys = jax.random.split(key, 3)
    chosen = draw_subsets(keys[0], experts.present)
    return self.loss_of(keys[1], experts, log_likelihood, chosen, keys[2])

  def loss_of(self, key, experts, log_likelihood, chosen, subsets_key=None):
    """The loss with z drawn from the products of the subsets `chosen` [B, M]."""
    z = self.product(experts, chosen).sample(key)
    log_p = log_likelihood(z[None], None)[0]
    kl = self.divergence(subsets_key, experts)
    return self.beta * kl - log_p.sum(-1), terms_of(log_p, kl)

  def divergence(self, key, experts):
    """mean_S KL(q_S || N(0, I)), [B]: exact, or over random subsets."""
    present = experts.present
    if 2 ** present.shape[-1] - 1 > self.max_subsets:
      shape = (self.max_subsets, *present.shape)
      used = draw_subsets(key, jnp.broadcast_to(present, shape))
      return self.product(experts, used).kl_to_prior().mean(0)
    used = jnp.asarray(all_subsets(present.shape[-1]))[:, None]
    kl = self.product(experts, used & present).kl_to_prior()
    valid = (present | ~used).all(-1)
    return jnp.where(valid, kl, 0.0).sum(0) / jnp.maximum(valid.sum(0), 1)

  def posterior(self, keys, experts):
    """The product of all that is present, as in the published program."""
    del keys
    return self.product(experts, experts.present)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMJSD(Mixture):
  """Multimodal Jensen-Shannon divergence (Sutter et al., arXiv 2006.08242, eq. 9).

    E[-sum_m log p(x_m|z)] + beta sum_m pi KL(q_m || f),

  z from a mixture of the experts, f their geometric mean, the dynamic prior, and pi
  one over their number; N(0, I) is one of them unless `prior_expert` is False. (The
  published program also decodes draws from N(0, I), as often as those of an expert; z
  is here of the experts of present modalities only.)

  Attributes:
    beta: weight of the divergence.
    prior_expert: see above.
    inference: of two and more observed modalities: their 'geometric' mean f, as the
      published program has it, or the 'mixture' of the training. That of one modality
      is its expert.
  """

  beta: float = 1.0
  prior_expert: bool = True
  inference: str = 'geometric'

  def __post_init__(self):
    if self.inference not in ('geometric', 'mixture'):
      raise UserError(
        f"inference={self.inference!r} is not one of 'geometric', 'mixture'."
      )

  def _is_mean(self, experts):
    """Rows [B] whose posterior is the geometric mean."""
    return (self.inference == 'geometric') & (experts.present.sum(-1) > 1)

  def posterior(self, keys, experts):
    _, f = self.divergence(experts)
    is_mean = self._is_mean(experts)[:, None]
    drawn = super().posterior(keys, experts)
    return jax.tree.map(lambda a, b: jnp.where(is_mean, a, b), f, drawn)

  def log_density(self, experts, z):
    _, f = self.divergence(experts)
    mixture = super().log_density(experts, z)
    return jnp.where(self._is_mean(experts), f.log_prob(z), mixture)

  def divergence(self, experts):
    """(sum_m pi KL(q_m || f) [B], f)."""
    present = experts.present
    number = jnp.maximum(present.sum(-1) + self.prior_expert, 1)
    weights = present / number[:, None]
    f = product_of_experts(experts.shared, weights, prior=self.prior_expert / number)
    whole = jax.tree.map(lambda a: a[:, None], f)
    kl = (weights * jnp.where(present, experts.shared.kl_to(whole), 0.0)).sum(-1)
    if self.prior_expert:
      kl += f.prior_like(f.mean).kl_to(f) / number
    return kl, f

  def __call__(self, key, experts, log_likelihood):
    which, noise = jax.random.split(key)
    keys = jax.random.split(which, experts.present.shape[0])
    z = super().posterior(keys, experts).sample(noise)
    log_p = log_likelihood(z[None], None)[0]
    kl, _ = self.divergence(experts)
    return self.beta * kl - log_p.sum(-1), terms_of(log_p, kl)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hoelder:
  """VAE with symmetric Hölder pooling (Vo et al., arXiv 2606.13381).

    sum_c w_c E_{q_c}[-sum_m log p(x_m|z) + beta (log q(z|X) - log p(z))],

  over the components c of `fusion.hoelder_pool`, whose mixture is q(z|X): the variant
  with one shared latent. One draw of each component is decoded, M (M + 1) / 2 in all,
  where MMVAE has M and MoPoE 1, so that the gradient of the weights is exact.

  Attributes:
    beta: weight of the divergence.
    max_pairs: with more pairs of modalities than that, the components of so many are
      drawn, anew for every example and step, and stand for those of all; the
      components of single modalities are always there. Value and gradient are right on
      average. log q(z|X) is of all components, whatever is drawn.
  """

  beta: float = 2.5
  max_pairs: int = 45

  families = ('normal',)
  has_private = False

  def __post_init__(self):
    require('max_pairs', self.max_pairs, self.max_pairs >= 1)

  def posterior(self, keys, experts):
    components, log_weights = hoelder_pool(experts.shared, experts.present)
    return select(components, jax.vmap(jax.random.categorical)(keys, log_weights))

  def log_density(self, experts, z):
    components, log_weights = hoelder_pool(experts.shared, experts.present)
    densities = components.log_prob(z[..., None, :])
    return jax.nn.logsumexp(densities + log_weights, axis=-1)

  def draw(self, key, present):
    """Which components [B, C'] are decoded, singles first, and for how many each."""
    i, j = np.triu_indices(present.shape[-1])
    singles, pairs = np.flatnonzero(i == j), np.flatnonzero(i != j)
    are_present = present[:, i[pairs]] & present[:, j[pairs]]
    # Pairs that are not there come last, and have no weight.
    scores = jnp.where(are_present, jax.random.uniform(key, are_present.shape), -1.0)
    _, drawn = jax.lax.top_k(scores, self.max_pairs)
    singles = jnp.broadcast_to(singles, (len(present), len(singles)))
    factor = jnp.maximum(are_present.sum(-1, keepdims=True) / self.max_pairs, 1.0)
    factor = jnp.broadcast_to(factor, drawn.shape)
    return (
      jnp.concatenate([singles, jnp.asarray(pairs)[drawn]], axis=1),
      jnp.concatenate([jnp.ones(singles.shape), factor], axis=1),
    )

  def __call__(self, key, experts, log_likelihood):
    components, log_weights = hoelder_pool(experts.shared, experts.present)
    weights, number = jnp.exp(log_weights), experts.present.shape[-1]
    some_pairs = weights.shape[-1] > number + self.max_pairs
    if some_pairs:
      which, key = jax.random.split(key)
      index, factor = self.draw(which, experts.present)
      take = lambda a: jnp.take_along_axis(a, index[..., None], axis=1)  # noqa: E731
      components = jax.tree.map(take, components)
      weights = take(weights[..., None])[..., 0] * factor
    z, weights = components.sample(key).swapaxes(0, 1), weights.T

    def mean(values):
      w = weights.reshape(*weights.shape, *[1] * (values.ndim - 2))
      if not some_pairs:
        return (w * values).sum(0)
      # Drawn weights add up to one on average only. Around what single modalities have,
      # that makes little noise; around zero, log-likelihoods are large.
      alone, of_alone = w[:number], values[:number]
      center = jax.lax.stop_gradient((alone * of_alone).sum(0) / alone.sum(0))
      return center + (w * (values - center)).sum(0)

    log_p = log_likelihood(z, None)
    prior = experts.shared.prior_like(z).log_prob(z)
    divergence = self.log_density(experts, z) - prior
    has_any = experts.present.any(-1)
    log_p = jnp.where(has_any[:, None], mean(log_p), 0.0)
    divergence = jnp.where(has_any, mean(divergence), 0.0)
    return self.beta * divergence - log_p.sum(-1), terms_of(log_p, divergence)


@jax.custom_vjp
def scale_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
  """x, whose gradient is multiplied by `factor`, broadcastable to x."""
  del factor
  return x


scale_gradient.defvjp(
  lambda x, factor: (x, factor),
  lambda factor, gradient: (gradient * factor, jnp.zeros_like(factor)),
)

ESTIMATORS = ('elbo', 'iwae', 'dreg')


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMVAE(Mixture):
  """Mixture of experts VAE (Shi et al., arXiv 1911.03393).

  The mean over modalities m of a bound with K draws of z from q(z|x_m), whose weights

    w = p(X|z) (p(z) / q(z|X))^beta,   q(z|X) = mean_n q(z|x_n),

  are averaged inside the logarithm ('iwae', the looser of its two bounds, which does
  not tend to log p(X)), or outside ('elbo'). 'dreg' has the value of 'iwae' and, for
  the encoders, the gradient of arXiv 1810.04152, eq. 8, of less variance. As the
  authors use it, with the density of the mixture in the weights, it is unbiased for one
  modality, or for K = 1.

  Attributes:
    num_samples: K draws per modality.
    estimator: see above.
    beta: weight of log p(z) - log q(z|X).
  """

  num_samples: int = 1
  estimator: str = 'iwae'
  beta: float = 1.0

  families = None

  def __post_init__(self):
    require('num_samples', self.num_samples, self.num_samples >= 1)
    if self.estimator not in ESTIMATORS:
      raise UserError(f'estimator={self.estimator!r} is not one of {ESTIMATORS}.')

  def draws(self, key, experts):
    """(z [K, M, B, d], None): K draws of every expert, of the prior if it is absent."""
    shared = prior_where(~experts.present, experts.shared)
    keys = jax.random.split(key, self.num_samples)
    return jax.vmap(shared.sample)(keys).swapaxes(1, 2), None

  def scale_gradients(self, latents, factor):
    """The draws, with the gradient that reaches the encoders times factor [K, M, B]."""
    z, _ = latents
    return scale_gradient(z, factor[..., None]), None

  def log_weights(self, experts, densities, log_likelihood, latents):
    """(log w [K, M, B], log p(x_n|z) [K, M, B, M]); `densities` are experts for q."""
    z, _ = latents
    log_p = _decode(log_likelihood, z)
    return log_p.sum(-1) + self.beta * _shared_ratio(experts, densities, z), log_p

  def __call__(self, key, experts, log_likelihood):
    present, latents = experts.present, self.draws(key, experts)
    densities = experts
    if self.estimator == 'dreg':
      # The density of the posterior is no function of the encoders. What reaches them
      # through the draws then has the factor 1 - beta + beta w, w the normalised
      # weight: for beta = 1 the weight once more.
      densities = jax.lax.stop_gradient(experts)
      fixed = jax.lax.stop_gradient(latents)
      log_w, _ = self.log_weights(experts, densities, log_likelihood, fixed)
      weights = jax.lax.stop_gradient(jax.nn.softmax(log_w, axis=0))
      latents = self.scale_gradients(latents, 1 - self.beta + self.beta * weights)
    log_w, log_p = self.log_weights(experts, densities, log_likelihood, latents)
    if self.estimator == 'elbo':
      bounds = log_w.mean(0)
    else:
      bounds = jax.nn.logsumexp(log_w, axis=0) - math.log(self.num_samples)
    loss = -masked_mean_over_modalities(bounds.T, present)
    reconstruction = -log_p.sum(-1).mean(0)
    reconstruction = masked_mean_over_modalities(reconstruction.T, present)
    terms = {'reconstruction': reconstruction, 'divergence': loss - reconstruction}
    return loss, terms


def _decode(log_likelihood, z, w=None):
  """log p(x_n|z, w_n) [K, M, B, M] of draws z [K, M, B, d], w [K, M, B, M, p]."""
  lead = z.shape[:2]
  flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (z, w))
  out = log_likelihood(*flat)
  return out.reshape(*lead, *out.shape[1:])


def _is_source(z):
  """[M, 1, M, 1]: whether the private latent of a target is that of the source of z."""
  return jnp.eye(z.shape[1], dtype=bool)[:, None, :, None]


def _shared_ratio(experts, densities, z):
  """log p(z) - log q(z|X) of z [K, M, B, d]."""
  prior = experts.shared.prior_like(z).log_prob(z)
  return prior - mixture_log_prob(densities.shared, experts.present, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMVAEPlus(MMVAE):
  """MMVAE with shared and private latents (Palumbo et al., ICLR 2023, eq. 5).

  The decoder of x_n sees z and a private w_n: for z from q(z|x_m), that of n = m is
  drawn from q(w_m|x_m), and the others from auxiliary priors r_n(w_n), which are
  learned. What x_n has for itself is then of no use in z. The weights are

    w = p(x_m|z, w_m) prod_{n != m} p(x_n|z, w_n)
        (p(z) p(w_m) / (q(z|X) q(w_m|x_m)))^beta.
  """

  has_private = True

  def draws(self, key, experts):
    """(z [K, M, B, d], w [K, M, B, M, p])."""
    shared_key, own_key, other_key = jax.random.split(key, 3)
    z, _ = super().draws(shared_key, experts)
    private = prior_where(~experts.present, experts.private)
    drawn = jax.vmap(private.sample)(jax.random.split(own_key, self.num_samples))
    # The private latent of every target n, for every source m: [K, M, B, M, p].
    shape = (*z.shape[:3], *experts.auxiliary.mean.shape)
    auxiliary = jax.tree.map(lambda a: jnp.broadcast_to(a, shape), experts.auxiliary)
    return z, jnp.where(_is_source(z), drawn[:, None], auxiliary.sample(other_key))

  def scale_gradients(self, latents, factor):
    z, w = latents
    # The density of the auxiliary priors is not in the weights: theirs stay.
    scaled = scale_gradient(w, factor[..., None, None])
    return scale_gradient(z, factor[..., None]), jnp.where(_is_source(z), scaled, w)

  def log_weights(self, experts, densities, log_likelihood, latents):
    z, w = latents
    log_p = _decode(log_likelihood, z, w)
    # Of every source its own, [K, B, M, p].
    w_source = jnp.einsum('kmbmp->kbmp', w)
    private = prior_where(~experts.present, densities.private)
    ratio = private.prior_like(w_source).log_prob(w_source) - private.log_prob(w_source)
    ratio = _shared_ratio(experts, densities, z) + ratio.swapaxes(1, 2)
    return log_p.sum(-1) + self.beta * ratio, log_p
