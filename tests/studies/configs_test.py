"""The definitions of the tables: every row can be built, as its name promises."""

import pathlib

import pytest

import mmsbm
from mmsbm.configs import methods as recipes
from mmsbm.studies.definition import Study, load_file, load_study
from mmsbm.studies.results import read_lines

ROOT = pathlib.Path(mmsbm.__file__).parents[1]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def resolved(row):
  """The config of a row as a dictionary; a dictionary replaces a whole section."""
  config = load_file(row.config, 'get_config').to_dict()
  for key, value in row.overrides.items():
    *folders, last = key.split('.')
    node = config
    for part in folders:
      node = node[part]
    node[last] = value
  return config


def built(definition, folder, only=''):
  """(row, config, experiment) of the rows of a study; nothing is computed.

  With `only`, other rows than that are looked at, but not built.
  """
  from mmsbm.experiment import make_experiment

  rows = load_study(definition)
  columns = [tuple(row.columns.items()) for row in rows]
  assert len(set(columns)) == len(columns)
  study = Study(definition, folder, (), tuple(rows))
  for row in rows:
    study.fingerprint(row)
    config = resolved(row)
    assert set(row.borrow) <= set(config['borrow'])
    assert set(row.sampling_columns) <= set(config['samplings'])
    if only not in ('', row.name):
      continue
    # Facts of the data in place of the data, which are not needed.
    record = {'num_classes': {'class': 10}, 'data_hash': '', 'data_samples': {}}
    experiment = make_experiment(config, folder / row.name, record)
    assert set(experiment.method.model.samplings) == set(config['samplings'])
    yield row, config, experiment


@pytest.mark.parametrize('data', ['digits', 'polymnist'])
@pytest.mark.parametrize('smoke', [True, False])
def test_any_to_any_samples_with_as_many_evaluations_as_it_says(data, smoke, tmp_path):
  definition = f'configs/studies/any_to_any.py:data={data},seeds=1' + ',smoke' * smoke
  from configs.studies import any_to_any

  for _, config, experiment in built(definition, tmp_path, 'vae_s0'):
    for name in config['samplings']:
      solver, _, number = name.rpartition('_')
      if solver in any_to_any.SOLVERS:
        nfe = experiment.method.model.num_evaluations(name, 0)
        assert nfe in (int(number), int(number) - 1)
        if solver not in ('heun', 'pc'):
          assert nfe == int(number)


@pytest.mark.parametrize('study', ['methods', 'any_to_any'])
def test_one_judge_reads_all_seeds(study):
  """It is trained once, so that all distances are in one space."""
  rows = load_study(f'configs/studies/{study}.py:data=digits,seeds=3')
  # Of up to 50 modalities there is another judge.
  rows = [row for row in rows if row.columns['group'] not in ('modalities',)]
  borrowed = {row.borrow['classifier'] for row in rows if row.borrow}
  assert borrowed == {'ae_s0'}
  trained = {r.name: r.overrides['train_only'] for r in rows if r.mode == 'train'}
  assert 'classifier' in trained['ae_s0'] and trained['ae_s2'] == ('unimodal',)


@pytest.mark.parametrize('data', ['digits', 'polymnist,smoke'])
def test_methods_draws_each_latent_in_every_way(data, tmp_path):
  """All methods, judged by one classifier."""
  from configs.studies import methods

  priors = {'prior': 'standard', 'Gaussian mixture': 'mixture', 'score model': 'score'}
  objectives: dict[str, list] = {}
  definition = f'configs/studies/methods.py:data={data},seeds=1'
  for row, config, _ in built(definition, tmp_path):
    if row.mode == 'train':
      assert config['train_only'] == ('classifier', 'unimodal')
      continue
    method = config['method']
    shared = ('classifier', 'unimodal') if method == 'sbm_vae' else ('classifier',)
    assert row.borrow == dict.fromkeys(shared, 'ae_s0')
    shown = {name: columns['sampler'] for name, columns in row.sampling_columns.items()}
    samplings = config['samplings']
    assert set(shown) == set(samplings)
    if method in recipes.JOINT_METHODS:
      assert sorted(shown.values()) == sorted(methods.SAMPLERS.values())
      for name, sampler in shown.items():
        assert samplings[name]['prior']['name'] == priors[sampler]
      objectives.setdefault(method, []).append(config['joint']['objective'])
    else:
      guided = method != 'mld'
      other = 'unguided' if guided else 'resampled'
      assert set(samplings) == {'default', other}
      assert bool(samplings['default']['guidance']) == guided
      assert not guided or samplings['unguided'] == samplings['default'] | {
        'guidance': {}
      }
      assert config['evaluate']['evaluators']['conditional']['all_samplings'] == guided
      objectives[method] = []
  assert set(objectives) == set(recipes.METHODS)
  fusions = [objective['name'] for objective in objectives['diff_mvae']]
  assert fusions == ['mopoe', 'mvae', 'mvtcae']
  for method in ('mvae', 'diff_mvae'):
    assert objectives[method][1]['single_terms'] is False


@pytest.mark.parametrize(
  ('name', 'definition'),
  [
    ('digits', 'any_to_any.py:data=digits'),
    ('polymnist', 'any_to_any.py:data=polymnist'),
    ('methods_digits', 'methods.py:data=digits'),
    ('methods_polymnist', 'methods.py:data=polymnist'),
  ],
)
def test_committed_results_are_of_rows_of_the_study(name, definition):
  """Otherwise the next run of the study would leave them out."""
  rows = {row.name: row for row in load_study(f'configs/studies/{definition}')}
  for line in read_lines(ROOT / 'launch' / 'results' / f'{name}.csv'):
    row = rows[line['row']]
    special = row.sampling_columns.get(line.get('sampling'), {})
    assert line['columns'] == {**row.columns, **special}
    assert f'--study=configs/studies/{definition} ' in line['command']
