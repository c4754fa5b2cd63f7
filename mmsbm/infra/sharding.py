"""One global view of the devices: the batch is split, all else is copied."""

import os

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


def memory_bytes() -> int:
  """Memory of a device; that of the machine, where the device is its processor."""
  stats = jax.local_devices()[0].memory_stats() or {}
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return stats.get('bytes_limit', machine)
