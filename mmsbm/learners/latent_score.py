"""The score model over the joined latents of all modalities."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.config import find
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import SDE
from mmsbm.distributions import POSTERIORS
from mmsbm.infra.rng import fold_in_name
from mmsbm.latents import MISSING, NOISY, OBSERVED, LatentLayout
from mmsbm.learners.base import masked_mean

# Noise levels s = sigma / alpha of standardised latents, whose losses are logged apart.
NOISE_RANGES = (
  ('below_0.5', 0.0, 0.5),
  ('0.5_to_2', 0.5, 2.0),
  ('above_2', 2.0, float('inf')),
)


def draw_observed(key: jax.Array, present: jax.Array, probability: float) -> jax.Array:
  """Draws which modalities a training example shows clean.

  With `probability`, a row shows a uniformly drawn number (1 to all but one) of
  its present modalities, a uniformly drawn subset of that size; otherwise none.

  Args:
    key: typed key.
    present: [B, M] bool.
    probability: of showing any.

  Returns:
    [B, M] bool, a part of `present`.
  """
  which, order, number = jax.random.split(key, 3)
  batch, _ = present.shape
  show = jax.random.bernoulli(which, probability, (batch, 1))
  # Ranks among the present: absent ones come last and are never reached.
  scores = jnp.where(present, jax.random.uniform(order, present.shape), 2.0)
  rank = scores.argsort(-1).argsort(-1)
  most = present.sum(-1, keepdims=True) - 1
  uniform = jax.random.uniform(number, (batch, 1))
  count = jnp.where(most > 0, 1 + jnp.floor(uniform * most).astype(jnp.int32), 0)
  return show & (rank < jnp.minimum(count, most))


def draw_one(key: jax.Array, present: jax.Array) -> jax.Array:
  """Keeps one of the present modalities of each row, all equally likely.

  Args:
    key: typed key.
    present: [B, M] bool.

  Returns:
    [B, M] bool with at most one True a row, a part of `present`.
  """
  scores = jnp.where(present, jax.random.uniform(key, present.shape), -1.0)
  return present & (scores == scores.max(-1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class LatentScore:
  """Denoising score matching on standardised latents (arXiv 2305.15708, section 3).

  Attributes:
    network: (z [B, D], t [B, M], role [B, M], train) -> [B, D]; roles are in
      latents.py.
    layout: where the modalities lie in z.
    diffusion: process, prediction, times and weighting.
    condition_probability: share of the rows that show some modalities clean, at
      network time 0, and learn the conditional score of the others (multi-time
      training, arXiv 2306.04445). 0 is the published training.
    drop_probability: share of those rows in which the modalities are not shown but
      missing, so that the network also learns the score of the others alone, which
      classifier-free guidance needs (arXiv 2207.12598).
    loss_scaling: True takes the mean of the loss over the dimensions that are
      denoised (the factor D / (D - D_S) of arXiv 2306.04445), so that all rows weigh
      the same; False their sum over D, so that every dimension does.
    family: of latents with a spread, key of distributions.POSTERIORS.
    gaussian: the network learns what the score of Gaussian latents of the same
      covariance does not say (arXiv 2412.09726), given what is observed. At first the
      model is the best linear one, which few examples do not improve on.
  """

  network: nn.Module
  layout: LatentLayout
  diffusion: Diffusion
  condition_probability: float
  drop_probability: float = 0.0
  loss_scaling: bool = True
  family: str = 'normal'
  gaussian: bool = False

  name = 'score'

  @property
  def sde(self) -> SDE:
    return self.diffusion.sde

  def init(self, key, batch):
    z = batch['z'][:1]
    shape = (1, self.layout.num_modalities)
    variables = self.network.init(key, z, jnp.ones(shape), jnp.zeros(shape, int), False)
    if not self.gaussian:
      return variables
    return {**variables, 'gaussian': {'covariance': jnp.eye(self.layout.total)}}

  def score(
    self,
    variables: Any,
    z: jax.Array,
    t: jax.Array,
    net_t: jax.Array,
    role: jax.Array,
    *,
    train: bool = False,
    rngs: Any = None,
  ) -> jax.Array:
    """Score at z [B, D].

    Args:
      variables: of the network.
      z: noisy latents, observed ones as they are shown, [B, D].
      t: time of every dimension, broadcastable to [B, D].
      net_t: times that the network is told, [B, M].
      role: [B, M] int, see latents.py.
      train: dropout on.
      rngs: for dropout.
    """

    def network_fn(z_in, net_t):
      out = self.network.apply(variables, z_in, net_t, role, train, rngs=rngs)
      if self.gaussian:
        out += self.gaussian_output(variables['gaussian']['covariance'], z, t, role)
      return out

    return self.diffusion.score(network_fn, z, t, net_t)

  def gaussian_output(
    self, covariance: jax.Array, z: jax.Array, t: jax.Array, role: jax.Array
  ) -> jax.Array:
    """What an `EDM` network would give for latents N(0, covariance).

    With y = z / alpha, s = sigma / alpha, S the diagonal of s^2, 0 for what is
    observed, and A what is not missing, the denoised latent is
    D = C_:A (C_AA + S_A)^-1 y_A, and the output (D - y / (1 + s^2)) sqrt(1 + s^2) / s.

    Args:
      covariance: C, [D, D].
      z: noisy latents [B, D].
      t: time of every dimension, broadcastable to [B, D].
      role: [B, M].
    """
    free, missing = (self.layout.expand(role == r) for r in (NOISY, MISSING))
    t = jnp.where(free, t, 1.0)
    s = jnp.where(free, self.sde.noise_level(t), 0.0)
    y = jnp.where(missing, 0.0, z / jnp.where(free, self.sde.alpha(t), 1.0))
    both = ~(missing[:, :, None] | missing[:, None, :])
    # Of observed latents some may follow from others.
    variance = jnp.where(missing, 1.0, jnp.where(free, jnp.square(s), 1e-4))
    matrix = jnp.where(both, covariance, 0.0) + jax.vmap(jnp.diag)(variance)
    factor = jnp.linalg.cholesky(matrix)
    solved = jax.scipy.linalg.cho_solve((factor, True), y[..., None])[..., 0]
    denoised = solved @ covariance
    c = jnp.sqrt(1 + jnp.square(s))
    output = (denoised - y / jnp.square(c)) * c / jnp.where(free, s, 1.0)
    return jnp.where(free, output, 0.0)

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`.

    The batch has z [B, D], present [B, M] and, optionally, paired [B]: of a row that
    is not paired it is unknown which latents belong together, so that one of them,
    drawn anew each time, is all that it shows. Absent modalities are missing. With
    spread [B, D] the latents are distributions of that standard deviation around z, of
    which each step draws anew.
    """
    mutables = {'gaussian': {'covariance': frozen}} if self.gaussian else {}
    variables = {**variables, **mutables}
    z, present = batch['z'], batch['present']
    if 'spread' in batch:
      key = fold_in_name(rngs['noise'], 'posterior')
      family = find(POSTERIORS, self.family)
      z = family(z, 2 * jnp.log(batch['spread'])).sample(key)
    keys = jax.random.split(rngs['condition'], 3)
    if 'paired' in batch:
      present = jnp.where(batch['paired'][:, None], present, draw_one(keys[1], present))
    shown = draw_observed(keys[0], present, self.condition_probability)
    dropped = jax.random.bernoulli(keys[2], self.drop_probability, (z.shape[0], 1))
    observed = shown & ~dropped
    free = present & ~shown
    role = jnp.where(free, NOISY, jnp.where(observed, OBSERVED, MISSING))
    t, factor = self.diffusion.draw_times(rngs['time'], (z.shape[0], 1))
    t_modality = jnp.where(observed, 0.0, t)
    free_dims = self.layout.expand(free)
    observed_dims = self.layout.expand(observed)
    known = jnp.where(self.layout.expand(present), z, 0.0)
    noise = jax.random.normal(rngs['noise'], z.shape, z.dtype)

    def score_fn(z_t, t):
      z_t = jnp.where(free_dims, z_t, jnp.where(observed_dims, known, 0.0))
      return self.score(
        variables,
        z_t,
        t,
        t_modality,
        role,
        train=train,
        rngs={'dropout': rngs['dropout']},
      )

    losses = self.diffusion.loss(
      score_fn,
      known,
      noise,
      self.layout.expand(t_modality),
      dim_weight=free_dims.astype(z.dtype),
    )
    if not self.loss_scaling:
      losses *= free_dims.mean(-1)
    losses, used = losses * factor[:, 0], free.any(-1)
    level = self.sde.noise_level(t[:, 0])
    terms = {
      f'noise_{name}': masked_mean(losses, used & (low <= level) & (level < high))
      for name, low, high in NOISE_RANGES
    }
    return masked_mean(losses, used), terms, mutables if train else {}
