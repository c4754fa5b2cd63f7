"""Refiners in a run: added to a finished one, trained, and used wherever it decodes."""

import json
import shutil

import numpy as np
import pytest

from configs import digits, polymnist
from mmsbm.experiment import make_experiment
from mmsbm.infra.errors import UserError
from mmsbm.main import execute

NETWORK = dict(name='mlp', width=8, num_blocks=1)


def config():
  c = digits.get_config('smoke,modalities=3,refine').to_dict()
  # m0 stays as its autoencoder decodes it.
  del c['refiner']['decoders']['m0']
  for decoder in c['refiner']['decoders'].values():
    decoder['network'] = dict(NETWORK)
  c['decoder_sampler']['num_steps'] = 2
  c['samplings'] = {'default': c['samplings']['default']}
  return c


def test_a_finished_run_gets_refiners_and_nothing_else(smoke_run, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  folder = workdir / 'checkpoints'
  before = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
  # Measuring what is not trained binds nobody.
  with pytest.raises(UserError, match='no checkpoint of refiner/m1'):
    execute(config(), str(workdir), 'evaluate', ['', 'x'])
  record = json.loads((workdir / 'run.json').read_text())
  assert not record['config'].get('refiner')
  execute(config(), str(workdir), 'run', ['', 'x'])
  assert all(p.stat().st_mtime_ns == time for p, time in before.items())
  new = {p.relative_to(folder) for p in folder.rglob('*') if p.is_file()}
  new -= {p.relative_to(folder) for p in before}
  assert {'/'.join(p.parts[:2]) for p in new} == {'refiner/m1', 'refiner/m2'}
  record = json.loads((workdir / 'run.json').read_text())
  assert record['parameters']['refiner/m1'] > 0 and 'train refiner' in record['timings']
  # All that is decoded is measured again, with the evaluations of both refiners.
  model = make_experiment(config(), workdir).method.model
  # What decodes nothing is not.
  kept = [
    [p.name for p in (w / 'evaluation').glob('reader*')] for w in (smoke_run, workdir)
  ]
  assert kept[0] == kept[1] and len(kept[0]) == 1
  lines = (workdir / 'results.jsonl').read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if row['metric'] == 'coherence']
  assert {row['nfe'] for row in rows} == {model.num_evaluations('default', 1)}
  plain = digits.get_config('smoke,modalities=3').to_dict()
  plain = make_experiment(plain, workdir).method.model
  assert model.num_evaluations('default', 1) - plain.num_evaluations('default', 1) == 4
  for name, same in (('m0', True), ('m1', False)):
    drawn = [
      np.load(path / 'samples' / 'reconstruction.npz')[f'generated/{name}']
      for path in (smoke_run, workdir)
    ]
    assert np.array_equal(*drawn) == same


def test_overrides_of_one_change_no_other():
  c = polymnist.get_config('refine')
  assert c.refiner.num_steps == c.unimodal.num_steps
  c.refiner.optimizer.learning_rate = 7.0
  c.refiner.decoders.m0.offset = 7.0
  c.refiner.decoders.m0.network.pad = 7
  assert c.unimodal.optimizer.learning_rate != 7
  assert c.refiner.decoders.m1.offset != 7 and c.refiner.decoders.m1.network.pad != 7


def test_other_refiners_are_another_training(cache, tmp_path):
  first, second = (make_experiment(config(), tmp_path) for _ in range(2))
  other = config()
  other['refiner']['num_steps'] = 11
  other = make_experiment(other, tmp_path)
  prints = [e.workspace.ledger.fingerprints for e in (first, second, other)]
  assert prints[0] == prints[1]
  assert {name for name in prints[0] if prints[0][name] != prints[2][name]} == {
    'refiner'
  }


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'decoder_sampler': {}}, 'config.decoder_sampler'),
    ({'refiner.decoders.m7': {'name': 'diffusion'}}, "'m7' is no modality"),
    ({'refiner.decoders.m1': 'mlp'}, "config.refiner.decoders.m1 is 'mlp', not a dict"),
    ({'refiner.decoders.m1.name': 'mlp'}, 'must be .diffusion.'),
    ({'refiner.decoders.m1.drop_probability': 0.1}, 'are not guided; set it to 0'),
    ({'decoder_guidance': {'name': 'classifier_free'}}, 'refiners are not guided'),
    ({'refiner.decoders': {}}, 'it names what is to be refined'),
    ({'refiner.decoders.m1.weighting': 'edn'}, "Did you mean 'edm'"),
    ({'refiner.decoders.m1.widht': 3}, "no field 'widht'"),
    ({'refiner.decoders.m1.network': dict(name='mixer', patch=5)}, 'divides height'),
    ({'refiner.num_steps': 0}, 'refiner.num_steps is 0'),
  ],
)
def test_a_mistake_about_refiners(check_changed, changes, message):
  with pytest.raises(UserError, match=message):
    check_changed(config(), changes)


def test_a_joint_vae_has_none():
  with pytest.raises(ValueError, match='refine is for what autoencoders decode'):
    digits.get_config('method=mopoe,refine')
  with pytest.raises(ValueError, match='refine=True is not one of'):
    polymnist.get_config('preset=paper,refine')


def test_a_joint_vae_has_no_section_of_refiners(check_changed):
  c = digits.get_config('smoke,modalities=2,method=mopoe').to_dict()
  with pytest.raises(UserError, match='config.refiner: a joint VAE has no such step'):
    check_changed(c, {'refiner': config()['refiner']})
