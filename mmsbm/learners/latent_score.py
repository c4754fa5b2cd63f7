"""The score model over the joined latents of all modalities."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.diffusion.losses import denoising_loss
from mmsbm.diffusion.sde import SDE
from mmsbm.latents import LatentLayout
from mmsbm.learners.base import masked_mean

# Network time of a modality of which nothing is known.
NOTHING_KNOWN = 1.0


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


@dataclasses.dataclass(frozen=True)
class LatentScore:
  """Denoising score matching on standardised latents (arXiv 2305.15708, section 3).

  Attributes:
    network: (z [B, D], t [B, M], observed [B, M], train) -> [B, D].
    layout: where the modalities lie in z.
    sde: the process.
    parametrization: what the network predicts.
    times: draws training times.
    weighting: name in `losses.WEIGHTINGS`.
    condition_probability: share of the rows that show some modalities clean, at
      network time 0, and learn the conditional score of the others (multi-time
      training, arXiv 2306.04445). 0 is the published training.
  """

  network: nn.Module
  layout: LatentLayout
  sde: SDE
  parametrization: Any
  times: Any
  weighting: str
  condition_probability: float

  name = 'score'

  def init(self, key, batch):
    z, present = batch['z'][:1], batch['present'][:1]
    return self.network.init(
      key, z, jnp.ones(present.shape, z.dtype), jnp.zeros_like(present), False
    )

  def score(
    self,
    variables: Any,
    z: jax.Array,
    t: jax.Array,
    net_t: jax.Array,
    observed: jax.Array,
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
      observed: [B, M] bool.
      train: dropout on.
      rngs: for dropout.
    """

    def network_fn(z_in, net_t):
      return self.network.apply(variables, z_in, net_t, observed, train, rngs=rngs)

    return self.parametrization.score(network_fn, self.sde, z, t, net_t)

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`; absent modalities are shown as pure noise at time 1."""
    del frozen  # Latents are computed once, before this stage.
    z, present = batch['z'], batch['present']
    observed = draw_observed(rngs['condition'], present, self.condition_probability)
    t, factor = self.times(rngs['time'], (z.shape[0], 1), self.sde)
    t_modality = jnp.where(observed, 0.0, jnp.where(present, t, NOTHING_KNOWN))
    observed_dims = self.layout.expand(observed)
    present_dims = self.layout.expand(present)
    t_dims = self.layout.expand(t_modality)
    noise = jax.random.normal(rngs['noise'], z.shape, z.dtype)

    def score_fn(z_t, t):
      z_t = jnp.where(observed_dims, z, z_t)
      return self.score(
        variables,
        z_t,
        t,
        t_modality,
        observed,
        train=train,
        rngs={'dropout': rngs['dropout']},
      )

    losses = denoising_loss(
      score_fn,
      jnp.where(present_dims, z, 0.0),
      noise,
      t_dims,
      sde=self.sde,
      weighting=self.weighting,
      dim_weight=(present_dims & ~observed_dims).astype(z.dtype),
    )
    loss = masked_mean(losses * factor[:, 0], present.any(-1))
    return loss, {}, {}
