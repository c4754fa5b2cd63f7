"""Checkpoints come back whole, or are refused."""

import errno
import os
import pathlib
import shutil

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mmsbm.infra import checkpoints, digests
from mmsbm.infra.errors import UserError

STATE = {
  'step': np.int32(3),
  'params': {'w': np.arange(3000, dtype=np.float32).reshape(30, 100)},
  'mutables': {},
  'opt_state': optax.adam(0.1).init({'w': np.ones((2, 3), np.float32)}),
}
EMA = {
  'params': {'w': np.ones((2, 3), np.float32)},
  'statistics': {'mean': np.float32(5)},
}
ITEMS = {'state': STATE, 'ema': EMA}
ASIDE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def restore(folder, like, **kwargs):
  return checkpoints.restore(folder, like, sharding=ASIDE, **kwargs)


def save_old(folder, step, state=STATE, ema=EMA):
  """What version 0.1 wrote: one item, without the classes of optimiser states."""
  tree = {
    'step': state['step'],
    'params': state['params'],
    'ema_params': ema['params'],
    'mutables': state['mutables'],
    'ema_mutables': {'statistics': ema['statistics']},
    'opt_state': {
      str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state['opt_state']))
    },
  }
  args = ocp.args.Composite(state=ocp.args.StandardSave(tree))
  with ocp.CheckpointManager(folder) as manager:
    manager.save(step, args=args)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('checkpoints') / 'learner'
  for step in (1, 2, 3):
    checkpoints.save(path, step, ITEMS, keep=2)
  return path


@pytest.mark.parametrize('names', [('state', 'ema'), ('ema',), ('state',)])
def test_restore_gives_the_items_that_are_asked_for(folder, names):
  like = {name: ITEMS[name] for name in names}
  got = jax.device_get(restore(folder, like))
  jax.tree.map(np.testing.assert_array_equal, got, like)
  assert jax.tree.structure(got) == jax.tree.structure(like)


def test_restore_of_an_average_reads_no_optimiser(folder, tmp_path):
  shutil.copytree(folder, tmp_path / 'c')
  shutil.rmtree(tmp_path / 'c' / '3' / 'state')
  got = restore(tmp_path / 'c', {'ema': EMA})
  jax.tree.map(np.testing.assert_array_equal, got, {'ema': EMA})


@pytest.mark.parametrize('names', [('state', 'ema'), ('ema',)])
def test_restore_reads_what_version_0_1_wrote(tmp_path, names):
  save_old(tmp_path / 'c', 3)
  like = {name: ITEMS[name] for name in names}
  got = jax.device_get(restore(tmp_path / 'c', like))
  jax.tree.map(np.testing.assert_array_equal, got, like)
  assert jax.tree.structure(got) == jax.tree.structure(like)
  wide = {'ema': EMA | {'params': {'w': np.ones((2, 4))}}}
  with pytest.raises(UserError, match='ema_params/w of shape .2, 3., the config needs'):
    restore(tmp_path / 'c', wide)
  # Checkpoints that follow lie beside it.
  checkpoints.save(tmp_path / 'c', 4, ITEMS)
  assert checkpoints.all_steps(tmp_path / 'c') == (3, 4)
  assert restore(tmp_path / 'c', {'ema': EMA}, step=3).keys() == {'ema'}


def test_the_newest_are_kept_and_listed(folder, tmp_path):
  assert checkpoints.all_steps(folder) == (2, 3)
  assert checkpoints.latest_step(folder) == 3
  assert checkpoints.all_steps(tmp_path / 'none') == ()
  assert checkpoints.latest_step(tmp_path / 'none') is None


def test_an_earlier_step_replaces_later_ones(tmp_path):
  for step in (10, 20):
    checkpoints.save(tmp_path / 'c', step, ITEMS)
  new = ITEMS | {'state': STATE | {'step': np.int32(7)}}
  checkpoints.save(tmp_path / 'c', 10, new)
  assert checkpoints.all_steps(tmp_path / 'c') == (10,)
  assert restore(tmp_path / 'c', {'state': STATE})['state']['step'] == 7


@pytest.mark.parametrize(
  ('ema', 'message'),
  [
    (
      EMA | {'params': {'w': np.ones((3, 3))}},
      r'has params/w of shape \(2, 3\), the config needs \(3, 3\): use the config',
    ),
    (
      EMA | {'params': {'w': np.ones((2, 3)), 'b': np.ones(3)}},
      'has no params/b, which the config needs: use the config',
    ),
    (
      {'params': EMA['params']},
      'has statistics/mean, which the config has no place for: use the config',
    ),
  ],
)
def test_restore_refuses_another_network(folder, ema, message):
  with pytest.raises(UserError, match=message):
    restore(folder, {'ema': ema})


def test_restore_refuses_another_optimiser(folder):
  plain = STATE | {'opt_state': optax.sgd(0.1).init(EMA['params'])}
  with pytest.raises(UserError, match='has opt_state/0/count, which the config has no'):
    restore(folder, {'state': plain})


def test_no_checkpoint_is_an_error_that_says_train(tmp_path):
  with pytest.raises(UserError, match='train first'):
    restore(tmp_path, ITEMS)


def test_a_write_that_was_killed_is_no_checkpoint(tmp_path, folder):
  """What orbax leaves under its temporary name."""
  checkpoints.save(tmp_path / 'c', 1, ITEMS)
  torn = tmp_path / 'c' / '2.orbax-checkpoint-tmp-7'
  torn.mkdir()
  (torn / 'state').write_bytes(b'half')
  assert checkpoints.all_steps(tmp_path / 'c') == (1,)
  checkpoints.save(tmp_path / 'c', 2, ITEMS)
  assert checkpoints.all_steps(tmp_path / 'c') == (1, 2)


@pytest.mark.parametrize('how', ['flipped', 'torn', 'empty', 'gone'])
def test_a_damaged_file_is_refused(tmp_path, how):
  """Every file of a checkpoint in turn; nothing but the digests may be gone."""
  checkpoints.save(tmp_path / 'c', 1, ITEMS)
  files = [p for p in pathlib.Path(tmp_path, 'c', '1').rglob('*') if p.is_file()]
  files = [p for p in files if p.parent.name != '1' or how != 'gone']
  assert len(files) > 8
  for path in files:
    data = path.read_bytes()
    if not data and how != 'gone':
      continue
    if how == 'gone':
      os.remove(path)
    else:
      spoilt = bytes([data[0] ^ 1]) + data[1:]
      path.write_bytes({'flipped': spoilt, 'torn': data[:-2], 'empty': b''}[how])
    assert checkpoints.unharmed_steps(tmp_path / 'c') == ()
    # What is not read does not matter.
    if path.name != '_CHECKPOINT_METADATA' and path.name != 'commit_success.txt':
      with pytest.raises(checkpoints.Damaged, match=path.name):
        restore(tmp_path / 'c', ITEMS)
    path.write_bytes(data)
  assert checkpoints.unharmed_steps(tmp_path / 'c') == (1,)


def test_a_checkpoint_of_another_step_or_name_is_refused(tmp_path):
  checkpoints.save(tmp_path / 'c', 1, ITEMS, of='score')
  assert checkpoints.unharmed_steps(tmp_path / 'c', 'score') == (1,)
  assert checkpoints.unharmed_steps(tmp_path / 'c', 'energy') == ()
  (tmp_path / 'c' / '1').rename(tmp_path / 'c' / '2')
  assert checkpoints.unharmed_steps(tmp_path / 'c') == ()
  with pytest.raises(checkpoints.Damaged):
    restore(tmp_path / 'c', ITEMS)


def test_an_older_checkpoint_without_digests_is_read(tmp_path):
  checkpoints.save(tmp_path / 'c', 1, ITEMS)
  (tmp_path / 'c' / '1' / 'digests.json').unlink()
  assert checkpoints.unharmed_steps(tmp_path / 'c', 'anything') == (1,)
  got = jax.device_get(restore(tmp_path / 'c', ITEMS, of='anything'))
  jax.tree.map(np.testing.assert_array_equal, got, ITEMS)


def test_what_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
  checkpoints.save(tmp_path / 'c', 1, ITEMS)

  def refuse(path):
    raise PermissionError(errno.EACCES, 'Permission denied', path)

  monkeypatch.setattr(digests, 'sha256', refuse)
  with pytest.raises(UserError, match='Permission denied.*may be whole') as e:
    restore(tmp_path / 'c', ITEMS)
  assert not isinstance(e.value, checkpoints.Damaged) and 'delete' not in str(e.value)
  assert isinstance(e.value.__cause__, PermissionError)


def test_what_orbax_does_not_read_is_not_called_damaged(tmp_path, monkeypatch):
  checkpoints.save(tmp_path / 'c', 1, ITEMS)

  def refuse(*args, **kwargs):
    raise ValueError('of a later version')

  monkeypatch.setattr(ocp.StandardCheckpointHandler, 'restore', refuse)
  with pytest.raises(UserError, match='is whole, but orbax-checkpoint') as e:
    restore(tmp_path / 'c', ITEMS)
  assert 'delete' not in str(e.value)


@pytest.mark.parametrize('number', ['ENOSPC', 'EMFILE', 'EFBIG', 'EDQUOT'])
def test_a_limit_of_the_machine_is_one_line(tmp_path, monkeypatch, number):
  def refuse(*args, **kwargs):
    raise ValueError(f'INTERNAL: {os.strerror(getattr(errno, number))} [tensorstore]')

  monkeypatch.setattr(ocp.CheckpointManager, 'save', refuse)
  with pytest.raises(UserError, match='could not be written.*: (free|raise) '):
    checkpoints.save(tmp_path / 'c', 1, ITEMS)
