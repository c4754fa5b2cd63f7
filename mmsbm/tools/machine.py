"""What the machine can do, beside what was measured on it."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def matmul_gflops(size: int = 1024, repeats: int = 5) -> float:
  """Returns the rate of the fastest of several float32 products."""
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
  """Returns the most that this process has taken so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def beside_machine(
  rows: Iterable[Mapping[str, Any]], **first: Any
) -> Iterator[dict[str, Any]]:
  """Yields rows with numbers of the machine beside them, to four digits.

  Args:
    rows: what was measured, which is measured as it is asked for.
    **first: what stands before it in every row.
  """
  rows = iter(rows)
  while True:
    gflops = matmul_gflops()
    row = next(rows, None)
    if row is None:
      return
    machine = {
      'matmul_gflops': gflops,
      'peak_memory_mb': peak_memory_mb(),
      'device': jax.devices()[0].device_kind,
    }
    yield _rounded({**first, **row, **machine})


def _rounded(value):
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  return float(f'{value:.4g}') if isinstance(value, float) else value
