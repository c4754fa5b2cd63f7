"""Checkpoints: the only file that knows orbax.

A checkpoint is one tree of arrays per step, in a folder of its own per learner.
orbax writes it under a temporary name and renames it, so that a killed process
leaves either a whole checkpoint or none.
"""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mmsbm.infra.errors import UserError

ITEM = 'state'


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


def save(directory: str | os.PathLike, step: int, tree: Any, *, keep: int = 2) -> None:
  """Writes `tree` as the checkpoint of `step`; returns once it is on disk.

  A checkpoint of the same or a later step, left by a run that was killed while
  other learners of its group were behind, is replaced.

  Raises:
    UserError: the disk is full.
  """
  try:
    with _manager(directory, max_to_keep=keep) as manager:
      for stale in [s for s in manager.all_steps() if s >= step]:
        manager.delete(stale)
      args = ocp.args.Composite(**{ITEM: ocp.args.StandardSave(tree)})
      manager.save(step, args=args)
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
  directory: str | os.PathLike, abstract: Any, *, step: int | None = None
) -> Any:
  """Restores the subtree that `abstract` describes.

  Args:
    directory: a learner's checkpoint folder.
    abstract: tree of jax.ShapeDtypeStruct with shardings; it may leave out
      parts of what was saved, e.g. {'ema_params': ...}.
    step: step to load; the latest when None.

  Raises:
    UserError: no checkpoint, a damaged one, or one of other shapes.
  """
  step = latest_step(directory) if step is None else step
  if step is None:
    raise UserError(f'no checkpoint in {directory}: train first (--mode=train).')
  folder = os.path.join(os.path.abspath(directory), str(step))
  # Orbax reports damage as many kinds of errors, all of which mean the same here.
  try:
    stored = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder) / ITEM).tree
    _check_shapes(stored, abstract, f'checkpoint {step} in {directory}')
    with _manager(directory) as manager:
      args = ocp.args.PyTreeRestore(
        abstract,
        partial_restore=True,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
      )
      return manager.restore(step, args=ocp.args.Composite(**{ITEM: args}))[ITEM]
  except UserError:
    raise
  except Exception as e:
    raise UserError(
      f'checkpoint {step} in {directory} cannot be read ({type(e).__name__}): '
      f'delete {folder} and run the same command again.'
    ) from e


def _check_shapes(stored: Any, abstract: Any, what: str) -> None:
  """Orbax would return what is missing as it was asked for, without a value."""
  for path, want in jax.tree.leaves_with_path(abstract):
    got = stored
    for key in path:
      got = got.get(key.key) if isinstance(got, dict) else None
    shape = None if got is None else tuple(got.shape)
    if shape != tuple(want.shape):
      raise UserError(
        f'{what} has {jax.tree_util.keystr(path)} of shape {shape}, the config '
        f'needs {tuple(want.shape)}: use the config that it was trained with, or '
        'another --workdir.'
      )
