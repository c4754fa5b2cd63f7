"""One global view of the devices: the batch is split, all else is copied."""

import jax
import numpy as np


def make_mesh() -> jax.sharding.Mesh:
  """A one-dimensional mesh over all devices of all processes."""
  # Auto: linen's Dropout does not trace under an Explicit mesh.
  return jax.make_mesh(
    (jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )


def replicated(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
  return jax.NamedSharding(mesh, jax.P())


def by_batch(mesh: jax.sharding.Mesh, axis: int = 0) -> jax.NamedSharding:
  """Splits axis number `axis` over the devices."""
  return jax.NamedSharding(mesh, jax.P(*([None] * axis), 'data'))


def put_replicated(tree, mesh: jax.sharding.Mesh):
  """Copies a tree of host arrays to every device."""
  return jax.device_put(tree, replicated(mesh))


def put_batch(tree, mesh: jax.sharding.Mesh, axis: int = 0):
  """Assembles global arrays from each process's part of the batch axis."""
  sharding = by_batch(mesh, axis)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
  )
