"""Codecs from a config: the networks of one modality."""

import pytest

from mmsbm.config import Section
from mmsbm.distributions import Categorical, Normal
from mmsbm.infra.errors import UserError
from mmsbm.learners.codec import make_codec, make_codecs
from mmsbm.modalities import Label, Modality, Vector

MLP = dict(name='mlp', widths=(8,))
SPEC = dict(latent_dim=3, encoder=MLP, decoder=MLP, likelihood=dict(name='normal'))
DIFFUSION = dict(
  name='diffusion',
  network=dict(name='mlp', width=8, num_blocks=1),
  sde=dict(name='ve', sigma_max=20.0),
  parametrization=dict(name='edm'),
  times=dict(name='lognormal'),
  weighting='edm',
  offset=0.1,
  scale=2.0,
  drop_probability=0.25,
)
VECTOR = Modality(
  name='v', kind_name='vector', kind=Vector(shape=(4,), offset=0.0, scale=1.0)
)
LABEL = Modality(name='l', kind_name='label', kind=Label(num_classes=5))


def test_make_codec():
  codec = make_codec(Section(SPEC, 'networks.v'), VECTOR)
  assert (codec.name, codec.kind, codec.model_shape) == ('v', VECTOR.kind, (4,))
  assert codec.encoder.latent_dim == codec.latent_dim == 3
  assert codec.decoder.shape == (4,) and codec.encoder.widths == (8,)
  assert codec.likelihood == Normal() and codec.diffusion is None


def test_make_codec_of_what_networks_see():
  """A class is one number in files, and one of five to the networks."""
  codec = make_codec(Section(SPEC | dict(likelihood=dict(name='categorical'))), LABEL)
  assert LABEL.shape == () and codec.model_shape == codec.decoder.shape == (5,)
  assert codec.likelihood == Categorical()


def test_make_codec_with_a_diffusion_decoder():
  codec = make_codec(Section(SPEC | dict(decoder=DIFFUSION)), VECTOR)
  decoder = codec.diffusion
  assert codec.decoder is decoder.network and decoder.shape == (4,)
  assert (decoder.offset, decoder.scale, decoder.drop_probability) == (0.1, 2.0, 0.25)
  assert decoder.sde.sigma_max == 20.0 and decoder.diffusion.weighting == 'edm'


def test_make_codecs_in_the_order_of_modalities():
  section = Section({'networks': {'l': SPEC, 'v': SPEC}}, 'joint')
  codecs = make_codecs(section, (VECTOR, LABEL))
  assert [codec.name for codec in codecs] == ['v', 'l']


@pytest.mark.parametrize(
  ('networks', 'message'),
  [
    ({'v': SPEC}, '^config.joint.networks.l is missing'),
    (
      {'v': SPEC, 'l': SPEC, 'vv': SPEC},
      "^config.joint.networks.vv: .*Did you mean 'v'",
    ),
    ({'v': SPEC | {'latent_dim': 0}, 'l': SPEC}, 'networks.v.latent_dim is 0'),
    ({'v': SPEC | {'latentdim': 2}, 'l': SPEC}, "no field 'latentdim'"),
    ({'v': SPEC | {'decoder': DIFFUSION | {'scale': -1}}, 'l': SPEC}, 'decoder.scale'),
    (
      {'v': SPEC | {'decoder': DIFFUSION | {'steps': 1}}, 'l': SPEC},
      "no field 'steps'",
    ),
  ],
)
def test_make_codecs_refuses(networks, message):
  with pytest.raises(UserError, match=message):
    make_codecs(Section({'networks': networks}, 'joint'), (VECTOR, LABEL))
