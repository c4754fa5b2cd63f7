"""A trained model beside the examples that it is measured on."""

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmsbm.evaluators.base import EvaluationPlan, Row, is_number, take
from mmsbm.evaluators.readers import READERS_STEP, Reader
from mmsbm.evaluators.reading import Examples, ReadingRoom, Readings
from mmsbm.infra.metric_writer import to_plain
from mmsbm.infra.rng import fold_in_name, make_key
from mmsbm.metrics.base import Target

PyTree = Any

# Goes up when a measurement changes: what older code has measured is measured again.
VERSION = 6


def describe_decoding(model: Any) -> dict[str, str]:
  """What a model draws with when it decodes, for which no step stands."""
  names = ('decoder_sampler', 'decoder_guidance', 'refiner_sampler')
  parts = {name: getattr(model, name, None) for name in names}
  return {name: repr(part) for name, part in parts.items() if part is not None}


def describe_reader(reader: Reader) -> dict[str, str]:
  """The class and the fields of a reader."""
  fields = {f.name: str(getattr(reader, f.name)) for f in dataclasses.fields(reader)}
  return {'class': f'{type(reader).__module__}:{type(reader).__qualname__}', **fields}


class Evaluation:
  """A trained model and the examples that it is measured on.

  Attributes:
    plan: what is to be measured; `problem`, `names`, `rows` and `present` are its own.
    inference: the model with its variables.
    model: the model.
    main_sampling: name of the run's own way of sampling, if the model has any.
    workdir: folder of the run.
    key: of all that is drawn.
  """

  def __init__(
    self,
    plan: EvaluationPlan,
    inference: Any,
    reader_variables: Mapping[str, PyTree],
    *,
    workdir: str,
    identity: Mapping[str, str],
  ):
    self.plan, self.inference, self.workdir = plan, inference, workdir
    self.problem, self.names = plan.problem, plan.names
    self.rows, self.present = plan.rows, plan.present
    self.model = inference.model
    self.main_sampling = next(iter(self.model.samplings), None)
    self.key = fold_in_name(make_key(plan.seed), 'evaluate')
    self._identity = identity
    self._room = ReadingRoom(plan.readers, reader_variables, plan.names, inference)

  # --- examples ---------------------------------------------------------------

  @functools.cached_property
  def x(self) -> Examples:
    """Raw examples, one array [n, *shape] per modality."""
    arrays = self.plan.part.arrays
    return tuple(np.asarray(arrays[name][self.rows]) for name in self.names)

  @functools.cached_property
  def annotations(self) -> dict[str, np.ndarray]:
    """What is known of the examples, by name; [n] or [n, A]."""
    known = self.plan.part.annotations
    return {name: np.asarray(array[self.rows]) for name, array in known.items()}

  @functools.cached_property
  def encoded(self) -> PyTree:
    return self.inference.encode(self.x)

  @functools.cached_property
  def read_real(self) -> Readings:
    """What readers say of the examples."""
    return self.read(self.x)

  def read(self, x: Examples) -> Readings:
    """Reads raw examples [k, *shape] of every modality, each when it is looked at."""
    return self._room.read(x)

  # --- what is generated --------------------------------------------------------

  def generate(
    self,
    given: np.ndarray,
    sampling: str,
    *,
    among: np.ndarray | None = None,
    draw: int = 0,
  ) -> tuple[np.ndarray, Examples]:
    """Generates a tuple for each example that has all given modalities.

    The same subset gets the same noise in every sampling, and an example the same
    whichever other ones there are.

    Args:
      given: [M] bool.
      sampling: a name of the model's samplings.
      among: positions of the only examples that count; all by default.
      draw: number of the draw: others have noise of their own.

    Returns:
      Positions [k] among the examples, and the raw examples [k, *shape] of every
      modality.
    """
    has_all = self.present[:, given].all(axis=1)
    if among is not None:
      has_all &= np.isin(np.arange(len(has_all)), among)
    positions = np.flatnonzero(has_all)
    name = 'given ' + ','.join(np.array(self.names)[given])
    x = self.inference.sample(
      take(self.encoded, positions),
      np.broadcast_to(given, (len(positions), len(given))),
      key=fold_in_name(self.key, f'{name}, draw {draw}' if draw else name),
      sampling=sampling,
      rows=positions,
    )
    return positions, x

  def targets(
    self, x: Examples, positions: np.ndarray | None = None
  ) -> dict[str, Target]:
    """Puts raw examples beside the real ones that they belong to.

    Args:
      x: [k, *shape] per modality.
      positions: of the k among the examples, in order; all of them by default.
    """
    read, targets = self.read(x), {}
    for i, modality in enumerate(self.problem.modalities):
      target = Target(
        modality=modality,
        generated=self.x[i],
        real=self.x[i],
        present=self.present[:, i],
        annotations=self.annotations,
        read_generated={},
        read_real=self.read_real[modality.name],
      )
      if positions is not None and len(positions) < len(self.rows):
        target = target.take(positions)
      targets[modality.name] = dataclasses.replace(
        target, generated=x[i], read_generated=read[modality.name]
      )
    return targets

  # --- rows -----------------------------------------------------------------------

  def row(self, metric: str, value: float, stderr: float | None, **fields) -> Row:
    """A row of results.jsonl; it is of all examples unless `n` says otherwise."""
    place = {'split': self.plan.split, 'evaluation_seed': self.plan.seed}
    # An error of 0 would say that a number is certain.
    stderr = stderr if is_number(stderr) and stderr > 0 else None
    number = {'metric': metric, 'value': value, 'stderr': stderr}
    return {**number, **fields, 'n': fields.get('n', len(self.rows)), **place}

  def sampling_fields(self, sampling: str, num_given: int) -> Row:
    """What a row says of the way of sampling."""
    nfe = self.model.num_evaluations(sampling, num_given)
    return {'sampling': sampling, **self.model.describe(sampling), 'nfe': nfe}

  def warn(self, text: str) -> None:
    """Says why something that was asked for is not measured."""
    print(f'evaluate: {text}', file=sys.stderr)

  # --- identity ---------------------------------------------------------------------

  def reading_options(self) -> dict[str, Any]:
    """What a measurement by metrics and readers depends on besides its steps."""
    # One that is trained in the run has a step that stands for it.
    readers = {
      r.name: describe_reader(r) if r.learner is None else None
      for r in self.plan.readers
    }
    return {'metrics': self.plan.metric_specs, 'readers': readers}

  @property
  def reading_steps(self) -> frozenset[str]:
    """The step that trains readers, if any."""
    trained = any(reader.learner is not None for reader in self.plan.readers)
    return frozenset((READERS_STEP,) if trained else ())

  def sampling_options(self, sampling: str) -> dict[str, Any]:
    """What a draw depends on besides the steps of the model."""
    return {'sampling': self.model.describe(sampling), **self.decoding_options()}

  def decoding_options(self) -> dict[str, Any]:
    """What a decoded example depends on besides the steps of the model."""
    decoding = describe_decoding(self.model)
    return {'decoding': decoding, 'chunk_size': self.plan.chunk_size}

  def identity_of(self, uses: frozenset[str]) -> dict[str, str]:
    """What tells the results of some steps from all others."""
    return {step: self._identity[step] for step in sorted(uses)}

  def fingerprint(self, uses: frozenset[str], options: Mapping[str, Any]) -> str:
    """A hexadecimal digest of all that a measurement depends on."""
    plan = self.plan
    parts = [
      VERSION,
      self.identity_of(uses),
      options,
      {'split': plan.split, 'num_examples': plan.num_examples, 'seed': plan.seed},
      self.problem.dataset.content_hash,
    ]
    text = json.dumps(to_plain(parts), sort_keys=True)
    return hashlib.sha1(text.encode()).hexdigest()[:16]
