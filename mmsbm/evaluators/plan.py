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
from mmsbm.evaluators.base import EvaluationPlan, Row
from mmsbm.evaluators.evaluation import Evaluation, describe_decoding
from mmsbm.evaluators.readers import Reader
from mmsbm.evaluators.table import EVALUATORS
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.metric_writer import to_plain, write_results
from mmsbm.metrics import METRICS

PyTree = Any


def make_evaluation(
  section: Section, problem: Any, readers: tuple[Reader, ...]
) -> EvaluationPlan:
  """Makes all that measures, from config.evaluate.

  Args:
    section: that part of the config.
    problem: modalities and data set.
    readers: from `make_readers`.
  """
  section.known(
    ('split', 'num_examples', 'chunk_size', 'seed', 'metrics', 'evaluators')
  )
  metrics = _make_parts(section.section('metrics'), METRICS, _METRIC)
  for name, metric in metrics.items():
    names = [r.name for r in readers]
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
    evaluators=_make_parts(section.section('evaluators'), EVALUATORS, _EVALUATOR),
    split=section.choice('split', SPLITS),
    num_examples=section.count('num_examples'),
    chunk_size=section.count('chunk_size'),
    seed=section['seed'],
  )


_METRIC = ('name', 'better', 'about')
_EVALUATOR = ('check', 'measurements')


def _make_parts(
  section: Section, table: Mapping[str, Any], members: Collection[str]
) -> dict[str, Any]:
  """Builds each part of a section: `name` is its key unless it says another."""
  out = {}
  for key, spec in section.sections():
    named = Section({'name': key} | dict(spec), spec.path)
    try:
      find(table, named['name'])
    except UserError as e:
      raise spec.error(e) from e
    out[key] = named.make(table)
    missing = [member for member in members if not hasattr(out[key], member)]
    if missing:
      raise UserError(f'{section.place(key)}: {named["name"]!r} has no {missing[0]!r}.')
  return out


def evaluate(
  plan: EvaluationPlan,
  inference: Any,
  reader_variables: Mapping[str, PyTree],
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
  folder = pathlib.Path(workdir, 'evaluation')
  rows: list[Row] = []
  about: dict[str, Any] = {}
  has_measured = False
  for name, evaluator in plan.evaluators.items():
    is_chosen = (not only or name in only) and name not in without
    for measurement in evaluator.measurements(evaluation):
      if not measurement.is_kept:
        if is_chosen:
          measurement.run()
        continue
      print_of = evaluation.fingerprint(measurement.uses, measurement.options)
      path = folder / f'{measurement.name}-{print_of}.json'
      found = _read_rows(path)
      if found is None:
        if not is_chosen:
          continue
        found = [to_plain(row) for row in measurement.run()]
        write_atomic(path, json.dumps(found))
      rows += [row | dict(common) for row in found]
      measured = {row['metric'] for row in found}
      about |= {k: v for k, v in measurement.about.items() if k in measured}
      has_measured |= is_chosen
      if is_chosen:
        _write(workdir, rows, about)
  if has_measured:
    # Once more with what evaluators that were not chosen have measured before.
    _write(workdir, rows, about)
  return rows


def _write(workdir, rows: list[Row], about: Mapping[str, Any]) -> None:
  """Replaces results.jsonl, and the file that says what its metrics mean."""
  write_results(os.path.join(workdir, 'results.jsonl'), rows)
  path = os.path.join(workdir, 'evaluation', 'metrics.json')
  write_atomic(path, json.dumps(about, indent=1) + '\n')


def _read_rows(path: pathlib.Path) -> list[Row] | None:
  """Rows of a measurement that is made already; None if they are absent or damaged."""
  try:
    rows = json.loads(path.read_text())
  except (OSError, ValueError):
    return None
  return rows if isinstance(rows, list) else None


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
  size = min(inference.chunk_size, plan.num_examples)
  model = inference.model
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
  key = jax.random.key(0)
  modalities = model.modalities
  encoded = inference.encode(
    tuple(np.zeros((size, *m.shape), m.kind.dtype) for m in modalities)
  )
  observed = np.zeros((size, len(modalities)), bool)
  seconds = []
  for _ in range(4):
    start = time.perf_counter()
    inference.sample(encoded, observed, key=key, sampling=sampling)
    seconds.append((time.perf_counter() - start) / size)
  measured = np.array(seconds[1:])
  return {
    'value': float(measured.mean()),
    'stderr': float(measured.std(ddof=1) / len(measured) ** 0.5),
    'of': of,
  }
