"""Cost of a score network against the number of modalities: time, memory, operations.

What is measured is a training step and the sampling of one batch, both compiled as the
program compiles them, on random latents and with random weights. Memory is what the
compiler has reserved, not what a process happened to use. A busy machine stretches
seconds but not the seconds of its processors, so both are measured.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from mmsbm.config import Section, find
from mmsbm.experiment import make_experiment
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import make_key, row_keys
from mmsbm.latents import NOISY
from mmsbm.learners.base import Training, init_state, train_step
from mmsbm.nn.score_nets import SCORE_NETS
from mmsbm.samplers import SAMPLERS
from mmsbm.tools.untrained import main_stage, random_rows

PyTree = Any

# Steps of the config's sampler, at every number of modalities.
NUM_STEPS = 20
# At most so many calls, of which the fastest counts, and no further one after so long.
_REPEATS = 5
_ENOUGH_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one call of a compiled program.

  Attributes:
    seconds: the fastest of several calls.
    cpu_seconds: the least time that the processors of this machine worked on a call.
    gflop: operations, by the compiler's count.
    memory_mb: MiB of temporary arrays and arguments.
    temporary_mb: MiB of temporary arrays.
  """

  seconds: float
  cpu_seconds: float
  gflop: float
  memory_mb: float
  temporary_mb: float


def measure(fn: Callable[..., PyTree], *args: PyTree, donate: bool = False) -> Cost:
  """Compiles `fn` for its arguments and runs it.

  Args:
    fn: a function of arrays.
    *args: its arguments.
    donate: the first argument may be overwritten, and what `fn` returns takes its
      place in the next call.
  """
  program = jax.jit(fn, donate_argnums=(0,) if donate else ()).lower(*args).compile()
  memory = program.memory_analysis()
  times = []
  # The first call may be slower than the others: it does not count.
  while len(times) < 2 or (
    len(times) <= _REPEATS and sum(t for t, _ in times) < _ENOUGH_SECONDS
  ):
    start = time.perf_counter(), time.process_time()
    out = jax.block_until_ready(program(*args))
    times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    if donate:
      args = (out, *args[1:])
  seconds, cpu_seconds = np.min(times[1:], axis=0).tolist()
  temporary = memory.temp_size_in_bytes / 2**20
  return Cost(
    seconds=seconds,
    cpu_seconds=cpu_seconds,
    gflop=program.cost_analysis()['flops'] / 1e9,
    memory_mb=temporary + memory.argument_size_in_bytes / 2**20,
    temporary_mb=temporary,
  )


def _training_cost(training: Training, batch: PyTree) -> Cost:
  def step(state, batch):
    return train_step(training, state, None, batch)[0]

  state = jax.jit(lambda batch: init_state(training, batch))(batch)
  return measure(step, state, batch, donate=True)


def _sampling_cost(
  config: Mapping[str, Any], training: Training, batch: PyTree
) -> Cost:
  """Cost of drawing all modalities of a batch with the sampler of the config."""
  spec = {**config['samplings']['default']['sampler'], 'num_steps': NUM_STEPS}
  sampler = Section({'sampler': spec}).build('sampler', SAMPLERS)
  score, (size, num) = training.learner, batch['present'].shape

  def draw(variables, key, z):
    def score_fn(z, t):
      role = jnp.full((size, num), NOISY)
      return score.score(variables, z, t, jnp.full((size, num), t), role)

    keys = row_keys(key, jnp.arange(size))
    return sampler(keys, score_fn, z, sde=score.sde, hold=lambda keys, z, t, visit: z)

  variables = jax.jit(score.init)(training.key, batch)
  return measure(draw, variables, make_key(0), batch['z'])


def replicated_config(config: Mapping[str, Any], num: int) -> dict[str, Any]:
  """Returns a config with copies of the first modality, and without readers.

  Args:
    config: of a method with an autoencoder for each modality.
    num: how many copies.
  """
  first = next(iter(config['modalities']))
  names = [f'm{i}' for i in range(num)]
  unimodal = dict(config['unimodal'])
  unimodal['networks'] = dict.fromkeys(names, unimodal['networks'][first])
  return {
    **config,
    'modalities': dict.fromkeys(names, config['modalities'][first]),
    'unimodal': unimodal,
    'readers': {},
    'refiner': {},
  }


def network_spec(config: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns the config's network if it is the one named, else that one by default."""
  spec = config['score']['network']
  return dict(spec) if spec['name'] == name else {'name': name}


def scaling(
  config: Mapping[str, Any], networks: Sequence[str], numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
  """Rows of costs per example, and of what the last number costs over the first.

  Args:
    config: gives the first modality, which all others copy, and the batch size.
    networks: names in SCORE_NETS, or 'package.module:Class'.
    numbers: of modalities, 1 or more of them, in the order in which to measure them.

  Raises:
    UserError: a name or a number that cannot be.
  """
  for name in networks:
    try:
      find(SCORE_NETS, name)
    except UserError as e:
      raise UserError(f'--networks: {e}') from e
  if not numbers or min(numbers) < 1:
    raise UserError(f'--num_modalities={list(numbers)} must be positive numbers.')
  size = config['score']['batch_size']
  for name in networks:
    costs = []
    for num in numbers:
      score = {**config['score'], 'network': network_spec(config, name)}
      other = make_experiment(replicated_config({**config, 'score': score}, num), '.')
      step = main_stage(other)
      (training,) = step.trainings
      batch = jax.tree.map(jnp.asarray, random_rows(step.example, size))
      training_cost = _training_cost(training, batch)
      sampling_cost = _sampling_cost(config, training, batch)
      per_example = {
        key: value / size
        for key, value in _columns(training_cost, sampling_cost).items()
      }
      costs.append(per_example)
      yield {
        'network': name,
        'modalities': num,
        'parameters': _parameter_count(training, step.example),
        **per_example,
      }
    if len(numbers) > 1:
      first, *_, last = costs
      yield {
        'network': name,
        'modalities': f'{numbers[-1]}/{numbers[0]}',
        **{key: last[key] / value for key, value in first.items()},
      }


def _parameter_count(training: Training, example: PyTree) -> int:
  shapes = jax.eval_shape(lambda: init_state(training, example).params)
  return int(parameter_overview.count_parameters(shapes))


def _columns(training: Cost, sampling: Cost) -> dict[str, float]:
  out = {f'train_{k}': v for k, v in dataclasses.asdict(training).items()}
  out |= {f'sample_{k}': v for k, v in dataclasses.asdict(sampling).items()}
  # The compiler counts the body of a loop once.
  out['evaluation_gflop'] = out.pop('sample_gflop')
  return out


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Rows as aligned text; columns are all keys, in the order of their appearance."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  lines = [columns] + [[_text(row.get(key, '')) for key in columns] for row in rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(text.rjust(width) for text, width in zip(line, widths, strict=True))
    for line in lines
  )


def _text(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)
