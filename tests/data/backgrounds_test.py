"""Photographs without a download."""

import importlib.util

import numpy as np
import PIL.Image
import pytest

from mmsbm.data import backgrounds
from mmsbm.infra.errors import UserError


def test_all_bundled_photographs_are_there_and_differ():
  names = tuple(backgrounds.BUNDLED)
  photographs = backgrounds.load_backgrounds(names, len(names))
  assert len({p.fingerprint for p in photographs}) == 10
  for photograph in photographs:
    assert photograph.pixels.dtype == np.uint8
    assert photograph.pixels.ndim == 3 and photograph.pixels.shape[2] == 3
    assert min(photograph.pixels.shape[:2]) >= 28


def test_folder_is_read_in_the_order_of_names(tmp_path):
  for name, level in [('2.png', 20), ('1.jpg', 10), ('3.PNG', 30)]:
    PIL.Image.new('L', (40, 30), level).save(tmp_path / name)
  (tmp_path / 'notes.txt').write_text('')
  photographs = backgrounds.load_backgrounds(str(tmp_path), 3)
  assert [int(p.pixels[0, 0, 0]) for p in photographs] == [10, 20, 30]
  assert photographs[0].pixels.shape == (30, 40, 3)
  with pytest.raises(UserError, match='4 modalities.*3 jpg and png'):
    backgrounds.load_backgrounds(str(tmp_path), 4)


def test_mistakes(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='does not exist'):
    backgrounds.load_backgrounds(str(tmp_path / 'nowhere'), 1)
  with pytest.raises(UserError, match="no photograph 'lena'"):
    backgrounds.load_backgrounds(('lena',), 1)
  with pytest.raises(UserError, match='2 names are given'):
    backgrounds.load_backgrounds(('cell', 'sky'), 3)
  (tmp_path / 'bad.png').write_bytes(b'not an image')
  with pytest.raises(UserError, match='bad.png cannot be read'):
    backgrounds.load_backgrounds(str(tmp_path), 1)
  PIL.Image.new('L', (27, 40)).save(tmp_path / 'bad.png')
  with pytest.raises(UserError, match='27x40'):
    backgrounds.load_backgrounds(str(tmp_path), 1)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='scikit-image 0.26'):
    backgrounds.find_bundled('cell')
