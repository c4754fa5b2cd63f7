"""What the steps of a run are: their fingerprints, and whose folder has them.

A fingerprint is a digest of what a step is (see `identity`), of seed and data, and of
the fingerprints of all that it needs. It stands in steps/NAME.json in the folder, with
all that it was made from, so that a difference can be named. A step is never taken for
another one.
"""

import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmsbm import identity, train
from mmsbm.config import Section, nearest
from mmsbm.infra import checkpoints, digests
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path, write_atomic
from mmsbm.methods.base import Stage, Step
from mmsbm.record import read_record

# What steps/NAME.json holds.
_CARD = ('format', 'seed', 'data', 'spec', 'needs', 'fingerprint')
_REMEDY = 'Restore it from a copy, or choose another --workdir.'


@dataclasses.dataclass(frozen=True)
class DataIdentity:
  """What data a step was made from.

  Attributes:
    content_hash: of the whole data set.
    digests: of the first training examples of every modality. They tell whether runs
      of different modalities mean the same by one name.
  """

  content_hash: str
  digests: Mapping[str, str]

  def fits(self, lender: Mapping[str, Any]) -> bool:
    """Returns whether the recorded data of a lender are the same, or have these."""
    theirs = lender['data_samples']
    if theirs.keys() == self.digests.keys():
      return lender['data_hash'] == self.content_hash
    return all(theirs.get(name) == value for name, value in self.digests.items())


@dataclasses.dataclass(frozen=True)
class Ledger:
  """The identities of the steps of a run, its own and those that it borrows.

  Attributes:
    workdir: the run's folder.
    steps: all steps, in the order in which they are made.
    seed: of the run.
    borrow: {step: folder of the run that has it}.
    data: returns what data the steps are made from.
  """

  workdir: pathlib.Path
  steps: Sequence[Step]
  seed: int
  borrow: Mapping[str, pathlib.Path]
  data: Callable[[], DataIdentity]

  def folder(self, step: str) -> pathlib.Path:
    """Returns the run's folder that has a step."""
    return self.borrow.get(step, self.workdir)

  @functools.cached_property
  def fingerprints(self) -> dict[str, str]:
    """Digest of every step; of a borrowed one, that of the lender."""
    out: dict[str, str] = {}
    for step in self.steps:
      if step.name in self.borrow:
        out[step.name] = self._lender_card(step)['fingerprint']
      else:
        out[step.name] = identity.digest(self._card(step, out))
    return out

  def _card(self, step: Step, known: Mapping[str, str]) -> dict[str, Any]:
    """Returns all that decides on a step."""
    card = {
      'format': identity.FORMAT,
      'seed': self.seed,
      'data': self.data().content_hash,
      'spec': identity.spec_of(step),
      'needs': {name: known[name] for name in step.needs},
    }
    card = identity.plain_json(card)
    return card | self._continued(step, card)

  def _continued(self, step: Step, card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a stage was before `num_steps` was raised, if it ever was.

    It is a part of what the stage is: one that is trained further differs from one that
    was trained for as long from the start.
    """
    old = self._trained_card(step)
    if not old or any(old[key] != card[key] for key in ('seed', 'data', 'needs')):
      return {}
    before = old.get('continued', [])
    if old['spec'] != card['spec']:
      if old['spec'] != identity.grown(old['spec'], card['spec']):
        return {}
      at = {t.name: max(self._steps_of(t.name), default=0) for t in step.trainings}
      before = [*before, {'from': old['fingerprint'], 'at': at}]
    return {'continued': before} if before else {}

  def _trained_card(self, step: Step) -> dict[str, Any] | None:
    """Returns what stands on disk of a stage of this run; None without checkpoints."""
    if not isinstance(step, Stage) or step.name in self.borrow:
      return None
    trained = any(self._steps_of(training.name) for training in step.trainings)
    return self._stored_card(step.name) if trained else None

  @functools.cached_property
  def replaced(self) -> tuple[str, ...]:
    """Names of trained stages that are made again, as one before them is continued."""
    changed, out = set(), []
    for step in self.steps:
      old = self._trained_card(step)
      if changed & set(step.needs):
        changed.add(step.name)
        out += [step.name] if old else []
      elif old and self._is_longer(old, step):
        changed.add(step.name)
    return tuple(out)

  def _is_longer(self, old: Mapping[str, Any] | None, step: Step) -> bool:
    """Returns whether a trained stage is about to be trained for more steps."""
    new = self._card(step, self.fingerprints)
    return bool(old) and old.get('continued', []) != new.get('continued', [])

  def origin(self, step: Step) -> str:
    """Returns what the checkpoints of a step are marked with.

    A digest of all that decides on it but for the number of updates, which is that of
    a checkpoint, and for how often it was raised.
    """
    if step.name in self.borrow:
      card = self._lender_card(step)
    else:
      card = self._card(step, self.fingerprints)
    card = _without_fingerprint(card)
    card.pop('continued', None)
    learners = card['spec'].items()
    card['spec'] = {k: {**v, 'num_steps': None} for k, v in learners}
    return identity.digest(card)

  def _path(self, step: str) -> pathlib.Path:
    return self.folder(step) / 'steps' / f'{step}.json'

  def _stored_card(self, step: str) -> dict[str, Any] | None:
    path = self._path(step)
    try:
      with digests.reading(path, _REMEDY):
        card = json.loads(path.read_text('utf-8'))
    except FileNotFoundError:
      return None
    if not isinstance(card, dict) or not set(_CARD) <= card.keys():
      raise UserError(
        f'{path} does not say what the step is: it needs {list(_CARD)}. {_REMEDY}'
      )
    card = {key: card[key] for key in (*_CARD, 'continued') if key in card}
    if identity.digest(_without_fingerprint(card)) != card['fingerprint']:
      raise digests.differs(path, _REMEDY)
    return card

  def _lender_card(self, step: Step) -> dict[str, Any]:
    card = self._stored_card(step.name)
    if card is None:
      # One of an older version says how to bring it up to date.
      self._lender_record(step)
      raise UserError(f'{self._place(step.name)} has no step {step.name!r}.')
    return card

  def _lender_record(self, step: Step) -> dict[str, Any]:
    try:
      return read_record(self.borrow[step.name], ('data_hash', 'data_samples'))
    except UserError as e:
      raise UserError(f'{self._place(step.name)}: {e}') from e

  def _place(self, step: str) -> str:
    return f'config.borrow.{step}={self.borrow[step]}'

  def check_lenders(self) -> None:
    """Compares borrowed steps with those of their runs; reads only.

    Raises:
      UserError: one is missing, not finished, or of another config or data.
    """
    for step in self.steps:
      if step.name in self.borrow:
        self._check_lender(step)

  def _check_lender(self, step: Step) -> None:
    place, folder = self._place(step.name), self.borrow[step.name]
    record = self._lender_record(step)
    if record['config'].get('borrow', {}).get(step.name):
      raise UserError(
        f'{place} has no {step.name!r} of its own: give the run that it uses, '
        f'{record["config"]["borrow"][step.name]}.'
      )
    theirs, ours = self._lender_card(step), identity.plain_json(identity.spec_of(step))
    for training in step.trainings if isinstance(step, Stage) else ():
      old, new = theirs['spec'].get(training.name), ours[training.name]
      if old is None:
        raise UserError(f'{place} has no {training.name}.')
      if getattr(training.learner, 'reads_each_alone', False):
        old = identity.without_extra_modalities(old, new)
      differences = identity.differences(old, new, training.name)
      if not differences and not self.data().fits(record):
        differences = ['other data, or modalities in another order']
      if differences:
        raise UserError(f'{place} was trained with another config: {differences[0]}.')
      if not train.finished(folder, training, self.origin(step)):
        raise UserError(f'{place}: {training.name} is not fully trained there.')
    for name, fingerprint in theirs['needs'].items():
      if self.fingerprints.get(name) != fingerprint:
        raise UserError(
          f'{place} was made from another {name!r} than this run has: borrow all that '
          'it needs from there, with the same seed and data.'
        )

  def refuse_others(self) -> None:
    """Compares the steps with those that the folder has; reads only.

    A step without checkpoints binds nothing.

    Raises:
      UserError: the checkpoints in the folder are of another config or data.
    """
    # Refuses parts that do not say what they are, too.
    known = self.fingerprints
    for step in self.steps:
      if not isinstance(step, Stage) or step.name in self.borrow:
        continue
      if not any(self._steps_of(t.name) for t in step.trainings):
        continue
      old = self._stored_card(step.name)
      if old is None:
        raise UserError(
          f'{self.workdir} has checkpoints of {step.name!r}, but '
          f'{self._path(step.name)} is missing, which says what they are. {_REMEDY}'
        )
      new = self._card(step, known)
      spec = identity.grown(old['spec'], new['spec'])
      differences = identity.differences(old['spec'], spec)
      if old['seed'] != new['seed']:
        differences.append(f'seed: {old["seed"]} -> {new["seed"]}')
      if old['data'] != new['data']:
        differences.append('other data, or modalities in another order')
      for name, fingerprint in new['needs'].items():
        if step.name in self.replaced or differences:
          break
        if old['needs'].get(name) != fingerprint:
          differences.append(f'{step.name} was made from another {name!r}')
      if old['format'] != new['format']:
        differences.append(f'format: {old["format"]} -> {new["format"]}')
      if differences:
        self._refuse(differences)

  def _refuse(self, differences: Sequence[str]) -> None:
    more = len(differences) - 3
    raise UserError(
      f'{self.workdir} was trained with another config ('
      + '; '.join(differences[:3])
      + (f'; and {more} more' if more > 0 else '')
      + '): choose another --workdir, or delete that folder.'
    )

  def _steps_of(self, learner: str) -> tuple[int, ...]:
    return checkpoints.all_steps(train.directory(self.workdir, learner))

  def claim(self, step: Step) -> None:
    """Writes down what a step is, before it is made.

    If it is one that is trained further, what was made from it is put aside.
    """
    if self._is_longer(self._trained_card(step), step):
      for name in self.replaced:
        self._put_aside(name)
    card = self._card(step, self.fingerprints)
    card['fingerprint'] = self.fingerprints[step.name]
    write_atomic(self._path(step.name), json.dumps(card, indent=1) + '\n')

  def _put_aside(self, name: str) -> None:
    card = self._path(name)
    if not card.exists():
      return
    folder = self.workdir / 'replaced' / self._stored_card(name)['fingerprint']
    (step,) = (step for step in self.steps if step.name == name)
    paths = [
      pathlib.Path(train.directory(self.workdir, t.name)) for t in step.trainings
    ]
    for path in filter(pathlib.Path.exists, (*paths, card)):
      target = folder / path.relative_to(self.workdir)
      target.parent.mkdir(parents=True, exist_ok=True)
      path.rename(target)
    print(
      f'{name} is made again, as what it needs is trained further; what it was is in '
      f'{folder}.',
      file=sys.stderr,
    )

  def checkpoint_identity(self, steps: Mapping[str, int]) -> dict[str, str]:
    """Returns what the result of every step depends on.

    Args:
      steps: the checkpoint step of every learner, which may not be fully trained.

    Returns:
      {step: fingerprint and checkpoint steps}.
    """
    out = {}
    for step in self.steps:
      names = [t.name for t in step.trainings] if isinstance(step, Stage) else []
      numbers = ','.join(str(steps[name]) for name in names if name in steps)
      out[step.name] = f'{self.fingerprints[step.name]}@{numbers}'
    return out


def _without_fingerprint(card: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in card.items() if key != 'fingerprint'}


def find_lenders(
  section: Section, steps: Sequence[Step], workdir: str | os.PathLike
) -> dict[str, pathlib.Path]:
  """Returns the folders of runs whose steps are used.

  Args:
    section: config.borrow, {step: folder, or nothing}. A relative folder begins here
      or, if there is none, in the workdir: a folder of runs can then be moved.
    steps: of this run.
    workdir: of this run.
  """
  out, stages = {}, [step.name for step in steps if isinstance(step, Stage)]
  for name, text in section.items():
    if not text:
      continue
    if name not in stages:
      raise UserError(
        f'{section.place(name)}: this run has no such step; they are {stages}.'
        + nearest(name, stages)
      )
    path = local_path(text)
    if not path.exists():
      path = pathlib.Path(workdir, path)
    if path.resolve() == pathlib.Path(workdir).resolve():
      raise UserError(f'{section.place(name)} is the workdir itself; name another run.')
    out[name] = path.absolute()
  return out


def names_to_train(c: Section, ledger: Ledger) -> tuple[str, ...]:
  """Returns config.train_only, names of steps or learners, after a look at them."""
  only = c['train_only']
  only = tuple(filter(None, (only,) if isinstance(only, str) else only))
  stages = [step for step in ledger.steps if isinstance(step, Stage)]
  names = {step.name for step in ledger.steps}
  names |= {training.name for step in stages for training in step.trainings}
  for name in only:
    if name not in names:
      raise UserError(
        f'config.train_only: there is no step or learner {name!r}; there are '
        f'{sorted(names)}.' + nearest(name, names)
      )
  if only and all(name.split('/')[0] in ledger.borrow for name in only):
    raise UserError('config.borrow leaves config.train_only nothing to train.')
  return only
