"""From a config to an `EvaluationPlan`, and from that to results.jsonl.

Each measurement is written to `evaluation/` when it is finished; a call that finds it
there, made from the same things, does not repeat it. results.jsonl is all of them put
together.
"""

import json
import os
import pathlib
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from mmsbm.config import Section, find, nearest, plain
from mmsbm.data.dataset import SPLITS
from mmsbm.evaluators.aggregate import compare_by_example
from mmsbm.evaluators.base import EvaluationPlan, Row
from mmsbm.evaluators.checks import KeptShare, Memorised
from mmsbm.evaluators.draws import Draws
from mmsbm.evaluators.evaluation import Evaluation, describe_decoding
from mmsbm.evaluators.generated import Conditional, Reconstruction, Unconditional
from mmsbm.evaluators.latents import LinearProbe
from mmsbm.evaluators.likelihood import Likelihood
from mmsbm.evaluators.reader_accuracy import ReaderAccuracy
from mmsbm.evaluators.readers import Reader
from mmsbm.evaluators.real import RealData
from mmsbm.evaluators.samples import Samples
from mmsbm.infra import digests
from mmsbm.infra.bounds import SEED
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.metric_writer import to_plain, write_results
from mmsbm.infra.rng import make_key
from mmsbm.metrics import METRICS

EVALUATORS = {
  'readers': ReaderAccuracy,
  'real_data': RealData,
  'reconstruction': Reconstruction,
  'unconditional': Unconditional,
  'conditional': Conditional,
  'draws': Draws,
  'likelihood': Likelihood,
  'linear_probe': LinearProbe,
  'kept_share': KeptShare,
  'memorised': Memorised,
  'samples': Samples,
}


def make_evaluation(
  section: Section, problem: Any, readers: tuple[Reader, ...]
) -> EvaluationPlan:
  """Makes all that measures.

  Args:
    section: config.evaluate.
    problem: modalities and data set.
    readers: from `make_readers`.
  """
  section.known(
    ('split', 'num_examples', 'chunk_size', 'seed', 'metrics', 'evaluators')
  )
  metrics = _make_parts(section, 'metrics', METRICS, ('name', 'better', 'about'))
  evaluators = _make_parts(section, 'evaluators', EVALUATORS, ('check', 'measurements'))
  names = [r.name for r in readers]
  for name, metric in metrics.items():
    if getattr(metric, 'reader', '') not in ('', *names):
      raise UserError(
        f'config.evaluate.metrics.{name}: there is no reader {metric.reader!r}; they '
        f'are {names}.' + nearest(metric.reader, names)
      )
  return EvaluationPlan(
    problem=problem,
    readers=readers,
    metrics=metrics,
    metric_specs=plain(section['metrics']),
    evaluators=evaluators,
    split=section.choice('split', SPLITS),
    num_examples=section.count('num_examples'),
    chunk_size=section.count('chunk_size'),
    seed=section.count('seed', SEED),
  )


def _make_parts(
  section: Section, kind: str, table: Mapping[str, Any], members: Collection[str]
) -> dict[str, Any]:
  """Builds each part of `section[kind]`: `name` is its key unless it says another."""
  out = {}
  for key, spec in section.section(kind).sections():
    named = Section({'name': key} | dict(spec), spec.path)
    try:
      find(table, named['name'])
    except UserError as e:
      raise spec.error(e) from e
    out[key] = named.make(table)
    for member in members:
      if not hasattr(out[key], member):
        raise UserError(f'config.{spec.path}: {named["name"]!r} has no {member!r}.')
  return out


def evaluate(
  plan: EvaluationPlan,
  inference: Any,
  reader_variables: Mapping[str, Any],
  *,
  workdir: str | os.PathLike,
  common: Mapping[str, Any],
  identity: Mapping[str, str],
  only: Collection[str] = (),
  without: Collection[str] = (),
) -> list[Row]:
  """Measures what is not measured yet; writes results.jsonl.

  Args:
    plan: what to measure.
    inference: the model with its variables.
    reader_variables: of the readers that are trained in the run, by name.
    workdir: folder of the run.
    common: fields of every row, such as seed, step, model and preset.
    identity: what tells the result of each step from every other one, by its name.
    only: names of the evaluators that measure; all if empty. Of the others what is
      measured already stands in results.jsonl all the same.
    without: names of evaluators that do not measure.

  Returns:
    All rows.
  """
  evaluation = Evaluation(
    plan, inference, reader_variables, workdir=os.fspath(workdir), identity=identity
  )
  rows: list[Row] = []
  about: dict[str, Any] = {}
  by_example: dict[tuple, Any] = {}

  def write():
    write_results(workdir, rows, about, json.dumps(dict(identity), sort_keys=True))

  has_measured = False
  for name, evaluator in plan.evaluators.items():
    is_chosen = (not only or name in only) and name not in without
    for measurement in evaluator.measurements(evaluation):
      if not measurement.is_kept:
        if is_chosen:
          measurement.run()
        continue
      digest = evaluation.fingerprint(measurement.uses, measurement.options)
      path = pathlib.Path(workdir, 'evaluation', f'{measurement.name}-{digest}.json')
      measured = _read_rows(path)
      if measured is None:
        if not is_chosen:
          continue
        measured = [to_plain(row) for row in measurement.run()]
        write_atomic(path, digests.to_json({'rows': measured}, path.stem))
      shown = compare_by_example(measured, by_example)
      rows += [row | dict(common) for row in shown]
      names = {row['metric'] for row in measured}
      about |= {k: v for k, v in measurement.about.items() if k in names}
      if is_chosen:
        has_measured = True
        write()
  if has_measured:
    # Once more with what evaluators that were not chosen have measured before.
    write()
  return rows


def _read_rows(path: pathlib.Path) -> list[Row] | None:
  """Rows of a measurement that is made already; None if they are absent or damaged."""
  try:
    return digests.read_json(path, path.stem)['rows']
  except (FileNotFoundError, digests.Damaged):
    return None


def sampling_seconds(
  plan: EvaluationPlan, inference: Any, known: Row | None = None
) -> Row:
  """Seconds for one tuple of all modalities from nothing, with the run's own sampling.

  The mean over three chunks, after one that compiles. It depends on the machine, so it
  belongs to run.json and not to the results.

  Args:
    plan: how many at a time.
    inference: the model with its variables.
    known: the result of an earlier call, which is returned if nothing has changed.
  """
  size, model = min(inference.chunk_size, plan.num_examples), inference.model
  sampling = next(iter(model.samplings))
  of = {
    'chunk_size': size,
    'devices': sorted(str(d.device_kind) for d in jax.devices()),
    'sampling': model.describe(sampling),
    'decoding': describe_decoding(model),
  }
  of = json.loads(json.dumps(to_plain(of)))
  if known and known['of'] == of:
    return known
  encoded = inference.encode(
    tuple(np.zeros((size, *m.shape), m.kind.dtype) for m in model.modalities)
  )
  observed = np.zeros((size, len(model.modalities)), bool)
  seconds = []
  for _ in range(4):
    start = time.perf_counter()
    inference.sample(encoded, observed, key=make_key(0), sampling=sampling)
    seconds.append((time.perf_counter() - start) / size)
  value, spread = np.mean(seconds[1:]), np.std(seconds[1:], ddof=1)
  return {'value': float(value), 'stderr': float(spread / 3**0.5), 'of': of}
