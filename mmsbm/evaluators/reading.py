"""What readers say of examples, computed when a metric first looks at it."""

import functools
from collections.abc import Callable, Mapping
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
    self.annotation, self._make = annotation, functools.cache(make)

  @property
  def prediction(self) -> np.ndarray | None:
    return self._make().prediction

  @property
  def features(self) -> np.ndarray | None:
    return self._make().features

  def take(self, rows: np.ndarray) -> 'Deferred':
    return Deferred(self.annotation, lambda: self._make().take(rows))


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

    Readers stand in the order in which metrics choose among them; `variables` are of
    those that are trained in the run, `names` of the modalities.
    """
    self._readers, self._names, self._inference = readers, names, inference
    self._loaded = dict(variables)
    # Of a reader's variables and examples: {modality: (prediction, features)}.
    self._compiled = {
      r.name: jax.jit(functools.partial(self._read_compiled, r))
      for r in readers
      if r.compiled
    }

  def read(self, x: Examples) -> Readings:
    """Reads raw examples, each when it is looked at.

    A compiled reader reads all modalities in one program.
    """

    by_name = {reader.name: reader for reader in self._readers}

    @functools.cache
    def compiled(name):
      return self._inference.map_chunks(
        self._compiled[name], self._variables(by_name[name]), x
      )

    def make(reader, name, array):
      if reader.compiled:
        return Reading(*compiled(reader.name)[name], reader.annotation)
      return reader(self._variables(reader), name, array)

    return {
      name: {
        reader.name: Deferred(
          reader.annotation, functools.partial(make, reader, name, array)
        )
        for reader in self._readers
        if name in reader.modalities
      }
      for name, array in zip(self._names, x, strict=True)
    }

  def _read_compiled(self, reader, variables, x):
    readings = {
      name: reader(variables, name, array)
      for name, array in zip(self._names, x, strict=True)
      if name in reader.modalities
    }
    return {name: (r.prediction, r.features) for name, r in readings.items()}

  def _variables(self, reader: Reader) -> PyTree:
    if reader.name not in self._loaded:
      self._loaded[reader.name] = reader.load()
    return self._loaded[reader.name]
