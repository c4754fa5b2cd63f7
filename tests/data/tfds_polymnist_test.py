"""The same dataset through TFDS, without TensorFlow."""

import pathlib
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mmsbm.data import mnist, polymnist, tfds_polymnist
from mmsbm.infra.errors import UserError

_COUNTS = {'num_train': 70, 'num_val': 20, 'num_test': 30}


@pytest.fixture(scope='module')
def standin(tmp_path_factory):
  folder = tmp_path_factory.mktemp('mnist')
  mnist.write_idx_standin(folder, 120, 60)
  return folder


def _local(standin):
  """In place of the network: the stand-in's file for each address."""

  def fetch(manager, urls):
    if isinstance(urls, dict):
      return {k: fetch(manager, [u])[0] for k, u in urls.items()}
    return [pathlib.Path(standin) / u.rpartition('/')[2] for u in urls]

  names = ('download', 'download_and_extract')
  return mock.patch.multiple(
    tfds.download.DownloadManager, **dict.fromkeys(names, fetch)
  )


@pytest.mark.parametrize('downloaded', [False, True])
def test_builder_equals_the_dataset(named, standin, tmp_path, downloaded):
  config = tfds_polymnist.PolymnistConfig(
    name='test',
    num_modalities=3,
    mnist_dir='' if downloaded else str(standin),
    verify_checksums=False,
    seed=5,
    **_COUNTS,
  )
  builder = tfds_polymnist.ExtendedPolymnist(
    config=config, data_dir=str(tmp_path), file_format='array_record'
  )
  with _local(standin):
    builder.download_and_prepare()
  data = polymnist.build(
    named('m0', 'm1', 'm2'), tmp_path, mnist_dir=str(standin), verify_checksums=False,
    seed=5, **_COUNTS,
  )  # fmt: skip
  for name, split in zip(('train', 'validation', 'test'), data.splits.values(),
                         strict=True):  # fmt: skip
    source = builder.as_data_source(split=name)
    rows = [source[i] for i in range(len(source))]
    np.testing.assert_array_equal(
      [row['label'] for row in rows], split.annotations['class']
    )
    for m in data.modalities:
      np.testing.assert_array_equal([row[m] for row in rows], split.arrays[m])
  assert 'tensorflow' not in sys.modules


def test_mnist_from_tfds_is_mnist(named, standin, tmp_path):
  expected = mnist.read(str(standin), verify_checksums=False)
  with _local(standin):
    data = polymnist.build(
      named('a', 'b'),
      tmp_path / 'cache',
      source='tfds',
      tfds_dir=str(tmp_path),
      **_COUNTS,
    )
  assert [len(s) for s in data.splits.values()] == [70, 20, 30]
  # Prepared once: no network now, and the same digits (TFDS shuffles them).
  found = tfds_polymnist.read_mnist(str(tmp_path))
  for split in ('train', 'test'):
    pairs = [
      sorted((image.tobytes(), int(label)) for image, label in zip(*part, strict=True))
      for part in (found[split], expected[split])
    ]
    assert pairs[0] == pairs[1]
  assert 'tensorflow' not in sys.modules


def test_no_network_is_one_line(tmp_path):
  failure = mock.Mock(side_effect=ConnectionError('no route\nto host'))
  with (
    mock.patch.object(tfds.download.DownloadManager, 'download_and_extract', failure),
    pytest.raises(UserError, match="no route.; fetch .* data.source='idx'") as error,
  ):
    tfds_polymnist.read_mnist(str(tmp_path))
  assert '\n' not in str(error.value)


def test_published_configs():
  names = {
    c.name: c.num_modalities for c in tfds_polymnist.ExtendedPolymnist.BUILDER_CONFIGS
  }
  assert names == {'m5': 5, 'm10': 10}


@pytest.mark.parametrize('module', [mnist, tfds_polymnist])
def test_imports_run_one_way(module):
  """Only `polymnist` knows the modules that it is made of."""
  assert polymnist not in vars(module).values()
