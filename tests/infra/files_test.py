"""A file is whole or absent."""

import os
import pathlib

import pytest

from mmsbm.infra import files
from mmsbm.infra.errors import UserError
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


def test_local_path_knows_the_home_and_refuses_other_machines(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  assert files.local_path('~/a') == pathlib.Path('/home/me/a')
  assert files.local_path('runs/a:b') == pathlib.Path('runs/a:b')
  for path in ('gs://bucket/a', 's3://b', pathlib.Path('https://x/y')):
    with pytest.raises(UserError, match='is no path of this machine'):
      files.local_path(path)


def test_no_path_is_opened_without_it():
  """Every place that knows of home folders knows of other machines, too."""
  package = pathlib.Path(files.__file__).parents[1]
  found = {
    path.name for path in package.rglob('*.py') if 'expanduser' in path.read_text()
  }
  assert found <= {'files.py', 'convert_run.py', 'convert_inception.py'}
