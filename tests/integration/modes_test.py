"""Single modes on a finished run, what a refused command leaves, borrowed steps."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from mmsbm import main

ROOT = pathlib.Path(main.__file__).parents[1]
CONFIG = '--config=configs/digits.py:smoke,modalities=3'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture
def workdir(smoke_run, tmp_path):
  return shutil.copytree(smoke_run, tmp_path / 'w')


def contents(workdir):
  """All files but locks, by name."""
  return {
    str(path.relative_to(workdir)): (path.stat().st_mtime_ns, path.read_bytes())
    for path in workdir.rglob('*')
    if path.is_file() and not path.name.startswith('.lock')
  }


def changes(before, workdir):
  after = contents(workdir)
  return {name for name in before | after if before.get(name) != after.get(name)}


def history(workdir):
  return json.loads((workdir / 'run.json').read_text())['history']


def test_report_reads_files_alone(program, workdir):
  """Neither checkpoints nor data are there any more; with them, it is the same page."""
  page = workdir / 'report' / 'index.html'
  shutil.rmtree(workdir / 'report')
  shutil.rmtree(workdir / 'checkpoints')
  before = contents(workdir)
  arguments = CONFIG, f'--workdir={workdir}', '--config.data.cache_dir=/proc/nothing'
  assert program(*arguments, '--mode=report') == 0
  assert changes(before, workdir) == {'run.json', 'report/index.html'}
  assert '</html>' in page.read_text()
  assert len(history(workdir)) == 2
  record = json.loads((workdir / 'run.json').read_text())
  assert record['config'] == json.loads(before['run.json'][1])['config']


def test_sample_draws_what_is_missing_as_it_was(program, workdir, smoke_run):
  kept, missing = 'samples/reconstruction', 'samples/given_first_1'
  for suffix in ('npz', 'json', 'png'):
    (workdir / f'{missing}.{suffix}').unlink()
  before = contents(workdir)
  assert program(CONFIG, f'--workdir={workdir}', '--mode=sample') == 0
  changed = changes(before, workdir)
  assert {f'{missing}.{suffix}' for suffix in ('npz', 'json', 'png')} <= changed
  assert not any(name.startswith((kept, 'checkpoints', 'report')) for name in changed)
  with (
    np.load(workdir / f'{missing}.npz') as drawn,
    np.load(smoke_run / f'{missing}.npz') as known,
  ):
    assert drawn.files == known.files
    for key in known.files:
      np.testing.assert_array_equal(drawn[key], known[key])


def test_evaluate_measures_what_is_missing_as_it_was(program, workdir):
  rows = (workdir / 'results.jsonl').read_bytes()
  (lost,) = (workdir / 'evaluation').glob('unconditional-*.json')
  lost.unlink()
  before = contents(workdir)
  assert program(CONFIG, f'--workdir={workdir}', '--mode=evaluate') == 0
  changed = changes(before, workdir)
  assert str(lost.relative_to(workdir)) in changed
  assert changed <= {
    'run.json', 'results.jsonl', 'evaluation/metrics.json', 'digests.json',
    str(lost.relative_to(workdir)),
  }  # fmt: skip
  assert (workdir / 'results.jsonl').read_bytes() == rows


@pytest.mark.parametrize(
  'arguments',
  [
    ('--config.seed=5',),
    ('--config.unimodal.batch_size=31', '--mode=train'),
    ('--config.data.num_train=500',),
    ('--config.evaluate.split=tset', '--mode=evaluate'),
    ('--config.samplings.default.sampler.name=dpm_solvr', '--mode=sample'),
    ('--config.borrow.unimodal=nowhere',),
    ('--config.train_only=scroe',),
    ('--mode=trian',),
  ],
)
def test_a_refused_command_writes_nothing(program, workdir, arguments):
  before = contents(workdir)
  assert program(CONFIG, f'--workdir={workdir}', *arguments) == 2
  assert not changes(before, workdir)


def test_a_lender_may_have_more_modalities(program, smoke_run, tmp_path, capsys):
  """It has learned each of them alone; what has seen all of them is not lent."""
  before = contents(smoke_run)
  workdir = tmp_path / 'w'
  command = '--config=configs/digits.py:smoke,modalities=2', f'--workdir={workdir}'
  lent = f'--config.borrow.unimodal={smoke_run}'
  wrong = f'--config.borrow.score={smoke_run}', '--config.train_only=energy'
  assert program(*command, lent, *wrong, '--mode=train') == 2
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert 'was trained with another config: score.' in line
  assert not list(workdir.rglob('*.json'))
  assert program(*command, lent, '--mode=train', '--config.train_only=score') == 0
  assert {path.name for path in (workdir / 'checkpoints').iterdir()} == {'score'}
  steps = [
    json.loads((run / 'run.json').read_text())['steps'] for run in (workdir, smoke_run)
  ]
  assert steps[0]['unimodal'] == steps[1]['unimodal']
  assert steps[0]['score'] != steps[1]['score']
  with np.load(workdir / 'latents.npz') as two, np.load(smoke_run / 'latents.npz') as z:
    np.testing.assert_allclose(two['z'], z['z'][:, : two['z'].shape[1]], rtol=1e-5)
  assert not changes(before, smoke_run)
