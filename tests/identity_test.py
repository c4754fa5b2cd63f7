"""What a step is, from the objects: what counts, what does not, and pinned digests."""

import dataclasses
import importlib
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm import identity
from mmsbm.diffusion.sde import VE, VP
from mmsbm.distributions import Normal
from mmsbm.experiment import make_experiment
from mmsbm.infra.errors import UserError
from mmsbm.learners.base import POSITION
from mmsbm.modalities import Modality, Vector
from mmsbm.nn.encoders import ENCODERS

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'fingerprints.json'


@dataclasses.dataclass(frozen=True)
class Own:
  """A part of a user's own."""

  name: str = 'own'
  size: int = 3
  options: Any = None
  index: int = dataclasses.field(default=0, metadata=POSITION)
  parts: tuple = ()


class OwnNetwork(nn.Module):
  width: int = 3


OWN = f'{__name__}:Own'

# --- objects as plain values --------------------------------------------------


def test_describe_leaves_out_defaults():
  assert identity.describe(VE()) == {'is': 've'}
  assert identity.describe(VE(sigma_max=9.0)) == {'is': 've', 'sigma_max': 9.0}
  assert identity.describe(VE(sigma_max=50.0)) == {'is': 've'}
  assert identity.describe(Normal(scale=1.0)) == {'is': 'normal'}
  # A whole number is spelled in another way.
  assert identity.describe(Normal(scale=1)) == {'is': 'normal', 'scale': 1}


def test_describe_names_classes_as_configs_do():
  assert identity.describe(VP())['is'] == 'vp'
  kind = Vector(shape=(3,), scale=2.0)
  assert identity.describe(kind) == {'is': 'vector', 'shape': [3], 'scale': 2.0}
  encoder = ENCODERS['mlp'](latent_dim=4, widths=(8,))
  assert identity.describe(encoder) == {'is': 'mlp', 'latent_dim': 4, 'widths': [8]}
  # A record of this package that configs do not name is its fields.
  modality = Modality(name='a', kind_name='vector', kind=kind)
  assert identity.describe(modality) == {
    'name': 'a', 'kind_name': 'vector', 'kind': identity.describe(kind),
  }  # fmt: skip


def test_describe_names_classes_of_a_users_own_by_module():
  assert identity.describe(Own()) == {'is': OWN}
  assert identity.describe(OwnNetwork(width=4)) == {
    'is': f'{__name__}:OwnNetwork', 'width': 4,
  }  # fmt: skip
  # What a module is called says nothing of what it learns.
  assert identity.describe(OwnNetwork(name='a')) == identity.describe(OwnNetwork())


def test_describe_leaves_out_positions():
  assert identity.describe(Own(index=5)) == identity.describe(Own())


def test_describe_sorts_named_objects_by_name():
  parts = (Own('b', 2), Own('a'))
  described = identity.describe(Own(parts=parts))['parts']
  assert described == {'b': {'is': OWN, 'name': 'b', 'size': 2},
                       'a': {'is': OWN, 'name': 'a'}}  # fmt: skip
  flipped = identity.describe(Own(parts=parts[::-1]))
  assert identity.digest(flipped) == identity.digest(
    identity.describe(Own(parts=parts))
  )
  # The order of networks counts, and so does that of numbers.
  networks = (OwnNetwork(1), OwnNetwork(2))
  assert identity.describe(networks) == [
    identity.describe(network) for network in networks
  ]
  assert identity.describe(()) == []


def test_describe_of_values():
  value = {1: (np.float32(0.5), np.int64(3)), 'a': [None, True, 'text'],
           'b': np.arange(2), 'c': jnp.ones(1), 'd': dataclasses.replace}  # fmt: skip
  assert identity.describe(value) == {
    '1': [0.5, 3],
    'a': [None, True, 'text'],
    'b': [0, 1],
    'c': [1.0],
    'd': 'replace',
  }
  json.dumps(identity.describe(value))


def test_describe_refuses_what_says_nothing_of_itself():
  """Its address in memory would be another one in the next run."""

  class Opaque:
    pass

  with pytest.raises(
    UserError, match='Opaque says nothing of its arguments.*frozen da'
  ):
    identity.describe(Own(options=Opaque()))


# --- digests and differences --------------------------------------------------


def test_digest_does_not_depend_on_the_order_of_keys():
  assert identity.digest({'a': 1, 'b': [2, 3]}) == identity.digest(
    {'b': [2, 3], 'a': 1}
  )
  assert identity.digest({'a': 1}) != identity.digest({'a': 1.0})
  assert identity.digest([1, 2]) != identity.digest([2, 1])
  assert len(identity.digest({})) == 16


def test_differences_name_every_place():
  old = {'a': {'b': 1, 'c': [1, 2]}, 'd': 'x', 'e': None}
  new = {'a': {'b': 2, 'c': [1, 2]}, 'f': {'g': 3}, 'e': None}
  assert identity.differences(old, old) == []
  assert identity.differences(old, new) == [
    'a.b: 1 -> 2',
    "d: 'x' -> (absent)",
    "f: (absent) -> {'g': 3}",
  ]
  assert identity.differences(old, new, 'score')[0] == 'score.a.b: 1 -> 2'
  assert identity.differences({'a': {}}, {'a': 1}) == ['a: {} -> 1']


def test_differences_are_short():
  (text,) = identity.differences({'a': 'x' * 200}, {'a': 'y'})
  assert len(text) < 100 and '...' in text and '\n' not in text


def test_without_extra_modalities():
  old = {
    'learner': {'modalities': {'a': {'n': 1}, 'b': {'n': 2}}, 'width': 3},
    'modalities': 5,
  }
  fewer = {'learner': {'modalities': {'a': {'n': 1}}, 'width': 4}}
  assert identity.without_extra_modalities(old, fewer) == {
    'learner': {'modalities': {'a': {'n': 1}}, 'width': 3},
    'modalities': 5,
  }
  # What the new one has more, or other, stays a difference.
  more = {'learner': {'modalities': {'a': {'n': 7}, 'c': {}}, 'width': 3}}
  left = identity.without_extra_modalities(old, more)
  assert identity.differences(left['learner'], more['learner']) == [
    'modalities.a.n: 1 -> 7',
    'modalities.c: (absent) -> {}',
  ]
  assert identity.without_extra_modalities(old, None) is old


def test_plain_json():
  assert identity.plain_json({'a': (1, 2), 'b': None}) == {'a': [1, 2], 'b': None}


# --- whole configs ------------------------------------------------------------

RECORD = {'data_hash': 'hash', 'data_samples': {}, 'num_classes': {'class': 10}}
ARGUMENTS = {
  'sbm': 'smoke,modalities=3,refine',
  'joint': 'smoke,modalities=3,method=mmvae',
  'diff': 'smoke,modalities=2,method=diff_mvae',
}


def ledger(tmp_path, config):
  """That of a config; data are not opened."""
  return make_experiment(config, tmp_path, RECORD).workspace.ledger


def changed_steps(tmp_path, name, changes):
  """Names of steps whose fingerprints another config changes."""
  get_config = importlib.import_module('configs.digits').get_config
  config = get_config(ARGUMENTS[name]).to_dict()
  old = ledger(tmp_path, config).fingerprints
  for key, value in changes.items():
    *path, last = key.split('.')
    node = config
    for part in path:
      node = node[part]
    node[last] = value
  new = ledger(tmp_path, config).fingerprints
  return {step for step in {*old, *new} if old.get(step) != new.get(step)}


HEUN = dict(name='heun', num_steps=3)
ALL = {'classifier', 'unimodal', 'latents', 'score', 'energy', 'refiner'}
AFTER = {'latents', 'score', 'energy'}


@pytest.mark.parametrize(
  ('changes', 'steps'),
  [
    ({}, set()),
    # What is drawn and measured is no part of what is trained.
    ({'samplings.default.sampler': HEUN}, set()),
    ({'samplings.default.guidance': {}, 'samplings.unguided': {}}, set()),
    ({'decoder_sampler': HEUN}, set()),
    ({'evaluate.num_examples': 3, 'evaluate.seed': 4}, set()),
    ({'loop.block_steps': 3, 'loop.device_memory_gb': 0.0}, set()),
    ({'train_only': ('score',)}, set()),
    # Spelled in another way.
    ({'score.optimizer.schedule': 'cosine', 'score.optimizer.name': 'adamw'}, set()),
    ({'score.network.dropout': 0.0}, set()),
    # Each step and what needs it.
    ({'readers.digit.network.width': 8}, {'classifier'}),
    ({'readers.digit.num_steps': 7}, {'classifier'}),
    ({'unimodal.networks.m1.latent_dim': 5}, {'unimodal', *AFTER, 'refiner'}),
    ({'unimodal.num_steps': 7}, {'unimodal', *AFTER, 'refiner'}),
    ({'unimodal.autoencoder.beta': 2.0}, {'unimodal', *AFTER, 'refiner'}),
    ({'unimodal.networks.m0.likelihood.scale': 0.3},
     {'unimodal', *AFTER, 'refiner'}),
    ({'score.standardise': False}, AFTER),
    ({'score.network.width': 64}, {'score'}),
    ({'score.num_steps': 7}, {'score'}),
    ({'score.optimizer.learning_rate': 0.1}, {'score'}),
    ({'score.times.mean': 0.0}, {'score'}),
    ({'score.weighting': 'uniform'}, {'score'}),
    ({'score.loss_scaling': False}, {'score'}),
    # Which the energies take from the score model.
    ({'score.sde.sigma_max': 9.0}, {'score', 'energy'}),
    # The examples that both learn from.
    ({'score.paired_fraction': 0.5}, {'score', 'energy'}),
    # All are paired: there are no others.
    ({'score.use_unpaired': False}, set()),
    ({'energy.group_size': 4}, {'energy'}),
    ({'refiner.decoders.m0.times.mean': 0.0}, {'refiner'}),
    ({'energy': {}, 'samplings.default.guidance.energy': {}}, {'energy'}),
    ({'readers.digit': {}}, {'classifier'}),
    ({'seed': 1}, ALL),
    # The judged pictures, and the autoencoder of each, are other ones.
    ({'modalities.m2.shape': (8, 8, 3), 'readers.digit.modalities': ('m0', 'm1'),
      'readers.second.modalities': ('m0', 'm1')}, ALL),
  ],
)  # fmt: skip
def test_fingerprints_change_with_what_a_step_depends_on(tmp_path, changes, steps):
  assert changed_steps(tmp_path, 'sbm', changes) == steps


@pytest.mark.parametrize(
  ('name', 'changes', 'steps'),
  [
    ('joint', {'samplings.default': dict(prior=dict(name='mixture'))}, {'mixtures'}),
    ('joint', {'samplings.mixture.prior.num_components': 7}, {'mixtures'}),
    ('joint', {'samplings.mixture': {}}, {'mixtures'}),
    ('joint', {'score.network.width': 8}, {'score'}),
    ('joint', {'joint.family': 'normal'}, {'joint', 'latents', 'score', 'mixtures'}),
    ('joint', {'joint.objective.beta': 2.0},
     {'joint', 'latents', 'score', 'mixtures'}),
    ('joint', {'joint.likelihood_weights': {'m1': 2.0}},
     {'joint', 'latents', 'score', 'mixtures'}),
    ('diff', {'decoder_guidance.scale': 3.0}, set()),
    ('diff', {'joint.networks.m1.decoder.drop_probability': 0.3},
     {'joint', 'latents', 'score', 'mixtures'}),
  ],
)  # fmt: skip
def test_fingerprints_of_joint_vaes(tmp_path, name, changes, steps):
  assert changed_steps(tmp_path, name, changes) == steps


def test_spec_names_the_examples_that_a_score_model_learns_from(tmp_path):
  get_config = importlib.import_module('configs.digits').get_config
  config = get_config(ARGUMENTS['sbm']).to_dict()
  old, config['score']['paired_fraction'] = ledger(tmp_path, config), 0.25
  new = ledger(tmp_path, config)
  for index, name in ((3, 'score'), (4, 'energy')):
    differences = identity.differences(
      *(identity.spec_of(x.steps[index]) for x in (old, new))
    )
    assert differences == [
      f"{name}.source: (absent) -> {{'paired_fraction': 0.25, 'use_unpaired': True}}"
    ]


def test_a_modality_among_more_has_the_same_autoencoder(tmp_path):
  get_config = importlib.import_module('configs.digits').get_config
  few, many = (
    ledger(tmp_path, get_config(f'smoke,modalities={number}').to_dict()).steps
    for number in (2, 4)
  )
  few, many = identity.spec_of(few[1]), identity.spec_of(many[1])
  assert len(few) == 2 and len(many) == 4 and few.items() <= many.items()


def digests(tmp_path, key):
  """Digest of what every step of a config is, but for seed, data and needs."""
  name, _, arguments = key.partition(':')
  get_config = importlib.import_module(f'configs.{name}').get_config
  config = get_config(arguments)
  # Sizes that are left open depend on the number of examples.
  config.data = get_config(f'{arguments},smoke').data
  return {
    step.name: identity.digest(identity.plain_json(identity.spec_of(step)))
    for step in ledger(tmp_path, config.to_dict()).steps
  }


@pytest.mark.parametrize('key', json.loads(GOLDEN.read_text()))
def test_specs_are_pinned(tmp_path, cache, key):
  """A change of spelling must not train published configs anew.

  Where one is meant to, write the new digests into tests/golden/fingerprints.json.
  """
  assert digests(tmp_path, key) == json.loads(GOLDEN.read_text())[key]
