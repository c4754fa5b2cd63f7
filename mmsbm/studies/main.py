"""Studies: many runs, one table.

  python -m mmsbm.studies --study=configs/studies/any_to_any.py:data=digits \
    --workdir=runs/studies/digits --results=launch/results/digits.csv

A study is a Python file whose `get_study(arg)` returns rows (mmsbm.studies.Row).
Each row is a run of mmsbm.main in WORKDIR/NAME, in a process of its own, with its
output in WORKDIR/logs/NAME.log. The same command again resumes; what is finished is
skipped by its finished.json (delete it to run a row again). Several processes may
work on one folder at the same time, with or without --task.

The results are two CSV files: --results=NAME.csv has the numbers, and NAME.rows.csv
beside it says what was run.

--mode:
  run    runs the rows; after each one, and at the end, as `table`.
  table  gathers the averages of the finished rows into the results, writes
         WORKDIR/report/index.html and, with --readme, the table in that file, between
         the lines <!-- study:NAME --> and <!-- /study -->, where NAME is the name of
         the results; with --figure, coherence against quality as a PNG, and with
         --samples what the methods make of the same examples. Without --study and
         --workdir: from the results alone, but no samples.
  list   prints the rows and their commands.
  time   measures what the rows with results cost, one after the other, with `python
         -m mmsbm.tools.benchmark --what=cost`; those that differ by their seed once,
         and also those whose results came from other machines. They stay in
         WORKDIR/costs.json. Without that the costs are those of the runs, which may
         have shared their machine.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence

from mmsbm.infra import interrupts
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path
from mmsbm.studies import results, runner, table
from mmsbm.studies.definition import Study, load_study, select


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    raise UserError(message)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = _Parser(
    prog='python -m mmsbm.studies',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--study', help='file:argument of the definition')
  add('--workdir', type=local_path, help='folder of all its runs')
  add('--results', type=local_path, help='WORKDIR/results.csv')
  add('--readme', type=local_path, help='file to put the table in')
  add('--figure', type=local_path, help='PNG of the trade-offs')
  add('--samples', type=local_path, help='PNG of samples of methods')
  add('--only', default='', help='regular expression for names of rows')
  add('--task', type=int, default=0, help='this one of --num_tasks')
  add('--num_tasks', type=int, default=1)
  add('--mode', default='run', choices=('run', 'table', 'list', 'time'))
  add('--set', action='append', default=[], metavar='config.KEY=VALUE', dest='settings')
  args = parser.parse_args(argv)
  for setting in args.settings:
    if not re.match(r'config\.[\w.]+=', setting):
      raise UserError(f'--set {setting} is not of the form config.a.b=value.')
  if args.results and args.results.suffix != '.csv':
    raise UserError(f'--results={args.results} must be a file NAME.csv.')
  from_results = args.mode == 'table' and args.results and not args.study
  if not from_results and not (args.study and args.workdir):
    raise UserError('--study and --workdir are needed; see --help.')
  if from_results and not (args.readme or args.figure):
    raise UserError(
      '--readme says where the table of --results is to be written, --figure where the '
      'picture.'
    )
  if from_results and args.samples:
    raise UserError('--samples needs the runs: --study and --workdir.')
  if args.mode == 'time' and args.num_tasks > 1:
    raise UserError('--mode=time measures one row after the other: no --num_tasks.')
  # What the study is called: its results, or else its folder.
  args.name = args.results.stem if args.results else args.workdir.name
  if args.readme and not args.readme.is_file():
    raise UserError(f'--readme={args.readme}: there is no such file.')
  if args.readme and table.read_table(args.readme, args.name) is None:
    raise UserError(
      f'{args.readme} lacks the lines <!-- study:{args.name} --> and '
      '<!-- /study --> to write between.'
    )
  return args


def execute(args: argparse.Namespace) -> int:
  """Does what the command says; returns the exit code."""
  outputs = {'readme': args.readme, 'figure': args.figure}
  if not args.study:
    lines = results.read_lines(args.results)
    if not lines:
      raise UserError(f'{args.results} holds no results of a study.')
    table.write_tables(args.name, lines, **outputs)
    return 0
  rows = tuple(load_study(args.study))
  study = Study(args.study, args.workdir, tuple(args.settings), rows)
  chosen = select(study.rows, args.only, args.task, args.num_tasks)
  # Mistakes in all definitions, before hours go into the first of them.
  for row in chosen:
    study.fingerprint(row)
  if args.mode == 'list':
    for row in chosen:
      words = [*study.arguments(row), f'--workdir={study.folder(row)}']
      print(f'{row.name}: {shlex.join(["python", "-m", "mmsbm.main", *words])}')
    return 0
  path = args.results or args.workdir / 'results.csv'
  elsewhere = results.from_elsewhere(study, path)

  def publish() -> None:
    lines, page = results.collect(study, path), args.workdir / 'report' / 'index.html'
    outputs.update(samples_figure=args.samples, samples=table.sample_files(study))
    table.write_tables(args.name, lines, page=page, **outputs)

  failed: dict[str, str] = {}
  finished = [row for row in chosen if study.finished(row)]
  if args.mode == 'run':
    runner.log(f'{len(chosen)} rows, {len(finished)} of them finished')
    failed = runner.run(study, chosen, publish)
  if args.mode == 'time':
    measured = [row for row in chosen if row in finished or elsewhere[row.name]]
    if not measured:
      raise UserError(
        f'--mode=time measures rows with results: {path} has none of these rows.'
      )
    failed = runner.measure_costs(study, measured)
  publish()
  for name, problem in failed.items():
    print(f'failed: {name}: {problem}', file=sys.stderr)
  return 1 if failed else 0


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns the exit code."""
  try:
    with interrupts.listening():
      return execute(_parse(argv[1:]))
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  except OSError as e:
    print(f'error: {e.filename or ""}: {e.strerror or e}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('\nstopped; the same command resumes.', file=sys.stderr)
    return 130
