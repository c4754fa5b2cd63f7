"""Every number of the configs is what it was when results were published.

golden.json has resolved configs by file and arguments: the values in which each
differs from the one that it is `like`. Who changes a number on purpose changes it there
too.
"""

import importlib
import json
import pathlib

import pytest

from mmsbm.configs import base

GOLDEN = json.loads((pathlib.Path(__file__).parent / 'golden.json').read_text())
ABSENT = 'absent'


def _expected(key):
  entry = GOLDEN[key]
  config = _expected(entry['like']) if entry['like'] else {}
  for path, value in entry['values'].items():
    *parents, last = path.split('.')
    node = config
    for parent in parents:
      node = node[parent]
    if value == ABSENT:
      del node[last]
    else:
      node[last] = base.copied(value)
  return config


def _flat(config, prefix=''):
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict) and value:
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


@pytest.mark.parametrize('key', GOLDEN)
def test_config_is_the_published_one(key, monkeypatch):
  monkeypatch.delenv('MMSBM_CACHE', raising=False)
  name, _, arguments = key.partition(':')
  module = importlib.import_module(f'configs.{name}')
  config = json.loads(json.dumps(module.get_config(arguments).to_dict()))
  expected = _expected(key)
  assert _flat(config) == _flat(expected)
  for section in ('modalities', 'readers', 'samplings'):
    assert list(config[section]) == list(expected[section])


def test_expected_values_are_found_along_the_chain():
  last = _expected('digits:method=mmjsd,modalities=2')
  assert last['joint']['objective']['name'] == 'mmjsd'
  assert last['data']['num_train'] == 30_000
  assert 'unimodal' not in last
