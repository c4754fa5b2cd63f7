"""Energies of pairs of latents: which of them fit together."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.diffusion.sde import SDE
from mmsbm.infra.errors import UserError
from mmsbm.latents import LatentLayout


def contrastive_loss(
  positive: jax.Array,
  negative: jax.Array,
  positive_weight: jax.Array,
  negative_weight: jax.Array,
  false_negative_rate: float = 0.0,
) -> jax.Array:
  """Logistic loss that tells pairs of one example from pairs of any two.

  With p the density of the pairs of one example and m that of the pairs of two
  examples, the product of the marginals, the energies of smallest expected loss are
  E = -log p / m. This is exact because the negatives are draws from m itself: among
  them are pairs that happen to fit, and they have to be there. With the rate r,
  negatives count as draws from m = r p + (1 - r) q, and the loss is that of negatives
  from q, without bias: E of q is (E of m - r E of p) / (1 - r) (Chuang et al., 2020,
  arXiv 2007.00224, eq. 5, for the logistic loss). The optimum then is -log p / q,
  which grows without limit where m comes near r p.

  Args:
    positive: energies [...] of pairs of one example.
    negative: energies [...] of pairs of two.
    positive_weight: of the mean over `positive`; 0 in all: the loss is 0.
    negative_weight: of the mean over `negative`.
    false_negative_rate: r, at least 0 and below 1; at most the true share.

  Returns:
    A scalar; log 2 a term, 2 log 2 in all, for energies 0.
  """

  def mean(values, weight):
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1e-6)

  together = mean(jax.nn.softplus(positive), positive_weight)
  apart = mean(jax.nn.softplus(-negative), negative_weight)
  if false_negative_rate:
    false = mean(jax.nn.softplus(-positive), positive_weight)
    apart = (apart - false_negative_rate * false) / (1 - false_negative_rate)
  return together + apart


@dataclasses.dataclass(frozen=True)
class LatentEnergy:
  """Contrastive energies of all pairs of modalities, at all noise levels.

  The energy of modalities i and j is a dot product of features that each of them has
  by itself, made symmetric:

    E_ij = -c_i c_j (f_i . g_j + g_i . f_j) / (2 sqrt(K)),   c = alpha / r

  with r^2 = alpha^2 + sigma^2 at the time of the modality. So all pairs cost M
  networks and a product of matrices. The c are the sizes of the signals in z / r,
  what the network is given: the log ratio of densities falls like c_i c_j when noise
  hides the latents, and that, noise in training cannot undo.

  Batches are cut into groups of rows that share their noise level and which modalities
  are clean. Positives are the pairs within a row, negatives all pairs of modalities of
  two different rows of a group, never of one row with itself. So both are noised
  in the same way, and nothing but the pairing tells them apart.

  Attributes:
    network: (z [B, D], t [B, M], train) -> two features [B, M, K].
    layout: where the modalities lie in z.
    sde: the process of the score model.
    times: draws training times.
    clean_probability: of each modality, to be shown clean at time 0, as observed ones
      are in sampling; the others are noised to one common time.
    group_size: rows that share a time; divides the batch size.
    false_negative_rate: see `contrastive_loss`.
  """

  network: nn.Module
  layout: LatentLayout
  sde: SDE
  times: Any
  clean_probability: float = 0.3
  group_size: int = 8
  false_negative_rate: float = 0.0

  name = 'energy'

  def __post_init__(self):
    if not 0 <= self.clean_probability < 1:
      raise UserError(f'clean_probability={self.clean_probability} must be in [0, 1).')
    if not 0 <= self.false_negative_rate < 1:
      raise UserError(
        f'false_negative_rate={self.false_negative_rate} must be in [0, 1).'
      )
    if self.group_size < 2:
      raise UserError(f'group_size={self.group_size} must be at least 2.')
    if self.layout.num_modalities < 2:
      raise UserError('energies of pairs need at least two modalities.')

  def init(self, key, batch):
    z, present = batch['z'][:1], batch['present'][:1]
    return self.network.init(key, z, jnp.ones(present.shape, z.dtype), False)

  def num_groups(self, batch_size: int) -> int:
    """Groups in a batch; a UserError if it cannot be cut into them."""
    if batch_size % self.group_size:
      raise UserError(
        f'batch_size={batch_size} must be a multiple of group_size={self.group_size}.'
      )
    return batch_size // self.group_size

  def features(
    self,
    variables: Any,
    z: jax.Array,
    t: jax.Array,
    *,
    train: bool = False,
    rngs: Any = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Vectors [B, M, 2 K] whose products are the energies.

    Args:
      variables: of the network.
      z: latents at the times t, [B, D].
      t: time of each modality [B, M]; 0 is clean.
      train: dropout on.
      rngs: for dropout.

    Returns:
      (u, v): E_ij = -u_i . v_j; u_i . v_j = u_j . v_i.
    """
    # At time 0 latents are clean, though sigma may not end at 0.
    ratio = jnp.where(t > 0, self.sde.noise_level(t), 0.0)
    alpha = jnp.where(t > 0, self.sde.alpha(t), 1.0)
    c = 1 / jnp.sqrt(1 + jnp.square(ratio))
    f, g = self.network.apply(
      variables, z * self.layout.expand(c / alpha), t, train, rngs=rngs
    )
    factor = (c / np.sqrt(2) / f.shape[-1] ** 0.25)[..., None]
    return (
      factor * jnp.concatenate([f, g], -1),
      factor * jnp.concatenate([g, f], -1),
    )

  def pair_energy(self, variables: Any, z: jax.Array, t: jax.Array) -> jax.Array:
    """Energies [B, M, M], symmetric, of the pairs of each row; see `features`."""
    u, v = self.features(variables, z, t)
    return -jnp.einsum('bik,bjk->bij', u, v)

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`; the batch is that of `LatentScore`.

    A row that is not paired, or lacks modalities, gives negatives with what it has.
    Every pair of modalities counts the same, however often it is there.
    """
    del frozen  # Latents are computed once, before this stage.
    z, present = batch['z'], batch['present']
    size, groups = self.group_size, self.num_groups(z.shape[0])
    modalities = self.layout.num_modalities
    t, factor = self.times(rngs['time'], (groups, 1), self.sde)
    clean = jax.random.bernoulli(
      rngs['condition'], self.clean_probability, (groups, modalities)
    )
    t = jnp.repeat(jnp.where(clean, 0.0, t), size, axis=0)
    noise = jax.random.normal(rngs['noise'], z.shape, z.dtype)
    known = jnp.where(self.layout.expand(present), z, 0.0)
    t_dims = self.layout.expand(t)
    z_t = jnp.where(t_dims > 0, self.sde.perturb(known, noise, t_dims), known)
    u, v = (
      x.reshape(groups, size, modalities, -1)
      for x in self.features(
        variables, z_t, t, train=train, rngs={'dropout': rngs['dropout']}
      )
    )
    energy = -jnp.einsum('gaik,gbjk->ijgab', u, v)

    is_present = present.reshape(groups, size, modalities).astype(z.dtype)
    # Two clean modalities are never compared in sampling.
    used = (~(clean[:, :, None] & clean[:, None])).astype(z.dtype) * factor[..., None]
    weight = jnp.einsum('gij,gai,gbj->ijgab', used, is_present, is_present)
    same = jnp.eye(size)
    paired = batch.get('paired')
    if paired is not None:
      same = same * paired.reshape(groups, size, 1)
    # Energies are symmetric: each pair of modalities once.
    first, second = np.triu_indices(modalities, 1)
    energy, weight = energy[first, second], weight[first, second]
    positive_weight = weight * same
    rate = self.false_negative_rate
    losses = jax.vmap(lambda e, w, v: contrastive_loss(e, e, w, v, rate))(
      energy, positive_weight, weight * (1 - jnp.eye(size))
    )
    # Negatives alone would only push energies up.
    trained = positive_weight.sum((1, 2, 3)) > 0
    loss = jnp.where(trained, losses, 0.0).sum() / jnp.maximum(trained.sum(), 1)
    return loss, {}, {}
