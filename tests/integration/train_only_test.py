"""Steps that are trained by commands of their own, with config.train_only."""

import json
import pathlib

import numpy as np
import pytest

from mmsbm.record import lock

FOLDER = pathlib.Path(__file__).parents[1] / 'outside_parts'


@pytest.fixture
def train(program, monkeypatch, tmp_path):
  """Trains some steps of a run of seconds; returns the exit code."""
  monkeypatch.syspath_prepend(str(FOLDER))

  def run(*names, workdir=tmp_path / 'run'):
    return program(
      f'--config={FOLDER / "my_parts" / "config.py"}',
      f'--workdir={workdir}',
      '--mode=train',
      f'--config.train_only={names}',
    )

  return run


def test_train_only_needs_what_comes_before(train, tmp_path, capsys):
  assert train('score') == 2
  errors = capsys.readouterr().err.strip().splitlines()
  assert errors[-1] == (
    'error: config.train_only: unimodal/heading must be trained before what needs it: '
    'add it.'
  )
  # Nothing is written down of a step that cannot be made.
  assert not (tmp_path / 'run' / 'steps').exists()
  assert train('unimodal/heading') == 0
  assert train('score') == 2
  assert 'unimodal/place must be trained' in capsys.readouterr().err
  assert train('unimodal/place') == 0
  assert train('score') == 0
  assert (tmp_path / 'run' / 'latents.npz').exists()
  parameters = json.loads((tmp_path / 'run' / 'run.json').read_text())['parameters']
  assert set(parameters) == {'unimodal/heading', 'unimodal/place', 'score'}


def test_learners_that_are_trained_side_by_side(train, tmp_path, capsys):
  """Tasks of a cluster share the folder, and give the run that one task gives."""
  with lock(tmp_path / 'run', ('unimodal/heading',)):
    for names in (('unimodal/heading',), ('unimodal',), ()):
      assert train(*names) == 2
      assert 'another process is working in' in capsys.readouterr().err
    assert train('unimodal/place') == 0
  assert train('unimodal/heading') == 0
  assert train() == 0
  whole = tmp_path / 'whole'
  assert train(workdir=whole) == 0
  records = [
    json.loads((p / 'run.json').read_text()) for p in (tmp_path / 'run', whole)
  ]
  for field in ('parameters', 'steps', 'data_hash'):
    assert records[0][field] == records[1][field], field
  assert records[0]['timings'].keys() == records[1]['timings'].keys()
  assert [len(record['history']) for record in records] == [3, 1]
  with (
    np.load(tmp_path / 'run' / 'latents.npz') as parts,
    np.load(whole / 'latents.npz') as together,
  ):
    for key in together.files:
      np.testing.assert_array_equal(parts[key], together[key])
