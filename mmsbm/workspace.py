"""Makes and loads the steps of a run; none of them is made twice.

checkpoints/NAME/STEP/   checkpoints of every learner
steps/NAME.json          what a step is, see `ledger`
latents.npz, ...         arrays of derived steps, with a digest, see `digests`
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmsbm import train
from mmsbm.infra import checkpoints, digests
from mmsbm.infra.digests import Damaged
from mmsbm.infra.errors import UserError
from mmsbm.learners.base import Training
from mmsbm.ledger import Ledger
from mmsbm.methods.base import Derived, Stage, Step

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Workspace:
  """The results of steps, on disk.

  Attributes:
    ledger: what the steps are, and where.
    mesh: devices.
    options: of the training loop.
    device_memory_gb: training sets up to this size are copied to the devices.
  """

  ledger: Ledger
  mesh: jax.sharding.Mesh
  options: train.LoopOptions
  device_memory_gb: float

  @property
  def steps(self) -> Sequence[Step]:
    return self.ledger.steps

  def make(
    self,
    only: Sequence[str] = (),
    timed: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
    begin: Callable[[Sequence[Any]], None] = lambda trainings: None,
  ) -> None:
    """Makes all steps that are not made yet.

    Args:
      only: names of steps or learners: others are left out.
      timed: a context for each training, given its name.
      begin: called with the trainings that are about to start.
    """
    steps = {step.name: step for step in self.steps}

    @functools.cache
    def result(name: str) -> PyTree:
      step = steps[name]
      if isinstance(step, Derived):
        return self._derived(step, inputs_of)
      unfinished = self._unfinished(step)
      if unfinished:
        raise UserError(
          f'config.train_only: {unfinished[0].name} must be trained before what needs '
          'it: add it.'
        )
      return self._restore(step)[0]

    def inputs_of(step: Step) -> dict[str, PyTree]:
      return {name: result(name) for name in step.needs}

    for step in self.steps:
      if isinstance(step, Derived):
        if not only or step.name in only:
          result(step.name)
        continue
      todo = [t for t in self._unfinished(step) if _chosen(t.name, step.name, only)]
      if todo:
        inputs = inputs_of(step)
        begin(todo)
        self.ledger.claim(step)
        with timed(f'train {step.name}'):
          self._train(step, todo, inputs)

  def _unfinished(self, step: Stage) -> list[Training]:
    """Returns the learners of a stage that are not fully trained."""
    folder, of = self.ledger.folder(step.name), self.ledger.origin(step)
    return [t for t in step.trainings if not train.finished(folder, t, of)]

  def _train(self, step: Stage, todo, inputs: Mapping[str, PyTree]) -> None:
    arrays = step.source(inputs)
    size = sum(a.nbytes for a in jax.tree.leaves(arrays))
    limit = self.device_memory_gb * 2**30
    name = hashlib.sha1(step.name.encode()).digest()
    source = train.Source(
      arrays=arrays,
      size=len(jax.tree.leaves(arrays)[0]),
      seed=(self.ledger.seed << 32) + int.from_bytes(name[:4], 'big'),
      resident=size <= limit,
      block_bytes=limit / 4,
    )
    groups: dict[tuple, list] = {}
    for training in todo:
      # One that may end early goes alone: the others would be compiled again.
      alone = training.name if training.patience else ''
      key = training.num_steps, training.batch_size, alone
      groups.setdefault(key, []).append(training)
    for group in groups.values():
      train.train_group(
        group,
        source,
        workdir=self.ledger.workdir,
        options=self.options,
        mesh=self.mesh,
        frozen=step.frozen(inputs),
        held_out=step.held_out(inputs),
        of=self.ledger.origin(step),
      )

  def _restore(self, step: Stage) -> tuple[PyTree, dict[str, int]]:
    """Returns the variables of a stage, and the checkpoint step of each learner."""
    variables, steps = {}, {}
    folder, of = self.ledger.folder(step.name), self.ledger.origin(step)
    try:
      for training in step.trainings:
        variables[training.name], steps[training.name] = train.load_variables(
          folder, training, step.example, self.mesh, of
        )
    except UserError as e:
      if step.name in self.ledger.borrow:
        raise UserError(f'config.borrow.{step.name}: {e}') from e
      raise
    return step.collect(variables), steps

  def _derived(
    self, step: Derived, inputs_of: Callable[[Step], Mapping[str, PyTree]]
  ) -> PyTree:
    """Returns the arrays of a derived step, which are made if they are not there."""
    stored = self._stored_arrays(step)
    if stored is not None:
      return stored
    arrays = dict(step.compute(inputs_of(step)))
    self.store(step, arrays)
    return arrays

  def store(self, step: Derived, arrays: Mapping[str, PyTree]) -> None:
    """Writes the arrays of a derived step, with its fingerprint."""
    flat = {
      '/'.join(k.key for k in keys): np.asarray(value)
      for keys, value in jax.tree.leaves_with_path(dict(arrays))
    }
    flat['fingerprint'] = np.array(self.ledger.fingerprints[step.name])
    path = self.ledger.workdir / f'{step.name}.npz'
    digests.write_npz(path, flat, self._made_from(step))

  def _made_from(self, step: Derived) -> str:
    """Says what arrays are and which checkpoints they were made from."""
    steps, needs, stages = {s.name: s for s in self.steps}, list(step.needs), []
    for name in needs:
      needs += [n for n in steps[name].needs if n not in needs]
      stages += [steps[name]] if isinstance(steps[name], Stage) else []
    newest = {
      t.name: train.newest_step(
        self.ledger.folder(stage.name), t, self.ledger.origin(stage)
      )
      for stage in stages
      for t in stage.trainings
    }
    return f'{step.name} {self.ledger.fingerprints[step.name]} {sorted(newest.items())}'

  def _stored_arrays(self, step: Derived) -> PyTree | None:
    """Returns the arrays on disk; None if they are absent, damaged or of another step.

    Raises:
      UserError: they cannot be read, which says nothing of them.
    """
    try:
      path = self.ledger.workdir / f'{step.name}.npz'
      stored = digests.read_npz(path, self._made_from(step))
    except (FileNotFoundError, Damaged):
      return None
    del stored['fingerprint']
    out: dict[str, Any] = {}
    for key, array in stored.items():
      *folders, last = key.split('/')
      functools.reduce(lambda d, k: d.setdefault(k, {}), folders, out)[last] = array
    return out

  def load(self, without: Iterable[str] = ()) -> tuple[dict[str, PyTree], dict]:
    """Returns the results of all steps as the model sees them.

    Args:
      without: names of steps that are not asked for.

    Returns:
      {step: result}, and {learner: checkpoint step}.

    Raises:
      UserError: something is not trained, missing or damaged.
    """
    variables, steps = {}, {}
    for step in self.steps:
      if step.name in without:
        continue
      if isinstance(step, Stage):
        variables[step.name], learners = self._restore(step)
        steps |= learners
        continue
      stored = self._stored_arrays(step)
      if stored is None:
        raise UserError(
          f'{self.ledger.workdir / step.name}.npz is missing or damaged, or from other '
          'checkpoints: run --mode=train once more.'
        )
      variables[step.name] = {key: stored[key] for key in step.example}
    return variables, steps

  def check_schedules(self) -> None:
    """Raises UserError if a warm-up outlasts a training that is still to be done."""
    for step in self.steps:
      for training in self._unfinished(step) if isinstance(step, Stage) else ():
        warmup = training.optimizer_spec.get('warmup_steps', 0)
        if warmup >= training.num_steps:
          raise UserError(
            f'config.{step.name}: warmup_steps={warmup} of {training.name} must be '
            f'below num_steps={training.num_steps}, or the learning rate never gets '
            'where it is meant to.'
          )

  def check_trained(
    self, allow_partial: bool = False, without: Iterable[str] = ()
  ) -> None:
    """Looks whether the learners are trained.

    Args:
      allow_partial: take them at the steps that they have reached, if they have begun.
      without: names of steps that are not asked for.

    Raises:
      UserError: one is not fully trained, or of what is trained further since.
    """
    for step in self.steps:
      if step.name in without:
        continue
      if step.name in self.ledger.replaced:
        raise UserError(
          f'{step.name} was made from what is to be trained for more steps: '
          '--mode=train makes both.'
        )
      for training in step.trainings if isinstance(step, Stage) else ():
        folder = self.ledger.folder(step.name)
        latest = checkpoints.latest_step(train.directory(folder, training.name))
        if latest is None:
          raise UserError(
            f'there is no checkpoint of {training.name} in {folder}: --mode=train '
            f'makes it; or leave the section config.{step.name} out.'
          )
        if latest < training.num_steps and not allow_partial:
          raise UserError(
            f'{training.name} in {folder} is at step {latest} of {training.num_steps}: '
            '--mode=train goes on, and config.allow_partial=True takes it as it is.'
          )


def _chosen(learner: str, step: str, only: Sequence[str]) -> bool:
  return not only or learner in only or step in only
