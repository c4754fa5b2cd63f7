"""Checkpoints come back whole, or are refused."""

import os
import pathlib

import jax
import numpy as np
import pytest

from mmsbm.infra import checkpoints
from mmsbm.infra.errors import UserError

TREE = {
  'step': np.int32(3),
  'params': {'w': np.arange(3000, dtype=np.float32).reshape(30, 100)},
  'ema': {'w': np.ones((2, 3), np.float32)},
  'nothing': {},
}


def abstract(tree):
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=where),
    tree,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('checkpoints') / 'learner'
  for step in (1, 2, 3):
    checkpoints.save(path, step, TREE, keep=2)
  return path


def test_whole_and_part_come_back(folder):
  for part in (TREE, {'ema': TREE['ema']}):
    got = jax.device_get(checkpoints.restore(folder, abstract(part)))
    jax.tree.map(np.testing.assert_array_equal, got, part)
    assert jax.tree.structure(got) == jax.tree.structure(part)


def test_the_newest_are_kept_and_listed(folder, tmp_path):
  assert checkpoints.all_steps(folder) == (2, 3)
  assert checkpoints.latest_step(folder) == 3
  assert checkpoints.all_steps(tmp_path / 'none') == ()
  assert checkpoints.latest_step(tmp_path / 'none') is None


def test_an_earlier_step_replaces_later_ones(tmp_path):
  for step in (10, 20):
    checkpoints.save(tmp_path / 'c', step, TREE)
  new = TREE | {'step': np.int32(7)}
  checkpoints.save(tmp_path / 'c', 10, new)
  assert checkpoints.all_steps(tmp_path / 'c') == (10,)
  got = checkpoints.restore(tmp_path / 'c', abstract({'step': TREE['step']}))
  assert got['step'] == 7


@pytest.mark.parametrize(
  ('wanted', 'message'),
  [
    ({'ema': {'w': np.ones((3, 3))}}, r'shape \(2, 3\), the config needs \(3, 3\)'),
    ({'ema': {'v': np.ones((2, 3))}}, r'of shape None, the config needs'),
  ],
)
def test_another_network_is_refused(folder, wanted, message):
  with pytest.raises(UserError, match=message):
    checkpoints.restore(folder, abstract(wanted))


def test_no_checkpoint_is_an_error_that_says_train(tmp_path):
  with pytest.raises(UserError, match='train first'):
    checkpoints.restore(tmp_path, abstract(TREE))


def test_a_write_that_was_killed_is_no_checkpoint(tmp_path, folder):
  """What orbax leaves under its temporary name."""
  checkpoints.save(tmp_path / 'c', 1, TREE)
  torn = tmp_path / 'c' / '2.orbax-checkpoint-tmp-7'
  torn.mkdir()
  (torn / 'state').write_bytes(b'half')
  assert checkpoints.all_steps(tmp_path / 'c') == (1,)
  checkpoints.save(tmp_path / 'c', 2, TREE)
  assert checkpoints.all_steps(tmp_path / 'c') == (1, 2)


# What orbax leaves running after a failure complains later, into the void.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_torn_file_is_refused_or_changes_nothing(tmp_path, settle):
  """Every file of a checkpoint in turn, empty, half and gone."""
  checkpoints.save(tmp_path / 'c', 1, TREE)
  files = [p for p in pathlib.Path(tmp_path, 'c', '1').rglob('*') if p.is_file()]
  refused = 0
  for path in files:
    data = path.read_bytes()
    for keep in (0, len(data) // 2, None):
      if keep is None:
        os.remove(path)
      else:
        path.write_bytes(data[:keep])
      try:
        got = jax.device_get(checkpoints.restore(tmp_path / 'c', abstract(TREE)))
        jax.tree.map(np.testing.assert_array_equal, got, TREE)
      except UserError as error:
        refused += 1
        assert 'delete ' in str(error) or 'has ' in str(error)
    path.write_bytes(data)
  assert refused >= 6
