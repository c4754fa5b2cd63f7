"""A file is what was written, or it is refused in one line."""

import json
import random

import numpy as np
import pytest

from mmsbm.infra import digests
from mmsbm.infra.digests import Damaged
from mmsbm.infra.errors import UserError

CONTENT = {'a': [1, 2.5, None], 'b': {'c': 'é'}, 'n': float('nan')}
ARRAYS = {'x': np.arange(6.0).reshape(2, 3), 'stamp': np.array('s')}


def flips(data, number=150):
  """Copies of `data` in each of which one bit is different."""
  draw = random.Random(0)
  for _ in range(number):
    place, spoilt = draw.randrange(len(data)), bytearray(data)
    spoilt[place] ^= 1 << draw.randrange(8)
    yield bytes(spoilt)


def test_json_round_trip_and_any_flipped_bit(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text(digests.to_json(CONTENT, 'a'))
  whole = digests.read_json(path, 'a')
  assert str(whole) == str(json.loads(json.dumps(CONTENT)))
  with pytest.raises(Damaged, match='x.json is not as it was written.* Ask.'):
    digests.read_json(path, 'b', remedy='Ask.')
  refused = 0
  for data in flips(path.read_bytes()):
    path.write_bytes(data)
    try:
      # A space that becomes another one says the same.
      assert str(digests.read_json(path, 'a')) == str(whole)
    except Damaged:
      refused += 1
  assert refused > 130


def test_json_without_a_digest_is_of_an_older_version(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text('{"a": 1}')
  assert digests.read_json(path, required=False) == {'a': 1}
  with pytest.raises(Damaged):
    digests.read_json(path)


@pytest.mark.parametrize(
  'content', [b'', b'[]', b'3', b'{"a"', b'\xff', b'[' * 10**5, b'{"a": ' + b'9' * 9999]
)
def test_json_of_another_form_is_one_line(tmp_path, content):
  (tmp_path / 'x.json').write_bytes(content)
  with pytest.raises(Damaged, match='x.json is damaged') as e:
    digests.read_json(tmp_path / 'x.json', required=False)
  assert '\n' not in str(e.value) and e.value.__cause__ is not None


@pytest.mark.parametrize('compress', [False, True])
def test_npz_round_trip_and_any_flipped_bit(tmp_path, compress):
  path = tmp_path / 'x.npz'
  digests.write_npz(path, ARRAYS, 's', compress=compress)
  for of in ('s', None):
    got = digests.read_npz(path, of)
    assert got.keys() == ARRAYS.keys()
    np.testing.assert_array_equal(got['x'], ARRAYS['x'])
  with pytest.raises(Damaged):
    digests.read_npz(path, 't')
  refused = 0
  for data in flips(path.read_bytes()):
    path.write_bytes(data)
    try:
      # The times in a zip archive say nothing.
      np.testing.assert_array_equal(digests.read_npz(path, 's')['x'], ARRAYS['x'])
    except Damaged:
      refused += 1
  assert refused > 60


@pytest.mark.parametrize('content', [b'', b'PK', b'nothing of the kind', None])
def test_npz_of_another_form_is_one_line(tmp_path, content):
  path = tmp_path / 'x.npz'
  if content is None:
    np.savez(path, **ARRAYS)
  else:
    path.write_bytes(content)
  with pytest.raises(Damaged, match='x.npz is damaged'):
    digests.read_npz(path, 's')


def test_folder_names_the_file(tmp_path):
  for name in ('a', 'b/c'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  assert digests.check_folder(tmp_path) is None
  digests.write_folder(tmp_path, ('a', 'b/c'), 'mine')
  assert digests.check_folder(tmp_path, 'mine') == 'mine'
  with pytest.raises(Damaged, match='is of another'):
    digests.check_folder(tmp_path, 'yours')
  (tmp_path / 'b/c').write_text('d/c')
  with pytest.raises(Damaged, match='b/c is not as it was written'):
    digests.check_folder(tmp_path)
  assert digests.check_folder(tmp_path, under=('a',)) == 'mine'
  (tmp_path / 'a').unlink()
  with pytest.raises(Damaged, match='a is missing'):
    digests.check_folder(tmp_path, under=('a',))


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path):
  with pytest.raises(UserError, match='cannot be read .Is a directory') as e:
    digests.read_json(tmp_path)
  assert not isinstance(e.value, Damaged) and 'delete' not in str(e.value)
  with pytest.raises(FileNotFoundError):
    digests.read_npz(tmp_path / 'x.npz', 's')
