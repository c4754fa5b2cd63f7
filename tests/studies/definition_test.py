"""Rows: how they are read, checked, chosen, and told from each other."""

import pathlib

import pytest

from mmsbm.infra.errors import UserError
from mmsbm.studies import Row
from mmsbm.studies.definition import load_study, select, without_folders


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (["name='a'"] * 2, 'two rows of one name'),
    (["name='a/b'"], "'a/b' of a row is not fit for a folder"),
    (["name='a', borrow={'score': 'bb'}", "name='b'"], "'bb', which is no row. Did"),
    (
      [
        "name='a'", "name='b', borrow={'score': 'a'}",
        "name='c', borrow={'score': 'b', 'unimodal': 'b'}",
      ],
      "'b', which borrows it itself: borrow it from 'a'",
    ),
    (
      ["name='a', borrow={'x': 'b'}", "name='b', borrow={'y': 'a'}"],
      'row a borrows from itself',
    ),
    (["name='a', columns={'method': 'a | b'}"], "the column 'method' must be text"),
    (["name='a', columns={'method': 3}"], 'must be text'),
    (["nam='a'"], "argument 'nam'"),
  ],
)  # fmt: skip
def test_load_study_refuses_a_definition_with_a_mistake(folder, rows, message):
  folder.define(*rows)
  with pytest.raises(UserError) as error:
    folder.study()
  assert message in str(error.value) and '\n' not in str(error.value)


def test_load_study_refuses_what_is_no_list_of_rows(folder):
  (folder.path / 'own.py').write_text('def get_study(arg):\n  return [3]\n')
  with pytest.raises(UserError, match='must return a list of mmsbm.studies.Row'):
    folder.study()


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ("name='a', overrides={'score.num_step': 3}", "'score.num_step'. Did you mean"),
    ("name='a', overrides={'seed.num_step': 3}", "no 'seed.num_step'"),
    ("name='a', config='small.py:smok'", "unknown config argument 'smok'"),
    ("name='a', config='none.py'", 'there is no file none.py'),
  ],
)
def test_fingerprint_refuses_a_config_with_a_mistake(folder, row, message):
  folder.define(row)
  study = folder.study()
  with pytest.raises(UserError) as error:
    study.fingerprint(study.rows[0])
  assert message in str(error.value) and '\n' not in str(error.value)


def test_load_study_puts_rows_after_those_they_borrow_from(folder):
  folder.define(
    "name='c', borrow={'x': 'b', 'y': 'a'}", "name='b', borrow={'z': 'a'}",
    "name='a'", "name='d'",
  )  # fmt: skip
  assert [row.name for row in load_study('own.py')] == ['a', 'b', 'c', 'd']


def test_select_shares_rows_out_over_tasks():
  rows = [Row(name=name, config='') for name in ('ae', 'x')]
  rows += [Row(name=f'v{i}', config='', borrow={'unimodal': 'ae'}) for i in range(4)]
  rows += [Row(name='w', config='', borrow={'score': 'v0', 'unimodal': 'ae'})]

  def names(*arguments):
    return [row.name for row in select(rows, *arguments)]

  assert names('', 0, 1) == ['ae', 'x', 'v0', 'v1', 'v2', 'v3', 'w']
  # v0 is needed by w, and so is no work of its own.
  assert names('', 0, 2) == ['ae', 'x', 'v0', 'v2', 'w']
  assert names('', 1, 2) == ['ae', 'v1', 'v3']
  assert names('v[23]', 0, 1) == ['ae', 'v2', 'v3']
  assert names('^w$', 0, 1) == ['ae', 'v0', 'w']
  assert names('^x$', 0, 1) == ['x']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('zz', 0, 1), '--only=zz fits no row'),
    (('(', 0, 1), 'no regular expression'),
    (('', 2, 2), '--task=2 is not one of 0 .. 1'),
  ],
)
def test_select_refuses_mistakes(arguments, message):
  with pytest.raises(UserError) as error:
    select([Row(name='a', config='')], *arguments)
  assert message in str(error.value)


def test_study_arguments_are_flags_of_the_program(folder):
  folder.define(
    "name='ae', mode='train', overrides={'train_only': ('unimodal',)}",
    "name='a', seed=2, borrow={'unimodal': 'ae'}, config='small.py:smoke', "
    "overrides={'energy': {}, 'score.num_steps': 3, 'data.name': 'd'}",
  )
  study = folder.study('config.data.mnist_dir=/data/mnist')
  ae, row = study.rows
  setting = '--config.data.mnist_dir=/data/mnist'
  config = f'--config={folder.path / "small.py"}'
  assert study.arguments(ae) == [
    config, '--mode=train', '--config.seed=0', "--config.train_only=('unimodal',)",
    setting,
  ]  # fmt: skip
  assert study.arguments(row) == [
    '--config=small.py:smoke', '--mode=run', '--config.seed=2', '--config.energy={}',
    '--config.score.num_steps=3', '--config.data.name=d',
    "--config.borrow={'unimodal': '../ae'}", setting,
  ]  # fmt: skip


def test_config_flags_read_the_overrides_of_a_row(folder):
  """A dictionary replaces the whole section; a section can be emptied."""
  from absl import flags
  from ml_collections import config_flags

  overrides = {
    'samplings': {'default': {'sampler': {'num_steps': 9, 'betas': (1, 2.5)}}, 'x': {}},
    'energy': {}, 'train_only': ('unimodal',), 'score.network': {'name': 'hub'},
  }  # fmt: skip
  folder.define(
    f"name='ae', overrides={overrides!r}, borrow={{'score': 'b'}}", "name='b'"
  )
  study = folder.study()
  (row,) = (row for row in study.rows if row.name == 'ae')
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file('config', flag_values=values)
  flags.DEFINE_string('mode', '', '', flag_values=values)
  with pytest.MonkeyPatch.context() as patch, pytest.warns(DeprecationWarning):
    argv = ['x', *study.arguments(row)]
    patch.setattr('sys.argv', argv)
    values(argv)
  resolved = config.value.to_dict()
  assert {key: resolved[key] for key in ('samplings', 'energy', 'train_only')} == {
    key: overrides[key] for key in ('samplings', 'energy', 'train_only')
  }
  assert resolved['score'] == {'num_steps': 6, 'network': {'name': 'hub'}}
  assert resolved['borrow'] == {'score': '../b'}


def test_study_command_has_no_folders_of_the_machine(folder):
  folder.define("name='a'")
  study = folder.study(
    'config.data.mnist_dir=/data/mnist', 'config.score.num_steps=7',
    workdir=pathlib.Path('/home/somebody/runs/big'),
  )  # fmt: skip
  assert study.command(study.rows[0]) == (
    f'python -m mmsbm.studies --study={folder.path / "own.py"} '
    "--workdir=runs/studies/big '--only=^a$' --set=config.data.mnist_dir=DIR "
    '--set=config.score.num_steps=7'
  )


def test_without_folders_keeps_what_is_no_folder():
  config = {'a': ['~/x/y', 'module:Class', '../b'], 'c': {'d': '/e/f', 'n': 0.5}}
  assert without_folders(config) == {
    'a': ['DIR', 'module:Class', 'DIR'], 'c': {'d': 'DIR', 'n': 0.5},
  }  # fmt: skip


def fingerprints(folder, *rows, settings=(), **kw):
  folder.define(*rows)
  study = folder.study(*settings, **kw)
  return {row.name: study.fingerprint(row) for row in study.rows}


def test_fingerprint_is_of_the_resolved_config(folder):
  ae, borrow = "name='ae'", "borrow={'unimodal': 'ae'}"
  first = fingerprints(folder, ae, f"name='a', {borrow}")
  # Other spellings of the same, and other folders.
  for row in (
    f"name='a', {borrow}, overrides={{'score.num_steps': 6}}",
    f"name='a', {borrow}, config='small.py:smoke'",
    f"name='a', {borrow}, overrides={{'data.cache_dir': 'elsewhere'}}",
    f"name='a', {borrow}, columns={{'method': 'b'}}",
  ):
    workdir = pathlib.Path('elsewhere')
    assert fingerprints(folder, ae, row, workdir=workdir) == first
  # Other definitions.
  for row in (
    f"name='a', {borrow}, overrides={{'score.num_steps': 7}}",
    f"name='a', {borrow}, overrides={{'energy': {{}}}}",
    f"name='a', {borrow}, seed=1",
    f"name='a', {borrow}, mode='train'",
    "name='a'",
  ):
    other = fingerprints(folder, ae, row)
    assert other['ae'] == first['ae'] and other['a'] != first['a']
  # What is borrowed is part of it, and so are settings.
  other = fingerprints(folder, f'{ae}, seed=1', f"name='a', {borrow}")
  assert other['ae'] != first['ae'] and other['a'] != first['a']
  settings = ('config.score.num_steps=7',)
  other = fingerprints(folder, ae, f"name='a', {borrow}", settings=settings)
  assert other['ae'] != first['ae'] and other['a'] != first['a']
  paths = [
    fingerprints(folder, ae, settings=(f'config.data.mnist_dir={path}',))
    for path in ('/data/mnist', '~/data/mnist')
  ]
  assert paths[0] == paths[1] != {'ae': first['ae']}


def test_program_is_the_same_for_all_seeds(folder):
  folder.define(
    "name='ae'", "name='ae2'", "name='a', borrow={'unimodal': 'ae'}",
    "name='b', borrow={'unimodal': 'ae2'}, seed=1",
    "name='c', overrides={'energy': {}}",
  )  # fmt: skip
  study = folder.study()
  programs = {row.name: study.program(row) for row in study.rows}
  assert programs['a'] == programs['b'] != programs['c']
