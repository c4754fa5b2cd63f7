"""Splits, and what a dataset says of them."""

import hashlib

import numpy as np
import pytest

from mmsbm.data import dataset
from mmsbm.infra.errors import UserError
from mmsbm.modalities import Image, Label, Modality


def _image(shape=(2, 2, 1)):
  return Modality(name='image', kind_name='image', kind=Image(shape=shape))


def _number(num_classes=5):
  kind = Label(num_classes=num_classes)
  return Modality(name='number', kind_name='label', kind=kind)


def _dataset(number=(0, 4, 2), dtype=np.uint8, **changes):
  split = dataset.Split(
    {
      'image': np.arange(12).reshape(3, 2, 2, 1).astype(dtype),
      'number': np.array(number, np.int32),
    },
    np.ones((3, 2), bool),
    {'class': np.array([1, -1, 0], np.int32)},
  )
  fields = {
    'modalities': ('image', 'number'),
    'splits': dict.fromkeys(dataset.SPLITS, split),
    'num_classes': {'class': 2},
    'content_hash': '',
    'source': '',
  }
  return dataset.MultimodalDataset(**fields | changes)


def test_take_returns_the_rows_asked_for():
  split = dataset.Split(
    {'a': np.arange(4)[:, None], 'b': np.arange(8).reshape(4, 2)},
    np.eye(4, 2, dtype=bool),
    {'class': np.arange(4, dtype=np.int32), 'tags': np.eye(4, 3, dtype=np.uint8)},
  )
  batch = split.take(np.array([3, 0]))
  assert set(batch) == {'x', 'present', 'annotations'}
  np.testing.assert_array_equal(batch['x']['b'], [[6, 7], [0, 1]])
  np.testing.assert_array_equal(batch['present'], [[0, 0], [1, 0]])
  np.testing.assert_array_equal(batch['annotations']['class'], [3, 0])
  np.testing.assert_array_equal(batch['annotations']['tags'], [[0, 0, 0], [1, 0, 0]])
  assert batch['annotations']['class'].dtype == np.int32


def test_split_without_annotations_takes_none():
  split = dataset.Split({'a': np.zeros(2)}, np.ones((2, 1), bool))
  assert split.take(np.array([1]))['annotations'] == {}


def test_split_names_modality_and_row_of_nan():
  x = np.zeros((3_000_000, 2), np.float32)  # more than one block
  x[2_500_001, 1] = np.nan
  with pytest.raises(UserError, match=r"'img'.*row 2500001\."):
    dataset.Split({'img': x}, np.ones((len(x), 1), bool))


@pytest.mark.parametrize(
  ('arrays', 'present', 'labels', 'message'),
  [
    ({'a': np.zeros(2), 'b': np.zeros(3)}, np.ones((2, 2), bool), None, "'b'.*rows"),
    ({'a': np.zeros(2)}, np.ones((2, 2), bool), None, 'present'),
    ({'a': np.zeros(2)}, np.ones((2, 1)), None, 'bool'),
    ({'a': np.zeros(2)}, np.ones((2, 1), bool), np.zeros(2), "'y' is float64.*int32"),
    ({'a': np.zeros(2)}, np.ones((2, 1), bool), np.zeros(3, np.int32), 'int32'),
    ({'a': np.zeros(2)}, np.ones((2, 1), bool), np.zeros((2, 3)), r'uint8 .2, A.'),
  ],
)
def test_split_refuses(arrays, present, labels, message):
  annotations = {} if labels is None else {'y': labels}
  with pytest.raises(UserError, match=message):
    dataset.Split(arrays, present, annotations)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_classes': {'class': 1}}, "'class' of the train split are not all below 1"),
    ({'num_classes': {'speaker': 3}}, "'speaker'"),
    ({'modalities': ('number', 'image')}, 'instead of'),
    ({'splits': {'train': None}}, 'has the splits'),
  ],
)
def test_dataset_refuses(changes, message):
  with pytest.raises(UserError, match=message):
    _dataset(**changes)


def test_dataset_has_the_same_annotations_in_all_splits():
  splits = dict(_dataset().splits)
  splits['test'] = dataset.Split(splits['test'].arrays, splits['test'].present)
  with pytest.raises(UserError, match='test split has the annotations'):
    _dataset(splits=splits, num_classes={})


@pytest.mark.parametrize(
  ('data', 'modalities', 'message'),
  [
    ({}, (_image((2, 2, 3)), _number()), "'image': examples have shape"),
    ({}, (_image(), _number(4)), "'number': the kind 'label' holds values from 0 to 3"),
    ({'number': (0, -1, 2)}, (_image(), _number()), 'not -1 to 2'),
    ({'dtype': np.float32}, (_image(), _number()), 'is uint8, not float32'),
    ({}, (_number(), _image()), 'the config .*number.*image'),
    ({}, (_image(),), 'the config'),
  ],
)
def test_check_refuses_what_the_config_does_not_say(data, modalities, message):
  _dataset().check((_image(), _number()))
  with pytest.raises(UserError, match=message):
    _dataset(**data).check(modalities)


def test_check_looks_at_all_rows(monkeypatch):
  monkeypatch.setattr(dataset, '_BLOCK_BYTES', 1)  # a block for each row
  with pytest.raises(UserError, match='not 7 to 7'):
    _dataset(number=(0, 1, 7)).check((_image(), _number()))
  wide = _dataset(dtype=np.int64)
  wide.check((_image(), _number()))
  wide.splits['train'].arrays['image'][2] = 300
  with pytest.raises(UserError, match='not 300 to 300'):
    wide.check((_image(), _number()))


def test_digests_are_of_the_first_training_examples():
  data = _dataset()
  images = data.splits['train'].arrays['image']
  assert data.digests()['image'] == hashlib.sha1(images.tobytes()).hexdigest()[:16]
  assert _dataset(number=(1, 4, 2)).digests()['number'] != data.digests()['number']
