"""From a config to objects: sections that know their place, parts found by name.

A part is named by a word of a table, or by 'package.module:Class' of the user's own
code. Its other fields are keyword arguments, checked against its signature.
"""

import dataclasses
import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from mmsbm.infra.bounds import COUNT, SHARE, Interval, check_numbers, check_value
from mmsbm.infra.errors import UserError

Table = Mapping[str, Callable[..., Any]]


def nearest(name: str, candidates: Collection[Any]) -> str:
  """Returns ' Did you mean ...?' for a misspelt name, or nothing."""
  close = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1)
  return f' Did you mean {close[0]!r}?' if close else ''


def plain(value: Any) -> Any:
  """Copies config values as plain Python: dicts, and tuples for lists."""
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return tuple(plain(v) for v in value)
  return value


def refuse_nan(value: Any, path: str = 'config') -> None:
  """Raises UserError if a number anywhere in a config is not a number."""
  if isinstance(value, Mapping):
    for key, part in value.items():
      refuse_nan(part, f'{path}.{key}')
  elif isinstance(value, tuple):
    for part in value:
      refuse_nan(part, path)
  elif isinstance(value, float) and math.isnan(value):
    raise UserError(f'{path}={value} is not a number.')


def check_arguments(
  function: Callable[..., Any],
  name: str,
  kwargs: Mapping[str, Any],
  extra: Mapping[str, Any],
) -> None:
  """Refuses unknown and missing arguments, and those of another type or size.

  Args:
    function: what is to be called.
    name: what the config calls it.
    kwargs: arguments from the config.
    extra: arguments that the program adds.

  Raises:
    UserError: an argument of the config is unknown, missing or impossible.
  """
  parameters = inspect.signature(function).parameters
  variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
  usual = {key: p for key, p in parameters.items() if p.kind not in variadic}
  # Two fields of every linen module, which no config sets.
  known = sorted(usual.keys() - extra.keys() - {'name', 'parent'})
  if len(usual) == len(parameters):
    for key in kwargs:
      if key not in known:
        raise UserError(
          f'{name!r} has no argument {key!r}; it has {known}.' + nearest(key, known)
        )
  for key, p in usual.items():
    if p.default is p.empty and key not in kwargs and key not in extra:
      raise UserError(f'{name!r} needs the argument {key!r}.')
  check_numbers(function, kwargs)


def find(table: Table, name: Any) -> Callable[..., Any]:
  """Returns the part that a config names.

  Args:
    table: the parts of this package by name.
    name: a key of the table, or 'package.module:Class'.

  Raises:
    UserError: there is no such part.
  """
  if isinstance(name, str) and ':' in name:
    module, _, attribute = name.partition(':')
    try:
      part = importlib.import_module(module)
    except (ImportError, ValueError, SyntaxError) as e:
      raise UserError(f'{name!r} cannot be imported: {e}.') from e
    for step in attribute.split('.'):
      if not hasattr(part, step):
        raise UserError(
          f'{name!r} cannot be imported: {module} has no {step!r}.'
          + nearest(step, dir(part))
        )
      part = getattr(part, step)
    if not callable(part):
      raise UserError(f'{name!r} is no class or function.')
    return part
  if not isinstance(name, str) or name not in table:
    raise UserError(
      f'unknown component {name!r}; choose from {sorted(table)}, or name a part of '
      "your own as 'package.module:Class'." + nearest(name, table)
    )
  return table[name]


def build(table: Table, spec: Mapping[str, Any], **extra: Any) -> Any:
  """Calls the part that `spec['name']` names with the other keys as arguments.

  Args:
    table: the parts to choose from, see `find`.
    spec: `name` and the part's own arguments.
    **extra: arguments that the program knows and the config does not; a part takes
      those that it has use for.

  Raises:
    UserError: there is no such part, or an argument is unknown or missing.
  """
  kwargs = dict(spec)
  if 'name' not in kwargs:
    raise UserError(f'{kwargs} needs a `name`: one of {sorted(table)}.')
  name = kwargs.pop('name')
  part = find(table, name)
  signature = inspect.signature(part).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in signature.values()):
    # What a part has no use for, it need not take.
    extra = {key: value for key, value in extra.items() if key in signature}
  check_arguments(part, name, kwargs, extra)
  return part(**kwargs, **extra)


def name_of(table: Table, component: Any) -> str:
  """Returns how a config names the class of an object."""
  names = {part: name for name, part in table.items()}
  cls = type(component)
  return names.get(cls) or f'{cls.__module__}:{cls.__qualname__}'


def describe(table: Table, component: Any) -> str:
  """Returns 'name(the arguments that differ from their defaults)' of a dataclass.

  Raises:
    UserError: it is no dataclass, so that its arguments are not known.
  """
  if not dataclasses.is_dataclass(component):
    raise UserError(
      f'{name_of(table, component)!r} must be a frozen dataclass: results name its '
      'arguments.'
    )
  values = []
  for field in dataclasses.fields(component):
    value = getattr(component, field.name)
    if value != field.default:
      values.append(f'{field.name}={value}')
  return f'{name_of(table, component)}({", ".join(values)})'


class Section(Mapping):
  """A read-only dictionary of the config that says mistakes with their place.

  Attributes:
    path: where it stands, e.g. 'score.network'; '' for the whole config.
  """

  def __init__(self, values: Mapping[str, Any], path: str = ''):
    self._values, self.path = values, path

  def __getitem__(self, key: str) -> Any:
    if key not in self._values:
      raise UserError(f'{self.place(key)} is missing.' + nearest(key, self._values))
    return self._values[key]

  def __contains__(self, key: object) -> bool:
    return key in self._values

  def __iter__(self) -> Iterator[str]:
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)

  def get(self, key: str, default: Any = None) -> Any:
    """Returns a value, or the default where the config does not have it."""
    return self._values.get(key, default)

  def place(self, key: str) -> str:
    """Returns what the command line calls a field, e.g. 'config.score.num_steps'."""
    return '.'.join(filter(None, ('config', self.path, key)))

  def section(self, key: str) -> 'Section':
    """Returns the dictionary under a key."""
    value = self[key]
    if not isinstance(value, Mapping):
      raise UserError(f'{self.place(key)} is {value!r}, not a dict.')
    return Section(value, '.'.join(filter(None, (self.path, key))))

  def sections(self) -> Iterator[tuple[str, 'Section']]:
    """Iterates over all dictionaries under this one."""
    return ((key, self.section(key)) for key in self)

  def find(self, key: str, table: Table) -> Callable[..., Any]:
    """Returns the part whose name stands under a key; see `find`."""
    name = self[key]
    try:
      return find(table, name)
    except UserError as e:
      raise UserError(f'{self.place(key)}: {e}') from e

  def build(self, key: str, table: Table, **extra: Any) -> Any:
    """Builds the part that stands under a key; see `build`."""
    return self.section(key).make(table, **extra)

  def make(self, table: Table, **extra: Any) -> Any:
    """Builds the part that this section is; see `build`."""
    try:
      return build(table, self, **extra)
    except UserError as e:
      raise self.error(e) from e

  def call(self, function: Callable[..., Any], **extra: Any) -> Any:
    """Calls a function with this section as keyword arguments."""
    try:
      check_arguments(function, self.path, self, extra)
      return function(**self, **extra)
    except UserError as e:
      raise self.error(e) from e

  def error(self, error: UserError) -> UserError:
    """Returns the error with the place of this section before its text."""
    text = str(error)
    has_place = re.search(r'\bconfig\.', text)
    return error if has_place else UserError(f'{self.place("")}: {text}')

  def number(self, key: str, bounds: Interval | None = None) -> float:
    """Returns a value that is a number, within bounds."""
    check_value(self.place(key), self[key], float, bounds)
    return self[key]

  def count(self, key: str, bounds: Interval = COUNT) -> int:
    """Returns a whole number; of things, of which there must be one."""
    check_value(self.place(key), self[key], int, bounds)
    return self[key]

  def at_least(self, least: float, key: str) -> float:
    """Returns a number after a look at its size."""
    return self.number(key, Interval(least))

  def share(self, key: str) -> float:
    """Returns a number of [0, 1)."""
    return self.number(key, SHARE)

  def choice(self, key: str, choices: Collection[str]) -> str:
    """Returns a word that is one of the choices."""
    value = self[key]
    if not isinstance(value, str) or value not in choices:
      raise UserError(
        f'{self.place(key)}={value!r} is not one of {sorted(choices)}.'
        + nearest(value, choices)
      )
    return value

  def known(self, names: Collection[str]) -> None:
    """Refuses keys that nobody reads."""
    for key in self:
      if key not in names:
        raise UserError(
          f'{self.place("")} has no field {key!r}; it has {sorted(names)}.'
          + nearest(key, names)
        )
