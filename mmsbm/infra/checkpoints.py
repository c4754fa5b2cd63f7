"""Checkpoints: the only file that knows orbax, beside `old_checkpoints`.

A checkpoint is one folder per step, in a folder of its own per learner, with an item
for each tree of arrays: `ema`, what evaluation loads, and `state`, the rest of what
training resumes from. orbax writes it under a temporary name and renames it, so that a
killed process leaves either a whole checkpoint or none. Digests of its files follow,
which are compared before anything is read; one without them, of an older version, is
believed.
"""

import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mmsbm.infra import digests, old_checkpoints
from mmsbm.infra.digests import Damaged
from mmsbm.infra.errors import UserError, machine_limit

PyTree = Any


def all_steps(directory: str | os.PathLike) -> tuple[int, ...]:
  """Steps of the complete checkpoints in `directory`, ascending."""
  if not os.path.isdir(directory):
    return ()
  # Not asked of orbax, which reads every one of them, damaged or not.
  return tuple(sorted(int(name) for name in os.listdir(directory) if name.isdecimal()))


def _check_files(
  directory: str | os.PathLike, step: int, of: str | None, under=None
) -> bool:
  """Returns whether the files have digests; raises Damaged for any other file."""
  folder = pathlib.Path(directory, str(step))
  known = digests.check_folder(folder, of and f'{of} {step}', under=under)
  if known is not None and known.rpartition(' ')[2] != str(step):
    raise Damaged(f'{folder} was made as checkpoint{known}.')
  return known is not None


def unharmed_steps(
  directory: str | os.PathLike, of: str | None = None
) -> tuple[int, ...]:
  """Steps of the checkpoints whose files are as they were written, ascending.

  Those that are not are named, once.

  Args:
    directory: a learner's checkpoint folder.
    of: see `save`.
  """
  out = []
  for step in all_steps(directory):
    try:
      _check_files(directory, step, of)
      out.append(step)
    except Damaged as e:
      digests.warn(f'{e} The checkpoint is not used.')
  return tuple(out)


def latest_step(directory: str | os.PathLike) -> int | None:
  """Step of the newest complete checkpoint, or None."""
  steps = all_steps(directory)
  return steps[-1] if steps else None


def save(
  directory: str | os.PathLike,
  step: int,
  items: Mapping[str, PyTree],
  *,
  keep: int = 2,
  of: str = '',
  updates: int | None = None,
) -> None:
  """Writes the checkpoint of `step`; returns once it is on disk.

  A checkpoint of the same or a later step is replaced: it is damaged, or was left by a
  run that was killed while other learners of its group were behind.

  Args:
    directory: a learner's checkpoint folder.
    step: updates that were made.
    items: name to tree of arrays.
    keep: newest checkpoints that stay.
    of: says what is saved; it is not restored as anything else.
    updates: those that were made, if not `step`.

  Raises:
    UserError: the disk is full, or another limit of the machine is reached.
  """
  folder = pathlib.Path(os.path.abspath(directory))
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
  try:
    if jax.process_index() == 0:
      for stale in [s for s in all_steps(folder) if s >= step]:
        shutil.rmtree(folder / str(stale))
    with ocp.CheckpointManager(folder, options=options) as manager:
      args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
      manager.save(step, args=ocp.args.Composite(**args))
      manager.wait_until_finished()
    if jax.process_index() == 0:
      made = folder / str(step)
      paths = [p for p in made.rglob('*') if p.is_file()]
      names = [p.relative_to(made).as_posix() for p in paths]
      digests.write_folder(made, names, f'{of} {step}', updates=updates or step)
  # Tensorstore has no error classes of its own.
  except Exception as e:
    problem = machine_limit(e)
    if problem is None:
      raise
    raise UserError(
      f'checkpoint {step} could not be written to {directory}: {problem} and run the '
      'same command again; what is finished is kept.'
    ) from e


def restore(
  directory: str | os.PathLike,
  like: Mapping[str, PyTree],
  *,
  sharding: jax.sharding.Sharding,
  step: int | None = None,
  of: str | None = None,
) -> dict[str, PyTree]:
  """Restores the items that `like` names; other items are not read.

  Args:
    directory: a learner's checkpoint folder.
    like: name of an item to a tree of anything that has a shape and a dtype.
    sharding: of the arrays.
    step: step to load; the latest when None.
    of: what was saved, see `save`; None if that does not matter.

  Returns:
    Name to tree, of the structure that `like` has.

  Raises:
    Damaged: its files are not what was written, or it holds NaN.
    UserError: no checkpoint, one of another network, or one that cannot be read.
  """
  step = latest_step(directory) if step is None else step
  if step is None:
    raise UserError(f'no checkpoint in {directory}: train first (--mode=train).')
  folder = epath.Path(os.path.abspath(directory)) / str(step)
  what = f'checkpoint {step} in {directory}'
  has_digests = _check_files(directory, step, of, [f'{name}/' for name in like])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(like)
  )
  # Orbax reports damage as many kinds of errors, all of which mean the same here.
  try:
    check = functools.partial(_check, what=what)
    if old_checkpoints.is_old(folder):
      restored = old_checkpoints.restore(folder, abstract, check)
    else:
      pytrees, standard = ocp.PyTreeCheckpointHandler(), ocp.StandardCheckpointHandler()
      for name, tree in abstract.items():
        check(pytrees.metadata(folder / name).tree, tree)
      restored = {
        name: standard.restore(folder / name, args=ocp.args.StandardRestore(tree))
        for name, tree in abstract.items()
      }
  except UserError:
    raise
  except Exception as e:
    if not has_digests:
      raise Damaged(f'{what} is damaged ({type(e).__name__}).') from e
    raise UserError(
      f'{what} is whole, but orbax-checkpoint {ocp.__version__} does not read it '
      f'({type(e).__name__}): use the version that run.json names, or more memory.'
    ) from e
  # A best loss that is not known yet is infinite.
  if any(np.isnan(x).any() for x in jax.tree.leaves(jax.device_get(restored))):
    raise Damaged(f'{what} holds NaN.')
  return restored


def newest(
  steps: Iterable[int], restore_step: Callable[[int], PyTree], directory: str
) -> tuple[PyTree, int]:
  """Restores the newest checkpoint that is unharmed, and warns of those that are not.

  Args:
    steps: of the checkpoints.
    restore_step: restores one.
    directory: of the checkpoints, for the message.

  Returns:
    What was restored and its step; None and 0 if there is no checkpoint.

  Raises:
    UserError: all are damaged, or one is of another network.
  """
  damaged = None
  for step in sorted(steps, reverse=True):
    try:
      return restore_step(step), step
    except Damaged as e:
      damaged = e
      digests.warn(f'{e} The checkpoint before it is used, if there is one.')
  if damaged is not None:
    raise Damaged(
      f'{damaged} No other checkpoint is left: restore {directory} from a copy, or '
      'delete it and train again.'
    ) from damaged
  return None, 0


def _check(stored: PyTree, abstract: PyTree, what: str) -> None:
  """Names the first array that differs; orbax's own words fill a screen."""
  stored, abstract = _shapes(stored), _shapes(abstract)
  for path in [*abstract, *stored]:
    if path not in stored:
      problem = f'has no {path}, which the config needs'
    elif path not in abstract:
      problem = f'has {path}, which the config has no place for'
    elif stored[path] != abstract[path]:
      shape = abstract[path]
      problem = f'has {path} of shape {stored[path]}, the config needs {shape}'
    else:
      continue
    raise UserError(
      f'{what} {problem}: use the config that it was trained with, or another '
      '--workdir.'
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """Path such as 'params/hidden' to shape; classes of containers do not matter."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in jax.tree.leaves_with_path(tree)
  }
