"""Learning rates and updates by hand."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.infra.optim import make_optimizer, make_schedule


def test_cosine_after_a_linear_warmup():
  rate = make_schedule(
    schedule='cosine', learning_rate=2.0, num_steps=110, warmup_steps=10,
    final_fraction=0.1,
  )  # fmt: skip
  expected = {0: 0.0, 5: 1.0, 10: 2.0, 60: 2 * 0.55, 110: 0.2}
  # A quarter of the way down: (1 + cos(pi / 4)) / 2 of what is above the floor.
  expected[35] = 2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
  for step, value in expected.items():
    np.testing.assert_allclose(rate(step), value, rtol=1e-6, atol=1e-7)


def test_constant():
  rate = make_schedule(schedule='constant', learning_rate=0.5, num_steps=10)
  assert rate(0) == rate(10) == 0.5


def update(gradients, **kwargs):
  optimizer = make_optimizer(num_steps=10, schedule='constant', **kwargs)
  params = {'w': jnp.array([3.0, -4.0])}
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = optimizer.update(
      {'w': jnp.array(gradient)}, state, params, value=jnp.float32(1.0)
    )
    params = optax.apply_updates(params, updates)
  return np.asarray(params['w'])


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate():
  got = update([[5.0, -0.1]], learning_rate=0.01)
  np.testing.assert_allclose(got, [3 - 0.01, -4 + 0.01], rtol=1e-5)


def test_weight_decay_is_decoupled():
  got = update([[5.0, -0.1]], learning_rate=0.01, weight_decay=0.5)
  expected = [3 - 0.01 - 0.005 * 3, -4 + 0.01 + 0.005 * 4]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_clipping_is_by_the_global_norm():
  # Clipped, both gradients are [0.6, 0.8]; the second moments differ otherwise.
  clipped = update([[30.0, 40.0], [0.6, 0.8]], learning_rate=0.1, clip_norm=1.0)
  np.testing.assert_allclose(
    clipped, update([[0.6, 0.8], [0.6, 0.8]], learning_rate=0.1), rtol=1e-5
  )
  assert not np.allclose(clipped, update([[30.0, 40.0], [0.6, 0.8]], learning_rate=0.1))


def test_the_plateau_lowers_the_rate_once_the_loss_stalls():
  kwargs = dict(learning_rate=0.01, plateau_patience=2, plateau_factor=0.1)
  steps = np.diff([update([[1.0, 1.0]] * n, **kwargs)[0] for n in range(7)])
  # The first loss is the best; every two that are no better cost a factor 10.
  expected = [-1e-2, -1e-2, -1e-3, -1e-3, -1e-4, -1e-4]
  np.testing.assert_allclose(steps, expected, rtol=1e-2)


def test_an_unknown_schedule_is_the_users_mistake():
  with pytest.raises(UserError, match="'constant' or 'cosine', not 'linear'"):
    make_schedule(schedule='linear', learning_rate=0.1, num_steps=10)


def test_schedule_refuses_a_learning_rate_that_is_not_positive():
  for rate in (0.0, -0.1):
    with pytest.raises(UserError, match=f'learning_rate={rate} must be positive'):
      make_schedule(schedule='constant', learning_rate=rate, num_steps=10)
