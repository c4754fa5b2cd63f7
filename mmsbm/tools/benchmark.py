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
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from mmsbm import train
from mmsbm.command_line import CONFIG, WORKDIR, parse_flags
from mmsbm.evaluators import sampling_seconds
from mmsbm.experiment import Experiment, make_experiment
from mmsbm.inference import Inference
from mmsbm.infra.errors import UserError
from mmsbm.learners.base import Training, init_state
from mmsbm.methods.base import Stage, Step, dry_run, no_inputs
from mmsbm.models.base import HasLatents
from mmsbm.tools.scaling import replicated_config, scaling, table

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


def _run_training(
  experiment: Experiment, group: list[Training], source: train.Source, frozen
) -> dict:
  """Trains a few blocks in a scratch folder and reads the rates it has logged."""
  block = experiment.workspace.options.block_steps
  steps, num_steps = block * _BLOCKS.value, group[0].num_steps
  group = [dataclasses.replace(t, num_steps=steps) for t in group]
  options = train.LoopOptions(block, checkpoint_every_steps=steps)
  with tempfile.TemporaryDirectory() as workdir:
    train.train_group(
      group,
      source,
      workdir=workdir,
      options=options,
      mesh=experiment.workspace.mesh,
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
  }


def _random_rows(example: Any, size: int = 4096) -> dict:
  """Returns positive random numbers in the shape of a batch; nothing is missing."""
  rng = np.random.default_rng(0)

  def rows(a):
    shape = (size, *a.shape[1:])
    return (
      np.ones(shape, a.dtype)
      if a.dtype.kind != 'f'
      else rng.uniform(0.5, 1.5, shape).astype(a.dtype)
    )

  return jax.tree.map(rows, example)


def _source(experiment: Experiment, step: Stage) -> train.Source:
  """Returns real examples, or random latents where those are not made yet."""
  needs_latents = step.needs and step.frozen is no_inputs
  arrays = _random_rows(step.example) if needs_latents else step.source({})
  leaves = jax.tree.leaves(arrays)
  limit = experiment.workspace.device_memory_gb * 2**30
  resident = sum(a.nbytes for a in leaves) <= limit
  return train.Source(arrays, len(leaves[0]), seed=0, resident=resident)


def train_stages(experiment: Experiment, without: str = '') -> Iterator[dict]:
  """Measures the training of every stage."""
  ledger = experiment.workspace.ledger
  parameters = dry_run(ledger.steps, experiment.method.model)
  for step in ledger.steps:
    if not isinstance(step, Stage) or step.name == without:
      continue
    inputs = _random_variables(s for s in ledger.steps if s.name in step.needs)
    group = list(step.trainings)
    measured = _run_training(
      experiment, group, _source(experiment, step), step.frozen(inputs)
    )
    count = sum(parameters[training.name] for training in group)
    yield {'stage': step.name, **measured, 'parameters': count}


def _random_variables(steps: Iterable[Step]) -> dict[str, Any]:
  """Returns results of untrained steps."""
  out: dict[str, Any] = {}
  for step in steps:
    if not isinstance(step, Stage):
      out[step.name] = jax.tree.map(np.ones_like, dict(step.example))
      continue
    states = jax.jit(
      lambda batch, step=step: {t.name: init_state(t, batch) for t in step.trainings}
    )(step.example)
    out[step.name] = step.collect(
      {name: {'params': s.params, **s.mutables} for name, s in states.items()}
    )
  return out


def _random_inference(experiment: Experiment) -> Inference:
  """Returns the untrained model: speed does not depend on the weights."""
  return Inference(
    experiment.method.model,
    _random_variables(experiment.method.steps),
    mesh=experiment.workspace.mesh,
    chunk_size=experiment.config['evaluate']['chunk_size'],
  )


def _blank(inference: Inference) -> tuple[Any, np.ndarray]:
  """Returns one chunk of encoded blank examples, and that nothing is observed."""
  size, modalities = inference.chunk_size, inference.model.modalities
  x = tuple(np.zeros((size, *m.shape), m.kind.dtype) for m in modalities)
  return inference.encode(x), np.zeros((size, len(modalities)), bool)


def _run_sampling(inference: Inference, name: str) -> dict:
  """Samples one chunk three times; the first call compiles."""
  encoded, observed = _blank(inference)
  seconds = []
  for seed in range(3):
    start = time.perf_counter()
    inference.sample(encoded, observed, key=jax.random.key(seed), sampling=name)
    seconds.append(time.perf_counter() - start)
  return {
    'nfe': inference.model.num_evaluations(name, 0),
    'tuples_per_second': inference.chunk_size / min(seconds[1:]),
    'compile_seconds': seconds[0] - min(seconds[1:]),
    'chunk_size': inference.chunk_size,
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
  inference = _random_inference(other)
  for name in inference.model.samplings:
    described = inference.model.describe(name)
    yield {'sampling': name, **described, **_run_sampling(inference, name)}
  if not isinstance(inference.model, HasLatents):
    return
  dims = inference.model.latent_dims
  z = {
    name: np.zeros((inference.chunk_size, d), np.float32) for name, d in dims.items()
  }
  key = jax.random.key(0)
  inference.decode(z, key=key)
  start = time.perf_counter()
  inference.decode(z, key=key)
  seconds = time.perf_counter() - start
  yield {
    'decoders': len(inference.model.modalities),
    'tuples_per_second': inference.chunk_size / seconds,
  }


def cost(experiment: Experiment) -> Iterator[dict]:
  """Measures what a table of methods says."""
  yield from train_stages(experiment, without='classifier')
  seconds = sampling_seconds(experiment.plan, _random_inference(experiment))
  yield {'seconds_per_sample': seconds['value'], 'stderr': seconds['stderr']}


def modalities(experiment: Experiment) -> Iterator[dict]:
  """Measures the score network on more and more copies of the first modality."""
  model = experiment.method.model
  if not isinstance(model, HasLatents) or model.latents_are_shared:
    # A score model of one latent costs the same, however many modalities there are.
    return
  for num in (2, 5, 10):
    other = make_experiment(replicated_config(experiment.config, num), WORKDIR.value)
    (step,) = (s for s in other.method.steps if s.name == other.method.main)
    inference = _random_inference(other)
    yield {
      'modalities': num,
      'latent_dims': sum(inference.model.latent_dims.values()),
      'train': _run_training(other, list(step.trainings), _source(other, step), None),
      'sample': _run_sampling(inference, 'default'),
    }


def networks(experiment: Experiment) -> Iterator[dict]:
  """Measures several score networks; see `scaling`."""
  try:
    numbers = [int(n) for n in _NUM_MODALITIES.value]
  except ValueError as e:
    raise UserError(f'--num_modalities: {e}.') from e
  model = experiment.method.model
  if not isinstance(model, HasLatents) or model.latents_are_shared:
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


def _rounded(value):
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  return float(f'{value:.4g}') if isinstance(value, float) else value


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
    config = CONFIG.value.to_dict()
    for name in names:
      experiment = make_experiment(config, WORKDIR.value)
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
  app.define_help_flags()
  sys.exit(main(sys.argv))
