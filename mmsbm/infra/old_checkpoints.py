"""Reads checkpoints of version 0.1; to be dropped after version 0.2.

They have one item, `state`, with the averages in it, and of the optimiser's state only
a flat list of leaves.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

PyTree = Any


def is_old(folder: epath.Path) -> bool:
  """Whether the checkpoint in `folder` was written by version 0.1."""
  return not (folder / 'ema').exists() and 'ema_params' in _stored(folder)


def restore(
  folder: epath.Path,
  abstract: Mapping[str, PyTree],
  check: Callable[[PyTree, PyTree], None],
) -> dict[str, PyTree]:
  """Restores the items `ema` and `state`, as `checkpoints.restore` does.

  Args:
    folder: of one step.
    abstract: 'ema', 'state' or both, to trees of jax.ShapeDtypeStruct.
    check: compares what is stored with what is asked for.
  """
  asked = {}
  if 'ema' in abstract:
    mutables = dict(abstract['ema'])
    asked |= {'ema_params': mutables.pop('params'), 'ema_mutables': mutables}
  if 'state' in abstract:
    leaves, structure = jax.tree.flatten(abstract['state']['opt_state'])
    asked |= abstract['state']
    asked['opt_state'] = {str(i): leaf for i, leaf in enumerate(leaves)}
  stored = _stored(folder)
  check({name: stored[name] for name in asked}, asked)
  args = ocp.args.PyTreeRestore(
    asked,
    partial_restore=True,
    restore_args=ocp.checkpoint_utils.construct_restore_args(asked),
  )
  tree = ocp.PyTreeCheckpointHandler().restore(folder / 'state', args=args)
  items = {}
  if 'ema' in abstract:
    items['ema'] = {'params': tree['ema_params'], **tree['ema_mutables']}
  if 'state' in abstract:
    flat = tree['opt_state']
    leaves = [flat[str(i)] for i in range(len(flat))]
    opt_state = jax.tree.unflatten(structure, leaves)
    items['state'] = {name: tree[name] for name in abstract['state']}
    items['state']['opt_state'] = opt_state
  return items


def _stored(folder: epath.Path) -> dict[str, PyTree]:
  return ocp.PyTreeCheckpointHandler().metadata(folder / 'state').tree
