"""What numbers mean, by the names of arguments: one table for all parts.

An argument of one name means the same wherever it stands, so its bounds are said once.
Parts from outside are held to their annotations only.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmsbm.infra.errors import UserError


@dataclasses.dataclass(frozen=True)
class Interval:
  """Numbers from `low` to `high`; `open` names the ends that do not belong to it."""

  low: float = -math.inf
  high: float = math.inf
  open: str = ''

  def __contains__(self, value: float) -> bool:
    above = value > self.low if '(' in self.open else value >= self.low
    return above and (value < self.high if ')' in self.open else value <= self.high)

  def wanted(self, value: float) -> str:
    """Returns what a number outside of it should be."""
    if self.low < value < math.inf:
      return f'{"below" if ")" in self.open else "at most"} {self.high:.10g}'
    if math.isinf(self.low) or value == math.inf:
      return 'finite'
    if self.low == 0 and '(' in self.open:
      return 'positive'
    return f'at least {self.low:.10g}'


ANY = Interval(-math.inf, math.inf, '()')
POSITIVE = Interval(0, math.inf, '()')
NOT_NEGATIVE = Interval(0, math.inf, ')')
# Sizes of arrays. A layer of this width alone would have 10^12 weights.
SIZE = Interval(1, 2**20)
# Numbers of steps and of examples are int32 on the devices.
COUNT = Interval(1, 2**31 - 1)
COUNT_OR_NONE = Interval(0, 2**31 - 1)
# Each is traced one after the other.
LAYERS = Interval(1, 1000)
SHARE = Interval(0, 1, ')')
UNIT = Interval(0, 1)
SEED = Interval(0, 2**32 - 1)

BOUNDS: Mapping[str, Interval] = {
  'batch_size': COUNT,
  'beta_max': POSITIVE,
  'clip_norm': POSITIVE,
  'corrector_steps': COUNT_OR_NONE,
  'drop_probability': SHARE,
  'dropout': SHARE,
  'ema_decay': SHARE,
  'eta': UNIT,
  'final_fraction': UNIT,
  'learning_rate': POSITIVE,
  'least': UNIT,
  'max_pairs': COUNT,
  'max_subsets': COUNT,
  'mean': ANY,
  'memory_limit_gb': Interval(0),
  'noise_max': Interval(0),
  'num_blocks': LAYERS,
  'num_examples': COUNT_OR_NONE,
  'num_importance_samples': COUNT,
  'num_layers': LAYERS,
  'num_probes': COUNT_OR_NONE,
  'num_samples': COUNT,
  'num_steps': COUNT,
  'num_test': COUNT,
  'num_train': COUNT_OR_NONE,
  'num_val': COUNT,
  'offset': ANY,
  'pad': Interval(0, 2**20),
  'plateau_factor': Interval(0, 1, '()'),
  'plateau_patience': COUNT_OR_NONE,
  'plateau_steps': COUNT,
  'scale': NOT_NEGATIVE,
  'seed': SEED,
  'sigma_max': POSITIVE,
  'sigma_min': POSITIVE,
  'snr': POSITIVE,
  'std': POSITIVE,
  'step_size': POSITIVE,
  'time_min': SHARE,
  'time_scale': POSITIVE,
  'warmup_steps': COUNT_OR_NONE,
}


def check_value(name: str, value: Any, kind: type, bounds: Interval | None) -> None:
  """Raises UserError if a value is not of a kind, or is out of its bounds.

  Args:
    name: what the message calls it.
    value: of the config.
    kind: int, float, bool or str.
    bounds: of a number; None for no look at its size.
  """
  words = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'text'}
  accepted = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
  is_bool = isinstance(value, bool)
  if not isinstance(value, accepted) or is_bool != (kind is bool):
    raise UserError(f'{name} is {value!r}; it must be {words[kind]}.')
  if bounds is not None and value not in bounds:
    raise UserError(f'{name} is {value!r}; it must be {bounds.wanted(value)}.')


def check_numbers(part: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
  """Checks arguments against the annotations of a part and `BOUNDS`.

  Raises:
    UserError: an argument is of another type, or out of its bounds.
  """
  try:
    hints = typing.get_type_hints(part)
    if isinstance(part, type) and not dataclasses.is_dataclass(part):
      hints |= typing.get_type_hints(part.__init__)
  # The annotations of somebody's own part need not be importable.
  except (NameError, TypeError, AttributeError):
    return
  is_ours = getattr(part, '__module__', '').split('.')[0] == __name__.split('.')[0]
  for name, value in arguments.items():
    if name in hints:
      _check(name, name, value, hints[name], is_ours)


def _check(place: str, name: str, value: Any, hint: Any, is_ours: bool) -> None:
  """Checks one value, or each of a sequence."""
  if hint in (int, float, bool, str):
    bounds = None
    if is_ours and hint in (int, float):
      bounds = BOUNDS.get(name, SIZE if hint is int else NOT_NEGATIVE)
    elif hint is float:
      bounds = ANY
    check_value(place, value, hint, bounds)
    return
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    rest = [a for a in arguments if a is not type(None)]
    if (value is not None or len(rest) == len(arguments)) and len(rest) == 1:
      _check(place, name, value, rest[0], is_ours)
    return
  if origin not in (tuple, Sequence, list) or arguments[0] in (Any, ()):
    return
  if not isinstance(value, tuple | list):
    raise UserError(f'{place} is {value!r}; it must be a tuple.')
  if origin is tuple and arguments[-1] is not Ellipsis:
    if len(value) != len(arguments):
      raise UserError(f'{place} is {value!r}; it must have {len(arguments)} numbers.')
  else:
    arguments = arguments[:1] * len(value)
  for i, (part, kind) in enumerate(zip(value, arguments, strict=True)):
    _check(f'{place}[{i}]', name, part, kind, is_ours)
