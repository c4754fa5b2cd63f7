"""A few damages of every kind; `damage.py` makes as many as are wanted."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope='module')
def damage():
  path = pathlib.Path(__file__).with_name('damage.py')
  spec = importlib.util.spec_from_file_location('damage', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_no_damage_is_believed_or_a_traceback(damage, smoke_run):
  found = list(damage.damages(smoke_run, None, count=16, seed=3))
  assert {how for how, *_ in found} == set(damage.KINDS)
  assert {result for *_, result, _ in found} <= {'refused', 'recomputed', 'harmless'}
  bad = [f for f in found if f[2] in ('refused', 'recomputed')]
  assert len(bad) > len(found) / 2
