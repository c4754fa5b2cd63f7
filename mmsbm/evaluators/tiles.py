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


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of tiles.

  Attributes:
    index: number of its modality.
    role: 'given', 'generated', 'nearest' or 'real'.
    title: what is in it.
    short: the same in a picture, where there is little room.
    group: what it belongs to; a picture has gaps between groups.
    sample: which one of an example.
  """

  index: int
  role: str
  title: str
  short: str
  group: str
  sample: int = 0


@dataclasses.dataclass(frozen=True)
class Sheet:
  """Captioned rows of tiles.

  Attributes:
    drawing: what is shown.
    columns: what is in each column.
    rows: (caption, example, sample) of each; the sample is added to that of a column.
  """

  drawing: Drawing
  columns: list[Column]
  rows: list[tuple[str, int, int]]

  def to_json(self) -> dict[str, Any]:
    """What the report reads."""
    modalities = self.drawing.modalities
    rows = []
    for (caption, _, _), line in zip(self.rows, self._tiles('show'), strict=True):
      tiles = [
        {'html': html or '', 'role': c.role, 'modality': modalities[c.index].name}
        for c, html in zip(self.columns, line, strict=True)
      ]
      rows.append({'caption': caption, 'tiles': tiles})
    return {
      'kind': self.drawing.kind,
      'title': self.drawing.title,
      'modalities': [m.name for m in modalities],
      'columns': [column.title for column in self.columns],
      'rows': rows,
    }

  def grid(self) -> dict[str, Any]:
    """The arguments of `mmsbm.report.grid.save_grid`."""
    groups = [column.group for column in self.columns]
    titles, tiles = [column.short for column in self.columns], self._tiles('picture')
    for start in range(len(groups) - 1, 0, -1):
      # An empty column is drawn as a gap.
      if groups[start] != groups[start - 1]:
        titles.insert(start, '')
        for line in tiles:
          line.insert(start, None)
    return {
      'tiles': tiles,
      'row_titles': [caption for caption, _, _ in self.rows],
      'column_titles': titles,
      'title': f'{self.drawing.title}: {" | ".join(dict.fromkeys(groups))}',
    }

  def _tiles(self, method: str) -> list[list[Any]]:
    """What `kind.show` or `kind.picture` makes of each tile; None of an empty one."""
    drawing = self.drawing
    observed = drawing.observed
    shown = {
      'given': observed,
      # Samples stand where nothing was given, reconstructions where something was.
      'generated': observed == (drawing.kind == 'reconstruction'),
      'nearest': ~observed,
      'real': drawing.present & ~observed,
    }
    arrays = {'given': drawing.real, 'real': drawing.real, 'nearest': drawing.nearest}
    lines = []
    for _, row, sample in self.rows:
      line = []
      for column in self.columns:
        i, tile = column.index, None
        # Neighbours are those of the first sample.
        if shown[column.role][row, i] and not (column.role == 'nearest' and sample):
          if column.role == 'generated':
            example = drawing.generated[i][row, column.sample + sample]
          else:
            example = arrays[column.role][i][row]
          tile = getattr(drawing.modalities[i].kind, method)(example)
        line.append(tile)
      lines.append(line)
    return lines


def lay_out(drawing: Drawing) -> Sheet:
  """Lays a drawing out, one row for each example, or for each sample from nothing."""
  names = [m.name for m in drawing.modalities]
  size, num_samples = drawing.generated[0].shape[:2]
  everywhere, near = range(len(names)), 'nearest in training set'

  def block(indices, role, title, group, sample=0):
    return [
      Column(i, role, f'{names[i]} {title}'.strip(), names[i], group, sample)
      for i in indices
    ]

  if drawing.kind == 'unconditional':
    rows = [
      (f'sample {row * num_samples + sample + 1}', row, sample)
      for row in range(size)
      for sample in range(num_samples)
    ]
    columns = block(everywhere, 'generated', '', 'sample')
    return Sheet(drawing, columns + block(everywhere, 'nearest', near, near), rows)
  rows = [
    (f'class {label}' if label >= 0 else f'example {row + 1}', row, 0)
    for row, label in enumerate(drawing.label.tolist())
  ]
  if drawing.kind == 'reconstruction':
    columns = []
    for i, name in enumerate(names):
      columns.append(Column(i, 'given', name, name, name))
      columns.append(Column(i, 'generated', f'{name} decoded', '', name))
    return Sheet(drawing, columns, rows)
  columns = block(np.flatnonzero(drawing.observed.any(0)), 'given', 'given', 'given')
  targets = np.flatnonzero(~drawing.observed.all(0))
  for sample in range(num_samples):
    title = f'sample {sample + 1}'
    columns += block(targets, 'generated', title, title, sample)
  columns += block(targets, 'nearest', near, near)
  columns += block(targets, 'real', 'of the example', 'the example')
  return Sheet(drawing, columns, rows)
