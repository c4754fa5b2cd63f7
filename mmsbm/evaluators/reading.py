"""What readers say of examples, computed when a metric first looks at it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmsbm.evaluators.readers import Reader
from mmsbm.metrics.base import Reading

PyTree = Any
Examples = tuple[np.ndarray, ...]


class Deferred:
  """A `Reading` that is made when it is first looked at."""

  def __init__(self, annotation: str, make: Callable[[], Reading]):
    self.annotation, self._make = annotation, make

  @functools.cached_property
  def _reading(self) -> Reading:
    return self._make()

  @property
  def prediction(self) -> np.ndarray | None:
    return self._reading.prediction

  @property
  def features(self) -> np.ndarray | None:
    return self._reading.features

  def take(self, rows: np.ndarray) -> 'Deferred':
    return Deferred(self.annotation, lambda: self._reading.take(rows))


# What each reader says of each modality that it reads, by their names.
Readings = dict[str, dict[str, Deferred]]


class ReadingRoom:
  """Readers with their variables."""

  def __init__(
    self,
    readers: tuple[Reader, ...],
    variables: Mapping[str, PyTree],
    names: tuple[str, ...],
    inference: Any,
  ):
    """Loads nothing yet.

    Args:
      readers: in the order in which metrics choose among them.
      variables: of those that are trained in the run, by name.
      names: of the modalities.
      inference: what runs compiled readers.
    """
    self._readers, self._names, self._inference = readers, names, inference
    self._loaded = dict(variables)
    self._compiled = tuple(reader for reader in readers if reader.compiled)

  def read(self, x: Examples) -> Readings:
    """Reads raw examples: {modality: {reader: reading}}, each when it is looked at.

    Compiled readers read all modalities in one program.
    """

    @functools.cache
    def compiled():
      return self._inference.map_chunks(
        self._compiled_fn, self._variables(self._compiled), x
      )

    def make(reader, name, array):
      if reader.compiled:
        return lambda: Reading(*compiled()[name][reader.name], reader.annotation)
      return lambda: reader(self._variables((reader,))[reader.name], name, array)

    return {
      name: {
        reader.name: Deferred(reader.annotation, make(reader, name, array))
        for reader in self._readers
        if name in reader.modalities
      }
      for name, array in zip(self._names, x, strict=True)
    }

  @functools.cached_property
  def _compiled_fn(self) -> Callable:
    """Of variables and examples: {modality: {reader: (prediction, features)}}."""

    def fn(variables, x):
      out = {name: {} for name in self._names}
      for reader in self._compiled:
        for name, array in zip(self._names, x, strict=True):
          if name in reader.modalities:
            reading = reader(variables[reader.name], name, array)
            out[name][reader.name] = reading.prediction, reading.features
      return out

    return jax.jit(fn)

  def _variables(self, readers: Sequence[Reader]) -> dict[str, PyTree]:
    for reader in readers:
      if reader.name not in self._loaded:
        self._loaded[reader.name] = reader.load()
    return {reader.name: self._loaded[reader.name] for reader in readers}


def describe(reader: Reader) -> Any:
  """The fields of a reader, as far as no step of the run stands for them."""
  if reader.learner is not None:
    return None
  return {
    'class': f'{type(reader).__module__}:{type(reader).__qualname__}',
    **{f.name: str(getattr(reader, f.name)) for f in dataclasses.fields(reader)},
  }
