"""Steps that are trained by commands of their own, with config.train_only."""

import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / 'outside_parts'


@pytest.fixture
def train(program, monkeypatch, tmp_path):
  """Trains some steps of a run of seconds; returns the exit code."""
  monkeypatch.syspath_prepend(str(FOLDER))

  def run(*names):
    return program(
      f'--config={FOLDER / "my_parts" / "config.py"}',
      f'--workdir={tmp_path / "run"}',
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
