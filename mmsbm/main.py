"""Trains, evaluates, samples and reports; the one command of the program.

  python -m mmsbm.main --config=configs/digits.py --workdir=runs/digits

The logic is in modules that can be imported and tested; this file says in which order
they are called, and turns mistakes into one line and exit code 2.

Environment variables:
  MMSBM_CACHE: where prepared data sets are kept; ~/.cache/mmsbm by default.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app

from mmsbm.command_line import CONFIG, MODE, get_workdir, parse_flags
from mmsbm.infra import interrupts
from mmsbm.infra.errors import UNWRITABLE, UserError, machine_limit, one_line
from mmsbm.infra.progress import duration
from mmsbm.record import Record, lock, read_record


def execute(
  config: Mapping[str, Any], workdir: str, mode: str, argv: Sequence[str]
) -> None:
  """Does what `mode` says; what is on disk already is not done again."""
  only = config['train_only']
  if mode == 'report':
    read_record(workdir)  # or a folder that is no run would look like one afterwards
  with lock(workdir, (only,) if isinstance(only, str) else only):
    record = Record(workdir)
    if mode == 'report':
      record.add_call(config, mode, argv, devices=[])
    else:
      _compute(config, workdir, mode, argv, record)
    if only:
      print('Trained what config.train_only names; the command goes on without it.')
    elif mode in ('run', 'report'):
      from mmsbm.report import write_report

      with record.timed('report'):
        path = write_report(workdir)
      print(f'Report: {path}  (total {duration(sum(record.data["timings"].values()))})')


def _compute(config, workdir, mode, argv, record: Record) -> None:
  """Does everything but the report."""
  # Imports that take seconds come after the flags are known to be right.
  import jax

  from mmsbm.experiment import make_experiment
  from mmsbm.trained import load_trained

  start = time.monotonic()
  experiment = make_experiment(config, workdir)
  # All of it before the first step: hours later is too late for a typo.
  parameters = experiment.check()
  if mode in ('evaluate', 'sample'):
    experiment.workspace.check_trained(config.get('allow_partial', False))
  devices = [str(d.device_kind) for d in jax.devices()]
  record.add_call(experiment.config, mode, argv, devices)
  record.data |= experiment.facts()
  record.add_seconds('data', time.monotonic() - start)
  record.save()
  if mode in ('run', 'train'):

    def begin(trainings):
      for name in (training.name for training in trainings):
        record.data['parameters'][name] = parameters[name]
        print(f'{name}: {parameters[name]:,} parameters', file=sys.stderr)

    experiment.workspace.make(experiment.train_only, timed=record.timed, begin=begin)
  if mode == 'train' or experiment.train_only:
    return
  trained = load_trained(experiment)
  if mode in ('run', 'evaluate'):
    with record.timed('evaluate'):
      trained.evaluate(without=('samples',))
    record.data['seconds_per_sample'] = trained.sampling_seconds(
      record.data.get('seconds_per_sample')
    )
    record.save()
  if mode in ('run', 'sample'):
    with record.timed('sample'):
      trained.evaluate(only=('samples',))


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit code."""
  try:
    with interrupts.listening():
      parse_flags(argv)
      execute(CONFIG.value.to_dict(), get_workdir(), MODE.value, argv)
  except UserError as e:
    print(f'error: {one_line(e)}', file=sys.stderr)
    return 2
  except OSError as e:
    if e.errno not in UNWRITABLE:
      raise
    where = f' ({e.filename})' if e.filename else ''
    advice = machine_limit(e) or 'free or choose a place that can be written'
    print(
      f'error: {e.strerror}{where}: {advice} and run the same command again; what is '
      'finished is kept.',
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
