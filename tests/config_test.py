"""Sections of a config, parts by name, and how mistakes in them are said."""

import dataclasses
import fractions
import sys
import types

import pytest

from mmsbm.config import (
  Section,
  build,
  describe,
  find,
  name_of,
  nearest,
  plain,
  refuse_nan,
)
from mmsbm.infra.errors import UserError
from mmsbm.nn.encoders import ENCODERS


@dataclasses.dataclass(frozen=True)
class Part:
  size: int
  rate: float = 0.5

  def __post_init__(self):
    if self.size < 0:
      raise UserError(f'size={self.size} is below 0.')


@dataclasses.dataclass(frozen=True)
class Other:
  """A part that no table has."""

  numbers: tuple[int, ...] = ()


def anything(**options):
  return options


TABLE = {'part': Part, 'anything': anything}


@pytest.fixture(autouse=True)
def module(monkeypatch):
  """A module of a user's own."""
  module = types.ModuleType('own_parts')
  module.Part, module.Outer, module.number = Other, types.SimpleNamespace(Inner=Part), 3
  monkeypatch.setitem(sys.modules, 'own_parts', module)
  return module


# --- parts by name ------------------------------------------------------------


def test_nearest_of_what_is_close_only():
  assert nearest('prat', ['part', 'whole']) == " Did you mean 'part'?"
  assert nearest('zzz', ['part']) == ''
  assert nearest(100, [1000, 'a']) == " Did you mean '1000'?"


def test_plain_makes_dicts_and_tuples():
  value = types.MappingProxyType({'a': [1, {'b': (2.0, [None])}], 'c': 'text'})
  assert plain(value) == {'a': (1, {'b': (2.0, (None,))}), 'c': 'text'}


def test_find_of_a_table():
  assert find(TABLE, 'part') is Part


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('fractions:Fraction', fractions.Fraction),
    ('fractions:Fraction.from_float', fractions.Fraction.from_float),
    ('own_parts:Part', Other),
    ('own_parts:Outer.Inner', Part),
  ],
)
def test_find_imports(name, expected):
  assert find(TABLE, name) == expected


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    (
      'prat',
      r"unknown component 'prat'; choose from \['anything', 'part'\], .* Did you",
    ),
    (3, 'unknown component 3'),
    (None, 'unknown component None'),
    ({'name': 'part'}, 'unknown component {'),
    (['part'], 'unknown component'),
    (
      'no_such_module:Part',
      "'no_such_module:Part' cannot be imported: No module named",
    ),
    ('own_parts:Prat', "own_parts has no 'Prat'. Did you mean 'Part'?"),
    ('own_parts:Outer.Iner', "has no 'Iner'. Did you mean 'Inner'?"),
    ('own_parts:number', "'own_parts:number' is no class or function"),
    ('own_parts:', "'own_parts:' cannot be imported"),
    (':Part', "':Part' cannot be imported"),
    ('own_parts', "unknown component 'own_parts'; .* 'package.module:Class'"),
  ],
)
def test_find_refuses(name, message):
  with pytest.raises(UserError, match=message) as error:
    find(TABLE, name)
  assert '\n' not in str(error.value)


def test_find_says_what_is_wrong_in_a_module(tmp_path, monkeypatch):
  (tmp_path / 'torn_part.py').write_text('class Part(:\n')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match="'torn_part:Part' cannot be imported: invalid"):
    find(TABLE, 'torn_part:Part')


def test_build_from_the_arguments_of_the_config_and_of_the_program():
  assert build(TABLE, {'name': 'part', 'rate': 0.1}, size=3) == Part(3, 0.1)
  assert build(TABLE, {'name': 'own_parts:Part', 'numbers': (1,)}) == Other((1,))


def test_build_gives_a_part_only_what_it_takes():
  assert build(TABLE, {'name': 'own_parts:Part'}, size=3) == Other()
  assert build(TABLE, {'name': 'anything', 'a': 1}, size=3) == {'a': 1, 'size': 3}


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ({'name': 'prat', 'size': 1}, "Did you mean 'part'"),
    (
      {'name': 'part', 'siez': 1},
      "'part' has no argument 'siez'; .* Did you mean 'size'",
    ),
    ({'name': 'part'}, "'part' needs the argument 'size'"),
    ({'size': 1}, "needs a `name`: one of .'anything', 'part'."),
    ({'name': 'part', 'size': -1}, 'size=-1 is below 0'),
  ],
)
def test_build_refuses(spec, message):
  with pytest.raises(UserError, match=message):
    build(TABLE, spec)


def test_build_keeps_the_arguments_of_the_program_from_the_config():
  with pytest.raises(UserError, match="has no argument 'latent_dim'"):
    build(ENCODERS, {'name': 'mlp', 'latent_dim': 3}, latent_dim=4)


def test_build_of_a_linen_module_offers_its_own_fields_only():
  with pytest.raises(
    UserError, match=r"it has \['activation', 'linear', 'norm', 'widths'\]"
  ):
    build(ENCODERS, {'name': 'mlp', 'wide': 3}, latent_dim=4)


def test_name_of():
  assert name_of(TABLE, Part(1)) == 'part'
  assert name_of(TABLE, Other()) == f'{__name__}:Other'


def test_describe_leaves_out_defaults():
  assert describe(TABLE, Part(1)) == 'part(size=1)'
  assert describe(TABLE, Part(1, rate=0.25)) == 'part(size=1, rate=0.25)'
  assert describe(TABLE, Other()) == f'{__name__}:Other()'
  with pytest.raises(
    UserError, match='fractions:Fraction.* must be a frozen dataclass'
  ):
    describe(TABLE, fractions.Fraction(1))


# --- numbers that are none ----------------------------------------------------


@pytest.mark.parametrize('bad', [float('nan'), (0.9, float('nan'))])
def test_refuse_nan_names_the_field(bad):
  config = {'score': {'optimizer': {'learning_rate': bad, 'b': 1.0}}, 'a': 'nan'}
  with pytest.raises(UserError, match=r'config\.score\.optimizer\.learning_rate=.*nan'):
    refuse_nan(config)


def test_refuse_nan_takes_all_other_values():
  refuse_nan({'a': float('inf'), 'b': ('nan', None, True, -3), 'c': {'d': ()}})


# --- sections -----------------------------------------------------------------

CONFIG = Section(
  {
    'seed': 3,
    'score': {
      'network': {'name': 'part', 'size': 4},
      'wrong': {'name': 'part', 'siez': 4},
      'below': {'name': 'part', 'size': -4},
      'num_steps': 10,
      'rate': 0.3,
      'flag': True,
      'text': 'ten',
      'weighting': 'edm',
      'empty': {},
    },
  }
)
SCORE = CONFIG.section('score')


def test_section_is_a_mapping_with_a_place():
  assert (CONFIG.path, SCORE.path) == ('', 'score')
  assert SCORE.section('network').path == 'score.network'
  assert SCORE['num_steps'] == 10 and 'rate' in SCORE and 'nothing' not in SCORE
  assert SCORE.get('nothing') is None and SCORE.get('nothing', 5) == 5
  assert dict(SCORE.section('network')) == {'name': 'part', 'size': 4}
  assert not SCORE.section('empty') and len(SCORE) == len(list(SCORE)) == 9
  assert {**SCORE.section('network')} == {'name': 'part', 'size': 4}


def test_section_names_the_place_of_what_is_missing():
  with pytest.raises(UserError, match='^config.score.nothing is missing.$'):
    SCORE['nothing']
  with pytest.raises(UserError, match="score.num_stps is missing. Did you mean 'num_s"):
    SCORE['num_stps']
  with pytest.raises(UserError, match='^config.sede is missing. Did you mean .seed'):
    CONFIG['sede']
  with pytest.raises(UserError, match='^config.score.rate is 0.3, not a dict.$'):
    SCORE.section('rate')


def test_sections_iterates_in_order():
  section = Section({'b': {'x': 1}, 'a': {}}, 'places')
  parts = list(section.sections())
  assert [(key, part.path) for key, part in parts] == [
    ('b', 'places.b'),
    ('a', 'places.a'),
  ]
  with pytest.raises(UserError, match='config.places.c is 3, not a dict'):
    list(Section({'c': 3}, 'places').sections())


def test_section_builds():
  assert SCORE.build('network', TABLE) == Part(4)
  assert SCORE.section('network').make(TABLE, rate=0.1) == Part(4, 0.1)
  assert Section({'size': 2}, 'a').call(Part, rate=0.1) == Part(2, 0.1)
  assert Section({'kind': 'part'}, 'a').find('kind', TABLE) is Part


@pytest.mark.parametrize(
  ('key', 'message'),
  [
    ('wrong', "^config.score.wrong: 'part' has no argument 'siez'"),
    ('below', '^config.score.below: size=-4 is below 0.$'),
    ('empty', '^config.score.empty: .* needs a `name`'),
    ('rate', '^config.score.rate is 0.3, not a dict'),
    ('nothing', '^config.score.nothing is missing'),
  ],
)
def test_section_says_where_a_part_cannot_be_built(key, message):
  with pytest.raises(UserError, match=message):
    SCORE.build(key, TABLE)


def test_section_says_where_a_function_cannot_be_called():
  with pytest.raises(
    UserError, match="^config.score.empty: .* needs the argument 'siz"
  ):
    SCORE.section('empty').call(Part)
  with pytest.raises(
    UserError, match="^config.score.weighting: unknown component 'edm"
  ):
    SCORE.find('weighting', TABLE)
  with pytest.raises(UserError, match='^config.score.nothing is missing.$'):
    SCORE.find('nothing', TABLE)


def test_section_names_a_place_once():
  """What lies deeper says more; a word that ends in 'config.' is no place."""
  deep = UserError('config.score.network.size is wrong.')
  assert CONFIG.error(deep) is deep
  error = SCORE.error(UserError("module 'myconfig.parts' is wrong."))
  assert str(error) == "config.score: module 'myconfig.parts' is wrong."


def test_number():
  assert SCORE.number('rate') == 0.3 and SCORE.number('num_steps') == 10
  for key in ('flag', 'text', 'empty'):
    with pytest.raises(UserError, match=f'^config.score.{key} is .*; .* a number.$'):
      SCORE.number(key)


def test_at_least():
  assert SCORE.at_least(1, 'num_steps') == 10 and SCORE.at_least(0.3, 'rate') == 0.3
  with pytest.raises(UserError, match='^config.score.rate is 0.3; .* at least 1.$'):
    SCORE.at_least(1, 'rate')


def test_count():
  assert SCORE.count('num_steps') == 10
  for value in (0, -3):
    with pytest.raises(UserError, match=f'^config.n is {value}; .* be at least 1.$'):
      Section({'n': value}).count('n')
  for value in (1.5, 2.0):
    with pytest.raises(UserError, match=f'^config.n is {value}; .* a whole number.$'):
      Section({'n': value}).count('n')
  with pytest.raises(UserError, match="^config.n is '3'; .* a whole number.$"):
    Section({'n': '3'}).count('n')


def test_share():
  assert SCORE.share('rate') == 0.3 and Section({'p': 0}).share('p') == 0
  for value, wanted in ((1, 'below 1'), (2.5, 'below 1'), (-0.1, 'at least 0')):
    with pytest.raises(UserError, match=rf'^config.p is {value}; it must be {wanted}'):
      Section({'p': value}).share('p')
  for value in (True, '0.5', None):
    with pytest.raises(UserError, match='^config.p is .*; it must be a number'):
      Section({'p': value}).share('p')


def test_choice():
  assert SCORE.choice('weighting', ('edm', 'uniform')) == 'edm'
  with pytest.raises(
    UserError, match=r"^config.score.weighting='edm' is not one of \['edn', 'u'\]. Did"
  ):
    SCORE.choice('weighting', ('u', 'edn'))
  with pytest.raises(UserError, match='^config.score.network={.* is not one of'):
    SCORE.choice('network', {'edm': 1})


def test_known():
  section = Section({'sampler': 1, 'guidnce': 2}, 'samplings.default')
  section.known(('sampler', 'guidnce', 'conditioning'))
  with pytest.raises(
    UserError, match="^config.samplings.default has no field 'guidnce'; .* 'guidance'"
  ):
    section.known(('sampler', 'guidance'))
