"""Definitions of studies whose rows are run by a program that takes no time."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import pytest

from mmsbm.studies import runner
from mmsbm.studies.definition import Study, load_study

# What mmsbm.studies asks of a config, and no more.
CONFIG = """
import ml_collections

def get_config(arg=None):
  if arg not in (None, 'smoke'):
    raise ValueError(f'unknown config argument {arg!r}.')
  return ml_collections.ConfigDict(dict(
    seed=0, borrow=dict(unimodal='', score=''), train_only=(),
    data=dict(name='digits', cache_dir='/home/somebody/cache', mnist_dir=''),
    score=dict(num_steps=6, network=dict(width=8)), energy=dict(num_steps=6),
    samplings=dict(default=dict(sampler=dict(name='heun'))),
  ))
"""

# Stands in for mmsbm.main: leaves what a run leaves, but for its checkpoints.
PROGRAM = """
import ast, json, os, pathlib, signal, sys, time
flags = dict(a.split('=', 1) for a in sys.argv[1:])
workdir = pathlib.Path(flags['--workdir'])
workdir.mkdir(exist_ok=True)
with open(workdir / 'calls', 'a') as f:
  f.write('x')
time.sleep(float(os.environ.get('STAND_IN_SECONDS', 0)))
if workdir.name == 'killed' and (workdir / 'calls').read_text() == 'x':
  os.kill(os.getpid(), signal.SIGKILL)
if workdir.name == 'wrong':
  sys.exit('error: this row is wrong.')
seed = int(flags['--config.seed'])
borrow = ast.literal_eval(flags.get('--config.borrow', '{}'))
config = dict(
  seed=seed, modalities=dict(m0={}, m1={}), borrow=dict(score='', unimodal='') | borrow,
  score=dict(paired_fraction=0.5), samplings=dict(default={}, heun={}), evaluate={},
)
steps = [s for s in ('classifier', 'unimodal', 'score')
         if '--config.train_only' not in flags or s != 'score']
trained = [s for s in steps if s not in borrow]
seconds = dict(classifier=1.0, unimodal=4.0, score=2.5)
parameters = {'classifier/digit': 9, 'unimodal/m0': 11, 'unimodal/m1': 12, 'score': 7}
record = dict(
  config=config, seed=seed, devices=['cpu'] * 2,
  versions=dict(jax='0.10.2', mmsbm='0.1'),
  git_commit='0123456789abcdef', steps={s: f'{s} {seed}' for s in steps},
  timings={f'train {s}': seconds[s] for s in trained},
  parameters={k: v for k, v in parameters.items() if k.split('/')[0] in trained},
)
if flags['--mode'] == 'run':
  record['seconds_per_sample'] = dict(value=0.001)
  common = dict(split='test', seed=seed, step=6, n=30)
  heun = dict(sampler='heun(num_steps=2)', conditioning='time_zero()', guidance='')
  way = dict(heun, sampling='default', nfe=3)
  rows = [
    dict(metric='classifier_accuracy', value=0.9, stderr=0.1, target='mean'),
    dict(way, metric='joint_coherence', value=0.5 + seed / 10, stderr=0.01,
         num_given=0, given=[], at_least=2),
    dict(way, metric='joint_coherence', value=0.9, num_given=0, given=[], at_least=1),
    dict(way, metric='coherence', value=0.75, stderr=0.01, num_given=1, target='m0',
         given=['m1']),
    dict(way, metric='coherence', value=0.7, stderr=0.01, num_given=1, target='mean',
         given='mean'),
    dict(way, sampling='heun', metric='frechet', value=None, num_given=1,
         target='mean', given='mean', features='classifier'),
  ]
  (workdir / 'results.jsonl').write_text(
    ''.join(json.dumps(row | common) + '\\n' for row in rows))
(workdir / 'run.json').write_text(json.dumps(record))
"""


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder with a config, a definition, and the runs of its rows in `work`."""

  path: pathlib.Path

  @property
  def work(self) -> pathlib.Path:
    return self.path / 'work'

  def define(self, *rows: str) -> Sequence[str]:
    """Writes a definition with `rows`, arguments of Row as text; returns a command."""
    config = f'config={str(self.path / "small.py")!r}'
    rows = [f'Row(**dict(dict({config}), {row}))' for row in rows]
    text = 'from mmsbm.studies import Row\n'
    text += f'def get_study(arg=None):\n  return [{", ".join(rows)}]\n'
    (self.path / 'own.py').write_text(text)
    return [
      'studies', f'--study={self.path / "own.py"}', f'--workdir={self.work}',
    ]  # fmt: skip

  def study(self, *settings: str, workdir: pathlib.Path | None = None) -> Study:
    """The study that was defined last."""
    definition = str(self.path / 'own.py')
    rows = tuple(load_study(definition))
    return Study(definition, workdir or self.work, settings, rows)

  def calls(self) -> dict[str, int]:
    """{row: how many times it was run}."""
    paths = self.work.glob('*/calls')
    return {path.parent.name: len(path.read_text()) for path in paths}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A `Folder` outside the repository, whose rows are run by PROGRAM."""
  (tmp_path / 'small.py').write_text(CONFIG)
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM)
  monkeypatch.setattr(runner, 'PROGRAM', (sys.executable, str(program)))
  monkeypatch.setattr(runner, 'POLL_SECONDS', 0.05)
  monkeypatch.chdir(tmp_path)
  return Folder(tmp_path)
