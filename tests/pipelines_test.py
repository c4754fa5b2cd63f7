"""Every method goes from raw data to the report, on very small networks."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from mmsbm.configs import base, methods
from mmsbm.main import execute

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')
# Every config, every method and every preset, with few modalities: the time goes to
# compilation. What two of them have in common is compiled once.
RUNS = (
  ('arrays', 'method=sbm_vae'),
  ('arrays', 'method=sbm_rae,modalities=2,refine'),
  # A diffusion decoder and one that is not.
  ('arrays', 'method=diff_mvae,modalities=2'),
  ('arrays', 'method=mopoe,modalities=3'),
  ('digits', 'method=mld,modalities=2'),
  ('digits', 'method=mmvaeplus,modalities=3'),
  ('digits', 'method=mmvae,modalities=2'),
  ('digits', 'method=mmjsd,modalities=2'),
  ('digits', 'method=mvae,modalities=2'),
  ('digits', 'method=mvtcae,modalities=2'),
  ('digits', 'method=hoelder,modalities=2'),
  ('polymnist', 'method=sbm_vae,modalities=2'),
  ('polymnist', 'method=sbm_rae,modalities=2,preset=cpu'),
  ('polymnist', 'method=sbm_vae,modalities=2,preset=paper'),
  # U-Nets for decoders.
  ('polymnist', 'method=diff_mvae,modalities=2'),
)
# Only with -m slow: a minute of compiling convolutions each. Their methods are also
# those of other runs, and `golden_test` goes through the shapes of all.
SLOW = {
  ('polymnist', 'method=sbm_vae,modalities=2'),
  ('polymnist', 'method=sbm_vae,modalities=2,preset=paper'),
  ('polymnist', 'method=diff_mvae,modalities=2'),
}
# Small sizes of networks, by the section that they are in and their name.
TINY = {
  'network': {
    'mlp': dict(width=16, num_blocks=1),
    'transformer': dict(width=8, num_layers=1, num_heads=2),
    'tower': dict(width=8, num_blocks=1, features=8),
    'patch': dict(width=8, num_layers=1),
    'conv': dict(widths=(8, 8), feature_dim=16),
    'unet': dict(width=8, multipliers=(1, 1)),
  },
  'encoder': {
    'mlp': dict(widths=(16,)),
    'patch': dict(width=8, num_layers=1),
    'resnet': dict(stem=8, blocks=((8, 8, 8, 4),)),
  },
  'decoder': {
    'mlp': dict(widths=(16,)),
    'patch': dict(width=8, num_layers=1),
    'resnet': dict(blocks=((8, 8, 8, 4),)),
  },
  # Convolutions are slow here: those of a few large pixels.
  'denoiser': {
    'mixer': dict(width=8, num_layers=1),
    'unet': dict(width=8, multipliers=(1, 2), attention=(4,), patch=4),
  },
}


def tiny_config(name, arguments):
  """A smoke config with networks and trainings that are smaller still."""
  config = importlib.import_module(f'configs.{name}').get_config(f'smoke,{arguments}')
  if name == 'digits':
    config.data.update(num_train=64, num_val=16, num_test=32)
  base.shrink(
    config,
    num_steps=2,
    batch_size=8,
    sampler_steps=2,
    num_examples=16,
    max_subsets=2,
    num_shown=2,
    num_samples=1,
  )
  _shrink_networks(config)
  if 'joint' in config:
    for codec in config.joint.networks.values():
      codec.latent_dim = 8
    config.joint.private_dim = 4 if config.joint.private_dim else 0
  if 'decoder_sampler' in config:
    config.decoder_sampler.num_steps = 2
  if config.evaluate.evaluators.linear_probe.num_train:
    config.evaluate.evaluators.linear_probe.num_train = 32
  return config


def _shrink_networks(node):
  """Makes every network of a section small, however deep it lies."""
  for key, value in node.items():
    if not hasattr(value, 'items'):
      continue
    if not value and key in ('encoder', 'decoder', 'network'):
      # Left open: sizes by kind, shape and number of examples.
      continue
    if value.get('name') == 'diffusion':
      value.network.update(TINY['denoiser'][value.network.name])
    elif key in TINY:
      value.update(TINY[key][value.name])
    else:
      _shrink_networks(value)


def run(config, workdir):
  """The rows of results.jsonl of a run of the whole program."""
  execute(config.to_dict(), str(workdir), 'run', ['', '--config=tiny'])
  with open(workdir / 'results.jsonl') as f:
    return [json.loads(line) for line in f]


def test_runs_are_of_all_files_methods_and_presets():
  assert {name for name, _ in RUNS} == set(FILES)
  configs = [
    (name, importlib.import_module(f'configs.{name}').get_config(arguments))
    for name, arguments in RUNS
  ]
  assert {config.method for _, config in configs} == set(methods.METHODS)
  always = {
    c.method for run, (_, c) in zip(RUNS, configs, strict=True) if run not in SLOW
  }
  assert always == set(methods.METHODS)
  for name in FILES:
    module = importlib.import_module(f'configs.{name}')
    presets = {config.preset for file, config in configs if file == name}
    assert presets == set(getattr(module, 'PRESETS', ('default',)))


@pytest.mark.parametrize(
  'name,arguments',
  [
    pytest.param(
      *run,
      id=':'.join(run),
      marks=pytest.mark.slow if run in SLOW else pytest.mark.pipeline,
    )
    for run in RUNS
  ],
)
def test_run_smoke(name, arguments, cache, tmp_path):
  config = tiny_config(name, arguments)
  rows = run(config, tmp_path)
  values = {(r['metric'], r['num_given']) for r in rows if 'num_given' in r}
  num = len(config.modalities)
  assert {('coherence', k) for k in range(1, num)} <= values
  several = len(config.readers.digit.modalities) > 1
  assert (('joint_coherence', 0) in values) == several
  assert {r['target'] for r in rows if r['metric'] == 'reconstruction'} > {'mean'}
  few = [r for r in rows if not 0 < r['n'] <= config.evaluate.num_examples]
  assert not few
  samplings = {r['sampling'] for r in rows if 'sampling' in r}
  assert samplings == set(config.samplings)
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert config.method in page and page.count('data:image/png') >= 5
  record = json.loads((tmp_path / 'run.json').read_text())
  assert list(record['config']['modalities']) == list(config.modalities)
  trained = (
    'joint' if 'joint' in config else f'unimodal/{next(iter(config.modalities))}'
  )
  assert trained in record['parameters']


def test_run_of_data_without_labels(cache, tmp_path):
  config = tiny_config('arrays', 'method=mopoe,modalities=3')
  config.readers = {}
  rows = run(config, tmp_path)
  # Nothing is read; attributes and vectors need no reader.
  assert {(r['metric'], r['target']) for r in rows if 'target' in r} >= {
    ('f1', 'attributes'),
    ('r2', 'profile'),
  }
  assert not {r['metric'] for r in rows} & {'coherence', 'frechet'}
  assert list((tmp_path / 'samples').glob('given_first_1.*'))
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert 'f1' in page.lower()


@pytest.mark.slow
def test_run_of_64_pixels_with_diffusion_decoders(cache, tmp_path):
  """A narrow U-Net, in bfloat16, its blocks computed again; from a file of images."""
  from mmsbm.configs.methods.refiner import unet

  rng = np.random.default_rng(0)
  np.savez(
    tmp_path / 'faces.npz',
    image=rng.integers(0, 256, (200, 64, 64, 3), np.uint8),
    attributes=rng.integers(0, 2, (200, 4), np.uint8),
    labels=rng.integers(0, 10, 200),
  )
  config = tiny_config('arrays', 'method=diff_mvae,modalities=2')
  config.data.update(files=str(tmp_path / 'faces.npz'), standin=False)
  config.modalities.image.shape = (64, 64, 3)
  config.joint.networks.image.decoder.network = unet(64, width=16, num_blocks=1)
  rows = run(config, tmp_path / 'run')
  assert any(r['metric'] == 'coherence' for r in rows)
