"""Trains, evaluates, samples and reports; the one command of the program.

  python -m mmsbm.main --config=configs/digits.py --workdir=runs/digits

The logic is in modules that can be imported and tested; this file reads flags,
keeps the record of the run, and turns mistakes into one line and exit code 2.

Environment variables:
  MMSBM_CACHE: where prepared data sets are kept; ~/.cache/mmsbm by default.
"""

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags
from ml_collections import config_flags

from mmsbm.build import nearest
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.progress import duration

if TYPE_CHECKING:
  from mmsbm.experiment import Experiment

MODES = ('run', 'train', 'evaluate', 'sample', 'report')
# What the operating system calls a place where nothing can be written.
UNWRITABLE = (
  errno.EACCES,
  errno.EDQUOT,
  errno.EEXIST,
  errno.ENOSPC,
  errno.ENOTDIR,
  errno.EPERM,
  errno.EROFS,
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'File:arguments, e.g. configs/digits.py:smoke.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_MODE = flags.DEFINE_string('mode', 'run', f'One of {MODES}.')


def _one_line(error: BaseException) -> str:
  text = str(error.args[0] if error.args and isinstance(error, KeyError) else error)
  if 'Traceback (most recent call last)' in text:
    # ml_collections puts the trace of an error in a config into its message.
    text = text.strip().splitlines()[-1].partition('Error: ')[2] or text
  return ' '.join(text.split())


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; any mistake in them becomes a UserError."""
  try:
    rest = flags.FLAGS(list(argv))
  # Configs are Python files, and ml_collections reports a bad override as any of
  # these.
  except (flags.Error, LookupError, AttributeError, TypeError, ValueError) as e:
    raise UserError(_one_line(e)) from e
  except (SyntaxError, ImportError) as e:
    raise UserError(f'the config file cannot be used: {_one_line(e)}') from e
  if len(rest) > 1:
    raise UserError(f'unexpected argument {rest[1]!r}.')
  for flag, example in (('config', 'configs/digits.py'), ('workdir', 'runs/digits')):
    if not flags.FLAGS[flag].value:
      raise UserError(f'--{flag} is missing, e.g. --{flag}={example}.')
  # ml_collections keeps a file that it cannot read to itself until it is used.
  path = config_flags.get_config_filename(flags.FLAGS['config']).split(':')[0]
  if not os.path.isfile(path):
    raise UserError(f'--config: there is no file {path}.')
  if _MODE.value not in MODES:
    raise UserError(
      f'--mode={_MODE.value} is not one of {MODES}.' + nearest(_MODE.value, MODES)
    )
  return rest


def _git_commit() -> str | None:
  folder = os.path.dirname(os.path.abspath(__file__))
  try:
    out = subprocess.run(
      ['git', '-C', folder, 'rev-parse', 'HEAD'],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
    return out.stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


@contextlib.contextmanager
def _lock(workdir: str, only: str) -> Iterator[None]:
  """Keeps two processes from writing the same checkpoints.

  A process with `only` shares the workdir with those of other modalities.
  """
  try:
    os.makedirs(workdir, exist_ok=True)
    with contextlib.ExitStack() as stack:
      names = ('.lock', f'.lock-{only}') if only else ('.lock',)
      files = [stack.enter_context(open(os.path.join(workdir, n), 'w')) for n in names]
      stack.pop_all()
  except OSError as e:
    raise UserError(
      f'--workdir={workdir} cannot be written ({e.strerror}): choose another folder.'
    ) from e
  with contextlib.ExitStack() as stack:
    for f in files:
      stack.enter_context(f)
      shared = only and f is files[0]
      try:
        fcntl.flock(f, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
      except OSError as e:
        raise UserError(
          f'another process is working in {workdir}: wait for it or stop it.'
        ) from e
    yield


def _refuse(workdir: str, differences: Sequence[str]) -> None:
  more = len(differences) - 3
  raise UserError(
    f'{workdir} was trained with another config ('
    + '; '.join(differences[:3])
    + (f'; and {more} more' if more > 0 else '')
    + '): choose another --workdir, or delete that folder.'
  )


class Record:
  """run.json: what was run, with what, and how long it took.

  Nothing is written before `save`: a command that is refused leaves no trace.
  """

  def __init__(self, experiment: 'Experiment', mode: str, argv: Sequence[str]):
    import jax

    from mmsbm.experiment import (
      ADDED_STAGES,
      read_record,
      training_differences,
      without_stage,
    )

    workdir, config = experiment.workdir, experiment.config
    self._path = os.path.join(workdir, 'run.json')
    self.data: dict[str, Any] = {'timings': {}, 'parameters': {}, 'history': []}
    if os.path.exists(self._path):
      self.data |= read_record(workdir)
    # A config under which nothing was saved binds nobody.
    checkpoints = os.path.join(workdir, 'checkpoints')
    if 'config' in self.data and os.path.isdir(checkpoints):
      known = self.data['config']
      for stage in ADDED_STAGES:
        if not os.path.isdir(os.path.join(checkpoints, stage)):
          known = without_stage(known, stage)
      differences = training_differences(known, config)
      old = self.data.get('pretrained_seed', self.data['config']['seed'])
      if old != experiment.pretrained_seed:
        # Equal seeds, data and configs make equal autoencoders, wherever they lie.
        new = experiment.pretrained_seed
        differences.append(f'seed of the autoencoders: {old} -> {new}')
      judges = self.data.get('judged_by', experiment.judged_by), experiment.judged_by
      if judges[0] != judges[1]:
        differences.append(f'training of the classifier: {judges[0]} -> {judges[1]}')
      if differences:
        _refuse(workdir, differences)
    call = {
      'command': shlex.join(['python', '-m', 'mmsbm.main', *argv[1:]]),
      'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      'versions': {
        'python': platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
      },
      'devices': [str(d.device_kind) for d in jax.devices()],
      'num_cpus': os.cpu_count(),
      'git_commit': _git_commit(),
    }
    self.data['history'] = [*self.data['history'], call]
    # A report describes what was run, and changes nothing of it.
    if mode != 'report':
      self.data |= {'config': config, 'seed': config['seed']}
      self.data['pretrained_seed'] = experiment.pretrained_seed
      self.data['judged_by'] = experiment.judged_by
    # What trained it stays at the top, wherever it is evaluated later.
    if mode in ('run', 'train') or 'command' not in self.data:
      self.data |= call

  def set_data(self, experiment: 'Experiment') -> None:
    """Notes the data set; other data under the same checkpoints are refused."""
    dataset = experiment.dataset
    checkpoints = os.path.join(experiment.workdir, 'checkpoints')
    old = self.data.get('data_hash', dataset.content_hash)
    if old != dataset.content_hash and os.path.isdir(checkpoints):
      _refuse(experiment.workdir, ['other data, or modalities in another order'])
    self.data |= {
      'data_hash': dataset.content_hash,
      'data_samples': experiment.data_samples,
      'data_source': dataset.source,
      'num_classes': dataset.num_classes,
    }

  def save(self) -> None:
    write_atomic(self._path, json.dumps(self.data, indent=1) + '\n')

  @contextlib.contextmanager
  def timed(self, stage: str) -> Iterator[None]:
    """Adds the seconds of the body to those of earlier calls."""
    start = time.monotonic()
    try:
      yield
    finally:
      seconds = time.monotonic() - start
      timings = self.data['timings']
      timings[stage] = round(timings.get(stage, 0.0) + seconds, 2)
      self.save()


def execute(config: dict[str, Any], workdir: str, mode: str, argv: Sequence[str]):
  """Does what `mode` says; what is on disk already is not done again."""
  # Imports that take seconds come after the flags are known to be right.
  from mmsbm import evaluate, sample, train
  from mmsbm.experiment import Experiment, parameter_count

  only = config['only']
  with _lock(workdir, only):
    experiment = Experiment(config, workdir)
    record = Record(experiment, mode, argv)
    if mode != 'report':
      start = time.monotonic()
      # All of it before the first step: hours later is too late for a typo.
      experiment.check()
      if mode in ('evaluate', 'sample'):
        # Or else the record would say that they are.
        experiment.check_added_stages()
      record.set_data(experiment)
      seconds = record.data['timings'].get('data', 0.0) + time.monotonic() - start
      record.data['timings']['data'] = round(seconds, 2)
      record.save()
    if mode in ('run', 'train'):
      for stage in ('unimodal',) if only else experiment.config['stages']:
        trainings = experiment.trainings(stage)
        folder = experiment.stage_dir(stage)
        todo = [t for t in trainings if not train.finished(folder, t)]
        for training in todo:
          count = parameter_count(training, experiment.blank_example)
          record.data['parameters'][training.name] = count
          print(f'{training.name}: {count:,} parameters', file=sys.stderr)
        if todo:
          with record.timed(f'train {stage}'):
            train.train_group(
              todo,
              experiment.source(stage),
              workdir=workdir,
              options=experiment.loop_options,
              mesh=experiment.mesh,
              frozen=experiment.frozen(stage),
            )
      if not only and experiment.needs_latents:
        # Made while the score model was trained, or lost since.
        experiment.latents()
    if only:
      print(f'Trained {only}; without --config.only the same command goes on.')
      return
    if mode in ('run', 'evaluate', 'sample'):
      generator, steps = evaluate.make_generator(experiment)
      if mode in ('run', 'evaluate'):
        with record.timed('evaluate'):
          evaluate.evaluate(experiment, generator, steps)
        record.data['seconds_per_sample'] = evaluate.sampling_seconds(
          experiment, generator, record.data.get('seconds_per_sample')
        )
        record.save()
      if mode in ('run', 'sample'):
        with record.timed('sample'):
          sample.write_samples(experiment, generator, steps)
    if mode in ('run', 'report'):
      from mmsbm.report import write_report

      with record.timed('report'):
        path = write_report(workdir)
      print(f'Report: {path}  (total {duration(sum(record.data["timings"].values()))})')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit code."""
  try:
    parse_flags(argv)
    execute(_CONFIG.value.to_dict(), _WORKDIR.value, _MODE.value, argv)
  except UserError as e:
    print(f'error: {_one_line(e)}', file=sys.stderr)
    return 2
  except OSError as e:
    if e.errno not in UNWRITABLE:
      raise
    where = f' ({e.filename})' if e.filename else ''
    print(
      f'error: {e.strerror}{where}: free or choose a place that can be written, then '
      'run the same command again; what is finished is kept.',
      file=sys.stderr,
    )
    return 2
  except KeyboardInterrupt:
    print('\nstopped; the same command resumes.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  app.define_help_flags()
  sys.exit(main(sys.argv))
