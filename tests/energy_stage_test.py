"""Energies in a run: added to a finished one, trained, and used for guidance."""

import json
import shutil

import pytest

from configs import common, digits
from mmsbm.experiment import Experiment, training_differences
from mmsbm.infra.errors import UserError
from mmsbm.main import execute


def without():
  """A config as if there were no energies."""
  c = digits.get_config('smoke,modalities=3')
  c.stages = ('classifier', 'unimodal', 'score')
  c.guidance = {}
  del c.energy
  return c


def config():
  c = without()
  common.energy(
    c, network=dict(name='tower', width=16, num_blocks=1, features=8), num_steps=10
  )
  c.evaluate.precision_recall = False
  energy = dict(name='energy', scale=1.0, noise_max=3.0)
  c.compare = {
    'energy': dict(guidance=energy),
    'both': dict(
      guidance=dict(a=energy, b=dict(name='classifier_free', scale=1.0)),
      sampler=dict(name='heun', num_steps=3),
    ),
  }
  return c.to_dict()


def test_a_finished_run_gets_energies_and_nothing_else(smoke_run, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  shutil.rmtree(workdir / 'checkpoints' / 'energy')
  record = json.loads((workdir / 'run.json').read_text())
  record['config'] = without().to_dict()
  (workdir / 'run.json').write_text(json.dumps(record))
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
  costs = {row['setup']: (row['guidance'], row['nfe']) for row in rows}
  one = 'energy(scale=1.0, noise_max=3.0)'
  model = Experiment(config(), workdir).model
  assert costs == {
    'default': ('', 4),
    'energy': (one, model.num_evaluations('energy', 1)),
    'both': (f'{one} + classifier_free(scale=1.0)', model.num_evaluations('both', 1)),
  }
  assert 4 < costs['energy'][1] < 8 and 10 < costs['both'][1] < 15


def test_other_energies_are_another_training():
  new = config()
  old = without().to_dict()
  assert training_differences(old, new) == []
  other = json.loads(json.dumps(new))
  other['energy']['num_steps'] = 11
  assert training_differences(new, other) == ['energy.num_steps: 10 -> 11']
  assert any('energy.num_steps' in line for line in training_differences(new, old))


def test_autoencoders_alone_need_no_energies(tmp_path):
  c = config() | {'stages': ('classifier', 'unimodal')}
  c['guidance'] = {'name': 'energy', 'scale': 1.0}
  Experiment(c, tmp_path).check()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'energy.group_size': 5}, 'batch_size=32 must be a multiple of group_size=5'),
    ({'stages': ('classifier', 'unimodal', 'score')},
     r"'energy' \(config.compare.both\) needs a trained energy"),
    ({'score.drop_probability': 0.0},
     r"'classifier_free' \(config.compare.both\) needs a network that has seen"),
    ({'score.condition_probability': 0.0}, "conditioning 'time_zero' needs a network"),
    ({'score.condition_probability': 0.0, 'conditioning': {'name': 'noised'}},
     "'classifier_free' .* needs a network that has seen"),
    ({'conditioning': {'name': 'noised'}, 'score.condition_probability': 0.0,
      'compare': {'x': {'conditioning': {'name': 'time_zero'}}}},
     r"'time_zero' \(config.compare.x\) needs a network"),
  ],
)  # fmt: skip
def test_a_setup_that_the_networks_are_not_trained_for(check_changed, changes, message):
  with pytest.raises(UserError, match=message):
    check_changed(config(), changes)
