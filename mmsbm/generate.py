"""Draws examples from a trained model in chunks of one compiled shape."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.data.loader import padded_chunks
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.progress import Progress
from mmsbm.infra.rng import row_keys
from mmsbm.learners.classifier import Classifier
from mmsbm.models.base import MultimodalModel

PyTree = Any


class Generator:
  """A model with its variables, ready to sample, decode and judge.

  Every row has a key of its own, so what is drawn for example i depends on
  (seed, i), its observed modalities and nothing else: not on the chunk size, not
  on the other rows, not on the number of devices.

  Args:
    model: the method.
    variables: its trained variables.
    mesh: devices; chunks are split over them.
    chunk_size: rows at a time, rounded up to a multiple of the devices.
    judges: classifiers, with `judge_variables` by name.
    judge_variables: see above.
  """

  def __init__(
    self,
    model: MultimodalModel,
    variables: PyTree,
    *,
    mesh: jax.sharding.Mesh,
    chunk_size: int,
    judges: tuple[Classifier, ...] = (),
    judge_variables: Mapping[str, PyTree] | None = None,
  ):
    self.model = model
    devices = jax.device_count()
    self.chunk_size = -(-chunk_size // devices) * devices
    self._mesh = mesh
    self._variables = sharding.put_replicated(variables, mesh)
    self._judges = judges
    self._judge_variables = sharding.put_replicated(judge_variables or {}, mesh)
    # Arrays are arguments, never closed over: the program is compiled once.
    self._encode = jax.jit(model.encode)
    self._reconstruct = jax.jit(self._raw_of(model.reconstruct))
    self._mean_latents = jax.jit(
      lambda variables, key, rows, codes, observed: model.mean_latents(
        variables, row_keys(key, rows), codes, observed
      )
    )
    self._decode = jax.jit(self._raw_of(model.decode))
    self._judge = jax.jit(self._judge_fn)

  @functools.cached_property
  def _sample(self):
    def fn(variables, key, rows, codes, observed, setup):
      return self.model.sample_latents(
        variables, row_keys(key, rows), codes, observed, setup
      )

    return jax.jit(fn, static_argnames=('setup',))

  def _raw_of(self, decode: Callable) -> Callable:
    """Raw examples of a decoder, and which of them [B, M] were finite before."""

    def fn(variables, key, rows, inputs):
      out = decode(variables, row_keys(key, rows), inputs)
      pairs = list(zip(self.model.modalities, out, strict=True))
      finite = [jnp.isfinite(x).reshape(len(rows), -1).all(-1) for _, x in pairs]
      return tuple(m.kind.to_data(x) for m, x in pairs), jnp.stack(finite, axis=1)

    return fn

  def _judge_fn(self, variables, x):
    """Classes [B, M] (-1: not judged) and features, one [B, F] or [B, 0] each."""
    batch = x[0].shape[0]
    classes = [jnp.full(batch, -1, jnp.int32)] * len(x)
    features = [jnp.zeros((batch, 0), jnp.float32)] * len(x)
    for judge in self._judges:
      for index, modality in zip(judge.indices, judge.modalities, strict=True):
        logits, feature = judge.network.apply(
          variables[judge.judge], modality.kind.to_model(x[index]), False
        )
        classes[index], features[index] = logits.argmax(-1), feature
    return jnp.stack(classes, axis=1), tuple(features)

  def _chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return padded_chunks(size, min(self.chunk_size, self._rounded(size)))

  def _short_chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if size % jax.device_count():
      raise UserError(
        f'a sampler with batch_norms cannot split {size} rows over '
        f'{jax.device_count()} devices.'
      )
    for start in range(0, size, self.chunk_size):
      indices = np.arange(start, min(start + self.chunk_size, size))
      yield indices, np.ones(len(indices), bool)

  def _rounded(self, size: int) -> int:
    devices = jax.device_count()
    return max(devices, -(-size // devices) * devices)

  def _put(self, tree):
    return sharding.put_batch(tree, self._mesh)

  def encode(self, x: tuple[np.ndarray, ...]) -> np.ndarray:
    """Raw examples, one array [N, *shape] per modality, to codes [N, C]."""
    out = np.zeros((len(x[0]), self.model.code_dim), np.float32)
    for indices, mask in self._chunks(len(out)):
      part = self._put(tuple(np.asarray(a[indices]) for a in x))
      out[indices[mask]] = np.asarray(self._encode(self._variables, part))[mask]
    return out

  def sample_latents(
    self,
    codes: np.ndarray,
    observed: np.ndarray,
    *,
    key: jax.Array,
    setup: str = 'default',
    rows: np.ndarray | None = None,
  ) -> np.ndarray:
    """Latents [N, D] given what is observed.

    Args:
      codes: [N, C], arbitrary where not observed.
      observed: [N, M] bool.
      key: of the draw.
      setup: name in `model.setups`.
      rows: number of each row [N], which chooses its key; 0 .. N - 1 by default.
    """
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows)
    out = self._blank_latents(len(codes))
    chunks = self._chunks(len(codes))
    if self.model.setups[setup].couples_rows:
      # The last batch is short, not padded with rows that the others would see.
      chunks = self._short_chunks(len(codes))
    for indices, mask in chunks:
      part = self._put((rows[indices], codes[indices], observed[indices]))
      drawn = self._sample(self._variables, key, *part, setup=setup)
      out[indices[mask]] = np.asarray(drawn)[mask]
    if not np.isfinite(out).all():
      raise UserError(
        f'setup {setup!r} gave latents that are not finite: use more steps, a larger '
        'time_min, less guidance, or train the score model longer.'
      )
    return out

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
    out = []
    with Progress(name, size) as progress:
      for indices, mask in self._chunks(size):
        part = self._put(
          (indices, *jax.tree.map(lambda a, i=indices: np.asarray(a[i]), trees))
        )
        drawn = jax.device_get(run(self._variables, key, *part))
        out.append(jax.tree.map(lambda a, m=mask: a[m], drawn))
        progress.update(int(indices[mask][-1]) + 1)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *out)

  def mean_latents(
    self, codes: np.ndarray, observed: np.ndarray, *, key: jax.Array
  ) -> np.ndarray:
    """Latents [N, D] that the encoders alone give; see `MultimodalModel`."""
    out = self._blank_latents(len(codes))
    for indices, mask in self._chunks(len(codes)):
      part = self._put((indices, codes[indices], observed[indices]))
      out[indices[mask]] = np.asarray(self._mean_latents(self._variables, key, *part))[
        mask
      ]
    return out

  def _blank_latents(self, size: int) -> np.ndarray:
    return np.zeros((size, sum(self.model.latent_dims.values())), np.float32)

  def decode(self, latents: np.ndarray, *, key: jax.Array) -> tuple[np.ndarray, ...]:
    """Latents [N, D] to raw examples, one array [N, *shape] per modality.

    Raises:
      UserError: a decoder gave what is not finite.
    """
    return self._to_raw(self._decode, latents, key)

  def reconstruct(self, codes: np.ndarray, *, key: jax.Array) -> tuple[np.ndarray, ...]:
    """Codes [N, C] to raw examples, every modality from itself alone."""
    return self._to_raw(self._reconstruct, codes, key)

  def _to_raw(self, fn: Callable, inputs: np.ndarray, key: jax.Array):
    """Applies a compiled function to rows of inputs [N, ...], chunk by chunk."""
    out = tuple(
      np.zeros((len(inputs), *m.shape), m.kind.dtype) for m in self.model.modalities
    )
    for indices, mask in self._chunks(len(inputs)):
      x, finite = fn(self._variables, key, *self._put((indices, inputs[indices])))
      finite = np.asarray(finite)[mask].all(0)
      if not finite.all():
        names = [self.model.modalities[i].name for i in np.flatnonzero(~finite)]
        raise UserError(
          f'the decoders of {names} gave values that are not finite: train them longer '
          'or, if they are diffusion models, use less decoder_guidance or more steps '
          'of decoder_sampler.'
        )
      for whole, part in zip(out, x, strict=True):
        whole[indices[mask]] = np.asarray(part)[mask]
    return out

  def judge(
    self, x: tuple[np.ndarray, ...]
  ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Classes [N, M] that the judges see (-1: no judge) and their features."""
    size = len(x[0])
    classes = np.zeros((size, len(x)), np.int32)
    features = None
    for indices, mask in self._chunks(size):
      part = self._put(tuple(np.asarray(a[indices]) for a in x))
      label, feature = jax.device_get(self._judge(self._judge_variables, part))
      if features is None:
        features = tuple(np.zeros((size, f.shape[1]), np.float32) for f in feature)
      classes[indices[mask]] = label[mask]
      for whole, f in zip(features, feature, strict=True):
        whole[indices[mask]] = f[mask]
    return classes, features
