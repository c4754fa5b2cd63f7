"""A trained model beside the examples that it is measured on."""

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmsbm.evaluators.base import EvaluationPlan, Row, take
from mmsbm.evaluators.readers import READERS_STEP
from mmsbm.evaluators.reading import Examples, ReadingRoom, Readings, describe
from mmsbm.infra.metric_writer import to_plain
from mmsbm.infra.rng import fold_in_name
from mmsbm.metrics.base import Target

PyTree = Any

# Goes up when a measurement changes: what older code has measured is measured again.
VERSION = 5

# Attributes of models that draw when they decode; no step stands for them.
_DECODING = ('decoder_sampler', 'decoder_guidance', 'refiner_sampler')


def describe_decoding(model: Any) -> dict[str, str]:
  """What a model draws with when it decodes, beside its networks."""
  parts = {name: getattr(model, name, None) for name in _DECODING}
  return {name: repr(part) for name, part in parts.items() if part is not None}


class Evaluation:
  """A trained model and the examples that it is measured on.

  Attributes:
    plan: what is to be measured.
    inference: the model with its variables.
    workdir: folder of the run.
    key: of all that is drawn.
    reading: what reads examples.
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
    self.key = fold_in_name(jax.random.key(plan.seed), 'evaluate')
    self._identity = identity
    self.reading = ReadingRoom(plan.readers, reader_variables, plan.names, inference)

  # --- examples ---------------------------------------------------------------

  @property
  def problem(self):
    return self.plan.problem

  @property
  def model(self):
    return self.inference.model

  @property
  def names(self) -> tuple[str, ...]:
    return self.plan.names

  @property
  def main_sampling(self) -> str:
    """The run's own way of sampling."""
    return next(iter(self.model.samplings))

  @property
  def rows(self) -> np.ndarray:
    return self.plan.rows

  @property
  def present(self) -> np.ndarray:
    return self.plan.present

  @functools.cached_property
  def x(self) -> Examples:
    """Raw examples, one array [n, *shape] per modality."""
    arrays = self.problem.dataset.splits[self.plan.split].arrays
    return tuple(np.asarray(arrays[name][self.rows]) for name in self.names)

  @functools.cached_property
  def annotations(self) -> dict[str, np.ndarray]:
    """What is known of the examples, by name; [n] or [n, A]."""
    known = self.problem.dataset.splits[self.plan.split].annotations
    return {name: np.asarray(array[self.rows]) for name, array in known.items()}

  @functools.cached_property
  def encoded(self) -> PyTree:
    return self.inference.encode(self.x)

  @functools.cached_property
  def _read_real(self) -> Readings:
    return self.reading.read(self.x)

  # --- what is generated --------------------------------------------------------

  def generate(self, given: np.ndarray, sampling: str) -> tuple[np.ndarray, Examples]:
    """Generates a tuple for each example that has all given modalities.

    The same subset gets the same noise in every sampling, and an example the same
    whichever other ones there are.

    Args:
      given: [M] bool.
      sampling: a name of the model's samplings.

    Returns:
      Positions [k] among the examples, and the raw examples [k, *shape] of every
      modality.
    """
    positions = np.flatnonzero(self.present[:, given].all(axis=1))
    name = 'given ' + ','.join(np.array(self.names)[given])
    observed = np.broadcast_to(given, (len(positions), len(given)))
    x = self.inference.sample(
      take(self.encoded, positions),
      observed,
      key=fold_in_name(self.key, name),
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
      positions: of the k among the examples; all of them by default.
    """
    everything = np.arange(len(self.rows))
    positions = everything if positions is None else positions
    read, targets = self.reading.read(x), {}
    for i, modality in enumerate(self.problem.modalities):
      whole = Target(
        modality=modality,
        generated=x[i],
        real=self.x[i],
        present=self.present[:, i],
        annotations=self.annotations,
        read_generated={},
        read_real=self._read_real[modality.name],
      )
      if not np.array_equal(positions, everything):
        whole = dataclasses.replace(whole, generated=self.x[i]).take(positions)
      targets[modality.name] = dataclasses.replace(
        whole, generated=x[i], read_generated=read[modality.name]
      )
    return targets

  def conditional_targets(
    self, given: np.ndarray, sampling: str
  ) -> tuple[np.ndarray, dict[str, Target]]:
    """Generates as `generate` does; positions, and the modalities not given."""
    positions, x = self.generate(given, sampling)
    targets = self.targets(x, positions)
    shown = dict(zip(self.names, given, strict=True))
    return positions, {name: t for name, t in targets.items() if not shown[name]}

  # --- rows -----------------------------------------------------------------------

  def row(self, metric: str, value: float, stderr: float | None, **fields) -> Row:
    """A row of results.jsonl; it is of all examples unless `n` says otherwise."""
    place = {'split': self.plan.split, 'evaluation_seed': self.plan.seed}
    number = {'metric': metric, 'value': value, 'stderr': stderr}
    return {**number, **fields, 'n': fields.get('n', len(self.rows)), **place}

  def sampling_fields(self, sampling: str, num_given: int) -> Row:
    """What a row says of the way of sampling."""
    return {
      'sampling': sampling,
      **self.model.describe(sampling),
      'nfe': self.model.num_evaluations(sampling, num_given),
    }

  def warn(self, text: str) -> None:
    """Says why something that was asked for is not measured."""
    print(f'evaluate: {text}', file=sys.stderr)

  # --- identity ---------------------------------------------------------------------

  def reading_options(self) -> dict[str, Any]:
    """What a measurement by metrics and readers depends on besides its steps."""
    return {
      'metrics': self.plan.metric_specs,
      'readers': {r.name: describe(r) for r in self.plan.readers},
    }

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
    return {
      'decoding': describe_decoding(self.model),
      'chunk_size': self.plan.chunk_size,
    }

  def fingerprint(self, uses: frozenset[str], options: Mapping[str, Any]) -> str:
    """A hexadecimal digest of all that a measurement depends on."""
    plan = self.plan
    parts = [
      VERSION,
      {step: self._identity[step] for step in uses},
      options,
      {'split': plan.split, 'num_examples': plan.num_examples, 'seed': plan.seed},
      self.problem.dataset.content_hash,
    ]
    text = json.dumps(to_plain(parts), sort_keys=True)
    return hashlib.sha1(text.encode()).hexdigest()[:16]
