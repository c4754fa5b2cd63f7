"""Kinds of modality by name, and the modalities of a config.

A kind of a user's own is a class like those of `KINDS`, named 'package.module:Class' in
the config; `Kind`, from which it may be derived, says what it must have.
"""

from mmsbm.config import Section, check_arguments
from mmsbm.infra.errors import UserError
from mmsbm.modalities.attributes import Attributes
from mmsbm.modalities.base import MEMBERS, Kind, Modality, check_names
from mmsbm.modalities.image import Image
from mmsbm.modalities.label import Label
from mmsbm.modalities.mask import Mask
from mmsbm.modalities.vector import Vector

KINDS: dict[str, type[Kind]] = {
  'image': Image,
  'mask': Mask,
  'attributes': Attributes,
  'label': Label,
  'vector': Vector,
}


def make_modalities(section: Section) -> tuple[Modality, ...]:
  """The modalities {name: dict(kind=..., and the kind's arguments)}, in their order.

  Raises:
    UserError: a name, a kind or one of its arguments is not possible.
  """
  check_names(section)
  return tuple(_make(name, spec) for name, spec in section.sections())


def _make(name: str, section: Section) -> Modality:
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
  missing = [member for member in MEMBERS if not hasattr(kind, member)]
  if missing:
    raise UserError(
      f'config.{section.path}.kind={kind_name!r} is no kind of modality: it lacks '
      f'{missing}.'
    )
  return Modality(name=name, kind_name=kind_name, kind=kind)
