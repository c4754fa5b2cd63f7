"""From a config to a record of objects; nothing above knows more than one of them."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from mmsbm import train
from mmsbm.automatic import fit, resolve
from mmsbm.config import Section, plain, refuse_nan
from mmsbm.data import DATASETS
from mmsbm.evaluators import (
  EvaluationPlan,
  make_evaluation,
  make_readers,
  reader_stage,
)
from mmsbm.infra import sharding
from mmsbm.infra.bounds import SEED
from mmsbm.infra.files import local_path
from mmsbm.ledger import DataIdentity, Ledger, find_lenders, names_to_train
from mmsbm.methods import METHODS
from mmsbm.methods.base import Method, dry_run
from mmsbm.methods.problem import Problem
from mmsbm.modalities import make_modalities
from mmsbm.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a config describes.

  Attributes:
    config: the resolved config, plain values.
    problem: modalities, data and seed.
    method: steps and model.
    plan: what is measured.
    workspace: the steps in the run's folder, that of the readers first.
    train_only: names of the steps or learners that are to be trained; all if empty.
  """

  config: Mapping[str, Any]
  problem: Problem
  method: Method
  plan: EvaluationPlan
  workspace: Workspace
  train_only: tuple[str, ...]

  def check(self) -> dict[str, int]:
    """Goes through all that a run does, so that mistakes show before training.

    Returns:
      Number of parameters of every learner.

    Raises:
      UserError: anything that would end the run later.
    """
    self.problem.dataset.check(self.problem.modalities)
    parameters = dry_run(self.workspace.ledger.steps, self.method.model)
    self.plan.check(self.method.model)
    self.workspace.ledger.check_lenders()
    self.workspace.ledger.refuse_others()
    self.workspace.check_schedules()
    return parameters

  def facts(self) -> dict[str, Any]:
    """Returns what run.json says of data and steps."""
    dataset = self.problem.dataset
    return {
      'data_hash': dataset.content_hash,
      'data_samples': dataset.digests(),
      'data_source': dataset.source,
      'num_classes': dict(dataset.num_classes),
      'steps': self.workspace.ledger.fingerprints,
    }


def make_experiment(
  config: Mapping[str, Any],
  workdir: str | os.PathLike,
  record: Mapping[str, Any] | None = None,
) -> Experiment:
  """Builds all objects that a config describes; data are not read yet.

  Args:
    config: the resolved config.
    workdir: the run's folder.
    record: run.json of a trained run, where the data shall not be opened.

  Raises:
    UserError: a part of the config makes no sense by itself.
  """
  config = plain(config)
  refuse_nan(config)
  c = Section(config)
  modalities = make_modalities(c.section('modalities'))
  open_dataset = functools.cache(lambda: _open(c.section('data'), modalities))
  config = fit(config, modalities, open_dataset)
  config = resolve(config, modalities, lambda: len(open_dataset().splits['train']))
  c = Section(config)
  modalities = make_modalities(c.section('modalities'))
  problem = Problem(
    modalities,
    open_dataset,
    c.count('seed', SEED),
    record and record['num_classes'],
  )
  method = c.find('method', METHODS)(c, problem)
  readers = make_readers(c.section('readers'), problem)
  stage = reader_stage(readers, c.section('readers'), problem)
  steps = (*((stage,) if stage else ()), *method.steps)
  loop = c.section('loop')
  ledger = Ledger(
    workdir=local_path(workdir).absolute(),
    steps=steps,
    seed=c['seed'],
    borrow=find_lenders(c.section('borrow'), steps, workdir),
    data=lambda: _identity(problem, record),
  )
  workspace = Workspace(
    ledger=ledger,
    mesh=sharding.make_mesh(),
    options=train.LoopOptions(
      block_steps=loop.count('block_steps'),
      checkpoint_every_steps=loop.count('checkpoint_every_steps'),
      keep_checkpoints=loop.count('keep_checkpoints'),
    ),
    device_memory_gb=loop.at_least(0, 'device_memory_gb'),
  )
  plan = make_evaluation(c.section('evaluate'), problem, readers)
  only = names_to_train(c, ledger)
  return Experiment(config, problem, method, plan, workspace, only)


def _open(section: Section, modalities):
  spec, extra = dict(section), {'modalities': modalities}
  if 'cache_dir' in spec:
    extra['cache_dir'] = str(local_path(spec.pop('cache_dir')))
  return Section(spec, section.path).make(DATASETS, **extra)


def _identity(problem: Problem, record: Mapping[str, Any] | None) -> DataIdentity:
  if record:
    return DataIdentity(record['data_hash'], record['data_samples'])
  return DataIdentity(problem.dataset.content_hash, problem.dataset.digests())
