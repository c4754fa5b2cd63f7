"""Modalities from a config, and what holds for every kind."""

import xml.etree.ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.infra.errors import UserError
from mmsbm.modalities import KINDS, Kind, Modality, Vector, base, make_modalities

SPECS = {
  'image': dict(kind='image', shape=(4, 4, 3)),
  'mask': dict(kind='mask', shape=(4, 4, 1)),
  'attributes': dict(kind='attributes', shape=(5,)),
  'label': dict(kind='label', num_classes=7),
  'vector': dict(kind='vector', shape=(3,), offset=2.0, scale=4.0),
}
RAW = {
  'image': np.arange(256, dtype=np.uint8).repeat(3)[: 16 * 48].reshape(16, 4, 4, 3),
  'mask': (np.arange(32) % 3 == 0).astype(np.uint8).reshape(2, 4, 4, 1),
  'attributes': (np.arange(10) % 2).astype(np.uint8).reshape(2, 5),
  'label': np.arange(7, dtype=np.int32),
  'vector': np.linspace(-9, 9, 6, dtype=np.float32).reshape(2, 3),
}
USERS_KINDS = """
import dataclasses
from mmsbm.modalities import Vector

@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubled(Vector):
  def to_model(self, raw):
    return 2 * raw

class Incomplete:
  shape = ()
"""


def make(specs):
  return make_modalities(Section({'modalities': specs}).section('modalities'))


def make_one(sort, name='x', **changes):
  return make({name: SPECS[sort] | changes})[0]


@pytest.mark.parametrize('kind', KINDS)
def test_round_trip_gives_back_raw_examples(kind):
  modality = make_one(kind)
  raw = modality.check(RAW[kind])
  seen = modality.kind.to_model(jnp.asarray(raw))
  assert seen.dtype == np.float32
  assert seen.shape == (len(raw), *modality.model_shape)
  back = modality.kind.to_data(seen)
  assert back.dtype == raw.dtype == modality.kind.dtype
  np.testing.assert_array_equal(back, raw)


@pytest.mark.parametrize('kind', KINDS)
def test_show_is_one_described_element_without_scripts(kind):
  for example in RAW[kind]:
    html = make_one(kind).kind.show(example)
    element = ET.fromstring(html)
    assert element.get('alt') or element.get('aria-label') or element.text
    assert 'script' not in html
    # Nothing but the data itself is loaded.
    assert html.count('src=') == html.count('src="data:')


@pytest.mark.parametrize('kind', KINDS)
def test_picture_is_rgb_or_none(kind):
  picture = make_one(kind).kind.picture(RAW[kind][1])
  if kind in ('image', 'mask'):
    assert picture.shape == (4, 4, 3) and picture.dtype == np.uint8
  else:
    assert picture is None


@pytest.mark.parametrize('kind', KINDS)
def test_kind_has_every_member_and_is_hashable(kind):
  assert {'dtype', 'shape', 'bounds', 'metrics', 'check', 'show'} < set(base.MEMBERS)
  made = make_one(kind).kind
  assert [member for member in base.MEMBERS if not hasattr(made, member)] == []
  assert all(hasattr(Kind, n) or n in Kind.__annotations__ for n in base.MEMBERS)
  assert hash(made) == hash(make_one(kind).kind)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('cell', [None, '', ' ', float('nan'), np.float32('nan')])
def test_read_of_an_empty_cell_is_none(kind, cell, tmp_path):
  assert make_one(kind).kind.read(cell, tmp_path) is None


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('cell', ['no such file.png', 'nothing.npy', 'x' * 5000, '\0'])
def test_read_of_a_wrong_cell_is_one_line(kind, cell, tmp_path):
  with pytest.raises(UserError) as error:
    make_one(kind).kind.read(cell, tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('kind', 'metrics'),
  [
    ('image', ('mse',)),
    ('mask', ('f1',)),
    ('attributes', ('f1',)),
    ('label', ('accuracy',)),
    ('vector', ('r2', 'mse')),
  ],
)
def test_metrics_of_a_kind(kind, metrics):
  assert KINDS[kind].metrics == metrics


def test_make_modalities_keeps_the_order_and_takes_lists():
  modalities = make({'b': dict(kind='image', shape=[8, 6, 1]), 'a': SPECS['label']})
  assert [m.name for m in modalities] == ['b', 'a']
  assert [m.kind_name for m in modalities] == ['image', 'label']
  assert modalities[0].shape == modalities[0].model_shape == (8, 6, 1)
  assert modalities[1].shape == () and modalities[1].model_shape == (7,)


def test_make_modalities_takes_a_class_of_the_users_own(tmp_path, monkeypatch):
  (tmp_path / 'users_kinds.py').write_text(USERS_KINDS)
  monkeypatch.syspath_prepend(tmp_path)
  modality = make_one('vector', kind='users_kinds:Doubled')
  assert modality.kind_name == 'users_kinds:Doubled'
  assert modality.kind.to_model(modality.kind.offset) == 4
  with pytest.raises(UserError, match="no argument 'scael'"):
    make({'x': dict(kind='users_kinds:Doubled', scael=2)})
  with pytest.raises(UserError, match="no kind of modality: it lacks .*'to_model'"):
    make({'x': dict(kind='users_kinds:Incomplete')})
  with pytest.raises(UserError, match='users_kinds'):
    make({'x': dict(kind='users_kinds:Missing')})


@pytest.mark.parametrize(
  'name',
  ['items', 'name', 'score', 'x', 'a-b', '1', '_m', 'split', 'default', 'private'],
)
def test_make_modalities_takes_the_name(name):
  assert make_one('label', name).name == name


@pytest.mark.parametrize(
  'name',
  ['', 'front view', 'a/b', 'a\\b', 'a.b', '..', 'a:b', 'a%20b', '<b>', 'a,b', "it's",
   'é', '-m', 'a\n', 'a' * 65, 3, None],
)  # fmt: skip
def test_make_modalities_refuses_the_letters_of_a_name(name):
  with pytest.raises(UserError, match='modality name .* is not possible') as error:
    make_one('label', name)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', base.RESERVED)
def test_make_modalities_refuses_words_of_the_program(name):
  with pytest.raises(UserError, match=f'{name!r} is taken by the program'):
    make_one('label', name)
  with pytest.raises(UserError, match='taken'):
    Modality(name=name, kind_name='vector', kind=Vector(shape=()))


def test_make_modalities_refuses_names_that_a_disk_may_not_tell_apart():
  with pytest.raises(UserError, match='capital letters'):
    make({'a': SPECS['label'], 'A': SPECS['label']})


def test_make_modalities_refuses_an_empty_section():
  with pytest.raises(UserError, match='there are no modalities'):
    make({})


@pytest.mark.parametrize(
  ('kind', 'changes', 'message'),
  [
    ('image', dict(shape=(4, 4)), "modality 'x': an image has shape .height, width"),
    ('label', dict(shape=()), "no argument 'shape'"),
    ('vector', dict(kind='vektor'), "Did you mean 'vector'"),
    ('vector', dict(scael=1.0), "no argument 'scael'.*Did you mean 'scale'"),
    ('vector', dict(kind=dict(name='vector', scale=2.0)), 'kind is .*name of a kind'),
  ],
)
def test_make_modalities_explains_a_wrong_config(kind, changes, message):
  with pytest.raises(UserError, match=message):
    make_one(kind, **changes)


def test_make_modalities_names_what_is_missing():
  with pytest.raises(UserError, match="needs the argument 'num_classes'"):
    make({'x': dict(kind='label')})
  with pytest.raises(UserError, match='modalities.x.kind is missing'):
    make({'x': dict(shape=())})
