"""What a modality is: one record, used by every method.

Raw data are what files hold and users see: uint8 pictures, 0/1 attributes,
integer labels, float vectors. The networks see floats. A modality's kind
holds the two maps between them; everything else about it (size, networks,
likelihood, how it is judged) is a field of the record.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmsbm import distributions
from mmsbm.build import build, check_arguments, nearest
from mmsbm.diffusion.decoder import DiffusionDecoder
from mmsbm.diffusion.losses import TIME_SAMPLING, WEIGHTINGS
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDES
from mmsbm.infra.errors import UserError
from mmsbm.nn.decoders import DECODERS
from mmsbm.nn.denoisers import DENOISERS
from mmsbm.nn.encoders import ENCODERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
  """uint8 pictures [B, H, W, C]; the networks see [0, 1]."""

  dtype = np.uint8
  bounds = (0, 255)

  def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3:
      raise UserError(f'an image has shape (height, width, channels), not {shape}.')
    return shape

  def to_model(self, raw: jax.Array) -> jax.Array:
    return raw.astype(jnp.float32) / 255.0

  def to_data(self, mean: jax.Array) -> jax.Array:
    """Clips to [0, 1] and rounds to 8 bits, as a saved picture would be."""
    return jnp.floor(jnp.clip(mean, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binary:
  """0/1 entries of any shape: masks [B, H, W, 1] and attributes [B, A]."""

  dtype = np.uint8
  # Masks are often stored as 0 and 255.
  bounds = (0, 255)

  def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape

  def to_model(self, raw: jax.Array) -> jax.Array:
    return (raw > 0).astype(jnp.float32)

  def to_data(self, mean: jax.Array) -> jax.Array:
    return (mean > 0.5).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
  """Integers [B] in [0, num_classes); the networks see one-hot rows."""

  num_classes: int
  dtype = np.int32

  @property
  def bounds(self) -> tuple[int, int]:
    return 0, self.num_classes - 1

  def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    if shape != ():
      raise UserError(f'a label is one integer per example, not of shape {shape}.')
    return (self.num_classes,)

  def to_model(self, raw: jax.Array) -> jax.Array:
    return jax.nn.one_hot(raw, self.num_classes)

  def to_data(self, mean: jax.Array) -> jax.Array:
    return mean.argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector:
  """Real numbers of any shape; the networks see (x - offset) / scale."""

  offset: float = 0.0
  scale: float = 1.0
  dtype = np.float32
  bounds = (-np.inf, np.inf)

  def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape

  def to_model(self, raw: jax.Array) -> jax.Array:
    return (raw.astype(jnp.float32) - self.offset) / self.scale

  def to_data(self, mean: jax.Array) -> jax.Array:
    return mean * self.scale + self.offset


KINDS = {
  'image': Image,
  'mask': Binary,
  'attributes': Binary,
  'label': Label,
  'vector': Vector,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
  """One modality of a data set.

  Attributes:
    name: what it is called in configs, files and results.
    kind_name: key of `KINDS`, used to draw it.
    kind: maps between raw data and what networks see.
    shape: shape of one raw example, without the batch.
    latent_dim: size of its latent.
    encoder: module x [B, ...] -> (mean, log_var), each [B, latent_dim].
    decoder: module z [B, latent_dim] -> parameters of the likelihood or, of a diffusion
      decoder, its network.
    likelihood: p(x | decoder output).
    judge: name of the classifier that reads a class off it; modalities that
      name the same one share it. Empty: it is not judged.
    diffusion: p(x | z) of a diffusion decoder, in place of the likelihood; else None.
  """

  name: str
  kind_name: str
  kind: Any
  shape: tuple[int, ...]
  latent_dim: int
  encoder: nn.Module
  decoder: nn.Module
  likelihood: distributions.Likelihood
  judge: str = ''
  diffusion: DiffusionDecoder | None = None

  @property
  def model_shape(self) -> tuple[int, ...]:
    """Shape of one example as the networks see it."""
    return self.kind.model_shape(self.shape)

  def check(self, raw: np.ndarray) -> np.ndarray:
    """Raw examples [N, *shape] as an array of the right type, or UserError."""
    raw = np.asarray(raw)
    if raw.shape[1:] != self.shape:
      raise UserError(
        f'modality {self.name!r}: examples have shape {raw.shape[1:]}, '
        f'the config says {self.shape}.'
      )
    wanted = np.dtype(self.kind.dtype)
    if raw.dtype.kind not in ('biuf' if wanted.kind == 'f' else 'biu'):
      raise UserError(
        f'modality {self.name!r}: a {self.kind_name} is {wanted.name}, not {raw.dtype}.'
      )
    low, high = self.kind.bounds
    if raw.size and (raw.min() < low or raw.max() > high):
      raise UserError(
        f'modality {self.name!r}: a {self.kind_name} holds values from {low} to '
        f'{high}, not {raw.min()} to {raw.max()}.'
      )
    return raw.astype(wanted, copy=False)


def make_modality(
  name: str,
  *,
  kind: str | dict[str, Any],
  shape: tuple[int, ...],
  latent_dim: int,
  encoder: dict[str, Any],
  decoder: dict[str, Any],
  likelihood: dict[str, Any],
  judge: str = '',
) -> Modality:
  """Builds a modality from the keyword arguments that stand in a config.

  A decoder named 'diffusion' has the arguments of `make_diffusion_decoder`.
  """
  kind_spec = {'name': kind} if isinstance(kind, str) else dict(kind)
  made_kind = build(KINDS, kind_spec)
  shape = tuple(shape)
  model_shape = made_kind.model_shape(shape)
  diffusion = None
  if decoder.get('name') == 'diffusion':
    spec = {key: value for key, value in decoder.items() if key != 'name'}
    check_arguments(
      make_diffusion_decoder, f'modalities.{name}.decoder', spec, {'shape': None}
    )
    diffusion = make_diffusion_decoder(model_shape, **spec)
    made_decoder = diffusion.network
  else:
    made_decoder = build(DECODERS, decoder, shape=model_shape)
  return Modality(
    name=name,
    kind_name=kind_spec['name'],
    kind=made_kind,
    shape=shape,
    latent_dim=latent_dim,
    encoder=build(ENCODERS, encoder, latent_dim=latent_dim),
    decoder=made_decoder,
    likelihood=build(distributions.LIKELIHOODS, likelihood),
    judge=judge,
    diffusion=diffusion,
  )


def make_diffusion_decoder(
  shape: tuple[int, ...],
  *,
  network: dict[str, Any],
  sde: dict[str, Any],
  parametrization: dict[str, Any],
  times: dict[str, Any],
  weighting: str,
  offset: float,
  scale: float,
  drop_probability: float,
) -> DiffusionDecoder:
  """Builds a diffusion decoder from the arguments that stand in a config."""
  if weighting not in WEIGHTINGS:
    raise UserError(
      f'weighting={weighting!r} of a diffusion decoder is not one of '
      f'{sorted(WEIGHTINGS)}.' + nearest(weighting, WEIGHTINGS)
    )
  if not 0 <= drop_probability < 1:
    raise UserError(
      f'drop_probability of a diffusion decoder is {drop_probability!r}; it lies in '
      '[0, 1).'
    )
  return DiffusionDecoder(
    network=build(DENOISERS, network, shape=shape),
    shape=shape,
    sde=build(SDES, sde),
    parametrization=build(PARAMETRIZATIONS, parametrization),
    times=build(TIME_SAMPLING, times),
    weighting=weighting,
    offset=offset,
    scale=scale,
    drop_probability=drop_probability,
  )
