"""A file is whole or absent."""

import os

import pytest

from mmsbm.infra.files import atomic_path, write_atomic


def test_writes_text_and_bytes_and_makes_folders(tmp_path):
  write_atomic(tmp_path / 'a' / 'b.txt', 'é')
  assert (tmp_path / 'a' / 'b.txt').read_text() == 'é'
  write_atomic(tmp_path / 'a' / 'b.txt', b'new')
  assert (tmp_path / 'a' / 'b.txt').read_bytes() == b'new'
  assert os.listdir(tmp_path / 'a') == ['b.txt']


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path):
  path = tmp_path / 'x'
  write_atomic(path, 'old')
  with pytest.raises(KeyError), atomic_path(path) as temporary:
    temporary.write_text('half')
    assert path.read_text() == 'old'
    raise KeyError
  assert path.read_text() == 'old'
  assert os.listdir(tmp_path) == ['x']


def test_a_folder_appears_whole_and_the_first_one_wins(tmp_path):
  path = tmp_path / 'folder'
  for content in ('first', 'second'):
    with atomic_path(path) as temporary:
      temporary.mkdir()
      (temporary / 'f').write_text(content)
      assert content == 'second' or not path.exists()
  assert (path / 'f').read_text() == 'first'
  assert os.listdir(tmp_path) == ['folder']
