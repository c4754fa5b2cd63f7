"""Models whose numbers are known, and all that an evaluation asks of a run."""

import dataclasses
import json
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.evaluators import evaluate, make_evaluation
from mmsbm.infra.rng import row_keys
from mmsbm.metrics.base import Reading

CLASSES, NAMES, SHAPE = 10, ('a', 'b', 'c'), (2, 2, 1)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind whose networks see what files hold, divided by `scale`."""

  shape: tuple = SHAPE
  dtype: Any = np.uint8
  metrics: tuple = ('mse',)
  scale: float = 255.0
  is_picture: bool = True

  @property
  def model_shape(self):
    return self.shape

  def to_model(self, raw):
    return jnp.asarray(raw).astype(jnp.float32) / self.scale

  def to_data(self, x):
    x = x * self.scale
    return x if self.dtype == np.float32 else jnp.round(x).astype(self.dtype)

  def show(self, example):
    return f'<p>{np.asarray(example).ravel().tolist()}</p>'

  def picture(self, example):
    if not self.is_picture:
      return None
    return np.broadcast_to(example, (*self.shape[:2], 3)).astype(np.uint8)


def kind(**changes):
  plain = dict(dtype=np.float32, scale=1.0, is_picture=False)
  return Kind(**plain | changes)


KINDS = {
  'image': Kind(),
  'attributes': kind(shape=(4,), dtype=np.uint8, metrics=('f1',)),
  'label': kind(shape=(), dtype=np.int32, metrics=('accuracy',)),
  'vector': kind(shape=(2,), metrics=('r2', 'mse'), scale=2.0),
}


def modality(name, kind_name='image'):
  made = KINDS[kind_name]
  return types.SimpleNamespace(
    name=name,
    kind_name=kind_name,
    kind=made,
    shape=made.shape,
    model_shape=made.model_shape,
  )


@dataclasses.dataclass(frozen=True)
class Split:
  arrays: Any
  present: np.ndarray
  annotations: Any

  def __len__(self):
    return len(self.present)


def make_problem(splits, modalities, num_classes=None):
  known = {'class': CLASSES} if num_classes is None else num_classes
  dataset = types.SimpleNamespace(
    splits=splits, num_classes=known, content_hash='hash', source='fake'
  )
  return types.SimpleNamespace(
    modalities=tuple(modalities),
    names=tuple(m.name for m in modalities),
    dataset=dataset,
    num_classes=known,
    key=jax.random.key(0),
    seed=0,
  )


def digits_problem(num=997, present=None, labels=None):
  """Three equal pictures whose first pixel is their class."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, CLASSES, num).astype(np.int32)
  images = rng.integers(0, 9, (num, *SHAPE)).astype(np.uint8)
  images[:, 0, 0, 0] = label
  present = np.ones((num, 3), bool) if present is None else present
  known = {'class': label if labels is None else labels}
  split = Split(dict.fromkeys(NAMES, images), present, known)
  # Of other classes than the pictures show: who learns from them is wrong.
  train = dataclasses.replace(split, annotations={'class': (label + 1) % CLASSES})
  splits = {'train': train, 'val': split, 'test': split}
  return make_problem(splits, [modality(name) for name in NAMES])


@dataclasses.dataclass(frozen=True)
class ReadClass:
  """The first pixel is the class; its features are those of the first row."""

  name: str = 'digit'
  modalities: tuple = NAMES
  annotation: str = 'class'
  compiled: bool = True
  learner: Any = 'trained'
  error: int = 0

  def __call__(self, variables, modality, x):
    pixel = (x[:, 0, 0, 0].astype(jnp.int32) + self.error) % CLASSES
    features = (jnp.asarray(x).astype(jnp.float32) / 255.0).reshape(len(x), -1)
    return Reading(pixel, features[:, :2], self.annotation)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassModel:
  """The latent of a modality is its class.

  'perfect' gives hidden modalities the class of an observed one, or one class
  for all; 'independent' gives each a class of its own; 'first' copies a only.
  """

  kind: str
  modalities: tuple
  samplings: Any = dataclasses.field(
    default_factory=lambda: {'default': 5, 'with_7_steps': 7}
  )

  latents_are_shared = False
  latent_dims = types.MappingProxyType(dict.fromkeys(NAMES, 1))

  def num_evaluations(self, sampling, num_given):
    return self.samplings[sampling]

  def describe(self, sampling):
    steps = self.samplings[sampling]
    guidance = '' if sampling == 'default' else 'classifier_free(scale=0.5)'
    return {
      'sampler': f'dpm_solver(num_steps={steps})',
      'conditioning': 'time_zero()',
      'guidance': guidance,
    }

  def uses(self, sampling, decodes=True):
    steps = {'unimodal', 'latents'} | ({'score'} if sampling else set())
    return frozenset(steps | ({'energy'} if sampling == 'with_energy' else set()))

  def encode(self, variables, x):
    return jnp.stack([a[:, 0, 0, 0] for a in x], 1).astype(jnp.float32)

  def decode(self, variables, keys, z):
    pixels = jnp.zeros((len(z), 3, *SHAPE), jnp.uint8)
    pixels = pixels.at[:, :, 0, 0, 0].set(z.astype(jnp.uint8))
    # Features need some spread for a Frechet distance.
    spread = (jnp.arange(len(z)) % 7).astype(jnp.uint8)
    pixels = pixels.at[:, :, 0, 1, 0].set(spread[:, None])
    return tuple(pixels[:, m] / 255.0 for m in range(3))

  def reconstruct(self, variables, keys, encoded):
    return self.decode(variables, keys, encoded)

  def latents(self, variables, keys, encoded, observed):
    seen = observed & (jnp.arange(3) == 0) if self.kind == 'first' else observed
    z = jnp.where(seen, encoded, 0.0)
    return {name: z[:, i : i + 1] for i, name in enumerate(NAMES)}

  def sample(self, variables, keys, z, observed, sampling):
    def one(key):
      return jax.random.randint(key, (3,), 0, CLASSES)

    drawn = jax.vmap(one)(keys).astype(jnp.float32)
    if self.kind == 'perfect':
      shown = jnp.take_along_axis(z, observed.argmax(1)[:, None], 1)
      drawn = jnp.where(observed.any(1, keepdims=True), shown, drawn[:, :1])
    elif self.kind == 'first':
      drawn = jnp.where(observed[:, :1], z[:, :1], drawn)
    drawn = jnp.where(observed, z, jnp.broadcast_to(drawn, z.shape))
    return self.decode(variables, keys, drawn)


class FakeInference:
  """Chunks and keys of rows, as those of a run."""

  def __init__(self, model, variables=None, chunk_size=100):
    self.model, self.variables = model, variables or {}
    self.chunk_size = chunk_size
    self.drawn: list[tuple[str, int]] = []

  def _chunked(self, fn, *trees):
    size, out = len(jax.tree.leaves(trees)[0]), []
    for start in range(0, size, self.chunk_size):
      rows = np.arange(start, min(start + self.chunk_size, size))
      part = jax.tree.map(lambda a, r=rows: jnp.asarray(np.asarray(a)[r]), trees)
      out.append(jax.device_get(fn(rows, *part)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *out)

  def _raw(self, out):
    pairs = zip(self.model.modalities, out, strict=True)
    return tuple(m.kind.to_data(x) for m, x in pairs)

  def encode(self, x):
    return self._chunked(lambda _, x: self.model.encode(self.variables, x), tuple(x))

  def sample(self, encoded, observed, *, key, sampling=None, rows=None):
    sampling = sampling or next(iter(self.model.samplings))
    numbers = np.arange(len(observed)) if rows is None else rows
    self.drawn.append((sampling, len(observed)))
    return self._chunked(
      lambda _, numbers, encoded, observed: self._raw(
        self.model.sample(
          self.variables, row_keys(key, numbers), encoded, observed, sampling
        )
      ),
      numbers,
      encoded,
      observed,
    )

  def latents(self, encoded, observed, *, key):
    return self._chunked(
      lambda rows, encoded, observed: self.model.latents(
        self.variables, row_keys(key, rows), encoded, observed
      ),
      encoded,
      observed,
    )

  def reconstruct(self, encoded, *, key):
    return self._chunked(
      lambda rows, encoded: self._raw(
        self.model.reconstruct(self.variables, row_keys(key, rows), encoded)
      ),
      encoded,
    )

  def per_row(self, fn, key, *trees, name):
    return self._chunked(
      lambda rows, *trees: fn(self.variables, row_keys(key, rows), *trees), *trees
    )

  def map_chunks(self, fn, variables, *trees):
    return self._chunked(lambda _, *trees: fn(variables, *trees), *trees)


METRICS = dict.fromkeys(
  ('coherence', 'coherence_macro', 'f1', 'f1_by_entry', 'accuracy', 'r2', 'mse',
   'joint_coherence', 'joint_coherence_with_first', 'mean_agreement', 'frechet',
   'precision', 'recall'), {},
)  # fmt: skip
EVALUATORS = dict.fromkeys(
  ('readers', 'reconstruction', 'unconditional', 'conditional'), {}
)
IDENTITY = dict.fromkeys(
  ('classifier', 'unimodal', 'latents', 'score', 'energy', 'joint'), 'x@20'
)
COMMON = {'seed': 3, 'step': 20, 'model': 'fake', 'preset': 'none'}


def make_plan(problem, readers=(ReadClass(),), **config):
  spec = {
    'split': 'test',
    'num_examples': 10_000,
    'chunk_size': 100,
    'seed': 4,
    'metrics': METRICS,
    'evaluators': EVALUATORS,
  }
  return make_evaluation(Section(spec | config, 'evaluate'), problem, readers)


def run(workdir, plan, inference, identity=None, common=COMMON, **kwargs):
  """Checks and evaluates."""
  plan.check(inference.model)
  names = [r.name for r in plan.readers if r.learner is not None]
  return evaluate(
    plan,
    inference,
    dict.fromkeys(names, {}),
    workdir=workdir,
    common=common,
    identity=IDENTITY | (identity or {}),
    **kwargs,
  )


def measure(
  workdir, kind_name, problem=None, readers=(ReadClass(),), chunk_size=100, **config
):
  """Rows of a `ClassModel`."""
  problem = problem or digits_problem()
  plan = make_plan(problem, readers, **config)
  inference = FakeInference(
    ClassModel(kind_name, problem.modalities), chunk_size=chunk_size
  )
  return run(workdir, plan, inference)


def values(rows, metric, **fields):
  return [
    r['value']
    for r in rows
    if r['metric'] == metric and all(r.get(k) == v for k, v in fields.items())
  ]


def stored_rows(workdir):
  lines = pathlib.Path(workdir, 'results.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='session')
def fakes():
  """This module, for tests in other files."""
  names = {k: v for k, v in globals().items() if not k.startswith('_')}
  return types.SimpleNamespace(**names)
