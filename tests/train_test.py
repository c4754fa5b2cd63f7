"""The training loop: what it computes, what it resumes, what it refuses."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mmsbm import train
from mmsbm.data.loader import batch_indices
from mmsbm.infra import checkpoints, sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.optim import make_optimizer
from mmsbm.infra.rng import fold_in_name, step_rngs
from mmsbm.learners.base import STREAMS, Training, init_state, masked_mean, train_step

ROOT = pathlib.Path(train.__file__).parents[1]
SIZE, BATCH, STEPS = 20, 8, 12
OPTIONS = train.LoopOptions(block_steps=2, checkpoint_every_steps=4)


@dataclasses.dataclass(frozen=True)
class Regression:
  """A noisy two-layer regression with a collection that the network updates."""

  name: str
  width: int = 5
  poison: float = 0.0

  def init(self, key, batch):
    first, second = jax.random.split(key)
    dim = batch['x'].shape[1]
    return {
      'params': {
        'hidden': jax.random.normal(first, (dim, self.width)),
        'out': jax.random.normal(second, (self.width,)),
      },
      'batch_stats': {'mean': jnp.zeros(dim)},
    }

  def loss(self, variables, frozen, batch, rngs, *, train):
    assert train
    p, mean = variables['params'], variables['batch_stats']['mean']
    x = batch['x'] + 0.1 * jax.random.normal(rngs['noise'], batch['x'].shape)
    error = jnp.tanh((x - mean) @ p['hidden']) @ p['out'] - batch['y']
    loss = masked_mean(error**2, batch['present'])
    if frozen is not None:
      loss += frozen
    if self.poison:
      # Finite loss, infinite gradient.
      loss += self.poison * jnp.sqrt(p['out'][0] - jax.lax.stop_gradient(p['out'][0]))
    new = 0.9 * mean + 0.1 * batch['x'].mean(0)
    return loss, {'error': jnp.abs(error).mean()}, {'batch_stats': {'mean': new}}


def training(name='a', steps=STEPS, rate=0.05, **kwargs):
  return Training(
    learner=Regression(name, **kwargs),
    optimizer=make_optimizer(
      num_steps=steps, learning_rate=rate, warmup_steps=2, clip_norm=1.0
    ),
    ema_decay=0.9,
    num_steps=steps,
    batch_size=BATCH,
    key=fold_in_name(jax.random.key(3), name),
  )


def data(dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    'x': rng.normal(size=(SIZE, 3)).astype(dtype),
    'y': rng.normal(size=SIZE).astype(dtype),
    'present': rng.random(SIZE) < 0.8,
  }


def source(resident=True, arrays=None):
  return train.Source(arrays or data(), SIZE, seed=7, resident=resident)


def run(workdir, group, src=None, options=OPTIONS, **kwargs):
  train.train_group(
    group,
    src or source(),
    workdir=workdir,
    options=options,
    mesh=sharding.make_mesh(),
    **kwargs,
  )


def saved(workdir, t, step=None):
  """Everything that was saved at a step, the last one by default."""
  like = train.to_items(init_state(t, data()))
  aside = sharding.replicated(sharding.make_mesh())
  folder = train.directory(workdir, t.name)
  return jax.device_get(checkpoints.restore(folder, like, sharding=aside, step=step))


def assert_equal(a, b):
  chex.assert_trees_all_equal(a, b)
  assert jax.tree.leaves(a)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Learners a and b, trained together and never stopped."""
  workdir = tmp_path_factory.mktemp('straight')
  run(workdir, [training('a'), training('b', width=4)])
  return workdir


def metrics(workdir):
  lines = pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


# --- one step -----------------------------------------------------------------


def test_the_average_follows_its_formula_and_the_step_counts():
  t = training()
  state = init_state(t, data())
  batch = jax.tree.map(lambda a: a[:BATCH], data())
  average = np.asarray(state.params['out'])
  statistics = np.zeros(3)
  step = jax.jit(lambda s: train_step(t, s, None, batch))
  for i in range(5):
    state, logged = step(state)
    decay = min(0.9, (1 + i) / (10 + i))
    average = decay * average + (1 - decay) * np.asarray(state.params['out'])
    np.testing.assert_allclose(state.ema_params['out'], average, rtol=1e-5)
    mean = np.asarray(state.mutables['batch_stats']['mean'])
    statistics = decay * statistics + (1 - decay) * mean
    averaged = state.ema_mutables['batch_stats']['mean']
    np.testing.assert_allclose(averaged, statistics, rtol=1e-4, atol=1e-7)
    assert state.step == i + 1
    assert set(logged) == {'loss', 'error'}
  late = dataclasses.replace(state, step=jnp.int32(10_000))
  new, _ = train_step(t, late, None, batch)
  expected = 0.9 * state.ema_params['out'] + 0.1 * new.params['out']
  np.testing.assert_allclose(new.ema_params['out'], expected, rtol=1e-5)


def test_one_update_is_that_of_the_optimiser_on_the_gradient():
  t = training()
  state = init_state(t, data())
  batch = jax.tree.map(lambda a: jnp.asarray(a[:BATCH]), data())
  rngs = step_rngs(t.key, state.step, STREAMS)

  def loss(params):
    variables = {'params': params, **state.mutables}
    return t.learner.loss(variables, 2.5, batch, rngs, train=True)[0]

  value, grads = jax.value_and_grad(loss)(state.params)
  updates, _ = t.optimizer.update(grads, state.opt_state, state.params)
  new, logged = train_step(t, state, 2.5, batch)
  chex.assert_trees_all_close(new.params, optax.apply_updates(state.params, updates))
  np.testing.assert_allclose(logged['loss'], value, rtol=1e-6)
  chex.assert_trees_all_close(
    new.mutables['batch_stats']['mean'], 0.1 * batch['x'].mean(0), rtol=1e-6
  )


def test_no_key_is_used_twice_in_a_step():
  t = training()
  state = init_state(t, data())
  batch = jax.tree.map(lambda a: jnp.asarray(a[:BATCH]), data())
  with jax.debug_key_reuse(True):
    jax.jit(lambda s: train_step(t, s, None, batch))(state)


def test_randomness_is_a_function_of_the_step_and_the_stream():
  key = jax.random.key(0)
  data_of = lambda k: tuple(jax.random.key_data(k).tolist())  # noqa: E731
  seen = {
    data_of(key)
    for step in range(5)
    for key in step_rngs(training().key, step, STREAMS).values()
  }
  assert len(seen) == 5 * len(STREAMS)
  again = step_rngs(training().key, 3, STREAMS)['noise']
  assert data_of(again) in seen
  assert data_of(fold_in_name(key, 'a')) != data_of(fold_in_name(key, 'b'))


def test_the_mean_over_present_rows():
  values = jnp.array([1.0, 2.0, 4.0])
  assert masked_mean(values, jnp.array([True, False, True])) == 2.5
  assert masked_mean(values, jnp.zeros(3, bool)) == 0.0


# --- the loop -----------------------------------------------------------------


def test_the_loop_equals_steps_one_by_one(straight):
  t = training('a')
  state = init_state(t, data())
  step = jax.jit(lambda s, batch: train_step(t, s, None, batch))
  losses = []
  for i in range(STEPS):
    rows = batch_indices(7, i, size=SIZE, batch_size=BATCH)
    state, logged = step(state, jax.tree.map(lambda a, r=rows: a[r], data()))
    losses.append(float(logged['loss']))
  chex.assert_trees_all_close(
    saved(straight, t), jax.device_get(train.to_items(state)), rtol=2e-4, atol=2e-6
  )
  rows = [r for r in metrics(straight) if r['learner'] == 'a']
  assert [r['step'] for r in rows] == [2, 4, 6, 8, 10, 12]
  means = np.reshape(losses, (-1, 2)).mean(1)
  np.testing.assert_allclose([r['loss'] for r in rows], means, rtol=1e-4)


def test_together_is_bit_for_bit_the_same_as_alone(straight, tmp_path):
  for t in (training('a'), training('b', width=4)):
    run(tmp_path, [t])
    assert_equal(saved(tmp_path, t), saved(straight, t))


def test_learners_of_one_kind_differ_by_their_names(straight):
  a = init_state(training('a'), data()).params['hidden']
  c = init_state(training('c'), data()).params['hidden']
  assert not np.allclose(a, c)


def test_a_group_is_compiled_once(tmp_path):
  group = [training('a'), training('b', width=4)]
  calls = []

  def count(learner, *args, **kwargs):
    calls.append(learner.name)
    return Regression.loss(learner, *args, **kwargs)

  @dataclasses.dataclass(frozen=True)
  class Counting(Regression):
    loss = count

  group = [
    dataclasses.replace(t, learner=Counting(t.learner.name, t.learner.width))
    for t in group
  ]
  run(tmp_path, group)
  # Six blocks, one trace of each loss (under value_and_grad, in one scan).
  assert len(calls) == 2, calls


def test_finished_learners_are_left_alone(straight, tmp_path):
  shutil.copytree(straight, tmp_path / 'w')
  before = metrics(tmp_path / 'w')
  run(tmp_path / 'w', [training('a'), training('b', width=4)])
  assert metrics(tmp_path / 'w') == before


class Stop(Exception):
  """Stands for a kill; nothing in the program catches it."""


def stop_after(monkeypatch, num_saves):
  """Lets `num_saves` checkpoints through, then stops."""
  count, save = [0], checkpoints.save

  def counted(*args, **kwargs):
    if count[0] == num_saves:
      raise Stop
    count[0] += 1
    save(*args, **kwargs)

  monkeypatch.setattr(checkpoints, 'save', counted)


@pytest.mark.parametrize('num_saves', [0, 1, 2, 3, 4, 5])
def test_stopped_anywhere_and_resumed_is_bit_for_bit_the_same(
  straight, tmp_path, monkeypatch, num_saves
):
  """Odd numbers leave learner a one checkpoint ahead of learner b."""
  group = [training('a'), training('b', width=4)]
  with monkeypatch.context() as patch:
    stop_after(patch, num_saves)
    with pytest.raises(Stop):
      run(tmp_path, group)
  run(tmp_path, group)
  for t in group:
    assert_equal(saved(tmp_path, t), saved(straight, t))
  key = lambda row: (row['learner'], row['step'])  # noqa: E731
  got, expected = metrics(tmp_path), metrics(straight)
  assert sorted(map(key, got)) == sorted(map(key, expected))
  values = {key(r): (r['loss'], r['error']) for r in expected}
  assert {key(r): (r['loss'], r['error']) for r in got} == values


def test_train_group_resumes_a_run_of_version_0_1(
  straight, tmp_path, monkeypatch, capsys
):
  """Its checkpoints had one item and no classes of optimiser states."""
  group = [training('a'), training('b', width=4)]
  with monkeypatch.context() as patch:
    stop_after(patch, 2)
    with pytest.raises(Stop):
      run(tmp_path, group)
  for t in group:
    items, folder = saved(tmp_path, t), train.directory(tmp_path, t.name)
    state = train.from_items(items)
    leaves = jax.tree.leaves(state.opt_state)
    tree = {
      **{name: getattr(state, name) for name in ('step', 'params', 'mutables')},
      **{name: getattr(state, name) for name in ('ema_params', 'ema_mutables')},
      'opt_state': {str(i): leaf for i, leaf in enumerate(leaves)},
    }
    shutil.rmtree(folder)
    with ocp.CheckpointManager(folder) as manager:
      args = ocp.args.Composite(state=ocp.args.StandardSave(tree))
      assert manager.save(4, args=args)
  run(tmp_path, group)
  assert ' 4/12 [' in capsys.readouterr().err
  for t in group:
    assert_equal(saved(tmp_path, t), saved(straight, t))


def test_arrays_that_stay_on_disk_give_the_same_result(straight, tmp_path):
  arrays = {}
  for name, array in data().items():
    np.save(tmp_path / f'{name}.npy', array)
    arrays[name] = np.load(tmp_path / f'{name}.npy', mmap_mode='r')
  t = training('a')
  run(tmp_path / 'w', [t], source(resident=False, arrays=arrays))
  assert_equal(saved(tmp_path / 'w', t), saved(straight, t))


def test_gather_takes_rows_in_the_order_of_the_batch():
  indices = np.array([[5, 1, 5], [0, 19, 1]])
  got = source().gather(indices)
  np.testing.assert_array_equal(got['x'], data()['x'][indices])


def test_old_checkpoints_go_and_the_newest_stay(straight):
  assert checkpoints.all_steps(train.directory(straight, 'a')) == (8, 12)


def test_the_average_is_what_is_loaded(straight):
  t = training('a')
  variables, step = train.load_variables(straight, t, data(), sharding.make_mesh())
  assert step == STEPS
  assert_equal(jax.device_get(variables), saved(straight, t)['ema'])
  assert set(variables) == {'params', 'batch_stats'}


def test_from_items_inverts_to_items():
  state = init_state(training('a'), data())
  assert_equal(train.from_items(train.to_items(state)), state)


# --- refusals -----------------------------------------------------------------


def test_a_loss_that_diverges_stops_and_keeps_the_last_checkpoint(tmp_path):
  t = training('a')
  arrays = data()
  # An example that the first batches do not see.
  rows = [batch_indices(7, i, size=SIZE, batch_size=BATCH) for i in range(3)]
  late = next(iter(set(rows[2]) - set(rows[1]) - set(rows[0])))
  seen_at = 2
  arrays['x'][late], arrays['present'][late] = np.inf, True
  options = train.LoopOptions(block_steps=1, checkpoint_every_steps=1)
  with pytest.raises(UserError, match=f'loss of a .*Checkpoint {seen_at} is unharmed'):
    run(tmp_path, [t], source(arrays=arrays), options)
  assert checkpoints.latest_step(train.directory(tmp_path, 'a')) == seen_at
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved(tmp_path, t)))


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
  t = dataclasses.replace(training('a', poison=1.0), optimizer=optax.sgd(1.0))
  t = dataclasses.replace(
    t, optimizer=optax.with_extra_args_support(t.optimizer), num_steps=1
  )
  with pytest.raises(UserError, match='a parameter of a .* Nothing was saved'):
    run(tmp_path, [t])
  assert checkpoints.latest_step(train.directory(tmp_path, 'a')) is None


def spoil(folder):
  """Changes one bit of the largest file."""
  path = max(folder.rglob('ema/**/d/*'), key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(straight, tmp_path, capsys):
  shutil.copytree(straight, tmp_path / 'w')
  t, mesh = training('a'), sharding.make_mesh()
  folder = pathlib.Path(train.directory(tmp_path / 'w', 'a'))
  spoil(folder / str(STEPS))
  assert not train.finished(tmp_path / 'w', t)
  _, step = train.load_variables(tmp_path / 'w', t, data(), mesh)
  before = checkpoints.all_steps(folder)[0]
  assert step == before < STEPS
  assert f'{folder / str(STEPS)}/ema' in capsys.readouterr().err
  # It leads to the same end.
  run(tmp_path / 'w', [t])
  assert_equal(saved(tmp_path / 'w', t), saved(straight, t))
  for number in checkpoints.all_steps(folder):
    spoil(folder / str(number))
  for use in (
    lambda: train.load_variables(tmp_path / 'w', t, data(), mesh),
    lambda: run(tmp_path / 'w', [t]),
  ):
    with pytest.raises(
      UserError, match='No other checkpoint is left: restore .* delete'
    ):
      use()


def test_a_checkpoint_of_nan_is_not_used(straight, tmp_path, capsys):
  shutil.copytree(straight, tmp_path / 'w')
  t, folder = training('a'), train.directory(tmp_path / 'w', 'a')
  items = jax.device_get(saved(straight, t))
  items['ema'] = jax.tree.map(lambda x: x * np.nan, items['ema'])
  checkpoints.save(folder, STEPS, items, of=' a')
  _, step = train.load_variables(tmp_path / 'w', t, data(), sharding.make_mesh())
  assert step < STEPS and 'holds NaN' in capsys.readouterr().err


@pytest.mark.parametrize('other', ['b', 'another run'])
def test_a_checkpoint_does_not_stand_in_for_another(straight, tmp_path, other, capsys):
  t = training('a')
  of = '' if other == 'b' else other
  run(tmp_path, [t, training('b')], of=of)
  assert train.finished(tmp_path, t, of)
  place = pathlib.Path(train.directory(tmp_path, 'a'), str(STEPS))
  shutil.rmtree(place)
  source = (tmp_path, 'b') if other == 'b' else (straight, 'a')
  shutil.copytree(pathlib.Path(train.directory(*source), str(STEPS)), place)
  assert not train.finished(tmp_path, t, of)
  assert 'is of another run, step or learner' in capsys.readouterr().err


def test_a_checkpoint_of_other_shapes_is_refused(straight):
  with pytest.raises(
    UserError, match=r'hidden of shape \(3, 5\), the config needs \(3, 6\)'
  ):
    train.load_variables(straight, training('a', width=6), data(), sharding.make_mesh())


def test_no_checkpoint_says_train_first(tmp_path):
  with pytest.raises(UserError, match='train first'):
    train.load_variables(tmp_path, training(), data(), sharding.make_mesh())


# --- several devices ----------------------------------------------------------


def on_four_devices(workdir, expression):
  """Runs `expression` with this module as `t` in a process with 4 CPU devices."""
  code = (
    'import importlib.util as u, sys, jax, dataclasses\n'
    f'spec = u.spec_from_file_location("t", {__file__!r})\n'
    't = u.module_from_spec(spec); sys.modules["t"] = t\n'
    'spec.loader.exec_module(t)\n'
    'assert jax.device_count() == 4\n'
    f'workdir = {str(workdir)!r}\n'
    f'{expression}\n'
  )
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=4'
  env = os.environ | {'XLA_FLAGS': flags}
  env['JAX_PLATFORMS'] = 'cpu'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_four_devices_do_what_one_does(straight, tmp_path):
  """From scratch; from a checkpoint of one device; and a batch that does not fit."""
  resumed = tmp_path / 'resumed'
  shutil.copytree(straight, resumed)
  t = training('a')
  shutil.rmtree(pathlib.Path(train.directory(resumed, 'a'), str(STEPS)))
  on_four_devices(
    tmp_path,
    't.run(workdir + "/scratch", [t.training("a")])\n'
    't.run(workdir + "/host", [t.training("a")], t.source(resident=False))\n'
    't.run(workdir + "/resumed", [t.training("a")])\n'
    'try:\n'
    '  t.run(workdir + "/odd", [dataclasses.replace(t.training("a"), batch_size=6)])\n'
    'except t.UserError as e:\n'
    '  assert "cannot be split over 4 devices" in str(e)\n'
    'else:\n'
    '  raise AssertionError\n',
  )
  one = saved(straight, t)
  for name in ('scratch', 'host', 'resumed'):
    chex.assert_trees_all_close(saved(tmp_path / name, t), one, rtol=1e-4, atol=1e-6)
