"""Runs a trained model on any number of examples, in chunks of one compiled shape."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.data.loader import padded_chunks
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.progress import Progress
from mmsbm.infra.rng import fold_in_name, row_keys
from mmsbm.models.base import MultimodalModel, SampleKeys

PyTree = Any
Examples = tuple[np.ndarray, ...]


def _padded(size: int, chunk_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Covers all rows in chunks of one length that the devices can share.

  There are few such lengths, powers of 2 up to 64 and its multiples: each is compiled.
  """
  devices = jax.device_count()
  size_each = max(1, -(-size // devices))
  if size_each <= 64:
    rounded = devices << (size_each - 1).bit_length()
  else:
    rounded = devices * 64 * -(-size_each // 64)
  return padded_chunks(size, min(chunk_size, rounded))


def _short(size: int, chunk_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Covers all rows; the last chunk is short, not padded."""
  if size % jax.device_count():
    raise UserError(
      f'a sampler with batch_norms cannot split {size} rows over '
      f'{jax.device_count()} devices.'
    )
  for start in range(0, size, chunk_size):
    indices = np.arange(start, min(start + chunk_size, size))
    yield indices, np.ones(len(indices), bool)


class Inference:
  """A model with its variables, ready to encode, sample and decode.

  Every row has a key of its own, so what is drawn for example i depends on
  (seed, i), its observed modalities and nothing else: not on the chunk size, not
  on the other rows, not on the number of devices.

  Args:
    model: the method's model; attributes that it lacks are asked for by `isinstance`.
    variables: its trained variables.
    mesh: devices; chunks are split over them.
    chunk_size: rows at a time, rounded up to a multiple of the devices.
  """

  def __init__(
    self,
    model: MultimodalModel,
    variables: PyTree,
    *,
    mesh: jax.sharding.Mesh,
    chunk_size: int,
  ):
    self.model = model
    devices = jax.device_count()
    self.chunk_size = -(-chunk_size // devices) * devices
    self.mesh = mesh
    self.variables = sharding.put_replicated(variables, mesh)
    # Arrays are arguments, never closed over: a program is compiled once.
    self._encode = jax.jit(model.encode)
    self._sample = jax.jit(self._sample_fn, static_argnames=('sampling',))
    self._programs: dict[str, Callable] = {}

  @property
  def default(self) -> str:
    """Name of the sampling that the model is judged by."""
    return next(iter(self.model.samplings))

  def encode(self, x: Examples) -> PyTree:
    """Encodes raw examples, one array [N, *shape] per modality."""
    return self._map(lambda _, x: self._encode(self.variables, x), x)

  def sample(
    self,
    encoded: PyTree,
    observed: np.ndarray,
    *,
    key: jax.Array,
    sampling: str | None = None,
    rows: np.ndarray | None = None,
  ) -> Examples:
    """Draws raw examples of all modalities given what is observed.

    Args:
      encoded: from `encode`, arbitrary where not observed.
      observed: [N, M] bool.
      key: of the draw.
      sampling: name in `model.samplings`; the model's own by default.
      rows: number of each row [N], which chooses its key; 0 .. N - 1 by default.

    Returns:
      One array [N, *shape] per modality.

    Raises:
      UserError: something that was drawn is not finite.
    """
    sampling = sampling or self.default
    size = len(observed)
    rows = np.arange(size) if rows is None else np.asarray(rows)
    # Rows that see each other must not see padding.
    chunks = _short if self.model.couples_rows(sampling) else _padded

    def run(_, tree):
      encoded, observed, rows = tree
      return self._sample(
        self.variables, key, rows, encoded, observed, sampling=sampling
      )

    drawn = self._map(run, (encoded, np.asarray(observed), rows), chunks)
    return self._finite(
      drawn,
      f'sampling {sampling!r} gave {{names}} that are not finite: use more steps, a '
      'larger time_min, less guidance or decoder_guidance, or train longer.',
    )

  def latents(
    self, encoded: PyTree, observed: np.ndarray, *, key: jax.Array
  ) -> dict[str, np.ndarray]:
    """Returns latents {part: [N, d]} that the encoders alone give; see `HasLatents`."""
    run = self._program('latents', self.model.latents)
    return self._map(
      lambda rows, tree: run(self.variables, key, rows, *tree),
      (encoded, np.asarray(observed)),
    )

  def decode(self, latents: Mapping[str, np.ndarray], *, key: jax.Array) -> Examples:
    """Decodes latents {part: [N, d]} to raw examples.

    Raises:
      UserError: a decoder gave what is not finite.
    """
    return self._decoded('decode', self.model.decode, dict(latents), key)

  def reconstruct(self, encoded: PyTree, *, key: jax.Array) -> Examples:
    """Returns raw examples, every modality made from itself alone."""
    return self._decoded('reconstruct', self.model.reconstruct, encoded, key)

  def per_row(self, fn: Callable, key: jax.Array, *trees: PyTree, name: str) -> PyTree:
    """Applies a function of examples to all of them, chunk by chunk.

    Args:
      fn: maps (variables, keys [B], *trees of [B, ...]) to a tree of [B, ...].
      key: gives row i the key that depends on (key, i) only.
      *trees: trees of arrays [N, ...].
      name: what the progress line calls it.

    Returns:
      A tree of arrays [N, ...].
    """
    run = jax.jit(
      lambda variables, key, rows, *trees: fn(variables, row_keys(key, rows), *trees)
    )
    size = len(jax.tree.leaves(trees)[0])
    with Progress(name, size) as progress:

      def step(rows, parts):
        out = run(self.variables, key, rows, *parts)
        progress.update(int(rows.max()) + 1)
        return out

      return self._map(step, trees)

  def map_chunks(self, fn: Callable, variables: PyTree, *trees: PyTree) -> PyTree:
    """Applies a function to all rows, chunk by chunk, without randomness.

    Args:
      fn: a compiled function of (variables, *trees of [B, ...]).
      variables: its first argument.
      *trees: trees of arrays [N, ...].

    Returns:
      A tree of arrays [N, ...].
    """
    return self._map(lambda _, parts: fn(variables, *parts), trees)

  def _sample_fn(self, variables, key, rows, encoded, observed, sampling):
    keys = SampleKeys(row_keys(key, rows), row_keys(fold_in_name(key, 'decode'), rows))
    return self._raw(self.model.sample(variables, keys, encoded, observed, sampling))

  def _raw(self, out: tuple[jax.Array, ...]):
    """Returns raw examples, and which of them [B, M] were finite before."""
    pairs = list(zip(self.model.modalities, out, strict=True))
    finite = [jnp.isfinite(x).reshape(x.shape[0], -1).all(-1) for _, x in pairs]
    return tuple(m.kind.to_data(x) for m, x in pairs), jnp.stack(finite, axis=1)

  def _program(self, name: str, fn: Callable) -> Callable:
    """Returns `fn` compiled, with keys in place of (key, rows)."""
    if name not in self._programs:
      self._programs[name] = jax.jit(
        lambda variables, key, rows, *args: fn(variables, row_keys(key, rows), *args)
      )
    return self._programs[name]

  def _decoded(self, name: str, fn: Callable, inputs: PyTree, key: jax.Array):
    run = self._program(name, lambda *args: self._raw(fn(*args)))
    out = self._map(lambda rows, inputs: run(self.variables, key, rows, inputs), inputs)
    return self._finite(
      out,
      'the decoders of {names} gave values that are not finite: train them longer or, '
      'if they are diffusion models, use less decoder_guidance or more steps of '
      'decoder_sampler.',
    )

  def _finite(self, out, message: str) -> Examples:
    x, finite = out
    bad = [
      m.name
      for m, fine in zip(self.model.modalities, finite.all(0), strict=True)
      if not fine
    ]
    if bad:
      raise UserError(message.format(names=bad))
    return x

  def _map(self, fn: Callable, tree: PyTree, chunks: Callable = _padded) -> PyTree:
    """Applies fn(rows, part) to parts of arrays [N, ...] and joins what it returns."""
    size, out = len(jax.tree.leaves(tree)[0]), []
    for indices, mask in chunks(size, self.chunk_size):
      part = jax.tree.map(lambda a, i=indices: np.asarray(a[i]), tree)
      done = jax.device_get(fn(indices, sharding.put_batch(part, self.mesh)))
      out.append(jax.tree.map(lambda a, m=mask: a[m], done))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *out)
