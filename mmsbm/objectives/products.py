"""Joint VAEs whose posterior is a product of experts: MVAE and MVTCAE."""

import dataclasses

import jax
import jax.numpy as jnp

from mmsbm.fusion import draw_subsets, product_of_experts
from mmsbm.objectives.base import require, terms_of


class Product:
  """A posterior that is one Gaussian, which no key chooses."""

  families = ('normal',)
  has_private = False

  def log_density(self, experts, z):
    return self.posterior(None, experts).log_prob(z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MVAE(Product):
  """Multimodal VAE with a product of experts (Wu & Goodman, arXiv 1802.05335).

  The sub-sampled loss of its eq. 4: the negative ELBO of all modalities, of each one
  alone, and of random subsets. The ELBO of a subset S is

    E_{q(z|x_S)} sum_{m in S} log p(x_m|z) - beta KL(q(z|x_S) || N(0, I)),

  q(z|x_S) the product of its experts and N(0, I).

  Attributes:
    beta: weight of the divergence.
    single_terms: whether the modalities alone have terms; without, the encoders are
      not trained to stand for themselves.
    num_random_subsets: terms of random subsets.
  """

  beta: float = 1.0
  single_terms: bool = True
  num_random_subsets: int = 1

  def __post_init__(self):
    number = self.num_random_subsets
    require('num_random_subsets', number, number >= 0)

  def __call__(self, key, experts, log_likelihood):
    present = experts.present
    sets = [present[None]]
    if self.single_terms:
      single = jnp.eye(present.shape[-1], dtype=bool)[:, None]
      sets.append(single & present)
    if self.num_random_subsets:
      shape = (self.num_random_subsets, *present.shape)
      subset_key, key = jax.random.split(key)
      sets.append(draw_subsets(subset_key, jnp.broadcast_to(present, shape)))
    used = jnp.concatenate(sets)
    q = product_of_experts(experts.shared, used, prior=True)
    log_p = jnp.where(used, log_likelihood(q.sample(key), None), 0.0)
    kl = q.kl_to_prior()
    # The first are those of the whole.
    terms = terms_of(log_p[0], kl[0])
    return (self.beta * kl - log_p.sum(-1)).sum(0), terms

  def posterior(self, keys, experts):
    del keys
    return product_of_experts(experts.shared, experts.present, prior=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MVTCAE(Product):
  """Multi-view total correlation autoencoder (Hwang et al., NeurIPS 2021, eq. 9).

  With the product q(z|X) of the experts, without a prior factor, and M modalities:

    (M - alpha)/M E_q[-sum_m log p(x_m|z)]
      + beta ((1 - alpha) KL(q || N(0, I)) + alpha/M sum_m KL(q || q_m)).

  The second divergence, the conditional information bottleneck, makes every expert
  alone like the whole. Absent modalities have no term in the sums; M stays that of the
  data, as in the authors' program.

  Attributes:
    alpha: weight of the total correlation, 0 to 1.
    beta: weight of the divergences.
  """

  alpha: float = 0.9
  beta: float = 2.5

  def __post_init__(self):
    require('alpha', self.alpha, 0 <= self.alpha <= 1)

  def __call__(self, key, experts, log_likelihood):
    q = self.posterior(None, experts)
    log_p = log_likelihood(q.sample(key)[None], None)[0]
    share = self.alpha / experts.present.shape[-1]
    whole = jax.tree.map(lambda a: a[:, None], q)
    to_experts = jnp.where(experts.present, whole.kl_to(experts.shared), 0.0).sum(-1)
    divergence = (1 - self.alpha) * q.kl_to_prior() + share * to_experts
    loss = self.beta * divergence - (1 - share) * log_p.sum(-1)
    return loss, terms_of(log_p, divergence)

  def posterior(self, keys, experts):
    del keys
    return product_of_experts(experts.shared, experts.present, prior=False)
