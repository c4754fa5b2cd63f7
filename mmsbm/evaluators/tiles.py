"""Drawn examples as rows of tiles, for the report and for grids of pictures."""

import dataclasses
from typing import Any

import numpy as np

from mmsbm.modalities import Modality


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
  """Samples or reconstructions of N examples.

  Attributes:
    kind: 'unconditional', 'conditional' or 'reconstruction'.
    title: for people.
    modalities: M of them.
    observed: which modalities were given [N, M].
    present: which modalities the examples have [N, M].
    label: their classes [N], -1 where unknown.
    generated: [N, S, *shape] for each modality.
    real: the examples [N, *shape] for each modality; None of samples from nothing.
    nearest: the training examples nearest to the first samples; None of
      reconstructions.
  """

  kind: str
  title: str
  modalities: tuple[Modality, ...]
  observed: np.ndarray
  present: np.ndarray
  label: np.ndarray
  generated: tuple[np.ndarray, ...]
  real: tuple[np.ndarray, ...] | None
  nearest: tuple[np.ndarray, ...] | None

  def arrays(self) -> dict[str, np.ndarray]:
    """What the file of samples holds."""
    out: dict[str, np.ndarray] = {
      'kind': np.array(self.kind),
      'title': np.array(self.title),
      'modalities': np.array([m.name for m in self.modalities]),
      'observed': self.observed,
      'present': self.present,
      'label': self.label,
    }
    for i, modality in enumerate(self.modalities):
      out[f'draw/{modality.name}'] = np.array(modality.kind_name)
      out[f'generated/{modality.name}'] = self.generated[i]
      if self.real is not None:
        out[f'given/{modality.name}'] = self.real[i]
      if self.nearest is not None:
        out[f'nearest/{modality.name}'] = self.nearest[i]
    return out

  def caption(self, row: int) -> str:
    """What an example is called."""
    label = int(self.label[row])
    return f'class {label}' if label >= 0 else f'example {row + 1}'


@dataclasses.dataclass(frozen=True)
class Tile:
  """One example, or an empty place.

  Attributes:
    modality: its modality.
    role: 'given', 'generated', 'nearest' or 'real'.
    example: raw [*shape], or None.
    caption: for people.
  """

  modality: Modality
  role: str
  example: np.ndarray | None
  caption: str = ''

  def to_json(self) -> dict[str, str]:
    """What the report reads."""
    html = '' if self.example is None else self.modality.kind.show(self.example)
    return {
      'html': html,
      'caption': self.caption,
      'role': self.role,
      'modality': self.modality.name,
    }

  def picture(self) -> np.ndarray | None:
    """The example as uint8 [h, w, 3]."""
    return None if self.example is None else self.modality.kind.picture(self.example)


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of tiles.

  Attributes:
    title: what is in it.
    short: the same in a picture, where there is little room.
    group: what it belongs to; a picture has gaps between groups.
  """

  title: str
  short: str
  group: str


@dataclasses.dataclass(frozen=True)
class Sheet:
  """Captioned rows of tiles, all of one length.

  Attributes:
    drawing: what is shown.
    columns: what is in each column.
    rows: (caption, tiles) of each.
  """

  drawing: Drawing
  columns: list[Column]
  rows: list[tuple[str, list[Tile]]]

  def to_json(self) -> dict[str, Any]:
    """What the report reads."""
    return {
      'kind': self.drawing.kind,
      'title': self.drawing.title,
      'modalities': [m.name for m in self.drawing.modalities],
      'columns': [column.title for column in self.columns],
      'rows': [
        {'caption': caption, 'tiles': [tile.to_json() for tile in tiles]}
        for caption, tiles in self.rows
      ],
    }

  def grid(self) -> dict[str, Any]:
    """The arguments of `mmsbm.report.grid.save_grid`."""
    groups = [column.group for column in self.columns]
    # An empty column is drawn as a gap.
    starts = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    titles, tiles = [column.short for column in self.columns], []
    for _, row in self.rows:
      tiles.append([tile.picture() for tile in row])
    for start in reversed(starts):
      titles.insert(start, '')
      for row in tiles:
        row.insert(start, None)
    return {
      'tiles': tiles,
      'row_titles': [caption for caption, _ in self.rows],
      'column_titles': titles,
      'title': f'{self.drawing.title}: {" | ".join(dict.fromkeys(groups))}',
    }


def lay_out(drawing: Drawing) -> Sheet:
  """Lays a drawing out, one row for each example or sample."""
  return _LAYOUTS[drawing.kind](drawing)


def _columns(names: list[str], title: str, group: str) -> list[Column]:
  return [Column(f'{name} {title}'.strip(), name, group) for name in names]


def _conditional(drawing: Drawing) -> Sheet:
  """Given, the samples of the others, their nearest training examples, the truth."""
  observed, present = drawing.observed, drawing.present
  numbered = list(enumerate(drawing.modalities))
  sources = [(i, m) for i, m in numbered if observed[:, i].any()]
  targets = [(i, m) for i, m in numbered if not observed[:, i].all()]
  names = [m.name for _, m in targets]
  num_samples = drawing.generated[0].shape[1]
  columns = _columns([m.name for _, m in sources], 'given', 'given')
  for number in range(1, num_samples + 1):
    columns += _columns(names, f'sample {number}', f'sample {number}')
  columns += _columns(names, 'nearest in training set', 'nearest in training set')
  columns += _columns(names, 'of the example', 'the example')
  rows = []
  for row in range(len(observed)):
    tiles = [
      Tile(m, 'given', drawing.real[i][row] if observed[row, i] else None)
      for i, m in sources
    ]
    shown = [('generated', [x[row, n] for x in drawing.generated])
             for n in range(num_samples)]  # fmt: skip
    shown.append(('nearest', [x[row] for x in drawing.nearest]))
    real = [x[row] if present[row, i] else None for i, x in enumerate(drawing.real)]
    for role, examples in (*shown, ('real', real)):
      # Empty where it was given to this row.
      tiles += [
        Tile(m, role, None if observed[row, i] else examples[i]) for i, m in targets
      ]
    rows.append((drawing.caption(row), tiles))
  return Sheet(drawing, columns, rows)


def _unconditional(drawing: Drawing) -> Sheet:
  """Each row is one tuple; the first sample of each has its nearest neighbours."""
  numbered = list(enumerate(drawing.modalities))
  names = [m.name for _, m in numbered]
  near = 'nearest in training set'
  columns = _columns(names, '', 'sample') + _columns(names, near, near)
  rows = []
  for row in range(len(drawing.observed)):
    for number in range(drawing.generated[0].shape[1]):
      tiles = [
        Tile(m, 'generated', drawing.generated[i][row, number]) for i, m in numbered
      ]
      tiles += [
        Tile(m, 'nearest', None if number else drawing.nearest[i][row])
        for i, m in numbered
      ]
      rows.append((f'sample {len(rows) + 1}', tiles))
  return Sheet(drawing, columns, rows)


def _reconstruction(drawing: Drawing) -> Sheet:
  """Each row is one example: its modalities, each with what was decoded."""
  columns, rows = [], []
  for name in (m.name for m in drawing.modalities):
    columns += [Column(name, name, name), Column(f'{name} decoded', '', name)]
  for row in range(len(drawing.observed)):
    tiles = []
    for i, modality in enumerate(drawing.modalities):
      has = drawing.present[row, i]
      tiles.append(Tile(modality, 'given', drawing.real[i][row] if has else None))
      decoded = drawing.generated[i][row, 0] if has else None
      tiles.append(Tile(modality, 'generated', decoded))
    rows.append((drawing.caption(row), tiles))
  return Sheet(drawing, columns, rows)


_LAYOUTS = {
  'conditional': _conditional,
  'unconditional': _unconditional,
  'reconstruction': _reconstruction,
}
