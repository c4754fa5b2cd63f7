"""The held-out loss: what is measured, what is kept, when training ends."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmsbm import train
from mmsbm.infra import checkpoints, sharding
from mmsbm.learners.base import Training, hold_out, init_state

STEPS, PATIENCE = 400, 60
OPTIONS = train.LoopOptions(block_steps=10, checkpoint_every_steps=50)
# Held out, the loss (w - 0.5)^2 falls until w, on its way to 1, has come to 0.5.
TRAIN, HELD_OUT = np.ones((6, 1), np.float32), np.full((3, 1), 0.5, np.float32)


@dataclasses.dataclass(frozen=True)
class Number:
  """The number nearest to the examples; in training it has noise."""

  name: str = 'number'
  noise: float = 0.0

  def init(self, key, batch):
    return {'params': {'w': jnp.zeros(())}}

  def loss(self, variables, frozen, batch, rngs, *, train):
    noise = self.noise * jax.random.normal(rngs['noise'], batch['x'].shape)
    loss = jnp.square(variables['params']['w'] - batch['x'] - noise).mean()
    return loss, {'is_training': jnp.float32(train)}, {}


def training(patience=PATIENCE, steps=STEPS, **learner):
  return Training(
    learner=Number(**learner),
    optimizer=optax.with_extra_args_support(optax.sgd(0.005)),
    ema_decay=0.0,
    num_steps=steps,
    batch_size=4,
    key=jax.random.key(1),
    patience=patience,
  )


def run(workdir, t, held_out=HELD_OUT):
  source = train.Source(arrays={'x': TRAIN}, size=6, seed=0, resident=True)
  train.train_group(
    [t],
    source,
    workdir=workdir,
    options=OPTIONS,
    mesh=sharding.make_mesh(),
    held_out=None if held_out is None else {'x': held_out},
  )
  variables, step = train.load_variables(
    workdir, t, {'x': TRAIN[:1]}, sharding.make_mesh()
  )
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return float(variables['params']['w']), step, [json.loads(line) for line in lines]


def test_the_best_average_is_kept_and_training_ends_after_its_patience(tmp_path):
  t = training()
  w, step, rows = run(tmp_path, t)
  # Gradient descent: 1 - w shrinks by 1 - 2 * 0.005 a step, so w is 0.5 at step 69.
  steps = [r['step'] for r in rows if 'held_out_loss' in r]
  losses = [(1 - 0.99**s - 0.5) ** 2 for s in steps]
  np.testing.assert_allclose(
    [r['held_out_loss'] for r in rows if 'held_out_loss' in r], losses, atol=1e-6
  )
  assert steps == list(range(10, 131, 10)) and rows[-1]['best_step'] == 70
  np.testing.assert_allclose(w, 1 - 0.99**70, atol=1e-6)
  # It counts as fully trained, and nothing is trained again.
  assert train.finished(tmp_path, t) and step == STEPS
  run(tmp_path, t)
  assert rows == run(tmp_path, t)[2]


def test_without_patience_the_last_average_is_kept(tmp_path):
  w, _, rows = run(tmp_path, training(patience=0))
  np.testing.assert_allclose(w, 1 - 0.99**STEPS, atol=1e-5)
  assert rows[-1]['step'] == STEPS and 'best_step' not in rows[-1]


def test_nothing_held_out_trains_to_the_end(tmp_path):
  w, _, rows = run(tmp_path, training(patience=0), held_out=None)
  assert 'held_out_loss' not in rows[-1] and w > 0.98


@pytest.mark.parametrize('num_saves', (1, 2))
def test_stopped_and_resumed_is_bit_for_bit_the_same(tmp_path, monkeypatch, num_saves):
  t, save, saves = training(noise=0.3), checkpoints.save, []
  expected = run(tmp_path / 'straight', t)

  def stopping(*args, **kwargs):
    save(*args, **kwargs)
    saves.append(args)
    if len(saves) == num_saves:
      raise KeyboardInterrupt

  monkeypatch.setattr(checkpoints, 'save', stopping)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'stopped', t)
  monkeypatch.setattr(checkpoints, 'save', save)
  found = run(tmp_path / 'stopped', t)
  assert found[:2] == expected[:2]
  for a, b in zip(found[2], expected[2], strict=True):
    for key in ('step', 'loss', 'held_out_loss', 'best_step'):
      assert a[key] == b[key]


def test_held_out_examples_are_seen_without_training_noise_of_the_step():
  t = training(noise=0.3)
  state = init_state(t, {'x': TRAIN})
  batches = {'x': np.tile(HELD_OUT, (2, 1, 1))}
  later = state.replace(step=state.step + 7)
  first, second = (hold_out(t, s, None, batches)[1] for s in (state, later))
  assert first['loss'] == second['loss'] and first['is_training'] == 0.0


def test_few_examples_are_repeated_and_all_are_used():
  batches = train._held_out_batches({'x': np.arange(3)}, 4)['x']
  assert batches.shape == (256, 4)
  assert np.ptp(np.bincount(batches.ravel())) <= 1
