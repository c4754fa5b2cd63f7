"""Numbers, durations and settings as words."""

import math
from collections.abc import Mapping
from typing import Any


def is_finite(value: Any) -> bool:
  """Tells a number from null, NaN, infinity or a word."""
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def format_number(value: float | None, stderr: float | None = None) -> str:
  """Writes a value with the digits that it deserves.

  With a standard error, the last digit is the first digit of the error (the second
  if the first is 1). Without one, the number of decimals depends on the size only
  roughly, so that the numbers of a table line up.

  >>> format_number(0.95123, 0.0021), format_number(12.3456), format_number(120345)
  ('0.951 ± 0.002', '12.35', '120,345')
  """
  if not is_finite(value):
    return 'not finite'
  if isinstance(value, int) and stderr is None:
    return f'{value:,}'
  if is_finite(stderr) and stderr > 0:
    decimals = -math.floor(math.log10(stderr))
    decimals += stderr * 10**decimals < 1.95
    if decimals > 7:
      return f'{value:.4g} ± {stderr:.1g}'
    return f'{value:,.{max(decimals, 0)}f} ± {stderr:,.{max(decimals, 0)}f}'
  size = abs(value)
  if size == 0 or 0.1 <= size < 1e7:
    decimals = 3 if size < 1 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f'{value:,.{decimals}f}'
  elif 1e-6 <= size < 0.1:
    text = f'{value:.{2 - math.floor(math.log10(size))}f}'
  else:
    text = f'{value:.3g}'
  return text


def format_seconds(seconds: float) -> str:
  """Writes a duration: 0.42 s, 12.3 s, 4 min 05 s, 2 h 03 min."""
  if seconds < 60:
    return f'{seconds:.2f} s' if seconds < 9.995 else f'{seconds:.1f} s'
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {rest:02d} s'
  return f'{minutes // 60} h {minutes % 60:02d} min'


def describe(value: Any) -> str:
  """Writes what run.json holds in one line: {'jax': '0.1'} is jax 0.1."""
  if isinstance(value, Mapping):
    return ', '.join(f'{key} {child}' for key, child in value.items())
  return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def short(described: str) -> str:
  """Leaves out empty brackets."""
  return described.replace('()', '')
