"""From `name` and keyword arguments to an object."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mmsbm.infra.errors import UserError


def nearest(name: str, candidates) -> str:
  """' Did you mean ...?' for a misspelt name, or nothing."""
  close = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1)
  return f' Did you mean {close[0]!r}?' if close else ''


def check_arguments(
  function: Callable[..., Any],
  name: str,
  kwargs: Mapping[str, Any],
  extra: Mapping[str, Any],
) -> None:
  """Refuses keyword arguments that do not exist, and the lack of necessary ones.

  Args:
    function: what is to be called.
    name: what the config calls it.
    kwargs: arguments from the config.
    extra: arguments that the program adds.

  Raises:
    UserError: an argument of the config is unknown or missing.
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


def build(
  table: Mapping[str, Callable[..., Any]], spec: Mapping[str, Any], **extra: Any
) -> Any:
  """Calls `table[spec['name']]` with the remaining keys as keyword arguments.

  Args:
    table: the components to choose from.
    spec: `name` and the component's own arguments.
    **extra: arguments that the program knows and the config does not.

  Raises:
    UserError: the name is not in the table, or an argument is unknown or missing.
  """
  kwargs = dict(spec)
  if 'name' not in kwargs:
    raise UserError(f'{kwargs} needs a `name`: one of {sorted(table)}.')
  name = kwargs.pop('name')
  if name not in table:
    raise UserError(
      f'unknown component {name!r}; choose from {sorted(table)}.' + nearest(name, table)
    )
  check_arguments(table[name], name, kwargs, extra)
  return table[name](**kwargs, **extra)
