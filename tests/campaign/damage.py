r"""Damages the files of finished runs, one at a time, and counts what becomes of it.

    python -m tests.campaign.damage --run=runs/a --other=runs/b --count=300

A damage is a bit that flips, an edit, a cut, or a file (of a checkpoint: all of its
files) that is put in the place of another one, of the same run or of the other. Then
the program reads what it reads of that file. The outcome is one of

  believed    what was read differs, without a word: must not be
  traceback   anything but one line: must not be
  refused     one line, or one in the report
  recomputed  it is made again, or an earlier checkpoint is used
  harmless    what was read is what was written

Files that nothing reads (event files, the page, locks) are left out.
"""

import argparse
import collections
import functools
import json
import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmsbm import train
from mmsbm.evaluators import plan, samples
from mmsbm.experiment import make_experiment
from mmsbm.infra import checkpoints, digests
from mmsbm.infra.errors import UserError
from mmsbm.ledger import Ledger
from mmsbm.methods.base import Stage
from mmsbm.record import read_record
from mmsbm.report import folder

NOT_READ = ('tensorboard', 'report')
KINDS = ('flip', 'edit', 'cut', 'swap')
# What a reader returns for a file that is made again.
AGAIN = 'again'


def files_of(run: pathlib.Path) -> list[str]:
  """Relative paths of the files that the program reads."""
  paths = (p.relative_to(run) for p in sorted(run.rglob('*')) if p.is_file())
  return [
    path.as_posix()
    for path in paths
    if path.parts[0] not in NOT_READ and not path.name.startswith('.lock')
  ]


def spoil(data: bytes, how: str, draw: random.Random) -> bytes:
  """Content with one bit flipped, with a digit or some bytes edited, or cut."""
  if how == 'cut':
    return data[: draw.randrange(len(data))]
  place, out = draw.randrange(len(data)), bytearray(data)
  if how == 'flip':
    out[place] ^= 1 << draw.randrange(8)
  else:
    digits = [i for i, byte in enumerate(data) if byte in b'0123456789']
    place = draw.choice(digits) if digits else place
    out[place] = draw.choice([b for b in b'0123456789' if b != data[place]])
  return bytes(out)


def _partners(run: pathlib.Path, other: pathlib.Path | None, path: pathlib.Path):
  """What can be put in the place of a file or a checkpoint."""
  suffix = '' if path.is_dir() else path.suffix
  around = path.parent.parent.parent if path.is_dir() else path.parent
  found = [p for p in around.rglob(f'*{suffix}') if p.is_dir() == path.is_dir()]
  if path.is_dir():
    found = [p for p in found if p.name.isdecimal()]
  same = [other / path.relative_to(run)] if other else []
  return [p for p in (*found, *same) if p != path and p.exists()]


class Judge:
  """Reads what the program reads of a file of a run, before and after a damage."""

  def __init__(self, run: pathlib.Path):
    self.run = run
    record = read_record(run)
    self.experiment = make_experiment(record['config'], run, record)
    self.space = self.experiment.workspace
    self.stages = {
      training.name: (step, training)
      for step in self.space.steps
      if isinstance(step, Stage)
      for training in step.trainings
    }
    self.fingerprints = self.space.ledger.fingerprints

  def read(self, name: str) -> Any:
    """Returns what is read of a file; raises UserError for one that is refused."""
    top, path = name.split('/')[0], self.run / name
    if top == 'checkpoints':
      return self._checkpoint(path)
    if top == 'steps':
      ledger = self.space.ledger
      # Nothing that was read before.
      copy = Ledger(
        ledger.workdir, ledger.steps, ledger.seed, ledger.borrow, ledger.data
      )
      return copy.refuse_others()
    if top == 'samples' and path.suffix != '.json':
      npz = path.with_suffix('.npz')
      return samples._is_whole(npz, self._stamp(npz.name), True) or AGAIN
    if path.suffix == '.npz':
      (step,) = [step for step in self.space.steps if step.name == path.stem]
      arrays = self.space._stored_arrays(step)
      return AGAIN if arrays is None else arrays
    if top == 'evaluation' and path.stem.rpartition('-')[0]:
      rows = plan._read_rows(path)
      return AGAIN if rows is None else rows
    return self._report()

  @functools.cache  # noqa: B019
  def _stamp(self, name: str) -> str:
    return str(digests.read_npz(self.run / 'samples' / name)['stamp'])

  def _checkpoint(self, path: pathlib.Path) -> Any:
    root = self.run / 'checkpoints'
    parts = path.relative_to(root).parts
    number = next(i for i, part in enumerate(parts) if part.isdecimal())
    step, training = self.stages['/'.join(parts[:number])]
    of = self.space.ledger.origin(step)
    variables, at = train.load_variables(
      self.run, training, step.example, self.space.mesh, of
    )
    newest = train.newest_step(self.run, training, of)
    if (at, newest) != (training.num_steps,) * 2:
      return AGAIN
    steps = checkpoints.unharmed_steps(train.directory(self.run, training.name))
    if len(steps) < len(
      checkpoints.all_steps(train.directory(self.run, training.name))
    ):
      return AGAIN
    return jax.device_get(variables)

  def _report(self) -> Any:
    read_record(self.run)
    page = folder.read_run(self.run)
    if page.problems:
      raise UserError(page.problems[0])
    tables = [t.to_json(orient='records') for t in (page.rows, page.curves)]
    return json.dumps([page.record, tables, page.about, page.samples], default=str)


def same(a: Any, b: Any) -> bool:
  """Whether two results of a reader are equal."""
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in pairs)


def outcome(read: Callable[[], Any], expected: Any) -> tuple[str, str]:
  """What became of a damage, and the words for it."""
  try:
    got = read()
  except UserError as e:
    return ('refused' if '\n' not in str(e) else 'traceback'), str(e)
  except Exception as e:
    return 'traceback', f'{type(e).__name__}: {e}'
  if isinstance(got, str) and got == AGAIN:
    return 'recomputed', ''
  return ('harmless', '') if same(got, expected) else ('believed', '')


def damages(
  run: pathlib.Path, other: pathlib.Path | None, count: int, seed: int
) -> Iterator[tuple[str, str, str, str]]:
  """Damages a copy of a run, again and again; the run itself is left alone.

  Yields:
    Kind of damage, file, outcome, words.
  """
  draw = random.Random(seed)
  with tempfile.TemporaryDirectory() as scratch:
    copy = shutil.copytree(run, pathlib.Path(scratch, 'run'))
    judge, known = Judge(copy), {}
    # A kind of file is as likely as another, however many there are of it.
    groups = collections.defaultdict(list)
    for name in files_of(copy):
      groups[name.split('/')[0], pathlib.Path(name).suffix].append(name)
    for number in range(count):
      how, name = (
        KINDS[number % len(KINDS)],
        draw.choice(draw.choice([*groups.values()])),
      )
      path = place = copy / name
      parts = name.split('/')
      if how == 'swap' and parts[0] == 'checkpoints' and draw.random() < 0.5:
        depth = next(i for i, part in enumerate(parts) if part.isdecimal())
        place = copy.joinpath(*parts[: depth + 1])
      if name not in known:
        known[name] = judge.read(name)
      data = path.read_bytes()
      partners = _partners(copy, other, place) if how == 'swap' else ()
      if not data or how == 'swap' and not partners:
        continue
      kept = pathlib.Path(scratch, 'kept')
      place.rename(kept)
      try:
        if place.is_dir() or kept.is_dir():
          shutil.copytree(draw.choice(partners), place)
        elif how == 'swap':
          shutil.copyfile(draw.choice(partners), place)
        else:
          path.write_bytes(spoil(data, how, draw))
        result, words = outcome(functools.partial(judge.read, name), known[name])
      finally:
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        kept.rename(place)
      yield how, name, result, words


def main() -> None:
  """Prints every damage that was believed or ended in a traceback, and the counts."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--run', required=True, type=pathlib.Path)
  parser.add_argument('--other', type=pathlib.Path)
  parser.add_argument('--count', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  counts: Mapping[str, collections.Counter] = {k: collections.Counter() for k in KINDS}
  for how, name, result, words in damages(args.run, args.other, args.count, args.seed):
    counts[how][result] += 1
    if result in ('believed', 'traceback'):
      print(f'{result}: {how} {name} {words[:300]}')
  for how, counter in counts.items():
    print(how, dict(counter))
  print('all', dict(sum(counts.values(), collections.Counter())))


if __name__ == '__main__':
  main()
