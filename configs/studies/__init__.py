"""Studies: many runs, one table. See mmsbm/study.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One run of a study.

  Attributes:
    name: of its folder.
    config: 'file:arguments', as in --config.
    columns: what the table says of it. The runs of several seeds have the same
      columns, and no others have; 'group', 'paired', 'unpaired' and 'modalities' are
      known to the figures.
    overrides: {dotted key of the config: value}.
    setup_columns: {'default' or name in config.compare: columns that differ for it}.
    seed: of the training.
    pretrained: name of the row whose classifier and autoencoders it uses.
    mode: of mmsbm.main; 'train' for a row that others only take autoencoders from.
  """

  name: str
  config: str
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  setup_columns: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )
  seed: int = 0
  pretrained: str = ''
  mode: str = 'run'
