"""Methods of tiny networks on tiny data in memory."""

import types

import numpy as np
import pytest

NUM = {'train': 40, 'val': 4, 'test': 6}
MODALITIES = {
  'picture': dict(kind='image', shape=(4, 4, 1)),
  'profile': dict(kind='vector', shape=(3,), offset=1.0, scale=2.0),
  'number': dict(kind='label', num_classes=5),
}


def make_modalities(names=tuple(MODALITIES)):
  from mmsbm import modalities
  from mmsbm.config import Section

  return modalities.make_modalities(
    Section({name: MODALITIES[name] for name in names}, 'modalities')
  )


def make_split(names, size, seed, share_present=1.0):
  from mmsbm.data.dataset import Split

  rng = np.random.default_rng(seed)
  arrays = {
    'picture': rng.integers(0, 256, (size, 4, 4, 1)).astype(np.uint8),
    'profile': rng.normal(size=(size, 3)).astype(np.float32),
    'number': rng.integers(0, 5, size).astype(np.int32),
  }
  present = rng.random((size, len(names))) < share_present
  labels = rng.integers(0, 10, size).astype(np.int32)
  return Split({name: arrays[name] for name in names}, present, {'class': labels})


def make_problem(names=tuple(MODALITIES), seed=0, share_present=1.0):
  """A problem whose data, of random numbers, are in memory."""
  from mmsbm.data.dataset import MultimodalDataset
  from mmsbm.methods.problem import Problem

  def open_dataset():
    splits = {
      split: make_split(names, size, number, share_present)
      for number, (split, size) in enumerate(NUM.items())
    }
    return MultimodalDataset(
      names, splits, num_classes={'class': 10}, content_hash='hash', source='random'
    )

  return Problem(make_modalities(names), open_dataset, seed)


def make_sizes(names):
  from mmsbm.configs.sizes import Sizes

  training = dict(
    num_steps=3, batch_size=8, ema_decay=0.9, optimizer=dict(learning_rate=1e-3)
  )
  mlp = dict(name='mlp', widths=(6,))
  dims = {'picture': 4, 'profile': 3, 'number': 2}
  likelihoods = {
    'picture': dict(name='normal', scale=0.3),
    'profile': dict(name='normal'),
    'number': dict(name='categorical'),
  }
  network = dict(name='mlp', width=8, num_blocks=1)
  score = dict(network=network, num_steps=3, batch_size=8)
  return Sizes(
    codecs={
      name: dict(
        latent_dim=dims[name], encoder=mlp, decoder=mlp, likelihood=likelihoods[name]
      )
      for name in names
    },
    unimodal=training,
    joint=training,
    joint_latent_dim=6,
    denoiser=network,
    score=score,
    joint_score=score,
    energy=dict(num_steps=3, batch_size=8),
    unguided=True,
  )


def make_config(method, names=tuple(MODALITIES), refine=False, **changes):
  """A config of small networks, plain values, with {dotted key: value} changed."""
  from mmsbm.configs import base, methods

  c = base.base()
  c.method = method
  c.modalities = base.ordered({name: MODALITIES[name] for name in names})
  sizes = make_sizes(names)
  methods.RECIPES[method](c, sizes)
  if refine:
    methods.refine(c, sizes)
  for section in (c.get('score'), c.get('energy')):
    if section:
      section.optimizer.warmup_steps = 0
  for sampling in c.samplings.values():
    if 'prior' in sampling and 'num_components' in sampling.prior:
      sampling.prior.num_components = 3
  return changed(c.to_dict(), changes)


def changed(config, changes):
  """The config with other values: {dotted key: value}."""
  for key, value in changes.items():
    *path, last = key.split('.')
    node = config
    for part in path:
      node = node[part]
    node[last] = value
  return config


def make_method(config, problem):
  from mmsbm.config import Section, plain
  from mmsbm.methods import METHODS

  return METHODS[config['method']](Section(plain(config)), problem)


def check(config, problem):
  """Does what `Experiment.check` does with a method; number of parameters."""
  from mmsbm.methods.base import dry_run

  method = make_method(config, problem)
  return dry_run(method.steps, method.model)


@pytest.fixture(scope='session')
def tiny():
  """This module, for tests in other files."""
  names = ('make_config', 'make_method', 'make_problem', 'changed', 'check')
  return types.SimpleNamespace(**{name: globals()[name] for name in names})
