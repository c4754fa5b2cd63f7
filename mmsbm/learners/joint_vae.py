"""Joint VAEs: encoders and decoders of all modalities, trained by one objective."""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmsbm.config import find
from mmsbm.distributions import POSTERIORS, Posterior
from mmsbm.infra.rng import fold_in_name
from mmsbm.learners.base import masked_mean
from mmsbm.learners.codec import Codec
from mmsbm.nn.batch_norm import counted_rows
from mmsbm.objectives import Experts

# The streams of a step that diffusion decoders use.
_DIFFUSION_STREAMS = ('time', 'noise', 'dropout')


class JointAutoencoder(nn.Module):
  """All encoders and decoders under one set of variables.

  Attributes:
    encoders: of every modality, x [B, ...] -> (mean, log_var), each [B, d + p].
    decoders: [B, d + p] -> parameters of the likelihood [B, ...]; or networks of
      diffusion decoders, which are called elsewhere.
    denoises: which of the decoders are such networks.
    private_dim: p, size of the private latent of every modality; the last part.
  """

  encoders: tuple[nn.Module, ...]
  decoders: tuple[nn.Module, ...]
  denoises: tuple[bool, ...]
  private_dim: int = 0

  def setup(self):
    if self.private_dim:
      shape = (len(self.encoders), self.private_dim)
      # log variance of the auxiliary priors; 0 is unit variance.
      zeros = nn.initializers.zeros
      self.auxiliary_log_var = self.param('auxiliary_log_var', zeros, shape)

  def encode(
    self,
    x: tuple[jax.Array, ...],
    train: bool = False,
    present: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Mean and log_var [B, M, d + p] of the experts; `present` [B, M], all if None."""
    moments = []
    for i, (encoder, a) in enumerate(zip(self.encoders, x, strict=True)):
      with counted_rows(None if present is None else present[:, i]):
        moments.append(encoder(a, train))
    mean, log_var = (jnp.stack(parts, axis=1) for parts in zip(*moments, strict=True))
    return mean, log_var

  def decode(
    self,
    z: jax.Array,
    w: jax.Array | None,
    train: bool = False,
    present: jax.Array | None = None,
  ) -> tuple[jax.Array | None, ...]:
    """Parameters of the likelihoods, from z [B, d] and w [B, M, p].

    None for modalities with a diffusion decoder; `present` as in `encode`.
    """
    outputs = []
    for i in range(len(self.decoders)):
      with counted_rows(None if present is None else present[:, i]):
        outputs.append(self.decode_one(i, z, w, train))
    return tuple(outputs)

  def decode_one(
    self, index: int, z: jax.Array, w: jax.Array | None, train: bool = False
  ) -> jax.Array | None:
    """As `decode`, of modality number `index` alone."""
    if self.denoises[index]:
      return None
    return self.decoders[index](own_latent(z, w, index), train)

  def auxiliary(self) -> jax.Array:
    """log_var [M, p] of the auxiliary priors."""
    return self.auxiliary_log_var

  def __call__(self, x, train: bool = False):
    mean, _ = self.encode(x, train)
    shared, private = jnp.split(mean, [mean.shape[-1] - self.private_dim], axis=-1)
    z, w = shared[:, 0], private if self.private_dim else None
    for i, decoder in enumerate(self.decoders):
      if self.denoises[i]:
        decoder(x[i], jnp.zeros(z.shape[0]), own_latent(z, w, i), train)
    return self.decode(z, w, train)


def own_latent(z: jax.Array, w: jax.Array | None, index: int) -> jax.Array:
  """What decoder number `index` sees of z [B, d] and w [B, M, p]."""
  return z if w is None else jnp.concatenate([z, w[:, index]], axis=-1)


@dataclasses.dataclass(frozen=True)
class JointVAE:
  """A multimodal VAE with one latent for all modalities.

  Attributes:
    codecs: networks of every modality; their latent sizes are all d + p.
    objective: one of objectives.OBJECTIVES.
    family: of posteriors and prior, key of distributions.POSTERIORS.
    private_dim: p; 0 for methods without private latents.
    weights: factor of the log-likelihood of every modality.
  """

  codecs: tuple[Codec, ...]
  objective: object
  family: str = 'normal'
  private_dim: int = 0
  weights: tuple[float, ...] = ()

  name = 'joint'

  @property
  def shared_dim(self) -> int:
    return self.codecs[0].latent_dim - self.private_dim

  @property
  def network(self) -> JointAutoencoder:
    return JointAutoencoder(
      tuple(m.encoder for m in self.codecs),
      tuple(m.decoder for m in self.codecs),
      tuple(m.diffusion is not None for m in self.codecs),
      self.private_dim,
    )

  def to_model(self, x: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Raw examples by modality as the networks see them."""
    return tuple(m.kind.to_model(x[m.name]) for m in self.codecs)

  def init(self, key, batch):
    x = {name: a[:1] for name, a in batch['x'].items()}
    return self.network.init(key, self.to_model(x))

  def denoiser_variables(self, variables, index: int):
    """Those of the diffusion decoder of modality number `index`."""
    return {'params': variables['params'][f'decoders_{index}']}

  def split(self, posterior: Posterior) -> tuple[Posterior, Posterior | None]:
    """Shared and private part of [..., d + p]; None without private latents."""
    d = self.shared_dim
    if not self.private_dim:
      return posterior, None
    return (
      jax.tree.map(lambda a: a[..., :d], posterior),
      jax.tree.map(lambda a: a[..., d:], posterior),
    )

  def auxiliary(self, variables) -> Posterior | None:
    """Auxiliary priors of the private latents, [M, p]."""
    if not self.private_dim:
      return None
    log_var = self.network.apply(variables, method='auxiliary')
    return find(POSTERIORS, self.family)(jnp.zeros_like(log_var), log_var)

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`; the mean is over the examples that have any modality."""
    del frozen
    network, present = self.network, batch['present']
    x = self.to_model(batch['x'])
    mutable = [name for name in variables if name != 'params'] if train else []
    rng = {'dropout': rngs['dropout']}
    moments, updated = network.apply(
      variables, x, train, present, method='encode', mutable=mutable, rngs=rng
    )
    shared, private = self.split(find(POSTERIORS, self.family)(*moments))
    mutables = {name: updated.get(name, variables[name]) for name in mutable}
    weights = jnp.asarray(self.weights or (1.0,) * len(x))

    def log_likelihood(z, w):
      nonlocal mutables
      draws, size = z.shape[:2]
      flat = jax.tree.map(lambda a: a.reshape(draws * size, *a.shape[2:]), (z, w))
      outputs, updated = network.apply(
        {**variables, **mutables}, *flat, train, jnp.tile(present, (draws, 1)),
        method='decode', mutable=mutable, rngs=rng,
      )  # fmt: skip
      mutables = {name: updated.get(name, mutables[name]) for name in mutable}
      log_p = []
      for i, (codec, output) in enumerate(zip(self.codecs, outputs, strict=True)):
        target = jnp.tile(x[i], (draws, *[1] * (x[i].ndim - 1)))
        if codec.diffusion is None:
          log_p.append(codec.likelihood.log_prob(output, target))
          continue
        keys = {k: fold_in_name(rngs[k], codec.name) for k in _DIFFUSION_STREAMS}
        denoiser = self.denoiser_variables(variables, i)
        latent = own_latent(*flat, i)
        loss = codec.diffusion.loss(denoiser, target, latent, keys, train=train)
        log_p.append(-loss)
      log_p = jnp.stack(log_p, axis=-1).reshape(draws, size, -1)
      return jnp.where(present, weights * log_p, 0.0)

    experts = Experts(
      shared=shared,
      present=present,
      private=private,
      auxiliary=self.auxiliary(variables),
    )
    losses, terms = self.objective(rngs['noise'], experts, log_likelihood)
    used = present.any(-1)
    terms = {name: masked_mean(value, used) for name, value in terms.items()}
    return masked_mean(losses, used), terms, mutables


def dimension_weights(codecs: tuple[Codec, ...]) -> tuple[float, ...]:
  """Largest number of entries over that of each modality (arXiv 2105.02470, sec. 4)."""
  sizes = [math.prod(m.model_shape) for m in codecs]
  return tuple(max(sizes) / size for size in sizes)
