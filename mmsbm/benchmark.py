"""Measures speed and memory; prints one JSON object per line, or tables.

  python -m mmsbm.benchmark --config=configs/digits.py
  python -m mmsbm.benchmark --config=configs/polymnist.py:smoke --what=sample
  python -m mmsbm.benchmark --config=configs/digits.py --what=scaling --format=table

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
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from mmsbm import main as program
from mmsbm import train
from mmsbm.evaluate import sampling_seconds
from mmsbm.experiment import Experiment, describe_setup, parameter_count
from mmsbm.generate import Generator
from mmsbm.infra.errors import UserError
from mmsbm.learners.base import Training, init_state
from mmsbm.scaling import scaling, table

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


def matmul_gflops(size: int = 1024, repeats: int = 5) -> float:
  """The best of several float32 products on the first device."""
  x = jnp.ones((size, size), jnp.float32)
  product = jax.jit(lambda a: a @ a)
  product(x).block_until_ready()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    product(x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2e-9 * size**3 / min(seconds)


def peak_memory_mb() -> float:
  """Of this process so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def startup(experiment: Experiment) -> Iterator[dict]:
  command = [sys.executable, '-c', 'import mmsbm.experiment, mmsbm.evaluate']
  start = time.perf_counter()
  subprocess.run(command, check=True)
  imported = time.perf_counter() - start
  start = time.perf_counter()
  size = len(experiment.dataset.splits['train'])
  yield {
    'import_seconds': imported,
    'data_seconds': time.perf_counter() - start,
    'train_examples': size,
  }


def _run_training(
  experiment: Experiment, group: list[Training], source: train.Source, frozen
) -> dict:
  """Trains a few blocks in a scratch folder and reads the rates it has logged."""
  block = experiment.loop_options.block_steps
  steps, num_steps = block * _BLOCKS.value, group[0].num_steps
  group = [dataclasses.replace(t, num_steps=steps) for t in group]
  options = train.LoopOptions(block, checkpoint_every_steps=steps)
  with tempfile.TemporaryDirectory() as workdir:
    train.train_group(
      group,
      source,
      workdir=workdir,
      options=options,
      mesh=experiment.mesh,
      frozen=frozen,
    )
    with open(os.path.join(workdir, 'metrics.jsonl')) as f:
      rows = [json.loads(line) for line in f]
  rates = [r['steps_per_second'] for r in rows if r['learner'] == group[0].name]
  rate = float(np.median(rates[1:]))
  return {
    'steps_per_second': rate,
    'examples_per_second': rate * group[0].batch_size,
    'compile_seconds': block / rates[0] - block / rate,
    'seconds': num_steps / rate,
    'batch_size': group[0].batch_size,
    'learners': len(group),
    'parameters': sum(parameter_count(t, experiment.blank_example) for t in group),
  }


def _random_latents(experiment: Experiment, size: int = 4096) -> train.Source:
  num, total = experiment.layout.num_modalities, experiment.layout.total
  z = np.random.default_rng(0).standard_normal((size, total), np.float32)
  arrays = {'z': z, 'present': np.ones((size, num), bool)}
  if experiment.is_joint:
    arrays['spread'] = np.ones_like(z)
  return train.Source(arrays=arrays, size=size, seed=0, resident=True)


def train_stages(experiment: Experiment, without: str = '') -> Iterator[dict]:
  for stage in experiment.config['stages']:
    group = list(experiment.trainings(stage))
    if group and stage != without:
      random = stage in ('score', 'energy')
      source = _random_latents(experiment) if random else experiment.source(stage)
      frozen = _random_variables(experiment, 'unimodal') if stage == 'refiner' else None
      yield {'stage': stage, **_run_training(experiment, group, source, frozen)}


def _random_variables(experiment: Experiment, stage: str) -> Any:
  """Of an untrained stage; by modality if every modality has networks of its own."""
  trainings = experiment.trainings(stage)
  states = jax.jit(lambda batch: [init_state(t, batch) for t in trainings])(
    experiment.blank_example
  )
  variables = [{'params': state.params, **state.mutables} for state in states]
  if stage not in ('unimodal', 'refiner'):
    return variables[0]
  names = [training.name.split('/', 1)[1] for training in trainings]
  return dict(zip(names, variables, strict=True))


def _random_generator(experiment: Experiment) -> Generator:
  """The untrained model: speed does not depend on the weights."""
  total = experiment.layout.total
  variables = {'latents': {'mean': jnp.zeros(total), 'std': jnp.ones(total)}}
  for stage in experiment.config['stages']:
    if stage != 'classifier':
      variables[stage] = _random_variables(experiment, stage)
  size = experiment.config['evaluate']['chunk_size']
  return Generator(experiment.model, variables, mesh=experiment.mesh, chunk_size=size)


def _run_setup(generator: Generator, name: str) -> dict:
  """Samples one chunk twice; the first call compiles."""
  num, size = len(generator.model.modalities), generator.chunk_size
  codes = np.zeros((size, generator.model.code_dim), np.float32)
  seconds = []
  for seed in range(3):
    start = time.perf_counter()
    generator.sample_latents(
      codes, np.zeros((size, num), bool), key=jax.random.key(seed), setup=name
    )
    seconds.append(time.perf_counter() - start)
  return {
    'nfe': generator.model.num_evaluations(name, 0),
    'tuples_per_second': size / min(seconds[1:]),
    'compile_seconds': seconds[0] - min(seconds[1:]),
    'chunk_size': size,
  }


def _changed(experiment: Experiment, **sections) -> Experiment:
  return Experiment({**experiment.config, **sections}, experiment.workdir)


def sample(experiment: Experiment) -> Iterator[dict]:
  spec, compared = (experiment.config[k] for k in ('sampler', 'compare'))
  specs = {
    name: each
    for name, each in compared.items()
    # These are fitted to data.
    if each.get('sampler', {}).get('name') != 'gaussian_mixture'
  }
  if 'num_steps' in spec:
    steps = sorted({spec['num_steps'], 5, 10, 50})
    specs = {str(n): {'sampler': {**spec, 'num_steps': n}} for n in steps} | specs
  experiment = _changed(experiment, compare=specs)
  generator = _random_generator(experiment)
  for name in specs:
    described = describe_setup(experiment.setups[name])
    yield {**described, **_run_setup(generator, name)}
  size = sum(generator.model.latent_dims.values())
  z, key = np.zeros((generator.chunk_size, size), np.float32), jax.random.key(0)
  generator.decode(z, key=key)
  start = time.perf_counter()
  generator.decode(z, key=key)
  seconds = time.perf_counter() - start
  yield {'decoders': len(experiment.names), 'tuples_per_second': len(z) / seconds}


def cost(experiment: Experiment) -> Iterator[dict]:
  yield from train_stages(experiment, without='classifier')
  seconds = sampling_seconds(experiment, _random_generator(experiment))
  yield {'seconds_per_sample': seconds['value'], 'stderr': seconds['stderr']}


def modalities(experiment: Experiment) -> Iterator[dict]:
  """The config's score network on more and more copies of its first modality."""
  if experiment.is_joint:
    # Their score model is of one latent, however many modalities there are.
    return
  spec = next(iter(experiment.config['modalities'].values()))
  for num in (2, 5, 10):
    other = _changed(experiment, modalities={f'm{i}': spec for i in range(num)})
    training = list(other.trainings('score'))
    yield {
      'modalities': num,
      'latent_dims': other.layout.total,
      'train': _run_training(other, training, _random_latents(other)),
      'sample': _run_setup(_random_generator(other), 'default'),
    }


def networks(experiment: Experiment) -> Iterator[dict]:
  try:
    numbers = [int(n) for n in _NUM_MODALITIES.value]
  except ValueError as e:
    raise UserError(f'--num_modalities: {e}.') from e
  if experiment.is_joint:
    raise UserError('--what=scaling: joint VAEs have one latent, whatever the number.')
  return scaling(experiment, _NETWORKS.value, numbers)


MEASUREMENTS = {
  'startup': startup,
  'train': train_stages,
  'sample': sample,
  'modalities': modalities,
  'scaling': networks,
  'cost': cost,
}


def _rounded(value):
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  return float(f'{value:.4g}') if isinstance(value, float) else value


def main(argv: list[str]) -> int:
  """Runs the program; returns the exit code."""
  try:
    flags.FLAGS.set_default('workdir', tempfile.gettempdir())  # Nothing lands there.
    program.parse_flags(argv)
    names = _WHAT.value.split(',')
    for name in names:
      if name not in MEASUREMENTS:
        raise UserError(f'--what={name} is not one of {sorted(MEASUREMENTS)}.')
    if _BLOCKS.value < 2:
      raise UserError('--blocks must be at least 2: the first one compiles.')
    config = flags.FLAGS.config.to_dict()
    for name in names:
      experiment = Experiment(config, flags.FLAGS.workdir)
      rows = MEASUREMENTS[name](experiment)
      done = []
      while True:
        gflops = matmul_gflops()
        row = next(rows, None)
        if row is None:
          break
        row = {'what': name, **row, 'matmul_gflops': gflops}
        row['peak_memory_mb'] = peak_memory_mb()
        row['device'] = jax.devices()[0].device_kind
        done.append(_rounded(row))
        if _FORMAT.value == 'json':
          print(json.dumps(done[-1]), flush=True)
      if _FORMAT.value == 'table':
        print(table(done), flush=True)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))
