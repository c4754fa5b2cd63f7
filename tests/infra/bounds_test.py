"""Numbers of parts are checked by the names of arguments, before anything is built."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Mapping

import pytest

import mmsbm
from mmsbm.config import Section
from mmsbm.infra.bounds import ANY, COUNT, SHARE, Interval, check_numbers
from mmsbm.infra.errors import UserError

NAN, INF = math.nan, math.inf


def tables():
  """Every table that a config names parts of: {name: table}."""
  found = {}
  for module in pkgutil.walk_packages(mmsbm.__path__, 'mmsbm.'):
    if module.name.split('.')[1] in ('configs', 'tools') or '__main__' in module.name:
      continue
    for name, value in vars(importlib.import_module(module.name)).items():
      if isinstance(value, Mapping) and name.isupper() and not name.startswith('_'):
        is_part = [inspect.isclass(p) or inspect.isroutine(p) for p in value.values()]
        if is_part and all(is_part) and name not in ('ACTIVATIONS', 'METHODS'):
          found[name] = value
  return found


def number_arguments():
  """(table, part, argument, whether it is whole), of all numbers of all parts."""
  for table_name, table in tables().items():
    for name, part in table.items():
      for argument in inspect.signature(part).parameters.values():
        kind = argument.annotation
        kind = {int: 'int', float: 'float'}.get(kind, kind)
        if kind in ('int', 'float'):
          yield table_name, name, argument.name, kind == 'int'


ARGUMENTS = sorted(set(number_arguments()))
# What an argument may be beside the usual: counts from 1, numbers from 0.
ALLOWED = {
  'mean': {-1},
  'offset': {-1},
  'memory_limit_gb': {INF},
  'noise_max': {INF},
}
REFUSED_ZERO = {'beta_max', 'learning_rate', 'sigma_max', 'sigma_min', 'snr', 'std'} | {
  'step_size', 'time_scale', 'plateau_factor', 'clip_norm',
}  # fmt: skip
ZERO_OF_COUNTS = {'corrector_steps', 'num_examples', 'num_probes', 'num_train'} | {
  'pad', 'plateau_patience', 'seed', 'warmup_steps',
}  # fmt: skip


def test_all_parts_are_looked_at():
  seen = {(table, name) for table, name, _, _ in ARGUMENTS}
  assert {('SAMPLERS', 'heun'), ('SCORE_NETS', 'hub'), ('SDES', 've')} <= seen
  assert len(ARGUMENTS) > 150


@pytest.mark.parametrize('table,name,argument,whole', ARGUMENTS)
def test_impossible_numbers_are_refused(table, name, argument, whole):
  part = tables()[table][name]
  impossible = {NAN, INF, -1, True, 'x', None}
  if whole:
    impossible |= {2.5, 1e11, 10**11}
  if (argument not in ZERO_OF_COUNTS) if whole else (argument in REFUSED_ZERO):
    impossible |= {0}
  for value in impossible - ALLOWED.get(argument, set()):
    with pytest.raises(UserError, match=rf'^{argument} is .*; it must be '):
      check_numbers(part, {argument: value})
  for value in ALLOWED.get(argument, ()):
    check_numbers(part, {argument: value})


def sizes(widths: tuple[int, ...] = (), rate: float = 0.0, limit: int | None = None):
  """An outside part: its annotations are checked, its bounds are its own business."""
  return widths, rate, limit


def test_parts_from_outside_are_held_to_their_annotations():
  good = dict(widths=(-1, 0), rate=-3.0, limit=None)
  assert Section(good).call(sizes) == ((-1, 0), -3.0, None)
  for bad in (
    dict(widths=3), dict(widths=(1, 2.5)), dict(rate=NAN), dict(rate='x'),
    dict(rate=True), dict(limit=1.5),
  ):  # fmt: skip
    with pytest.raises(UserError, match='it must be'):
      Section(bad).call(sizes)


def test_tuples_are_checked_place_by_place():
  from mmsbm.nn.encoders import ENCODERS

  for bad in ((8, 0), (8, 10**11), 8, (True,), ('8',)):
    with pytest.raises(UserError, match='^widths'):
      check_numbers(ENCODERS['mlp'], {'widths': bad})
  check_numbers(ENCODERS['mlp'], {'widths': ()})
  with pytest.raises(UserError, match=r'^blocks\[0\] .* must have 4 numbers'):
    check_numbers(ENCODERS['resnet'], {'blocks': ((1, 2, 3),)})


@pytest.mark.parametrize(
  ('interval', 'value', 'wanted'),
  [
    (COUNT, 0, 'at least 1'),
    (COUNT, 2**31, 'at most 2147483647'),
    (SHARE, 1, 'below 1'),
    (SHARE, NAN, 'at least 0'),
    (ANY, INF, 'finite'),
    (ANY, NAN, 'finite'),
    (Interval(0, INF, '()'), 0, 'positive'),
    (Interval(0, INF, '()'), INF, 'finite'),
  ],
)
def test_interval(interval, value, wanted):
  assert value not in interval and interval.wanted(value) == wanted
