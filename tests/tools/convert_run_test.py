"""Records of the previous version, as it wrote them, in the new form."""

import copy
import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import mmsbm
from mmsbm.experiment import make_experiment
from mmsbm.infra import checkpoints
from mmsbm.infra.errors import UserError
from mmsbm.tools import convert_run

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
# Records of smoke runs, and the arguments of their configs.
RECORDS = {
  'digits_refine': ('digits', 'smoke,modalities=2,refine'),
  'polymnist_diff_mvae': (
    'polymnist',
    'smoke,preset=cpu,modalities=2,method=diff_mvae',
  ),
  'arrays_sbm_vae': ('arrays', 'smoke'),
  'digits': ('digits', 'smoke,modalities=3'),
}


def _record(name='digits_refine'):
  return json.loads((FOLDER / f'run_e99e35a_{name}.json').read_text())


def _changed(changes, name='digits_refine'):
  """An old config with other values: {dotted key: value}."""
  config = _record(name)['config']
  for path, value in changes.items():
    *parents, last = path.split('.')
    node = config
    for parent in parents:
      node = node[parent]
    node[last] = value
  return config


def _run(tmp_path, name='digits_refine'):
  (tmp_path / 'run.json').write_text(json.dumps(_record(name)))
  return tmp_path


def _leaves(config, prefix=''):
  for key, value in config.items():
    if isinstance(value, dict):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


@pytest.mark.parametrize('name', RECORDS)
def test_upgrade_trains_what_the_same_arguments_train(name):
  """Fields that the config of today does not have are those that it leaves open."""
  file, arguments = RECORDS[name]
  new = importlib.import_module(f'configs.{file}').get_config(arguments)
  new = json.loads(json.dumps(new.to_dict()))
  upgraded = convert_run.upgrade(_record(name)['config'])
  assert upgraded['method'] == new['method']
  for section in ('unimodal', 'joint', 'score', 'energy', 'refiner', 'modalities'):
    assert (section in upgraded) == (section in new)
    today = dict(_leaves(new.get(section, {})))
    different = {
      key
      for key, value in _leaves(upgraded.get(section, {}))
      if today.get(key, value) not in (value, None)
    }
    # Smoke runs had a warm-up that was longer than their training.
    assert different <= {'optimizer.warmup_steps'}, section
  assert list(upgraded['modalities']) == list(new['modalities'])


def test_upgrade_changes_nothing_in_place():
  config = _record()['config']
  before = copy.deepcopy(config)
  convert_run.upgrade(config)
  assert config == before


@pytest.mark.parametrize(
  'changes,path,value',
  [
    ({'only': 'm0'}, 'train_only', ['unimodal/m0']),
    # A study's autoencoders for others: the whole config, not all of it trained.
    (
      {'stages': ['classifier', 'unimodal']},
      'train_only',
      ['classifier', 'unimodal'],
    ),
    ({'stages': ['classifier', 'unimodal']}, 'score.num_steps', 20),
    ({'pretrained': '../ae'}, 'borrow.classifier', '../ae'),
    ({'pretrained': '../ae'}, 'borrow.unimodal', '../ae'),
    ({'pretrained': '../ae'}, 'borrow.score', ''),
    (
      {'pretrained': '../ae', 'pretrained_stages': ['classifier']},
      'borrow.unimodal',
      '',
    ),
    ({'evaluate.inception_weights': 'w.npz'}, 'readers.inception.weights', 'w.npz'),
    ({'evaluate.linear_probe': 9}, 'evaluate.evaluators.linear_probe.num_train', 9),
    ({'evaluate.num_given': [2]}, 'evaluate.evaluators.linear_probe.num_given', [2]),
    ({'evaluate.num_given': [2]}, 'evaluate.evaluators.conditional.num_given', [2]),
    (
      {'evaluate.compare_all_given': True},
      'evaluate.evaluators.conditional.all_samplings',
      True,
    ),
    ({'sample.num_samples': 9}, 'evaluate.evaluators.samples.num_samples', 9),
    ({'modalities.m1.judge': 'second'}, 'readers.digit.modalities', ['m0']),
    ({'modalities.m1.judge': 'second'}, 'readers.second.modalities', ['m1']),
    ({'modalities.m1.judge': ''}, 'readers.digit.modalities', ['m0']),
    # What a setup does not say is that of the run.
    ({'compare.unguided': {}}, 'samplings.unguided.sampler.name', 'dpm_solver'),
    (
      {'compare.unguided': {'sampler': {'name': 'heun'}}},
      'samplings.unguided.guidance.energy.name',
      'energy',
    ),
  ],
)
def test_upgrade_of_an_option(changes, path, value):
  node = convert_run.upgrade(_changed(changes))
  for key in path.split('.'):
    node = node[key]
  assert node == value


def test_upgrade_drops_sections_that_were_not_used():
  new = convert_run.upgrade(_changed({'stages': ['classifier', 'unimodal', 'score']}))
  absent = {'energy', 'refiner', 'decoder_sampler'}
  assert not absent & set(new) and not absent & set(new['borrow'])
  assert new['train_only'] == []


def test_upgrade_of_precision_and_recall_left_out():
  new = convert_run.upgrade(_changed({'evaluate.precision_recall': False}))
  metrics = new['evaluate']['metrics']
  assert 'frechet' in metrics and not {'precision', 'recall'} & set(metrics)


def test_upgrade_of_priors():
  priors = {
    'default': {'name': 'gaussian_mixture', 'num_components': 3},
    'prior': {'name': 'prior'},
  }
  changes = {
    'sampler': priors['default'],
    'compare': {'prior': {'sampler': priors['prior']}},
  }
  new = convert_run.upgrade(_changed(changes, 'polymnist_diff_mvae'))
  assert new['samplings'] == {
    'default': {'prior': {'name': 'mixture', 'num_components': 3}},
    'prior': {'prior': {'name': 'standard'}},
  }


def test_upgrade_of_kinds():
  new = convert_run.upgrade(_record('arrays_sbm_vae')['config'])
  assert new['modalities'] == {
    'image': {'kind': 'image', 'shape': [16, 16, 1]},
    'attributes': {'kind': 'attributes', 'shape': [4]},
    'profile': {'kind': 'vector', 'shape': [16], 'offset': 0.6, 'scale': 0.4},
    'number': {'kind': 'label', 'num_classes': 10},
  }


def test_convert_keeps_the_old_record_and_what_it_says_of_the_run(tmp_path):
  old, run = _record(), _run(tmp_path)
  line = convert_run.convert(run)
  assert 'is in the new form' in line and '\n' not in line
  assert json.loads((run / convert_run.OLD_NAME).read_text()) == old
  new = json.loads((run / 'run.json').read_text())
  kept = ('seed', 'data_hash', 'data_samples', 'data_source', 'parameters', 'timings')
  for key in (*kept, 'command', 'history', 'versions', 'devices', 'git_commit'):
    assert new[key] == old[key], key
  assert new['num_classes'] == {'class': 10}
  upgraded = convert_run.upgrade(old['config'])
  assert new['config'] == json.loads(json.dumps(upgraded))
  assert not {'pretrained_seed', 'judged_by', 'seconds_per_sample'} & set(new)


def _old_run(smoke_run, folder, **changes):
  """A run as the previous version left it: no steps, the old record and stamps."""
  shutil.copytree(smoke_run, folder)
  shutil.rmtree(folder / 'steps')
  record = _record('digits')
  record['config'] |= changes
  (folder / 'run.json').write_text(json.dumps(record))
  with np.load(folder / 'latents.npz') as stored:
    arrays = {
      key: stored[key] for key in stored.files if key not in ('fingerprint', 'digest')
    }
  _save_stamped(folder / 'latents.npz', record, dict(m0=20, m1=20, m2=20), **arrays)
  return folder


def _save_stamped(path, record, steps, **arrays):
  """Writes arrays with the stamp that the previous version gave them."""
  stamp = {'data': record['data_hash'], 'steps': steps, 'seed': record['seed']}
  np.savez(path, stamp=np.array(json.dumps(stamp)), **arrays)


def _old_checkpoint(folder, step):
  """Writes a checkpoint of this version as the previous one did, in its place."""
  handler, items = ocp.PyTreeCheckpointHandler(), {}
  for name in ('state', 'ema'):
    place = folder / str(step) / name
    args = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(place).tree
    )
    items[name] = handler.restore(place, args=ocp.args.PyTreeRestore(restore_args=args))
  state, ema = items['state'], items['ema']
  tree = {key: state[key] for key in ('step', 'params', 'mutables') if key in state}
  tree['ema_params'] = ema.pop('params')
  tree['ema_mutables'] = ema
  leaves = jax.tree.leaves(state['opt_state'])
  tree['opt_state'] = {str(i): leaf for i, leaf in enumerate(leaves)}
  shutil.rmtree(folder)
  with ocp.CheckpointManager(folder) as manager:
    manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(tree)))


def test_convert_writes_the_steps_as_this_version_does(smoke_run, tmp_path):
  run = _old_run(smoke_run, tmp_path / 'run')
  convert_run.convert(run)
  files = sorted(path.name for path in (smoke_run / 'steps').iterdir())
  assert files == sorted(path.name for path in (run / 'steps').iterdir())
  for name in files:
    old, new = (
      json.loads((f / 'steps' / name).read_text())['spec'] for f in (run, smoke_run)
    )
    # The second classifier is new, and smoke runs had a longer warm-up.
    for learner in old.keys() - {'is'}:
      if isinstance(old[learner], dict) and 'optimizer' in old[learner]:
        for spec in (old, new):
          spec[learner].pop('optimizer')
      assert old[learner] == new[learner], learner
  record = json.loads((run / 'run.json').read_text())
  make_experiment(record['config'], run)


def test_converted_run_is_sampled_as_it_is(smoke_run, tmp_path, program, capfd):
  run = _old_run(smoke_run, tmp_path / 'run')
  for name in ('unimodal/m0', 'unimodal/m1', 'unimodal/m2', 'score', 'energy'):
    _old_checkpoint(run / 'checkpoints' / name, 20)
  with pytest.raises(UserError, match='mmsbm.tools.convert_run'):
    mmsbm.load(run)
  convert_run.convert(run)
  before = {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()}
  given = {'m1': np.full((16, 16, 3), 90, np.uint8)}
  drawn, known = (mmsbm.load(r).sample(given, num=2) for r in (run, smoke_run))
  jax.tree.map(np.testing.assert_array_equal, drawn, known)
  # The digits of today are others: nothing of them is measured on the old model.
  command = '--config=configs/digits.py:smoke,modalities=3', f'--workdir={run}'
  assert program(*command, '--mode=evaluate') == 2
  assert 'other data' in capfd.readouterr().err
  changed = {p.name for p, time in before.items() if p.stat().st_mtime_ns != time}
  assert changed <= {'.lock'}


@pytest.mark.parametrize('changes', [{}, {'seed': 1}, {'data_hash': 'x'}])
def test_convert_keeps_latents_and_mixtures(tmp_path, changes):
  """Those of the checkpoints that are there; others are made again."""
  rng, record = np.random.default_rng(0), _record('polymnist_diff_mvae')
  run = _run(tmp_path, 'polymnist_diff_mvae')
  size, num_steps = 64, record['config']['joint']['num_steps']
  checkpoints.save(
    run / 'checkpoints' / 'joint', num_steps, {'ema': {'w': rng.random(1)}}
  )
  stamped = record | changes, {'joint': num_steps}
  latents = {key: rng.random(size) for key in ('mean', 'std')}
  mixture = {'mean': rng.random((2, size)), 'log_weights': rng.random(2)}
  _save_stamped(run / 'latents.npz', *stamped, **latents)
  _save_stamped(run / 'mixture_2.npz', *stamped, **mixture)
  convert_run.convert(run)
  assert not (run / 'mixture_2.npz').exists()
  assert (run / 'mixtures.npz').exists() == (not changes)
  if changes:
    return
  new = json.loads((run / 'run.json').read_text())
  steps = make_experiment(new['config'], run, new).workspace.ledger.fingerprints
  for name, arrays in (
    ('latents', latents),
    ('mixtures', {f'2/{key}': value for key, value in mixture.items()}),
  ):
    with np.load(run / f'{name}.npz') as stored:
      assert str(stored['fingerprint']) == steps[name]
      assert set(stored.files) == {'fingerprint', 'digest', *arrays}
      for key, value in arrays.items():
        np.testing.assert_array_equal(stored[key], value)


def test_convert_of_a_run_that_borrows_needs_its_lender(smoke_run, tmp_path):
  lender = _old_run(smoke_run, tmp_path / 'lender')
  run = _old_run(smoke_run, tmp_path / 'run', pretrained=str(lender))
  for stage in ('classifier', 'unimodal'):
    shutil.rmtree(run / 'checkpoints' / stage)
  with pytest.raises(UserError, match=f'mmsbm.tools.convert_run {lender}'):
    convert_run.convert(run)
  assert 'stages' in json.loads((run / 'run.json').read_text())['config']
  convert_run.convert(lender)
  convert_run.convert(run)
  assert {path.stem for path in (run / 'steps').iterdir()} == {'score', 'energy'}


def test_convert_twice_is_converting_once(tmp_path):
  run = _run(tmp_path)
  convert_run.convert(run)
  files = {path.name: path.read_bytes() for path in run.iterdir()}
  assert convert_run.convert(run).endswith('is in the new form already.')
  assert files == {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize(
  'text,message',
  [
    (None, 'does not exist: .* is not a run'),
    ('{', 'cannot be read'),
    ('[]', 'is not the record of a run'),
    ('{"config": {}}', 'not of a version that can be converted'),
    ('{"config": {"stages": []}}', 'not of a version that can be converted'),
  ],
)
def test_convert_refuses_what_is_no_old_run(tmp_path, text, message):
  if text is not None:
    (tmp_path / 'run.json').write_text(text)
  with pytest.raises(UserError, match=message):
    convert_run.convert(tmp_path)
  assert not (tmp_path / convert_run.OLD_NAME).exists()


def test_command_line(tmp_path, capsys):
  assert convert_run.main([str(_run(tmp_path))]) == 0
  assert capsys.readouterr().out.count('\n') == 1
  assert convert_run.main([str(tmp_path / 'none')]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1


def test_program_can_be_run():
  command = [sys.executable, '-m', 'mmsbm.tools.convert_run', '--help']
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0 and 'folder of the run' in result.stdout
