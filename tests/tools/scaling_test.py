"""Costs of programs whose cost is known; rows and ratios of a small network."""

import time

import numpy as np
import pytest

from configs import digits
from mmsbm.infra.errors import UserError
from mmsbm.tools import scaling


def test_cost_of_a_matrix_product():
  a, b = np.ones((64, 256), np.float32), np.ones((256, 512), np.float32)
  cost = scaling.measure(lambda a, b: a @ b, a, b)
  assert cost.gflop == pytest.approx(2e-9 * 64 * 256 * 512, rel=1e-2)
  arguments = cost.memory_mb - cost.temporary_mb
  assert arguments == pytest.approx((a.nbytes + b.nbytes) / 2**20)
  assert 0 < cost.seconds < 1


def test_what_a_step_returns_is_what_the_next_one_gets(monkeypatch):
  seen = []

  class Program:
    def __call__(self, state, batch):
      time.sleep(0.02)
      seen.append(state)
      return state + batch

    def memory_analysis(self):
      return type('', (), {'temp_size_in_bytes': 2**20, 'argument_size_in_bytes': 0})

    def cost_analysis(self):
      return {'flops': 3e9}

  class Jitted:
    def __init__(self, fn, donate_argnums):
      assert donate_argnums == (0,)

    def lower(self, *args):
      return self

    def compile(self):
      return Program()

  monkeypatch.setattr(scaling.jax, 'jit', Jitted)
  cost = scaling.measure(None, 5, 2, donate=True)
  assert seen == [5, 7, 9, 11, 13, 15]
  assert cost.seconds >= 0.02 and cost.cpu_seconds < 0.02
  assert (cost.gflop, cost.memory_mb, cost.temporary_mb) == (3.0, 1.0, 1.0)


@pytest.fixture(scope='module')
def config():
  out = digits.get_config('smoke').to_dict()
  small = {'num_blocks': 1, 'token_width': 16, 'hub_width': 32}
  out['score'] |= {'network': {'name': 'hub', **small}, 'batch_size': 16}
  return out


@pytest.mark.slow
def test_rows_are_per_example_and_end_with_ratios(config):
  low, high, ratio = scaling.scaling(config, ['hub'], [2, 8])
  assert (low['modalities'], high['modalities']) == (2, 8)
  assert ratio['modalities'] == '8/2' and ratio['network'] == 'hub'
  for key in low:
    if key.startswith(('train_', 'sample_', 'evaluation_')):
      assert ratio[key] == pytest.approx(high[key] / low[key])
      assert low[key] > 0
  # Tokens alone would cost four times as much; the hub costs the same.
  for key in ('train_gflop', 'train_memory_mb', 'sample_temporary_mb'):
    assert 1 < ratio[key] < 4.2, key
  # A gradient costs about twice an evaluation.
  assert 1.5 < low['train_gflop'] / low['evaluation_gflop'] < 6
  # Arguments: parameters, their average and two moments; 16 examples share them.
  assert low['train_memory_mb'] - low['train_temporary_mb'] > (
    4 * 4 * low['parameters'] / 2**20 / 16
  )


def test_mistakes(config):
  for networks, numbers, message in (
    (['hubs'], [2], "--networks: unknown component 'hubs'"),
    (['hub'], [], 'must be positive'),
    (['hub'], [0, 2], 'must be positive'),
  ):
    with pytest.raises(UserError, match=message):
      next(scaling.scaling(config, networks, numbers))


def test_a_network_other_than_the_configs_has_its_defaults(config):
  assert scaling.network_spec(config, 'mlp') == {'name': 'mlp'}
  assert scaling.network_spec(config, 'hub')['token_width'] == 16


def test_table():
  text = scaling.table([{'a': 'x', 'b': 0.12345}, {'a': 'yy', 'c': 3}])
  assert text.splitlines() == [' a      b  c', ' x  0.123   ', 'yy         3']
