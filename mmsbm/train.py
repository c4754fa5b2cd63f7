"""The training loop: restore, train a block of steps in one scan, log, save.

Batch i is a pure function of (seed, i), and every random draw of (learner key,
step), so a run that was killed and started again goes through the same states
as one that was not.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.data.loader import batch_indices
from mmsbm.infra import checkpoints, interrupts, sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.metric_writer import MetricWriter
from mmsbm.infra.progress import Progress
from mmsbm.learners.base import (
  Best,
  Training,
  TrainState,
  hold_out,
  init_state,
  train_step,
)

PyTree = Any

# How often a training measures its held-out loss, on how many draws; shorter ones have
# no curve.
_HELD_OUT_TIMES, _HELD_OUT_ROWS, _SHORT = 40, 1024, 100


@dataclasses.dataclass(frozen=True)
class Source:
  """Where batches come from.

  Attributes:
    arrays: tree of host arrays with one leading axis of length `size`; they may
      be memory-mapped.
    size: number of examples.
    seed: of the order.
    resident: keep all of it on the devices and gather there; otherwise the host
      gathers a block of batches at a time.
    block_bytes: largest size of such a block.
  """

  arrays: PyTree
  size: int
  seed: int
  resident: bool
  block_bytes: float = 2.0**30

  def indices(self, first: int, num: int, batch_size: int) -> np.ndarray:
    """This process's examples of batches first .. first + num - 1, [num, b]."""
    return np.stack(
      [
        batch_indices(
          self.seed,
          step,
          size=self.size,
          batch_size=batch_size,
          process_index=jax.process_index(),
          process_count=jax.process_count(),
        )
        for step in range(first, first + num)
      ]
    )

  def block_steps(self, steps: int, batch_size: int) -> int:
    """Steps of a block, fewer than `steps` where their batches do not fit."""
    if self.resident:
      return steps
    example = sum(a.nbytes for a in jax.tree.leaves(self.arrays)) / self.size
    return int(min(steps, max(1, self.block_bytes // (example * batch_size))))

  def gather(self, indices: np.ndarray) -> PyTree:
    """Host arrays [num, b, ...] of the examples `indices` [num, b]."""
    # Sorted reads are what a memory map is fast at.
    unique, inverse = np.unique(indices, return_inverse=True)
    inverse = inverse.reshape(indices.shape)
    return jax.tree.map(lambda a: np.asarray(a[unique])[inverse], self.arrays)


@dataclasses.dataclass(frozen=True)
class LoopOptions:
  """How often the loop comes back to the host.

  Attributes:
    block_steps: steps in one scan; what is logged is the mean over a block.
    checkpoint_every_steps: at the end of the first block that reaches it.
    keep_checkpoints: newest ones that stay on disk.
  """

  block_steps: int
  checkpoint_every_steps: int
  keep_checkpoints: int = 2


def to_items(state: TrainState) -> dict[str, PyTree]:
  """What is saved: `ema`, the variables that evaluation uses, and `state`, the rest."""
  rest = {
    'step': state.step,
    'params': state.params,
    'mutables': state.mutables,
    'opt_state': state.opt_state,
  }
  best = state.best
  if best is None:
    return {'state': rest, 'ema': {'params': state.ema_params, **state.ema_mutables}}
  rest['ema'] = {'params': state.ema_params, 'mutables': state.ema_mutables}
  rest['best'] = {'loss': best.loss, 'step': best.step}
  return {'state': rest, 'ema': {'params': best.params, **best.mutables}}


def from_items(items: Mapping[str, PyTree]) -> TrainState:
  """Inverse of `to_items`."""
  used, rest = dict(items['ema']), dict(items['state'])
  used = {'params': used.pop('params'), 'mutables': used}
  if 'best' in rest:
    rest['best'] = Best(**rest['best'], **used)
    used = rest.pop('ema')
  return TrainState(ema_params=used['params'], ema_mutables=used['mutables'], **rest)


def directory(workdir: str | os.PathLike, name: str) -> str:
  """Checkpoint folder of the learner `name`."""
  return os.path.join(workdir, 'checkpoints', name)


def finished(workdir: str | os.PathLike, training: Training, of: str = '') -> bool:
  """Whether the last step of `training` is on disk, unharmed; see `train_group`.

  One that has ended early has saved its last checkpoint under that number.
  """
  return newest_step(workdir, training, of) >= training.num_steps


def newest_step(workdir: str | os.PathLike, training: Training, of: str = '') -> int:
  """Newest step of `training` that is on disk, unharmed; 0 if there is none."""
  folder = directory(workdir, training.name)
  return max(checkpoints.unharmed_steps(folder, f'{of} {training.name}'), default=0)


def _resume(
  group: Sequence[Training], like: Mapping[str, TrainState], workdir, of: str, target
) -> tuple[dict[str, TrainState] | None, int]:
  """Restores the newest step that every learner of the group has saved, if any."""

  def restore(step):
    states = {}
    for name, state in like.items():
      items = checkpoints.restore(
        directory(workdir, name),
        to_items(state),
        sharding=target,
        step=step,
        of=f'{of} {name}',
      )
      states[name] = from_items(items)
    return states

  saved = [set(checkpoints.all_steps(directory(workdir, t.name))) for t in group]
  where = ', '.join(directory(workdir, t.name) for t in group)
  return checkpoints.newest(set.intersection(*saved), restore, where)


def train_group(
  group: Sequence[Training],
  source: Source,
  *,
  workdir: str | os.PathLike,
  options: LoopOptions,
  mesh: jax.sharding.Mesh,
  frozen: PyTree = None,
  held_out: PyTree = None,
  of: str = '',
) -> None:
  """Trains learners side by side on the same batches, in one program.

  Learners that are finished are skipped; the others resume from the newest step
  that all of them have. They share `num_steps` and `batch_size`, and nothing else:
  each gives the same result alone as in company.

  Args:
    group: the learners.
    source: training examples.
    workdir: where checkpoints and metrics.jsonl lie.
    options: block and checkpoint intervals.
    mesh: devices; the batch is split over them.
    frozen: constant argument of the losses.
    held_out: arrays like those of `source` of examples that are not trained on; None:
      no held-out loss is measured, and no training ends early.
    of: says what is trained: checkpoints of anything else are not resumed from.

  Raises:
    UserError: a loss is not finite, or the batch does not fit the devices.
  """
  group = [t for t in group if not finished(workdir, t, of)]
  if not group:
    return
  (num_steps,) = {t.num_steps for t in group}
  (batch_size,) = {t.batch_size for t in group}
  if batch_size % jax.device_count():
    raise UserError(
      f'batch size {batch_size} cannot be split over {jax.device_count()} devices.'
    )
  trainings = {t.name: t for t in group}
  replicated = sharding.replicated(mesh)

  example = jax.tree.map(lambda a: np.asarray(a[:1]), source.arrays)

  def init(example):
    return {name: init_state(t, example) for name, t in trainings.items()}

  like = jax.eval_shape(init, example)
  states, first = _resume(group, like, workdir, of, replicated)
  if first:
    states = jax.device_put(states, replicated)
  else:
    # Compiled, or every network would be run once, operation by operation.
    states = jax.jit(init, out_shardings=replicated)(example)
  arrays = sharding.put_replicated(source.arrays, mesh) if source.resident else None
  frozen = sharding.put_replicated(frozen, mesh)

  @jax.jit(donate_argnames=('states',), out_shardings=replicated)
  def run_block(states, frozen, arrays, xs):
    def body(states, x):
      batch = x if arrays is None else jax.tree.map(lambda a: a[x], arrays)
      new = {
        name: train_step(trainings[name], state, frozen, batch)
        for name, state in states.items()
      }
      return {n: s for n, (s, _) in new.items()}, {n: m for n, (_, m) in new.items()}

    states, metrics = jax.lax.scan(body, states, xs)
    return states, jax.tree.map(jnp.mean, metrics)

  @jax.jit(donate_argnames=('states',), out_shardings=replicated)
  def run_held_out(states, frozen, batches):
    both = {n: hold_out(trainings[n], s, frozen, batches) for n, s in states.items()}
    return {n: s for n, (s, _) in both.items()}, {n: m for n, (_, m) in both.items()}

  every = num_steps // _HELD_OUT_TIMES if held_out and num_steps >= _SHORT else 0
  if every:
    held_out = sharding.put_batch(_held_out_batches(held_out, batch_size), mesh, axis=1)
  label = ', '.join(trainings) if len(trainings) < 4 else f'{len(trainings)} learners'
  writer = MetricWriter(workdir, of)
  writer.truncate_after(dict.fromkeys(trainings, first))
  title = f'train {label}'
  with interrupts.deferred(), writer, Progress(title, num_steps, first) as progress:
    step, saved = first, first
    block_steps = source.block_steps(options.block_steps, batch_size)
    ends = False
    while step < num_steps and not ends:
      num = min(block_steps, num_steps - step)
      if every:
        num = min(num, every - step % every)
      start = time.perf_counter()
      indices = source.indices(step, num, batch_size)
      xs = indices if source.resident else source.gather(indices)
      xs = sharding.put_batch(xs, mesh, axis=1)
      states, metrics = run_block(states, frozen, arrays, xs)
      metrics = jax.device_get(metrics)
      step += num
      rate = num / (time.perf_counter() - start)
      if every and (step % every == 0 or step == num_steps):
        states, measured = run_held_out(states, frozen, held_out)
        measured = jax.device_get(measured)
        for name, values in measured.items():
          best = values.pop('best_step', None)
          metrics[name] |= {f'held_out_{term}': x for term, x in values.items()}
          metrics[name] |= {} if best is None else {'best_step': best}
        ends = all(_ends(t, metrics[n], step) for n, t in trainings.items())
      for name, values in metrics.items():
        # A strict test: one NaN in a block makes its mean NaN.
        if not np.isfinite(values['loss']):
          raise _diverged(f'the loss of {name}', step - num, step, saved)
        writer.write(step, name, {**values, 'steps_per_second': rate})
      losses = '  '.join(f'{v["loss"]:.4g}' for v in metrics.values())
      due = step - saved >= options.checkpoint_every_steps or step == num_steps or ends
      if due or interrupts.asked():
        _check_finite(states, step, saved)
        for name, state in states.items():
          checkpoints.save(
            directory(workdir, name),
            num_steps if ends else step,
            to_items(state),
            keep=options.keep_checkpoints,
            of=f'{of} {name}',
            updates=step,
          )
        saved = step
      progress.update(step, f'loss {losses}')


def _held_out_batches(arrays: PyTree, batch_size: int) -> PyTree:
  """Returns the same batches [K, batch_size, ...] at every call.

  Few examples are repeated, since each draw of the noise tells something else of them.
  """
  size = len(jax.tree.leaves(arrays)[0])
  num = -(-_HELD_OUT_ROWS // batch_size)
  rows = np.random.default_rng(0).permutation(size)
  rows = np.sort(np.resize(rows, num * batch_size))
  # Equal rows, which are neighbours now, go to different batches.
  rows = rows.reshape(batch_size, num).T
  return jax.tree.map(lambda a: np.asarray(a[rows]), arrays)


def _ends(training: Training, values: Mapping[str, Any], step: int) -> bool:
  """Returns whether the held-out loss has not fallen for too long."""
  return bool(training.patience) and step - values['best_step'] >= training.patience


@jax.jit
def _all_finite(tree: PyTree) -> jax.Array:
  return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def _check_finite(states: dict[str, TrainState], step: int, saved: int) -> None:
  """A last update may spoil parameters whose losses were all finite."""
  for name, state in states.items():
    trained = (state.params, state.ema_params, state.mutables, state.opt_state)
    if not _all_finite(trained):
      raise _diverged(f'a parameter of {name}', saved, step, saved)


def _diverged(what: str, first: int, last: int, saved: int) -> UserError:
  kept = f'Checkpoint {saved} is unharmed.' if saved else 'Nothing was saved.'
  return UserError(
    f'{what} is not finite between steps {first} and {last}: lower its learning '
    f'rate, or look for bad values in the data. {kept}'
  )


def load_variables(
  workdir: str | os.PathLike,
  training: Training,
  batch: Any,
  mesh: jax.sharding.Mesh,
  of: str = '',
) -> tuple[PyTree, int]:
  """EMA variables of a trained learner, and the step they are from.

  Args:
    workdir: of the run.
    training: the learner.
    batch: examples that give shapes only.
    mesh: devices to put them on.
    of: what was trained, see `train_group`.
  """
  state = jax.eval_shape(lambda: init_state(training, batch))
  folder = directory(workdir, training.name)

  def restore(step):
    return checkpoints.restore(
      folder,
      {'ema': to_items(state)['ema']},
      sharding=sharding.replicated(mesh),
      step=step,
      of=f'{of} {training.name}',
    )['ema']

  # Without any, it says so.
  steps = checkpoints.all_steps(folder) or (None,)
  return checkpoints.newest(steps, restore, folder)
