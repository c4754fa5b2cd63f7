"""Kinds of modality by name, one file each, and the modalities of a config.

A kind of a user's own is a class like those of `KINDS` (`base.Kind` says what it must
have), named 'package.module:Class' in the config.
"""

from collections.abc import Mapping
from typing import Any

from mmsbm.config import check_arguments
from mmsbm.infra.errors import UserError
from mmsbm.modalities import base
from mmsbm.modalities.attributes import Attributes
from mmsbm.modalities.base import Kind, Modality, check_names
from mmsbm.modalities.image import Image
from mmsbm.modalities.label import Label
from mmsbm.modalities.mask import Mask
from mmsbm.modalities.vector import Vector

__all__ = [
  'KINDS',
  'Attributes',
  'Image',
  'Kind',
  'Label',
  'Mask',
  'Modality',
  'Vector',
  'check_names',
  'make_modalities',
]

KINDS = {
  'image': Image,
  'mask': Mask,
  'attributes': Attributes,
  'label': Label,
  'vector': Vector,
}


def make_modalities(section: Mapping[str, Any]) -> tuple[Modality, ...]:
  """The modalities that a config describes, in its order.

  Args:
    section: a `config.Section` of {name: dict(kind=..., and the kind's arguments)}.

  Raises:
    UserError: a name, a kind or one of its arguments is not possible.
  """
  check_names(section)
  return tuple(_make(name, section.section(name)) for name in section)


def _make(name: str, section: Any) -> Modality:
  """One modality from its section of the config."""
  kind_name = section['kind']
  if not isinstance(kind_name, str):
    raise UserError(
      f'config.{section.path}.kind is {kind_name!r}; it must be the name of a kind, '
      f"whose arguments stand beside it: {name}=dict(kind='label', num_classes=10)."
    )
  kind_class = section.find('kind', KINDS)
  arguments = {key: value for key, value in section.items() if key != 'kind'}
  check_arguments(kind_class, section.path, arguments, {})
  try:
    kind = kind_class(**arguments)
  except UserError as error:
    raise UserError(f'modality {name!r}: {error}') from error
  missing = [member for member in base.MEMBERS if not hasattr(kind, member)]
  if missing:
    raise UserError(
      f'config.{section.path}.kind={kind_name!r} is no kind of modality: it lacks '
      f'{missing}.'
    )
  return Modality(name=name, kind_name=kind_name, kind=kind)
