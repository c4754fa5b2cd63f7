"""The runner, with a program that takes no time."""

import fcntl
import json
import pathlib
import subprocess
import sys
import threading
import time
from importlib.metadata import version

import pytest

import mmsbm
from mmsbm.studies import main, runner


def test_run_goes_on_after_a_failed_row_and_tries_it_again(folder, capsys):
  command = folder.define(
    "name='wrong'", "name='needs_it', borrow={'score': 'wrong'}", "name='killed'",
    "name='good'",
  )  # fmt: skip
  assert main.main(command) == 1
  assert folder.calls() == {'wrong': 1, 'killed': 1, 'good': 1}
  lines = capsys.readouterr().err.splitlines()
  failed = [line for line in lines if line.startswith('failed:')]
  assert len(failed) == 3
  assert 'wrong: exit code 1: error: this row is wrong.' in failed[0]
  assert failed[1] == 'failed: needs_it: wrong, which it borrows from, failed'
  assert 'killed: exit code -9' in failed[2]
  # The killed row is picked up, what failed is tried again, the rest is left alone.
  assert main.main(command) == 1
  assert folder.calls() == {'wrong': 2, 'killed': 2, 'good': 1}
  assert main.main([*command, '--only=killed|good']) == 0
  assert folder.calls() == {'wrong': 2, 'killed': 2, 'good': 1}


def test_run_runs_a_row_again_after_its_definition_has_changed(folder):
  first = "name='ae'", "name='a', borrow={'unimodal': 'ae'}", "name='b'"
  assert main.main(folder.define(*first)) == 0
  second = "name='ae', seed=1", "name='a', borrow={'unimodal': 'ae'}", "name='b'"
  command = folder.define(*second)
  assert main.main(command) == 0
  assert folder.calls() == {'ae': 2, 'a': 2, 'b': 1}
  (folder.work / 'b' / 'finished.json').write_text('{')
  assert main.main(command) == 0
  assert folder.calls() == {'ae': 2, 'a': 2, 'b': 2}


def test_run_shares_the_rows_with_another_process(folder, monkeypatch):
  monkeypatch.setenv('STAND_IN_SECONDS', '0.3')
  monkeypatch.setenv('PYTHONPATH', str(pathlib.Path(mmsbm.__file__).parents[1]))
  names = [f'r{i}' for i in range(6)]
  rows = [f"name={name!r}, borrow={{'unimodal': 'ae'}}" for name in names]
  command = folder.define("name='ae'", *rows)
  program = (
    'import sys; from mmsbm.studies import main, runner; runner.POLL_SECONDS = 0.1; '
    f'runner.PROGRAM = {runner.PROGRAM!r}; sys.exit(main.main(sys.argv))'
  )
  processes = [
    subprocess.Popen([sys.executable, '-c', program, *command[1:]]) for _ in range(2)
  ]
  assert [process.wait() for process in processes] == [0, 0]
  assert folder.calls() == dict.fromkeys(['ae', *names], 1)


def test_run_waits_for_another_process_at_what_is_borrowed(folder):
  command = folder.define("name='ae'", "name='row', borrow={'unimodal': 'ae'}")
  lock = folder.work / 'logs' / 'ae.lock'
  lock.parent.mkdir(parents=True)
  with open(lock, 'w') as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    thread = threading.Thread(target=main.main, args=(command,))
    thread.start()
    time.sleep(0.5)
    assert folder.calls() == {}
  thread.join(timeout=60)
  assert folder.calls() == {'ae': 1, 'row': 1}


def test_run_costs_are_those_of_the_run_and_of_what_it_borrows(folder):
  assert main.main(folder.define(
    "name='ae', mode='train', overrides={'train_only': ('classifier', 'unimodal')}",
    "name='a', borrow={'classifier': 'ae', 'unimodal': 'ae'}",
  )) == 0  # fmt: skip
  path = folder.work / 'a'
  record = json.loads((path / 'run.json').read_text())
  latent_model = {
    'latent_model_parameters': 7, 'latent_model_seconds': 2.5,
    'seconds_per_sample': 0.001,
  }  # fmt: skip
  autoencoders = {'autoencoder_parameters': 23, 'autoencoder_seconds': 4.0}
  assert runner.run_costs(path, record) == autoencoders | latent_model
  # The time of autoencoders of other modalities says nothing.
  del record['config']['modalities']['m1']
  assert runner.run_costs(path, record) == latent_model | {'autoencoder_parameters': 11}
  record['config']['borrow']['unimodal'] = '../none'
  assert runner.run_costs(path, record) == latent_model


BENCHMARK = """
import json, sys
names = [a.split('=')[0] for a in sys.argv[1:]]
# Flags of a config are refused before it.
assert names.index('--config') < names.index('--config.loop.block_steps')
with open('timed', 'a') as f:
  f.write('x')
if any('../a' in a for a in sys.argv):
  sys.exit('error: no time.')
for row in (
  {"stage": "unimodal", "seconds": 4.25},
  {"stage": "score", "seconds": 7.0},
  {"stage": "energy", "seconds": 1.5},
  {"seconds_per_sample": 0.25},
):
  print(json.dumps(row | {"matmul_gflops": 50.0, "device": "abacus"}))
"""


@pytest.fixture
def timed_rows(folder, monkeypatch):
  """A finished study, the command that makes it, and a stand-in for the benchmark."""
  command = folder.define(
    "name='a', columns={'method': 'a'}",
    "name='b', columns={'method': 'b'}, seed=1",
    "name='other', overrides={'score.num_steps': 3}",
    "name='failing', borrow={'unimodal': 'a'}, overrides={'score.num_steps': 4}",
    "name='wrong', overrides={'score.num_steps': 5}",
  )
  assert main.main(command) == 1
  path = folder.path / 'benchmark.py'
  path.write_text(BENCHMARK)
  monkeypatch.setattr(runner, 'BENCHMARK', (sys.executable, str(path)))
  return command


def test_measure_costs_times_rows_that_differ_by_their_seed_once(
  folder, timed_rows, capsys
):
  assert main.main([*timed_rows, '--mode=time']) == 1
  assert (folder.path / 'timed').read_text() == 'xxx'
  assert 'failed: failing: exit code 1: error: no time.' in capsys.readouterr().err
  study = folder.study()
  costs, by_name = runner.read_costs(study), {row.name: row for row in study.rows}
  assert costs.keys() == {study.program(by_name[name]) for name in ('b', 'other')}
  measured = costs[study.program(by_name['b'])]
  assert measured == {
    'row': 'a', 'seconds': {'unimodal': 4.25, 'score': 7.0, 'energy': 1.5},
    'seconds_per_sample': 0.25, 'matmul_gflops': [50.0] * 4,
    'where': {'jax': version('jax'), 'device': 'abacus'},
  }  # fmt: skip
  assert runner.timed_costs(measured) == {
    'seconds_per_sample': 0.25, 'autoencoder_seconds': 4.25,
    'latent_model_seconds': 8.5,
  }  # fmt: skip
  # What is known is not measured again.
  assert main.main([*timed_rows, '--mode=time', '--only=^(a|b|other)$']) == 0
  assert (folder.path / 'timed').read_text() == 'xxx'


def test_measure_costs_of_rows_of_other_machines(folder, timed_rows, capsys):
  results = folder.work / 'results.csv'
  elsewhere = [
    *timed_rows[:2], f'--workdir={folder.path / "elsewhere"}', '--mode=time',
    f'--results={results}', '--only=^(a|b)$',
  ]  # fmt: skip
  assert main.main(elsewhere) == 0
  assert (folder.path / 'timed').read_text() == 'x'
  seconds = [row for row in results.read_text().splitlines() if 'seconds' in row]
  assert [row for row in seconds if row.startswith('b,')] == [
    f'b,,{metric},,,{value},,,,{version("jax")},abacus'
    for metric, value in [
      ('seconds_per_sample', 0.25), ('autoencoder_seconds', 4.25),
      ('latent_model_seconds', 8.5),
    ]
  ]  # fmt: skip
  # Without results there is nothing to time.
  results.unlink()
  assert main.main(elsewhere) == 2
  assert 'has none of these rows' in capsys.readouterr().err


def test_read_costs_refuses_a_damaged_file(folder, timed_rows, capsys):
  (folder.work / runner.COSTS).write_text('{')
  assert main.main([*timed_rows, '--mode=time']) == 2
  assert 'costs.json is damaged' in capsys.readouterr().err
