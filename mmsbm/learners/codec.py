"""A codec: the networks that turn examples of one modality into latents and back."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from mmsbm.config import Section, nearest
from mmsbm.diffusion.decoder import DiffusionDecoder
from mmsbm.diffusion.process import FIELDS, make_diffusion, without
from mmsbm.distributions import LIKELIHOODS, Likelihood
from mmsbm.infra.bounds import POSITIVE
from mmsbm.infra.errors import UserError
from mmsbm.modalities import Modality
from mmsbm.nn.decoders import DECODERS
from mmsbm.nn.denoisers import DENOISERS
from mmsbm.nn.encoders import ENCODERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """Encoder and decoder of one modality.

  Attributes:
    modality: what it encodes.
    latent_dim: d, size of its latent.
    encoder: module x [B, ...] -> (mean, log_var), each [B, d].
    decoder: module z [B, d] -> parameters of the likelihood or, of a diffusion
      decoder, its network.
    likelihood: p(x | decoder output).
    diffusion: p(x | z) of a diffusion decoder, in place of the likelihood; else None.
  """

  modality: Modality
  latent_dim: int
  encoder: nn.Module
  decoder: nn.Module
  likelihood: Likelihood
  diffusion: DiffusionDecoder | None = None

  @property
  def name(self) -> str:
    return self.modality.name

  @property
  def kind(self) -> Any:
    return self.modality.kind

  @property
  def model_shape(self) -> tuple[int, ...]:
    """Shape of one example as the networks see it."""
    return self.modality.model_shape


def make_codecs(section: Section, modalities: Sequence[Modality]) -> tuple[Codec, ...]:
  """Builds the codec of every modality from `networks` of a section."""
  networks = section.section('networks')
  names = [m.name for m in modalities]
  for name in networks:
    if name not in names:
      raise UserError(
        f'{networks.place(name)}: there is no modality {name!r}; they are {names}.'
        + nearest(name, names)
      )
  return tuple(make_codec(networks.section(m.name), m) for m in modalities)


def make_codec(section: Section, modality: Modality) -> Codec:
  """Builds the codec of one modality.

  Args:
    section: latent_dim, encoder, decoder and likelihood; `beta` is the autoencoder's. A
      decoder named 'diffusion' is a `make_diffusion_decoder`.
    modality: what is encoded.
  """
  section.known(('latent_dim', 'encoder', 'decoder', 'likelihood', 'beta'))
  latent_dim = section.count('latent_dim')
  shape, diffusion = modality.model_shape, None
  if section.section('decoder').get('name') == 'diffusion':
    diffusion = make_diffusion_decoder(section.section('decoder'), shape)
    decoder = diffusion.network
  else:
    decoder = section.build('decoder', DECODERS, shape=shape)
  return Codec(
    modality=modality,
    latent_dim=latent_dim,
    encoder=section.build('encoder', ENCODERS, latent_dim=latent_dim),
    decoder=decoder,
    likelihood=section.build('likelihood', LIKELIHOODS),
    diffusion=diffusion,
  )


def make_diffusion_decoder(
  section: Section, shape: tuple[int, ...]
) -> DiffusionDecoder:
  """Builds the diffusion decoder that a section named 'diffusion' describes.

  Args:
    section: network, the fields of a diffusion, offset, scale, drop_probability.
    shape: of an example as the network is to return it.
  """
  numbers = ('offset', 'scale', 'drop_probability')
  section.known(('name', 'network', *numbers, *FIELDS))
  if section['name'] != 'diffusion':
    raise UserError(f"{section.place('name')} must be 'diffusion'.")
  section.share('drop_probability')
  section.number('scale', POSITIVE)
  rest = without(section, ('name', 'network', *FIELDS))
  return DiffusionDecoder(
    network=section.build('network', DENOISERS, shape=shape),
    shape=shape,
    diffusion=make_diffusion(section),
    **rest,
  )
