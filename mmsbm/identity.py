"""What a step is, as plain values: two runs mean the same if these are the same.

They are taken from the objects, not from the text of the config: how a config spells
something does not matter, and what a recipe reads in another section is in the object
that it goes into. A field that has its default is left out, so that a new option leaves
what older runs are as it is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mmsbm.diffusion.losses import TIME_SAMPLING
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDES
from mmsbm.distributions import LIKELIHOODS
from mmsbm.infra.errors import UserError
from mmsbm.learners.autoencoder import AUTOENCODERS
from mmsbm.methods.base import Stage, Step
from mmsbm.modalities import KINDS
from mmsbm.nn.classifiers import CLASSIFIERS
from mmsbm.nn.decoders import DECODERS
from mmsbm.nn.denoisers import DENOISERS
from mmsbm.nn.encoders import ENCODERS
from mmsbm.nn.energy_nets import ENERGY_NETS
from mmsbm.nn.score_nets import SCORE_NETS
from mmsbm.objectives import OBJECTIVES

# Goes up when equal specs no longer mean equal results.
FORMAT = 1

# How configs name classes, which may then be renamed.
_NAMES = {
  part: name
  for table in (
    AUTOENCODERS,
    CLASSIFIERS,
    DECODERS,
    DENOISERS,
    ENCODERS,
    ENERGY_NETS,
    KINDS,
    LIKELIHOODS,
    OBJECTIVES,
    PARAMETRIZATIONS,
    SCORE_NETS,
    SDES,
    TIME_SAMPLING,
  )
  for name, part in table.items()
}


def describe(value: Any) -> Any:
  """Returns objects made of dataclasses, dictionaries and numbers as JSON has them.

  Sequences of named objects become dictionaries by name, since their order says
  nothing that their positions in other fields do not.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return _describe_dataclass(value)
  if isinstance(value, Mapping):
    return {str(k): describe(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    if value and all(_is_named(v) for v in value):
      return {v.name: describe(v) for v in value}
    return [describe(v) for v in value]
  if isinstance(value, np.generic):
    return value.item()
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, np.ndarray | jax.Array):
    return np.asarray(value).tolist()
  if hasattr(value, '__qualname__'):
    return value.__qualname__
  if type(value).__repr__ is object.__repr__:
    raise UserError(
      f'{type(value).__module__}:{type(value).__qualname__} says nothing of its '
      'arguments, so that the run could not be told from another one: make it a frozen '
      'dataclass or a Flax module.'
    )
  return str(value)


def _is_named(value: Any) -> bool:
  is_object = dataclasses.is_dataclass(value) and not isinstance(value, nn.Module)
  return is_object and isinstance(getattr(value, 'name', None), str)


def _describe_dataclass(value: Any) -> dict[str, Any]:
  skip = ('parent', 'name') if isinstance(value, nn.Module) else ()
  fields = {}
  for field in dataclasses.fields(value):
    part = getattr(value, field.name)
    if field.name in skip or not field.metadata.get('identity', True):
      continue
    if not (field.default is not dataclasses.MISSING and _equal(part, field.default)):
      fields[field.name] = describe(part)
  cls = type(value)
  name = _NAMES.get(cls)
  if not name and cls.__module__.split('.')[0] != 'mmsbm':
    name = f'{cls.__module__}:{cls.__qualname__}'
  return {'is': name, **fields} if name else fields


def _equal(part: Any, default: Any) -> bool:
  return type(part) is type(default) and part == default


def spec_of(step: Step) -> dict[str, Any]:
  """Returns what decides on a step, but for seed, data and what it needs."""
  if not isinstance(step, Stage):
    return {step.name: describe(step.spec)}
  source = {'source': describe(step.spec)} if step.spec else {}
  return {
    training.name: {
      **source,
      'learner': describe(training.learner),
      'num_steps': training.num_steps,
      'batch_size': training.batch_size,
      'ema_decay': training.ema_decay,
      **({'patience': training.patience} if training.patience else {}),
      'optimizer': describe(training.optimizer_spec),
    }
    for training in step.trainings
  }


def grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
  """Returns `new` with the `num_steps` of `old` where `new` only trains longer."""
  out = {}
  for name, spec in new.items():
    num_steps = old.get(name, {}).get('num_steps', spec.get('num_steps'))
    longer = num_steps is not None and spec['num_steps'] > num_steps
    out[name] = {**spec, 'num_steps': num_steps} if longer else spec
  return out


def plain_json(value: Any) -> Any:
  """Returns values as JSON would give them back."""
  return json.loads(json.dumps(value))


def digest(value: Any) -> str:
  """Returns a short digest of plain values."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha1(text.encode()).hexdigest()[:16]


def differences(old: Any, new: Any, path: str = '') -> list[str]:
  """Returns 'a.b: old -> new' for everything that differs between plain values."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    out = []
    for key in (*old, *(k for k in new if k not in old)):
      where = f'{path}.{key}' if path else key
      out += differences(old.get(key, '(absent)'), new.get(key, '(absent)'), where)
    return out
  return [] if old == new else [f'{path}: {_short(old)} -> {_short(new)}']


def _short(value: Any, limit: int = 80) -> str:
  text = value if value == '(absent)' else repr(value)
  return text if len(text) <= limit else f'{text[: limit - 3]}...'


def without_extra_modalities(old: Any, new: Any) -> Any:
  """Returns `old` without those `modalities` that `new` does not have.

  For learners that read each modality alone: having learned more is no difference.
  """
  if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
    return old
  out = {}
  for key, value in old.items():
    counterpart = new.get(key)
    if (
      key == 'modalities'
      and isinstance(value, Mapping)
      and isinstance(counterpart, Mapping)
    ):
      value = {name: part for name, part in value.items() if name in counterpart}
    out[key] = without_extra_modalities(value, counterpart)
  return out
