"""Readers: networks that look at examples, trained in the run or read from a file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mmsbm.config import Section, build, nearest
from mmsbm.evaluators.inception import inception_features
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path
from mmsbm.learners.classifier import Classifier
from mmsbm.methods.base import Stage, make_training
from mmsbm.metrics.base import Reading
from mmsbm.modalities import Image
from mmsbm.nn.classifiers import CLASSIFIERS
from mmsbm.nn.inception import load_inception
from mmsbm.nn.random_conv import random_features, random_weights

PyTree = Any

# The step that trains readers.
READERS_STEP = 'classifier'


class Reader(Protocol):
  """A network that says something of examples; a frozen dataclass.

  What was measured with one that is not trained in the run is measured again when its
  fields change.

  Attributes:
    name: its key in config.readers.
    modalities: names of the modalities that it reads.
    annotation: what its predictions are of; '' if it makes none.
    compiled: whether a call can be traced by JAX. Then it is, and sees chunks of
      examples that lie on the devices. Otherwise it gets all examples as an array.
    learner: what trains it in the run, or None.
  """

  name: str
  modalities: tuple[str, ...]
  annotation: str
  compiled: bool
  learner: Any | None

  def load(self) -> PyTree:
    """Returns the variables of a reader that is not trained in the run."""

  def __call__(self, variables: PyTree, modality: str, x: Any) -> Reading:
    """Reads raw examples [N, *shape] of a modality."""


def _check(names: tuple[str, ...], problem: Any, reader: str) -> None:
  """Refuses names of modalities that a reader cannot read."""
  known = [m.name for m in problem.modalities]
  if isinstance(names, str) or not names:
    raise UserError(f'{reader!r} needs `modalities`: a list of some of {known}.')
  for name in names:
    if name not in known:
      raise UserError(
        f'{reader!r} cannot read {name!r}, which is no modality; they are {known}.'
        + nearest(name, known)
      )
  if len(set(names)) < len(names):
    raise UserError(f'{reader!r} has a modality twice: {list(names)}.')


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
  """A `Reader` that learns an annotation of the training split.

  Its variables are those of the step that trains it, so it has no `load`.
  """

  name: str
  learner: Classifier
  has_features: bool = True

  compiled = True

  @property
  def modalities(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.learner.modalities)

  @property
  def annotation(self) -> str:
    return self.learner.annotation

  def __call__(self, variables, modality, x):
    """Reads raw examples [B, *shape]; see `Reader`."""
    kind = next(m.kind for m in self.learner.modalities if m.name == modality)
    logits, features = self.learner.network.apply(variables, kind.to_model(x), False)
    features = features if self.has_features else None
    return Reading(logits.argmax(-1), features, self.annotation)


def make_classifier(
  problem: Any,
  *,
  name: str,
  modalities: tuple[str, ...],
  network: Mapping[str, Any],
  num_steps: int,
  batch_size: int,
  ema_decay: float,
  optimizer: Mapping[str, Any],
  annotation: str = 'class',
  has_features: bool = True,
) -> TrainedClassifier:
  """Makes a classifier that is trained in the run.

  Args:
    problem: modalities and data set.
    name: of the reader.
    modalities: those that it reads; all of one shape.
    network: one of CLASSIFIERS.
    num_steps, batch_size, ema_decay, optimizer: of its training, see `reader_stage`.
    annotation: the class labels that it learns.
    has_features: whether distributions are compared on its features.
  """
  del num_steps, batch_size, ema_decay, optimizer
  _check(modalities, problem, name)
  known = sorted(problem.num_classes)
  num_classes = problem.num_classes.get(annotation)
  if num_classes is None:
    have = f'the class labels {known}' if known else 'no class labels'
    raise UserError(
      f'the data have no annotation {annotation!r} of classes, so no classifier can be '
      f'trained on it: remove config.readers.{name}, or choose what they have: {have}.'
      + nearest(annotation, known)
    )
  if num_classes < 2:
    raise UserError(
      f'annotation {annotation!r} has {num_classes} class, so there is nothing to tell '
      f'apart: remove config.readers.{name}.'
    )
  indices = tuple(i for i, m in enumerate(problem.modalities) if m.name in modalities)
  read = tuple(problem.modalities[i] for i in indices)
  shapes = {m.model_shape for m in read}
  if len(shapes) > 1:
    raise UserError(
      f'modalities read by {name!r} must have one shape, not {sorted(shapes)}: give '
      'each shape a reader of its own.'
    )
  network = build(CLASSIFIERS, network, num_classes=num_classes)
  learner = Classifier(name, annotation, network, read, indices)
  return TrainedClassifier(name, learner, has_features)


@dataclasses.dataclass(frozen=True)
class Inception:
  """The `Reader` of published Fréchet distances, on pictures.

  Attributes:
    weights: file of its weights, made once by `mmsbm.tools.convert_inception`.
  """

  name: str
  weights: str
  modalities: tuple[str, ...]

  compiled = False
  annotation = ''
  learner = None

  def load(self) -> PyTree:
    """Reads the weights."""
    return load_inception(local_path(self.weights))

  def __call__(self, variables, modality, x):
    """Reads raw pictures [N, H, W, 1 or 3]; see `Reader`."""
    del modality
    return Reading(None, inception_features(variables, np.asarray(x)))


def make_inception(
  problem: Any, *, name: str, weights: str, modalities: tuple[str, ...] = ()
) -> Inception | None:
  """Makes the reader of Inception features.

  Args:
    problem: modalities and data set.
    name: of the reader.
    weights: file of `mmsbm.tools.convert_inception`; '' for no such reader.
    modalities: names of pictures; all of the kind 'image' by default.
  """
  if not weights:
    return None
  pictures, images = [], []
  for m in problem.modalities:
    if len(m.shape) == 3 and m.shape[-1] in (1, 3) and m.kind.dtype == np.uint8:
      pictures.append(m.name)
      if isinstance(m.kind, Image):
        images.append(m.name)
  names = modalities or tuple(images)
  _check(names, problem, name)
  for modality in names:
    if modality not in pictures:
      raise UserError(
        f'{name!r} reads 8-bit pictures with 1 or 3 channels, and modality '
        f'{modality!r} is none.'
      )
  if not os.path.isfile(weights):
    raise UserError(
      f'config.readers.{name}.weights: there is no file {weights!r}; make it once with '
      'python -m mmsbm.tools.convert_inception.'
    )
  return Inception(name, weights, tuple(names))


@dataclasses.dataclass(frozen=True)
class RandomConv:
  """The `Reader` of `random_features`, which nothing was trained on.

  Attributes:
    parts: kinds and number of channels of the pictures that it reads, by modality.
    seed: of its weights.
  """

  name: str
  parts: Mapping[str, tuple[Any, int]]
  seed: int

  compiled = True
  annotation = ''
  learner = None

  @property
  def modalities(self) -> tuple[str, ...]:
    return tuple(self.parts)

  def load(self) -> PyTree:
    """Draws the weights, by number of channels."""
    channels = {number for _, number in self.parts.values()}
    return {str(c): random_weights(c, self.seed) for c in sorted(channels)}

  def __call__(self, variables, modality, x):
    """Reads raw pictures [B, H, W, C]; see `Reader`."""
    kind, channels = self.parts[modality]
    return Reading(None, random_features(variables[str(channels)], kind.to_model(x)))


def make_random_conv(
  problem: Any, *, name: str, modalities: tuple[str, ...] = (), seed: int = 0
) -> RandomConv | None:
  """Makes the reader of features of random convolutions; None without pictures.

  Args:
    problem: modalities.
    name: of the reader.
    modalities: names of pictures; all by default.
    seed: of its weights, the same in all runs that are compared.
  """
  pictures = {m.name: m for m in problem.modalities if len(m.model_shape) == 3}
  names = modalities or tuple(pictures)
  if not names:
    return None
  _check(names, problem, name)
  for modality in names:
    if modality not in pictures:
      raise UserError(f'{name!r} reads pictures, and modality {modality!r} is none.')
  chosen = {n: (pictures[n].kind, pictures[n].model_shape[-1]) for n in names}
  return RandomConv(name, chosen, seed)


READERS = {
  'classifier': make_classifier,
  'inception': make_inception,
  'random_conv': make_random_conv,
}


def make_readers(section: Section, problem: Any) -> tuple[Reader, ...]:
  """Makes the readers of config.readers, in their order.

  Args:
    section: by name of the reader `name`, a key of READERS or 'package.module:Class',
      and its arguments. An empty one means that there is no such reader, as does a
      maker that returns None.
    problem: modalities and data set; given to readers that ask for it, as is `name`.
  """
  readers = []
  for name, spec in section.sections():
    reader = spec.make(READERS, name=name, problem=problem) if spec else None
    if reader is not None:
      _check(reader.modalities, problem, name)
      readers.append(reader)
  return tuple(readers)


def reader_stage(
  readers: tuple[Reader, ...], section: Section, problem: Any
) -> Stage | None:
  """Returns the step that trains readers side by side; None if there is none.

  Args:
    readers: from `make_readers`.
    section: config.readers.
    problem: modalities, data set and key of the run.
  """
  trained = [reader for reader in readers if reader.learner is not None]
  if not trained:
    return None
  labels = {reader.annotation: np.zeros(1, np.int32) for reader in trained}

  def labelled(batch: dict[str, Any] | None) -> dict[str, Any] | None:
    known = batch and {k: v for k, v in batch['annotations'].items() if k in labels}
    return batch and batch | {'annotations': known}

  return Stage(
    name=READERS_STEP,
    trainings=tuple(
      make_training(section.section(r.name), r.learner, problem.key) for r in trained
    ),
    example=problem.blank | {'annotations': labels},
    source=lambda inputs: labelled(problem.examples()),
    held_out=lambda inputs: labelled(problem.held_out()),
  )
