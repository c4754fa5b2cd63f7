"""From the posteriors of single modalities, the experts, to a joint posterior.

Experts are one `Posterior` whose arrays are [B, M, d]. Which of them take part is a
boolean array, a row of its own for every example; what absent ones hold is of no
influence. A product with no expert is the prior N(0, I).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.distributions import DiagGaussian, Posterior


def product_of_experts(
  experts: DiagGaussian, used: jax.Array, *, prior: jax.Array | float
) -> DiagGaussian:
  """Normalised product of Gaussians (Hinton, 2002; arXiv 1802.05335, eq. 2).

  Args:
    experts: mean and log_var [B, M, d].
    used: exponents of the experts, [..., B, M]; bool for a plain product.
    prior: exponent of N(0, I), one more factor, [..., B] or one for all.

  Returns:
    mean and log_var [..., B, d].
  """
  used = used.astype(experts.mean.dtype)
  precision = jnp.exp(-experts.log_var)
  total = jnp.einsum('...bm,bmd->...bd', used, precision)
  moment = jnp.einsum('...bm,bmd->...bd', used, precision * experts.mean)
  # An empty product has no precision: it is the prior, whose moment is 0.
  empty = ~(used > 0).any(-1)
  total += jnp.where(empty, 1.0, prior)[..., None]
  return DiagGaussian(moment / total, -jnp.log(total))


def mixture_log_prob(experts: Posterior, used: jax.Array, z: jax.Array) -> jax.Array:
  """log of the mean density of the experts in use (arXiv 1911.03393, eq. 2).

  Args:
    experts: mean and log_var [B, M, d].
    used: [B, M] bool. Where there is none, the density is that of the prior.
    z: [..., B, d].

  Returns:
    [..., B].
  """
  densities = experts.log_prob(z[..., None, :])
  none = ~used.any(-1)
  number = jnp.maximum(used.sum(-1), 1)
  # The gradient of what is not used must be 0 and not 0 * inf.
  masked = jnp.where(used, densities, -jnp.inf)
  masked = jnp.where(none[:, None], 0.0, masked)
  mixture = jax.nn.logsumexp(masked, axis=-1) - jnp.log(number)
  return jnp.where(none, experts.prior_like(z).log_prob(z), mixture)


def hoelder_pool(
  experts: DiagGaussian, used: jax.Array
) -> tuple[DiagGaussian, jax.Array]:
  """Symmetric Hölder pooling, a density proportional to (sum_m sqrt(q_m))^2.

  Of Gaussians it is a mixture (arXiv 2606.13381): of every expert, with a weight
  proportional to 1, and of sqrt(q_i q_j) for every pair, with twice the Bhattacharyya
  coefficient, the integral of that.

  Args:
    experts: mean and log_var [B, M, d].
    used: [B, M] bool. Where there is none, the pool is the prior.

  Returns:
    The components, [B, C, d] with C = M (M + 1) / 2 in the order of `np.triu_indices`,
    and log weights [B, C], -inf for those of experts that are not used.
  """
  experts = prior_where(~used, experts)
  i, j = np.triu_indices(used.shape[-1])
  first, second = (jax.tree.map(lambda a, k=k: a[:, k], experts) for k in (i, j))
  precision = [jnp.exp(-expert.log_var) for expert in (first, second)]
  total = precision[0] + precision[1]
  mean = (precision[0] * first.mean + precision[1] * second.mean) / total
  log_var = math.log(2) - jnp.log(total)
  # The coefficient is sqrt(2 s_i s_j / (s_i^2 + s_j^2)) exp(-(m_i - m_j)^2 / 4 (s_i^2 +
  # s_j^2)); s_i^2 s_j^2 / (s_i^2 + s_j^2) is half the variance of the component.
  sizes = 0.25 * (first.log_var + second.log_var)
  square = jnp.square(first.mean - second.mean)
  overlap = 0.5 * (log_var - 2 * sizes)
  overlap -= 0.25 * square * precision[0] * precision[1] / total
  log_weights = overlap.sum(-1) + jnp.where(i == j, 0.0, math.log(2))
  # With nothing, all components are the prior.
  taken = (used[:, i] & used[:, j]) | ~used.any(-1, keepdims=True)
  log_weights = jnp.where(taken, log_weights, -jnp.inf)
  return DiagGaussian(mean, log_var), jax.nn.log_softmax(log_weights, axis=-1)


def select(experts: Posterior, index: jax.Array) -> Posterior:
  """Expert number index [..., B] of every row, [..., B, d]."""

  def pick(a):
    rows = jnp.broadcast_to(a, (*index.shape[:-1], *a.shape))
    return jnp.take_along_axis(rows, index[..., None, None], axis=-2)[..., 0, :]

  return jax.tree.map(pick, experts)


def prior_where(empty: jax.Array, posterior: Posterior) -> Posterior:
  """The prior of the family in the rows `empty` [..., B] of a posterior [..., B, d]."""
  return jax.tree.map(lambda a: jnp.where(empty[..., None], 0.0, a), posterior)


def all_subsets(num: int) -> np.ndarray:
  """All 2^M - 1 non-empty subsets [S, M] bool: a, b, c, ab, ac, bc, abc."""
  masks = (np.arange(1, 2**num)[:, None] >> np.arange(num)) & 1
  # By size, then in the order of their members.
  key = [(row.sum(), *np.flatnonzero(row)) for row in masks]
  return masks[sorted(range(len(key)), key=key.__getitem__)].astype(bool)


def draw_member(key: jax.Array, members: jax.Array) -> jax.Array:
  """Index [...] of one of the members [..., M], all equally likely; 0 if none."""
  scores = jnp.where(members, jax.random.uniform(key, members.shape), -1.0)
  return scores.argmax(-1)


def draw_subsets(key: jax.Array, members: jax.Array) -> jax.Array:
  """Uniform draws among the non-empty subsets of the members.

  The first member of a uniform subset of k is number r with a probability proportional
  to 2^-r, and of those behind it every one is in with probability 1/2.

  Args:
    key: typed key.
    members: [..., M] bool.

  Returns:
    [..., M] bool, empty where there are no members.
  """
  first, behind = jax.random.split(key)
  rank = members.cumsum(-1) - 1
  logits = jnp.where(members, -jnp.log(2.0) * rank, -jnp.inf)
  has_any = members.any(-1, keepdims=True)
  chosen = jax.random.categorical(first, jnp.where(has_any, logits, 0.0))[..., None]
  position = jnp.arange(members.shape[-1])
  coins = jax.random.bernoulli(behind, 0.5, members.shape)
  return members & ((position == chosen) | ((position > chosen) & coins))
