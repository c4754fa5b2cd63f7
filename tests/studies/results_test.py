"""The numbers of a study: as files, from runs, and from other machines."""

import json

import pytest

from mmsbm.infra.errors import UserError
from mmsbm.studies import main, results


def line(metric, value, count=None, **changes):
  """A line of generated examples; `changes` may be any of its fields, None: absent."""
  out = {
    'row': 'vae_s0', 'columns': {'group': 'methods', 'method': 'SBM-VAE, "hub"'},
    'sampling': 'default', 'sampler': 'heun(num_steps=10, a=1)',
    'conditioning': 'time_zero()', 'guidance': '', 'nfe': 19, 'metric': metric,
    'num_given': count, 'value': value, 'stderr': 0.1 + 0.2, 'n': 1500, 'seed': 0,
    'split': 'test', 'step': 10000, 'modalities': 4, 'paired_fraction': 1.0,
    'command': "python -m mmsbm.studies '--only=^vae_s0$'", 'jax': '0.10.2',
    'device': 'cpu', 'version': '0123456', 'definition': '00012e5',
  } | changes  # fmt: skip
  return {k: v for k, v in out.items() if v is not None or k == 'value'}


NETWORK = dict.fromkeys(('sampling', 'sampler', 'conditioning', 'guidance', 'nfe'))


def test_write_lines_comes_back_as_it_was(tmp_path):
  lines = [
    line('coherence', 1 / 3, 1), line('coherence', None, 2, stderr=None),
    line('frechet', 1e-17, 1, features='classifier'),
    line('joint_coherence', 1.0, 0, sampling='few', nfe=3),
    line('coherence', 1, 0, sampling='x', columns={'conditioning': ''}),
    line('reconstruction', 0.9, **NETWORK), line('coherence', 0.6, 1, row='b', n=7),
    line('parameters', 4252800, stderr=None, n=None, device='gpu', **NETWORK),
  ]  # fmt: skip
  path = tmp_path / 'x.csv'
  results.write_lines(path, lines)
  restored = results.read_lines(path)
  assert restored == lines
  # A count is no float.
  assert [type(a['value']) for a in restored] == [type(a['value']) for a in lines]
  assert [list(a['columns']) for a in restored] == [list(a['columns']) for a in lines]


def test_write_lines_says_what_was_run_once(tmp_path):
  lines = [line('coherence', 0.5, 1), line('coherence', 0.25, 2)]
  path = tmp_path / 'x.csv'
  results.write_lines(path, [*lines, line('reconstruction', 0.75, **NETWORK)])
  assert path.read_text().splitlines() == [
    'row,sampling,metric,num_given,features,value,stderr,n,nfe,jax,device',
    'vae_s0,default,coherence,1,,0.5,0.30000000000000004,1500,19,0.10.2,cpu',
    'vae_s0,default,coherence,2,,0.25,0.30000000000000004,1500,19,0.10.2,cpu',
    'vae_s0,,reconstruction,,,0.75,0.30000000000000004,1500,,0.10.2,cpu',
  ]
  head, *rows = (tmp_path / 'x.rows.csv').read_text().splitlines()
  assert head.startswith('row,sampling,columns,sampler,')
  assert rows == [
    'vae_s0,default,"group: methods | method: SBM-VAE, ""hub""",'
    '"heun(num_steps=10, a=1)",time_zero(),,test,0,10000,4,1.0,0123456,00012e5,'
    "python -m mmsbm.studies '--only=^vae_s0$'",
    'vae_s0,,"group: methods | method: SBM-VAE, ""hub""",,,,test,0,10000,4,1.0,0123456,'
    "00012e5,python -m mmsbm.studies '--only=^vae_s0$'",
  ]


def test_read_lines_without_lines(tmp_path):
  path = tmp_path / 'x.csv'
  assert results.read_lines(path) == []
  results.write_lines(path, [])
  assert results.read_lines(path) == []


@pytest.mark.parametrize('damage', ['absent', 'other rows', 'no column', 'no number'])
def test_read_lines_refuses_damaged_files(tmp_path, damage):
  path, rows = tmp_path / 'x.csv', tmp_path / 'x.rows.csv'
  results.write_lines(path, [line('coherence', 0.5, 1)])
  if damage == 'absent':
    rows.unlink()
  if damage == 'other rows':
    rows.write_text(rows.read_text().replace('vae_s0', 'rae_s0'))
  if damage == 'no column':
    rows.write_text(rows.read_text().replace('sampling', 'setup'))
  if damage == 'no number':
    path.write_text(path.read_text().replace('0.5', 'half'))
  with pytest.raises(UserError) as error:
    results.read_lines(path)
  assert 'restore both, or delete both' in str(error.value)
  assert '\n' not in str(error.value)


ROWS = (
  "name='ae', mode='train', overrides={'train_only': ('classifier', 'unimodal')}",
  "name='one', borrow={'classifier': 'ae', 'unimodal': 'ae'}, "
  "columns={'method': 'one', 'group': 'methods'}, "
  "sampling_columns={'heun': {'group': 'solvers', 'sampler': 'Heun'}}",
  "name='two', columns={'method': 'two', 'group': 'methods'}, seed=1, "
  "overrides={'energy': {}}",
)


def test_collect_keeps_the_averages_of_all_rows(folder):
  assert main.main(folder.define(*ROWS)) == 0
  lines = results.read_lines(folder.work / 'results.csv')
  values = {
    (a['row'], a.get('sampling'), a['metric'], a.get('num_given')): a['value']
    for a in lines
  }
  costs = {
    'autoencoder_parameters': 23, 'autoencoder_seconds': 4.0,
    'latent_model_parameters': 7, 'latent_model_seconds': 2.5,
    'seconds_per_sample': 0.001,
  }  # fmt: skip
  assert values == {
    (row, sampling, metric, count): value
    for row, joint in (('one', 0.5), ('two', 0.6))
    for sampling, metric, count, value in [
      (None, 'classifier_accuracy', None, 0.9),
      ('default', 'joint_coherence', 0, joint),
      ('default', 'coherence', 1, 0.7), ('heun', 'frechet', 1, None),
      *((None, metric, None, value) for metric, value in costs.items()),
    ]
  }  # fmt: skip
  assert len(values) == len(lines)
  (joint,) = (
    a for a in lines if a['metric'] == 'joint_coherence' and a['row'] == 'one'
  )
  study = folder.study()
  (row,) = (row for row in study.rows if row.name == 'one')
  definition = joint['definition']
  assert joint == {
    'row': 'one', 'sampling': 'default', 'metric': 'joint_coherence', 'num_given': 0,
    'value': 0.5, 'stderr': 0.01, 'n': 30, 'nfe': 3, 'jax': '0.10.2', 'device': 'cpu',
    'columns': {'method': 'one', 'group': 'methods'}, 'sampler': 'heun(num_steps=2)',
    'conditioning': 'time_zero()', 'guidance': '', 'split': 'test', 'seed': 0,
    'step': 6,
    'modalities': 2, 'paired_fraction': 0.5, 'version': '0123456',
    'definition': definition, 'command': study.command(row),
  }  # fmt: skip
  (frechet,) = (a for a in lines if a['metric'] == 'frechet' and a['row'] == 'one')
  assert frechet['columns'] == {'method': 'one', 'group': 'solvers', 'sampler': 'Heun'}
  assert frechet['value'] is None
  # The definition is what was measured: steps as they were trained, and the options.
  by_row = {a['row']: a['definition'] for a in lines}
  assert by_row['one'] == definition != by_row['two']
  record = json.loads((folder.work / 'one' / 'run.json').read_text())
  assert results.definition_of(record) == definition
  record['config']['evaluate'] = {'num_examples': 3}
  assert results.definition_of(record) != definition


def test_collect_keeps_rows_of_other_machines_until_they_are_measured_here(folder):
  path = folder.work / 'results.csv'
  command = folder.define(*ROWS)
  assert main.main([*command, '--only=^one$']) == 0
  old = line('coherence', 0.125, 1, row='two', version='e99e35a', definition=None)
  gone = line('coherence', 0.25, 1, row='three')
  results.write_lines(path, [*results.read_lines(path), old, gone])
  assert main.main([*command, '--mode=table']) == 0
  kept = results.read_lines(path)
  # Without a hash, but not of a row that the study does not have.
  assert [a for a in kept if a['row'] == 'two'] == [old]
  assert {a['row'] for a in kept} == {'one', 'two'}
  assert main.main([*command, '--only=^two$']) == 0
  measured = [a for a in results.read_lines(path) if a['row'] == 'two']
  assert old not in measured and {a['version'] for a in measured} == {'0123456'}


def test_from_elsewhere_refuses_rows_with_other_settings(folder, capsys):
  command = folder.define(*ROWS)
  setting = '--set=config.score.num_steps=3'
  assert main.main([*command, setting, '--only=^two$']) == 0
  path = folder.work / 'results.csv'
  before = path.read_bytes(), results.rows_path(path).read_bytes()
  for mode in ('run', 'table', 'time'):
    assert main.main([*command, f'--mode={mode}']) == 2
    error = capsys.readouterr().err
    assert f'has row two with {setting}, unlike this command' in error
  assert before == (path.read_bytes(), results.rows_path(path).read_bytes())
  assert folder.calls() == {'two': 1}
  assert main.main([*command, f'--results={folder.work / "b.csv"}']) == 0
