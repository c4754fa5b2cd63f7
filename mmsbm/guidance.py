"""Guidance: what is added to the score of latents to make samples fit together.

A guidance is a frozen dataclass with a `scale` and an interval of noise levels
s = sigma / alpha. In the interval it adds a term to the score of the free latents, at
the cost of one more network evaluation; outside it costs nothing. It says what it
`needs` of the training, the same for every sampler and every conditioning.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.diffusion.guided_levels import GuidedLevels
from mmsbm.diffusion.sde import SDE
from mmsbm.infra.errors import UserError


@dataclasses.dataclass(frozen=True)
class GuidanceInputs:
  """What a guidance may ask about the rows that are drawn.

  Attributes:
    observed: [B, M] bool.
    observed_dims: the same for every dimension, [B, D].
    keys: typed keys [B].
    expand: maps values per modality [B, M] to values per dimension [B, D].
    dropped_score: maps z [B, D], a scalar time and missing [B, M] to the score [B, D]
      of the other modalities alone, as if nothing were known of the missing ones.
    pair_energy: maps z [B, D] and a scalar time to energies [B, M, M], symmetric, of
      every pair of modalities of a row; its diagonal has no meaning.
  """

  observed: jax.Array
  observed_dims: jax.Array
  keys: jax.Array
  expand: Callable[[jax.Array], jax.Array]
  dropped_score: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
  pair_energy: Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance(GuidedLevels, abc.ABC):
  """What is added to the score of latents; subclasses define the term."""

  # 'dropped': a score network that has seen modalities left out; 'energy': the step
  # of that name; '': nothing beside the score.
  needs = ''

  @abc.abstractmethod
  def term(
    self, inputs: GuidanceInputs, score: jax.Array, z: jax.Array, t: jax.Array
  ) -> jax.Array:
    """What is added to the score [B, D]; one network evaluation.

    Args:
      inputs: the rows.
      score: not guided, at z [B, D].
      z: latents, observed ones as the conditioning shows them.
      t: time, a scalar.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierFree(Guidance):
  """Away from the score without the condition (Ho & Salimans, arXiv 2207.12598).

  The guided score is s_cond + scale (s_cond - s_dropped), s_dropped being that of the
  free modalities alone, with the observed ones missing. With exact scores it is, at
  every time, the score of p_t(z) p(o | z)^(1 + scale), z the free and o the observed
  latents.

  A row with nothing observed has no condition, but its modalities have each other.
  With a `joint_scale` a random half A of them, another one at every level, is guided
  away from its score with the others, B, missing. With exact scores that adds the
  gradient for z_A of joint_scale log p_t(z_A, z_B) / (p_t(z_A) p_t(z_B)): towards
  tuples whose halves tell most of each other.

  Attributes:
    joint_scale: factor of the term for rows with nothing observed.
    per_observed: divides `scale` by the number of observed modalities, as `Energy`
      does: as if an average one of them were seen `scale` times more. What says
      little is amplified, and what says much not too often.
  """

  joint_scale: float = 0.0
  per_observed: bool = False

  needs = 'dropped'

  def term(self, inputs, score, z, t):
    is_given = inputs.observed.any(-1, keepdims=True)
    missing = jnp.where(
      is_given, inputs.observed, random_half(inputs.keys, t, inputs.observed)
    )
    count = inputs.observed.sum(-1, keepdims=True) if self.per_observed else 1
    scale = jnp.where(is_given, self.scale / jnp.maximum(count, 1), self.joint_scale)
    away = scale * (score - inputs.dropped_score(z, t, missing))
    # With scale 0 the difference of two scores that are not finite is no matter.
    guided = inputs.expand(~missing) & (scale != 0)
    return jnp.where(guided, away, 0.0)


def random_half(keys: jax.Array, t: jax.Array, like: jax.Array) -> jax.Array:
  """A subset of M // 2 of the modalities of every row, all equally likely.

  Args:
    keys: typed keys [B].
    t: time, a scalar: what is drawn at one is independent of what is at another.
    like: gives the shape [B, M].

  Returns:
    [B, M] bool.
  """
  # A time has no step number; its bits serve as one.
  bits = jax.lax.bitcast_convert_type(jnp.asarray(t, jnp.float32), jnp.int32)
  keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, bits)
  rank = jax.vmap(lambda key: jax.random.permutation(key, like.shape[1]))(keys)
  return rank < like.shape[1] // 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy(Guidance):
  """Down the energies of pairs of modalities (coherence guidance of arXiv 2305.15708).

  The term is -scale times the gradient, for the free latents of every row, of the sum
  of E_ij over its pairs, divided by the number of pairs that each free modality is
  in. Learned to the optimum, E_ij = -log p_t(z_i, z_j) / (p_t(z_i) p_t(z_j)), so that
  scale 1 adds the mean over the partners j of the gradient of log p_t(z_j | z_i): as
  if an average partner were seen once more, whatever the number of modalities. The
  published gradient is of the mean over the batch, B times weaker, and of one pair
  drawn at every step.

  Attributes:
    pairs: 'all', or 'observed' for pairs of a free modality and an observed one only,
      which leave rows with nothing observed as they are.
  """

  pairs: str = 'all'

  needs = 'energy'

  def __post_init__(self):
    super().__post_init__()
    if self.pairs not in ('all', 'observed'):
      raise UserError(f"guidance: pairs={self.pairs!r} is not 'all' or 'observed'.")

  def pair_weights(self, observed: jax.Array) -> jax.Array:
    """Weights [B, M, M] of the energies in the sum, given observed [B, M]."""
    modalities = observed.shape[-1]
    free = ~observed
    partner = observed[:, None].astype(jnp.float32)
    count = observed.sum(-1)
    if self.pairs == 'all':
      # A pair of two free modalities stands in the matrix twice.
      partner += 0.5 * (free[:, None] & ~jnp.eye(modalities, dtype=bool))
      count = jnp.full_like(count, modalities - 1)
    return free[:, :, None] * partner / jnp.maximum(count, 1)[:, None, None]

  def term(self, inputs, score, z, t):
    del score
    weights = self.pair_weights(inputs.observed)
    # A row's energies depend on that row only: one gradient of the sum has all.
    gradient = jax.grad(lambda z: (weights * inputs.pair_energy(z, t)).sum())(z)
    return jnp.where(inputs.observed_dims, 0.0, -self.scale * gradient)


GUIDANCE = {'classifier_free': ClassifierFree, 'energy': Energy}


def guided_score(
  guidance: Sequence[Guidance],
  score_fn: Callable[[jax.Array, jax.Array], jax.Array],
  inputs: GuidanceInputs,
  sde: SDE,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The score function of a sampler, with the terms of every guidance in it."""

  def guided(z, t):
    score = score_fn(z, t)
    total = score
    for term in guidance:
      # The branch that is not taken is not computed.
      total += jax.lax.cond(
        term.active(sde, t),
        lambda term=term: term.term(inputs, score, z, t),
        lambda: jnp.zeros_like(score),
      )
    return total

  return guided


def num_evaluations(
  guidance: Sequence[GuidedLevels], sde: SDE, times: np.ndarray
) -> int:
  """Network evaluations per sample, at a sampler's evaluation times [NFE]."""
  return len(times) + sum(int(np.sum(g.active(sde, times))) for g in guidance)
