"""Brings the record of a run of an earlier version into the form of this one.

  python -m mmsbm.tools.convert_run runs/digits

It rewrites run.json, whose config has other sections now, and keeps the old one as
run.e99e35a.json, named after the last commit that wrote such records. It also writes
down what the trained steps are, steps/NAME.json, and keeps latents and mixtures in the
files of this version. Checkpoints stay as they are, and so do all numbers: the same
command goes on where the run stopped, with overrides by their new names. Measurements
are made once more. A run that uses the autoencoders of another one is converted after
that one.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmsbm.configs import base
from mmsbm.infra import digests
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import UNREADABLE, write_atomic

Config = Mapping[str, Any]

OLD_NAME = 'run.e99e35a.json'
# Stages whose sections are the same in both forms, apart from networks.
_STAGES = ('unimodal', 'joint', 'score', 'energy', 'refiner')
# Arrays that are made from checkpoints, a mixture for each number of components.
_FILES = {'latents': 'latents.npz', 'mixtures': 'mixture_*.npz'}
_CODEC = ('latent_dim', 'encoder', 'decoder', 'likelihood')


def upgrade(config: Config) -> dict[str, Any]:
  """Returns the config of an earlier version in the form of this one.

  Args:
    config: plain values, as run.json holds them.

  Raises:
    KeyError: it lacks what every config of that version has.
  """
  stages = _stages(config)
  out = {key: config[key] for key in ('seed', 'method', 'preset', 'loop', 'data')}
  out['train_only'] = _train_only(config, stages)
  out['borrow'] = {
    step: config['pretrained'] if step in config['pretrained_stages'] else ''
    for step in ('classifier', *stages)
  }
  out['modalities'] = {
    name: _modality(spec) for name, spec in config['modalities'].items()
  }
  out['readers'] = _readers(config)
  out |= {stage: dict(config[stage]) for stage in stages}
  codecs = {
    name: {key: spec[key] for key in _CODEC}
    for name, spec in config['modalities'].items()
  }
  out['joint' if 'joint' in stages else 'unimodal']['networks'] = codecs
  out['samplings'] = _samplings(config, 'joint' in stages)
  diffusion = any(codec['decoder']['name'] == 'diffusion' for codec in codecs.values())
  if diffusion or 'refiner' in stages:
    out['decoder_sampler'] = config['decoder_sampler']
  if diffusion:
    out['decoder_guidance'] = config['decoder_guidance']
  out['evaluate'] = _evaluate(config)
  return out


def _stages(config: Config) -> list[str]:
  """Stages that have a section now.

  A run without its main stage trained autoencoders for others; it is the same run as a
  whole one, stopped early.
  """
  main = 'joint' if 'joint' in config['stages'] else 'score'
  known = [stage for stage in _STAGES if stage in config]
  if main not in config['stages']:
    return known
  return [stage for stage in known if stage in config['stages']]


def _train_only(config: Config, stages: list[str]) -> list[str]:
  if config['only']:
    return [f'unimodal/{config["only"]}']
  complete = set(stages) | {'classifier'} <= set(config['stages'])
  return [] if complete else list(config['stages'])


def _modality(spec: Config) -> dict[str, Any]:
  kind = spec['kind'] if isinstance(spec['kind'], Mapping) else {'name': spec['kind']}
  options = {key: value for key, value in kind.items() if key != 'name'}
  shape = {} if kind['name'] == 'label' else {'shape': spec['shape']}
  return {'kind': kind['name'], **shape, **options}


def _readers(config: Config) -> dict[str, Any]:
  modalities = config['modalities']
  judges = dict.fromkeys(spec['judge'] for spec in modalities.values())
  readers = {
    judge: {
      'name': 'classifier',
      'annotation': 'class',
      'modalities': [n for n, spec in modalities.items() if spec['judge'] == judge],
      **config['classifier'],
    }
    for judge in judges
    if judge
  }
  weights = config['evaluate']['inception_weights']
  return readers | {'inception': base.INCEPTION | {'weights': weights}}


def _samplings(config: Config, joint: bool) -> dict[str, Any]:
  own = {key: config[key] for key in ('sampler', 'conditioning', 'guidance')}
  compare = config['compare']
  setups = {'default': own, **{name: own | compare[name] for name in compare}}
  if not joint:
    return setups
  return {name: {'prior': _prior(setup['sampler'])} for name, setup in setups.items()}


def _prior(sampler: Config) -> dict[str, Any]:
  if sampler['name'] == 'prior':
    return {'name': 'standard'}
  if sampler['name'] == 'gaussian_mixture':
    return {**sampler, 'name': 'mixture'}
  return {'name': 'score', 'sampler': sampler}


def _evaluate(config: Config) -> dict[str, Any]:
  old, new = config['evaluate'], base.base().evaluate.to_dict()
  for key in ('split', 'num_examples', 'chunk_size', 'seed'):
    new[key] = old[key]
  if not old['precision_recall']:
    del new['metrics']['precision'], new['metrics']['recall']
  subsets = {key: old[key] for key in ('max_subsets', 'num_given')}
  new['evaluators'] |= {
    'conditional': subsets | {'all_samplings': old['compare_all_given']},
    'likelihood': old['likelihood'],
    'linear_probe': subsets | {'num_train': old['linear_probe']},
    'samples': config['sample'],
  }
  return new


def upgrade_record(record: Config) -> dict[str, Any]:
  """Returns the contents of run.json in the form of this version."""
  out = dict(record) | {'config': upgrade(record['config'])}
  # Identity is that of the steps now, which lies beside their checkpoints.
  out.pop('pretrained_seed', None)
  out.pop('judged_by', None)
  if 'num_classes' in out:
    number = out['num_classes']
    out['num_classes'] = {} if number is None else {'class': number}
  # It says in the old form how it was measured.
  out.pop('seconds_per_sample', None)
  return out


def convert(run: str | os.PathLike) -> str:
  """Converts the folder of a run, and says what it did.

  Raises:
    UserError: the folder is no run, or its run.json is of an even older version.
  """
  path = pathlib.Path(run, 'run.json')
  try:
    text = path.read_text('utf-8')
    record = json.loads(text)
  except FileNotFoundError as e:
    raise UserError(f'{path} does not exist: {str(run)!r} is not a run.') from e
  except (OSError, ValueError) as e:
    raise UserError(f'{path} cannot be read: {e}.') from e
  config = record.get('config') if isinstance(record, dict) else None
  if not isinstance(config, dict):
    raise UserError(f'{path} is not the record of a run: it has no config.')
  if 'samplings' in config:
    return f'{path} is in the new form already.'
  try:
    new = upgrade_record(record)
  except (KeyError, TypeError, AttributeError) as e:
    raise UserError(f'{path} is not of a version that can be converted: {e!r}.') from e
  _convert_steps(path.parent, record, new)
  write_atomic(path.with_name(OLD_NAME), text)
  # Last: a run is converted once this says so.
  write_atomic(path, digests.to_json(new))
  return f'{path} is in the new form; the old one is kept as {OLD_NAME}.'


def _convert_steps(run: pathlib.Path, old: Config, new: Config) -> None:
  """Writes down what the trained steps of a run are; its data are not needed."""
  if not (run / 'checkpoints').is_dir():
    return
  # Imports that take seconds, for folders that hold something to convert.
  from mmsbm import train
  from mmsbm.experiment import make_experiment
  from mmsbm.infra import checkpoints
  from mmsbm.methods.base import Derived

  workspace = make_experiment(new['config'], run, new).workspace
  ledger, made_from = workspace.ledger, {}
  for step in ledger.steps:
    if isinstance(step, Derived):
      made_from[step.name] = made_from[step.needs[0]]
      stamp = {
        'data': old['data_hash'],
        'seed': old.get('pretrained_seed', old['seed']),
        'steps': made_from[step.name],
      }
      arrays = _stored_arrays(run, step.name, stamp)
      if step.example.keys() <= arrays.keys():
        workspace.store(step, arrays)
      continue
    latest = {
      training.name.split('/')[-1]: checkpoints.latest_step(
        train.directory(ledger.folder(step.name), training.name)
      )
      for training in step.trainings
    }
    made_from[step.name] = latest
    if step.name not in ledger.borrow and any(n is not None for n in latest.values()):
      ledger.claim(step)
  for path in run.glob(_FILES['mixtures']):
    path.unlink()


def _stored_arrays(run: pathlib.Path, step: str, stamp: Config) -> dict[str, Any]:
  """Returns what the files of a derived step hold, if they bear this stamp."""
  found = {}
  for path in run.glob(_FILES[step]):
    try:
      with open(path, 'rb') as f, np.load(f) as stored:
        if json.loads(str(stored['stamp'])) == stamp:
          found[path.stem] = {
            key: stored[key] for key in stored.files if key != 'stamp'
          }
    except UNREADABLE:
      continue  # It is made again.
  if step == 'latents':
    return found.get(step, {})
  return {name.removeprefix('mixture_'): arrays for name, arrays in found.items()}


def main(argv: list[str] | None = None) -> int:
  """Runs the program; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m mmsbm.tools.convert_run',
    description=__doc__.partition('\n')[0],
  )
  parser.add_argument('run', help='folder of the run')
  try:
    print(convert(parser.parse_args(argv).run))
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
