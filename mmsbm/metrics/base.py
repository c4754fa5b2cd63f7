"""What a metric is, and what it is shown.

A metric compares examples; it knows nothing of models and of ways of sampling. An
evaluator makes the examples, and takes all means, so that an average and its error
mean the same for every metric.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from mmsbm.modalities import Modality

# 'one': the nearer to 1.
Better = Literal['high', 'low', 'one']

# Fewer examples make no distribution to compare.
MIN_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a network says of examples of one modality.

  Attributes:
    prediction: classes [N]; None from a network that predicts nothing.
    features: [N, F]; None from a network that has none to show.
    annotation: what the predictions are of, '' for nothing.
  """

  prediction: np.ndarray | None
  features: np.ndarray | None
  annotation: str = ''

  def take(self, rows: np.ndarray) -> 'Reading':
    """Keeps the examples `rows`, indices or bool [N]."""
    arrays = (None if a is None else a[rows] for a in (self.prediction, self.features))
    return Reading(*arrays, self.annotation)


@dataclasses.dataclass(frozen=True)
class Target:
  """Generated examples of one modality, and the real ones that they belong to.

  Row i of everything belongs to one example of the evaluation. Examples that were
  generated from nothing stand beside real ones to which they do not belong.

  Attributes:
    modality: the modality.
    generated: raw examples [N, *shape].
    real: raw examples [N, *shape], zero where there is none.
    present: [N] bool, whether there is a real one.
    annotations: classes [N], -1 where unknown, or matrices [N, A], by name.
    read_generated: what readers say of the generated examples, by their names.
    read_real: what they say of the real ones.
  """

  modality: Modality
  generated: np.ndarray
  real: np.ndarray
  present: np.ndarray
  annotations: Mapping[str, np.ndarray]
  read_generated: Mapping[str, Reading]
  read_real: Mapping[str, Reading]

  def __len__(self) -> int:
    return len(self.present)

  def take(self, rows: np.ndarray) -> 'Target':
    """Keeps the examples `rows`, indices or bool [N]."""
    return dataclasses.replace(
      self,
      generated=self.generated[rows],
      real=self.real[rows],
      present=self.present[rows],
      annotations={name: array[rows] for name, array in self.annotations.items()},
      read_generated={name: r.take(rows) for name, r in self.read_generated.items()},
      read_real={name: r.take(rows) for name, r in self.read_real.items()},
    )

  def complete(self) -> 'Target':
    """Keeps the examples that have a real one."""
    return self if self.present.all() else self.take(self.present)

  def measured_by(self, metric: str) -> bool:
    """Returns whether the kind of modality asks for a metric of this name."""
    return metric in self.modality.kind.metrics

  def classes(
    self,
    reader: str = '',
    annotation: str = '',
    *,
    number: int = 0,
    of_real: bool = False,
  ) -> Reading | None:
    """Returns what a reader says of the classes of the generated examples.

    Args:
      reader: its name; '' for any that predicts.
      annotation: what is to be predicted; '' for what the first one predicts.
      number: of several readers the one that is meant, from 0.
      of_real: whether to return what it says of the real ones.
    """
    found = []
    for name, reading in (self.read_real if of_real else self.read_generated).items():
      if reading.annotation and reader in ('', name):
        annotation = annotation or reading.annotation
        found += [reading] if reading.annotation == annotation else []
    return found[number] if len(found) > number else None

  def seen_and_true(
    self, reader: str = '', annotation: str = ''
  ) -> tuple[str, np.ndarray, np.ndarray | None] | None:
    """Returns annotation, classes seen [N] and true ones [N], -1 where unknown.

    A label says its class itself, and is an annotation of its own. True classes that
    the data do not have are None, and so is all where nothing reads classes.
    """
    read = self.classes(reader, annotation)
    if read is not None:
      return read.annotation, read.prediction, self.annotations.get(read.annotation)
    if self.measured_by('accuracy') and not reader and not annotation:
      true = np.where(self.present, self.real, -1)
      return f'values of {self.modality.name}', np.asarray(self.generated), true
    return None


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One number of a set of examples.

  Attributes:
    value: NaN where it cannot be measured; `note` then says why.
    stderr: its standard error over the draw of the examples.
    note: what a reader of the number should know, '' for nothing.
    fields: what tells several numbers of one metric apart, e.g. the reader's name.
    influence: [N], what each example adds to the error: stderr^2 is the sum of their
      squares. With it the average of several numbers of the same examples has an
      error that knows of their dependence.
  """

  value: float
  stderr: float | None
  note: str = ''
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  influence: np.ndarray | None = None


def too_few() -> Estimate:
  """Returns what takes the place of a number that needs more examples."""
  return Estimate(float('nan'), None, f'fewer than {MIN_EXAMPLES} examples')


def of_features(
  target: Target, reader: str, compare: Callable[[np.ndarray, np.ndarray], Estimate]
) -> list[Estimate]:
  """Compares the features of real and generated examples of each reader that has some.

  Args:
    target: the examples.
    reader: the name of one; '' for all of them.
    compare: real and generated features [N, F] -> the number.
  """
  estimates = []
  for name, read in target.read_generated.items():
    if reader in ('', name) and read.features is not None:
      is_enough = len(read.features) >= MIN_EXAMPLES
      real = target.read_real[name].features
      estimate = compare(real, read.features) if is_enough else too_few()
      estimates.append(dataclasses.replace(estimate, fields={'features': name}))
  return estimates


class Described(Protocol):
  """What every metric says of itself.

  Attributes:
    name: key of `mmsbm.metrics.METRICS`.
    better: whether high or low values are good, or those near 1.
    about: one or two sentences that the report prints.
  """

  name: str
  better: Better
  about: str


class PerExample(Described, Protocol):
  """A number for every example; the evaluator takes means and standard errors.

  A metric whose classes of examples should count alike in means has, besides, a method
  `groups(target)` that returns the class [N] of every example, -1 for none.
  """

  def __call__(self, target: Target) -> np.ndarray | None:
    """Returns values [N], bool for shares, NaN where an example does not count.

    None where the metric does not apply to the modality or the data.
    """


class OfSets(Described, Protocol):
  """A number for two sets of examples, all of which have a real one.

  Attributes:
    paired: whether a generated example is compared with the real one that it belongs
      to. Otherwise it is a comparison of two distributions, which is made once for
      each modality, since it is costly and varies little with what is given.
  """

  paired: bool

  def __call__(self, target: Target) -> list[Estimate]:
    """Returns the numbers; none where the metric does not apply."""


class OfTuples(Described, Protocol):
  """A number for modalities that were generated together; `tuples` is always True."""

  tuples: bool

  def __call__(self, targets: Mapping[str, Target]) -> list[Estimate]:
    """Returns the numbers; none where the metric does not apply."""


class OfDraws(Described, Protocol):
  """Numbers for every example, of K draws for the same condition.

  `draws` is always True. K is 1 where they are the examples themselves.
  """

  draws: bool

  def __call__(self, draws: Sequence[Mapping[str, Target]]) -> Mapping[str, np.ndarray]:
    """Returns values [N] by target, NaN where an example does not count.

    A number of several targets together stands under 'all'.
    """


Metric = PerExample | OfSets | OfTuples | OfDraws


def kind_of(metric: Metric) -> str:
  """What it measures: 'examples', 'pairs', 'distributions', 'tuples' or 'draws'.

  'pairs' and 'distributions' are `OfSets`.
  """
  if hasattr(metric, 'draws'):
    return 'draws'
  if hasattr(metric, 'tuples'):
    return 'tuples'
  if hasattr(metric, 'paired'):
    return 'pairs' if metric.paired else 'distributions'
  return 'examples'
