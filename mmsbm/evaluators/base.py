"""What an evaluator is, what it gives, and the plan of what is measured."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from mmsbm.evaluators.readers import Reader
from mmsbm.infra.bounds import COUNT, COUNT_OR_NONE, Interval, check_value
from mmsbm.infra.errors import UserError
from mmsbm.metrics.base import Metric

PyTree = Any
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """A unit of work whose rows are kept.

  It is made again when anything changes of what is listed here, or of the data, or of
  the examples that are evaluated.

  Attributes:
    name: of its file.
    uses: names of the steps of the run that it depends on.
    options: numbers and words that it depends on.
    run: makes its rows.
    about: what the report prints of the metrics of its rows: {metric: {'about': ...,
      'better': 'high' or 'low'}}.
    is_kept: False for one without rows, whose `run` itself looks what is there.
  """

  name: str
  uses: frozenset[str]
  options: Mapping[str, Any]
  run: Callable[[], list[Row]]
  about: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
  is_kept: bool = True


class Evaluator(Protocol):
  """Something that measures; its fields are its options in the config."""

  def check(self, plan: 'EvaluationPlan', model: Any) -> None:
    """Raises UserError, before training, for what would end it after training."""

  def measurements(self, evaluation: Any) -> Sequence[Measurement]:
    """Returns what there is to measure of an `Evaluation`; nothing is computed yet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
  """What is to be measured, on which examples; made before training.

  Attributes:
    problem: modalities and data set.
    readers: networks that read examples.
    metrics: by the name that rows give them.
    metric_specs: what the config says of each metric.
    evaluators: by name.
    split: name of the split.
    num_examples: the most that are used of it.
    chunk_size: rows at a time; the numbers depend on it only where a sampler lets
      the rows of a chunk depend on each other.
    seed: of the choice of examples and of all that is drawn.
  """

  problem: Any
  readers: tuple[Reader, ...]
  metrics: Mapping[str, Metric]
  metric_specs: Mapping[str, Any]
  evaluators: Mapping[str, Evaluator]
  split: str
  num_examples: int
  chunk_size: int
  seed: int

  def check(self, model: Any) -> None:
    """Refuses what cannot be measured of this model with these data."""
    if not len(self.rows):
      raise UserError(f'no {self.split} example has any modality.')
    for name, evaluator in self.evaluators.items():
      try:
        evaluator.check(self, model)
      except UserError as e:
        raise UserError(f'config.evaluate.evaluators.{name}: {e}') from e

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.problem.modalities)

  @property
  def part(self) -> Any:
    """The split."""
    return self.problem.dataset.splits[self.split]

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """Numbers of the examples in their split, in order [n]."""
    usable = np.flatnonzero(np.asarray(self.part.present).any(axis=1))
    # A random part: files are often sorted by class.
    order = np.random.default_rng(self.seed).permutation(len(usable))
    return usable[np.sort(order[: self.num_examples])]

  @functools.cached_property
  def present(self) -> np.ndarray:
    """Which modalities the examples have, [n, M] bool."""
    return np.asarray(self.part.present[self.rows])


def take(tree: PyTree, positions: np.ndarray) -> PyTree:
  """Rows of all arrays of a tree."""
  return jax.tree.map(lambda a: a[positions], tree)


def is_number(value: float | None) -> bool:
  """Whether a value could be measured."""
  return value is not None and math.isfinite(value)


def check_draws(options: Any) -> None:
  """Refuses a field `num_draws` that makes no forecast."""
  check_value('num_draws', options.num_draws, int, Interval(2, COUNT.high))


def check_least(options: Any, least: int, *names: str) -> None:
  """Refuses fields of `options` that are no whole numbers of at least 0 or 1."""
  for name in names:
    bounds = COUNT if least else COUNT_OR_NONE
    check_value(name, getattr(options, name), int, bounds)
