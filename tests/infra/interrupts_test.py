"""Signals stop the program where nothing is lost."""

import contextlib
import dataclasses
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm import train
from mmsbm.infra import checkpoints, interrupts, sharding
from mmsbm.infra.optim import make_optimizer
from mmsbm.infra.progress import Progress
from mmsbm.learners.base import Training, init_state


@pytest.fixture
def listening():
  """Signals are asked for even where the parent has them ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  with interrupts.listening():
    yield
  signal.signal(signal.SIGINT, before)


def send(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_interrupt_that_cannot_vanish(number, listening):
  with pytest.raises(KeyboardInterrupt):
    send(number)
  # Somebody has swallowed it: the next news of a loop raises it again.
  with pytest.raises(KeyboardInterrupt), Progress('x', 2) as progress:
    progress.update(1)


def test_the_first_signal_waits_and_the_second_does_not(listening, capsys):
  with interrupts.deferred():
    send()
    assert interrupts.asked() and 'stopping after' in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
      send()


def test_listening_leaves_everything_as_it_was(listening):
  inner = signal.getsignal(signal.SIGTERM)
  with contextlib.suppress(KeyboardInterrupt), interrupts.listening():
    send()
  assert signal.getsignal(signal.SIGTERM) is inner
  interrupts.check()


def test_what_the_parent_has_ignored_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with interrupts.listening():
      send(signal.SIGINT)
      interrupts.check()
  finally:
    signal.signal(signal.SIGINT, before)


@dataclasses.dataclass(frozen=True)
class Mean:
  """Learns the mean of noisy examples."""

  name: str = 'mean'

  def init(self, key, batch):
    return {'params': {'mean': jax.random.normal(key, batch.shape[1:])}}

  def loss(self, variables, frozen, batch, rngs, *, train):
    x = batch + jax.random.normal(rngs['noise'], batch.shape)
    return jnp.mean((x - variables['params']['mean']) ** 2), {}, {}


def test_a_stopped_training_saves_its_block_and_resumes_to_the_same(
  tmp_path, listening, monkeypatch
):
  training = Training(
    Mean(), make_optimizer(num_steps=6, learning_rate=0.1), 0.9, 6, 4, jax.random.key(0)
  )
  x = np.arange(16, dtype=np.float32).reshape(8, 2)

  def run(folder):
    train.train_group(
      [training],
      train.Source(x, 8, seed=1, resident=True),
      workdir=tmp_path / folder,
      options=train.LoopOptions(block_steps=2, checkpoint_every_steps=6),
      mesh=sharding.make_mesh(),
    )

  def state(folder):
    like = train.to_items(init_state(training, x))
    aside = sharding.replicated(sharding.make_mesh())
    path = train.directory(tmp_path / folder, 'mean')
    return jax.device_get(checkpoints.restore(path, like, sharding=aside))

  run('undisturbed')
  with monkeypatch.context() as patch:
    gather = train.Source.indices

    def stopped(self, first, *args):
      if first == 2:
        send()
      return gather(self, first, *args)

    patch.setattr(train.Source, 'indices', stopped)
    with pytest.raises(KeyboardInterrupt):
      run('stopped')
  path = train.directory(tmp_path / 'stopped', 'mean')
  assert checkpoints.all_steps(path) == (4,)
  with interrupts.listening():
    run('stopped')
  chex.assert_trees_all_equal(state('stopped'), state('undisturbed'))
