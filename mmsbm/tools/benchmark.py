"""Measures speed and memory; prints one JSON object per line, or tables.

  python -m mmsbm.tools.benchmark --config=configs/digits.py
  python -m mmsbm.tools.benchmark --config=configs/polymnist.py:smoke --what=sample
  python -m mmsbm.tools.benchmark --config=configs/digits.py --what=scaling

--what is a comma-separated part of:
  startup     seconds until the program is imported, and until it has its data.
  train       steps per second of every stage after compilation, its compile time, and
              the seconds of all its steps without that.
  sample      tuples per second against the number of network evaluations.
  modalities  a score step and sampling against the number of modalities.
  scaling     the same for several networks (--networks, --num_modalities): seconds,
              operations and compiled memory per example, and what the last number of
              modalities costs over the first. Not measured unless it is asked for.
  cost        what a table of methods says: seconds to train the stages, without the
              classifier, and seconds per sample. Not measured unless it is asked for.

Networks have random weights and score models random latents: nothing is read but the
data of the config. Beside each row stand the GFLOP/s of a matrix product measured
just before it, by which rows of a busy machine can be told.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags

from mmsbm import train
from mmsbm.command_line import CONFIG, WORKDIR, parse_flags
from mmsbm.evaluators import READERS_STEP, sampling_seconds
from mmsbm.experiment import Experiment, make_experiment
from mmsbm.inference import Inference
from mmsbm.infra.errors import UserError, one_line
from mmsbm.infra.rng import make_key
from mmsbm.methods.base import Derived, Stage, dry_run
from mmsbm.models.base import HasLatents
from mmsbm.tools.machine import beside_machine
from mmsbm.tools.scaling import replicated_config, scaling, table
from mmsbm.tools.untrained import (
  main_stage,
  random_inference,
  random_rows,
  random_variables,
)

_WHAT = flags.DEFINE_string('what', 'startup,train,sample,modalities', 'See above.')
_FORMAT = flags.DEFINE_enum(
  'format', 'json', ('json', 'table'), 'JSON lines, or a table of each measurement.'
)
_NETWORKS = flags.DEFINE_list(
  'networks', ['hub', 'mlp', 'transformer'], 'Score networks of --what=scaling.'
)
_NUM_MODALITIES = flags.DEFINE_list(
  'num_modalities', ['10', '40'], 'Numbers of modalities of --what=scaling.'
)
_BLOCKS = flags.DEFINE_integer('blocks', 4, 'Blocks of steps; the first compiles.')


def startup(experiment: Experiment) -> Iterator[dict]:
  """Measures imports and the opening of the data."""
  command = [sys.executable, '-c', 'import mmsbm.experiment, mmsbm.trained']
  start = time.perf_counter()
  subprocess.run(command, check=True)
  imported = time.perf_counter() - start
  start = time.perf_counter()
  size = len(experiment.problem.dataset.splits['train'])
  yield {
    'import_seconds': imported,
    'data_seconds': time.perf_counter() - start,
    'train_examples': size,
  }


def _run_training(experiment: Experiment, step: Stage, frozen: Any = None) -> dict:
  """Trains a few blocks in a scratch folder and reads the rates it has logged."""
  block, first = experiment.workspace.options.block_steps, step.trainings[0]
  num_steps = block * _BLOCKS.value
  with tempfile.TemporaryDirectory() as workdir:
    train.train_group(
      [dataclasses.replace(t, num_steps=num_steps) for t in step.trainings],
      _source(experiment, step),
      workdir=workdir,
      options=train.LoopOptions(block, checkpoint_every_steps=num_steps),
      mesh=experiment.workspace.mesh,
      frozen=frozen,
    )
    with open(os.path.join(workdir, 'metrics.jsonl'), encoding='utf-8') as f:
      rows = [json.loads(line) for line in f]
  rates = [r['steps_per_second'] for r in rows if r['learner'] == first.name]
  rate = float(np.median(rates[1:]))
  return {
    'steps_per_second': rate,
    'examples_per_second': rate * first.batch_size,
    'compile_seconds': block / rates[0] - block / rate,
    'seconds': first.num_steps / rate,
    'batch_size': first.batch_size,
    'learners': len(step.trainings),
  }


def _source(experiment: Experiment, step: Stage) -> train.Source:
  """Returns real examples, or random ones in place of what earlier steps make."""
  derived = {s.name for s in experiment.method.steps if isinstance(s, Derived)}
  if derived & {*step.needs}:
    arrays = random_rows(step.example, 4096)
  else:
    arrays = step.source({})
  leaves = jax.tree.leaves(arrays)
  limit = experiment.workspace.device_memory_gb * 2**30
  resident = sum(a.nbytes for a in leaves) <= limit
  return train.Source(arrays, len(leaves[0]), seed=0, resident=resident)


def train_stages(experiment: Experiment, without: str = '') -> Iterator[dict]:
  """Measures the training of every stage."""
  steps = experiment.workspace.steps
  parameters = dry_run(steps, experiment.method.model)
  for step in steps:
    if isinstance(step, Stage) and step.name != without:
      inputs = random_variables(s for s in steps if s.name in step.needs)
      count = sum(parameters[training.name] for training in step.trainings)
      measured = _run_training(experiment, step, step.frozen(inputs))
      yield {'stage': step.name, **measured, 'parameters': count}


def _run_sampling(inference: Inference, name: str) -> dict:
  """Samples one chunk three times; the first call compiles."""
  size, modalities = inference.chunk_size, inference.model.modalities
  encoded = inference.encode(
    tuple(np.zeros((size, *m.shape), m.kind.dtype) for m in modalities)
  )
  observed = np.zeros((size, len(modalities)), bool)
  seconds = []
  for seed in range(3):
    start = time.perf_counter()
    inference.sample(encoded, observed, key=make_key(seed), sampling=name)
    seconds.append(time.perf_counter() - start)
  return {
    'nfe': inference.model.num_evaluations(name, 0),
    'tuples_per_second': size / min(seconds[1:]),
    'compile_seconds': seconds[0] - min(seconds[1:]),
    'chunk_size': size,
  }


def _with_steps(spec: Any, num_steps: int) -> Any:
  """Returns a sampling whose sampler takes another number of steps."""
  if not isinstance(spec, Mapping):
    return spec
  return {
    key: {**value, 'num_steps': num_steps}
    if key == 'sampler' and 'num_steps' in value
    else _with_steps(value, num_steps)
    for key, value in spec.items()
  }


def sample(experiment: Experiment) -> Iterator[dict]:
  """Measures all samplings, and the default one with other numbers of steps."""
  samplings = dict(experiment.config['samplings'])
  for n in (5, 10, 50):
    changed = _with_steps(samplings['default'], n)
    if changed != samplings['default']:
      samplings[f'default, {n} steps'] = changed
  config = {**experiment.config, 'samplings': samplings}
  other = make_experiment(config, WORKDIR.value)
  inference = random_inference(other)
  for name in inference.model.samplings:
    described = inference.model.describe(name)
    yield {'sampling': name, **described, **_run_sampling(inference, name)}
  if isinstance(inference.model, HasLatents):
    yield _run_decoders(inference)


def _run_decoders(inference: Inference) -> dict:
  """Decodes one chunk twice; the first call compiles."""
  size, dims = inference.chunk_size, inference.model.latent_dims
  z = {name: np.zeros((size, d), np.float32) for name, d in dims.items()}
  for _ in range(2):
    start = time.perf_counter()
    inference.decode(z, key=make_key(0))
    seconds = time.perf_counter() - start
  return {
    'decoders': len(inference.model.modalities),
    'tuples_per_second': size / seconds,
  }


def cost(experiment: Experiment) -> Iterator[dict]:
  """Measures what a table of methods says."""
  yield from train_stages(experiment, without=READERS_STEP)
  seconds = sampling_seconds(experiment.plan, random_inference(experiment))
  yield {'seconds_per_sample': seconds['value'], 'stderr': seconds['stderr']}


def _has_score_of_all(experiment: Experiment) -> bool:
  """Returns whether the latents of all modalities are under one score model."""
  model = experiment.method.model
  return isinstance(model, HasLatents) and not model.latents_are_shared


def modalities(experiment: Experiment) -> Iterator[dict]:
  """Measures the score network on more and more copies of the first modality."""
  # A score model of one latent costs the same, however many modalities there are.
  for num in (2, 5, 10) if _has_score_of_all(experiment) else ():
    other = make_experiment(replicated_config(experiment.config, num), WORKDIR.value)
    inference = random_inference(other)
    yield {
      'modalities': num,
      'latent_dims': sum(inference.model.latent_dims.values()),
      'train': _run_training(other, main_stage(other)),
      'sample': _run_sampling(inference, 'default'),
    }


def networks(experiment: Experiment) -> Iterator[dict]:
  """Measures several score networks; see `scaling`."""
  try:
    numbers = [int(n) for n in _NUM_MODALITIES.value]
  except ValueError as e:
    raise UserError(f'--num_modalities: {e}.') from e
  if not _has_score_of_all(experiment):
    raise UserError('--what=scaling: joint VAEs have one latent, whatever the number.')
  return scaling(experiment.config, _NETWORKS.value, numbers)


MEASUREMENTS = {
  'startup': startup,
  'train': train_stages,
  'sample': sample,
  'modalities': modalities,
  'scaling': networks,
  'cost': cost,
}


def main(argv: list[str]) -> int:
  """Runs the program; returns the exit code."""
  try:
    flags.FLAGS.set_default('workdir', tempfile.gettempdir())  # Nothing lands there.
    parse_flags(argv)
    names = _WHAT.value.split(',')
    for name in names:
      if name not in MEASUREMENTS:
        raise UserError(f'--what={name} is not one of {sorted(MEASUREMENTS)}.')
    if _BLOCKS.value < 2:
      raise UserError('--blocks must be at least 2: the first one compiles.')
    for name in names:
      experiment = make_experiment(CONFIG.value.to_dict(), WORKDIR.value)
      rows = beside_machine(MEASUREMENTS[name](experiment), what=name)
      if _FORMAT.value == 'table':
        print(table(list(rows)), flush=True)
        continue
      for row in rows:
        print(json.dumps(row), flush=True)
  except UserError as e:
    print(f'error: {one_line(e)}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  app.define_help_flags()
  sys.exit(main(sys.argv))
