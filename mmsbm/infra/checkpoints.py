"""Checkpoints: the only file that knows orbax, beside `old_checkpoints`.

A checkpoint is one folder per step, in a folder of its own per learner, with an item
for each tree of arrays: `ema`, what evaluation loads, and `state`, the rest of what
training resumes from. orbax writes it under a temporary name and renames it, so that a
killed process leaves either a whole checkpoint or none.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mmsbm.infra import old_checkpoints
from mmsbm.infra.errors import UserError

PyTree = Any


def _manager(
  directory: str | os.PathLike, max_to_keep: int | None = None
) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(
    max_to_keep=max_to_keep, create=max_to_keep is not None
  )
  return ocp.CheckpointManager(os.path.abspath(directory), options=options)


def all_steps(directory: str | os.PathLike) -> tuple[int, ...]:
  """Steps of the complete checkpoints in `directory`, ascending."""
  if not os.path.isdir(directory):
    return ()
  with _manager(directory) as manager:
    return tuple(sorted(manager.all_steps()))


def latest_step(directory: str | os.PathLike) -> int | None:
  """Step of the newest complete checkpoint, or None."""
  steps = all_steps(directory)
  return steps[-1] if steps else None


def save(
  directory: str | os.PathLike, step: int, items: Mapping[str, PyTree], *, keep: int = 2
) -> None:
  """Writes the checkpoint of `step`; returns once it is on disk.

  A checkpoint of the same or a later step, left by a run that was killed while
  other learners of its group were behind, is replaced.

  Args:
    directory: a learner's checkpoint folder.
    step: updates that were made.
    items: name to tree of arrays.
    keep: newest checkpoints that stay.

  Raises:
    UserError: the disk is full.
  """
  try:
    with _manager(directory, max_to_keep=keep) as manager:
      for stale in [s for s in manager.all_steps() if s >= step]:
        manager.delete(stale)
      args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
      manager.save(step, args=ocp.args.Composite(**args))
      manager.wait_until_finished()
  # Tensorstore has no error class of its own for it.
  except Exception as e:
    if 'RESOURCE_EXHAUSTED' in str(e) or 'No space left' in str(e):
      raise UserError(
        f'the disk is full: checkpoint {step} could not be written to {directory}. '
        'Free some space and run the same command again; what is finished is kept.'
      ) from e
    raise


def restore(
  directory: str | os.PathLike,
  like: Mapping[str, PyTree],
  *,
  sharding: jax.sharding.Sharding,
  step: int | None = None,
) -> dict[str, PyTree]:
  """Restores the items that `like` names; other items are not read.

  Args:
    directory: a learner's checkpoint folder.
    like: name of an item to a tree of anything that has a shape and a dtype.
    sharding: of the arrays.
    step: step to load; the latest when None.

  Returns:
    Name to tree, of the structure that `like` has.

  Raises:
    UserError: no checkpoint, a damaged one, or one of another network.
  """
  step = latest_step(directory) if step is None else step
  if step is None:
    raise UserError(f'no checkpoint in {directory}: train first (--mode=train).')
  folder = epath.Path(os.path.abspath(directory)) / str(step)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(like)
  )
  # Orbax reports damage as many kinds of errors, all of which mean the same here.
  try:
    check = functools.partial(_check, what=f'checkpoint {step} in {directory}')
    if old_checkpoints.is_old(folder):
      return old_checkpoints.restore(folder, abstract, check)
    handler = ocp.PyTreeCheckpointHandler()
    for name, tree in abstract.items():
      check(handler.metadata(folder / name).tree, tree)
    args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    with _manager(directory) as manager:
      restored = manager.restore(step, args=ocp.args.Composite(**args))
    return {name: restored[name] for name in abstract}
  except UserError:
    raise
  except Exception as e:
    raise UserError(
      f'checkpoint {step} in {directory} cannot be read ({type(e).__name__}): '
      f'delete {folder} and run the same command again.'
    ) from e


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
