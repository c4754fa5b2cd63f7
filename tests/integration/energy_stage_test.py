"""Energies in a run: added to a finished one, trained, and used for guidance."""

import json
import shutil

import pytest

from configs import digits
from mmsbm.experiment import make_experiment
from mmsbm.infra.errors import UserError
from mmsbm.main import execute


def without():
  """A config as if there were no energies."""
  c = digits.get_config('smoke,modalities=3')
  c.samplings.default.guidance = {}
  c.samplings = {'default': c.samplings.default}
  c.energy = {}
  return c


def config():
  c = digits.get_config('smoke,modalities=3')
  c.energy.network.update(width=16, num_blocks=1, features=8)
  c.energy.num_steps = 10
  for name in ('precision', 'recall'):
    del c.evaluate.metrics[name]
  energy = dict(name='energy', scale=1.0, noise_max=3.0)
  default = c.samplings.default.to_dict() | dict(guidance={})
  both = dict(a=energy, b=dict(name='classifier_free', scale=1.0))
  heun = dict(name='heun', num_steps=3)
  c = c.to_dict()
  c['samplings'] = {
    'default': default,
    'energy': default | dict(guidance=energy),
    'both': default | dict(guidance=both, sampler=heun),
  }
  return c


def test_a_finished_run_gets_energies_and_nothing_else(smoke_run, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  shutil.rmtree(workdir / 'checkpoints' / 'energy')
  (workdir / 'steps' / 'energy.json').unlink()
  checkpoints = {
    p: p.stat().st_mtime_ns for p in (workdir / 'checkpoints').rglob('*') if p.is_file()
  }
  execute(config(), str(workdir), 'train', ['', 'x'])
  after = {p for p in (workdir / 'checkpoints').rglob('*') if p.is_file()}
  assert all(p.stat().st_mtime_ns == time for p, time in checkpoints.items())
  new = {
    p.relative_to(workdir / 'checkpoints').parts[0] for p in after - {*checkpoints}
  }
  assert new == {'energy'}
  record = json.loads((workdir / 'run.json').read_text())
  assert record['parameters']['energy'] > 0 and 'train energy' in record['timings']

  execute(config(), str(workdir), 'evaluate', ['', 'x'])
  lines = (workdir / 'results.jsonl').read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if row['metric'] == 'coherence']
  costs = {row['sampling']: (row['guidance'], row['nfe']) for row in rows}
  one = 'energy(scale=1.0, noise_max=3.0)'
  model = make_experiment(config(), workdir).method.model
  assert costs == {
    'default': ('', 4),
    'energy': (one, model.num_evaluations('energy', 1)),
    'both': (f'{one} + classifier_free(scale=1.0)', model.num_evaluations('both', 1)),
  }
  assert 4 < costs['energy'][1] < 8 and 10 < costs['both'][1] < 15


def test_other_energies_are_another_training(smoke_run, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  # Without energies nothing contradicts the run, which has them.
  make_experiment(without().to_dict(), workdir).check()
  other = digits.get_config('smoke,modalities=3').to_dict()
  other['energy']['num_steps'] = 10
  with pytest.raises(UserError, match='energy.num_steps: 20 -> 10'):
    make_experiment(other, workdir).check()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'energy.group_size': 5}, 'batch_size=32 must be a multiple of group_size=5'),
    ({'energy': {}},
     "config.samplings.energy.guidance: 'energy' needs a trained energy"),
    ({'score.drop_probability': 0.0},
     "config.samplings.both.guidance: 'classifier_free' needs a network that has seen"),
    ({'score.condition_probability': 0.0},
     "config.samplings.default.conditioning: 'time_zero' needs a network"),
  ],
)  # fmt: skip
def test_a_sampling_without_its_training(check_changed, changes, message):
  with pytest.raises(UserError, match=message):
    check_changed(config(), changes)
