"""Files of samples as rows of tiles, for the report and for grids of pictures."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmsbm.modalities import Modality


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of tiles.

  Attributes:
    modality: what it shows.
    role: 'given', 'generated', 'nearest' or 'real'.
    title: what is in it.
    short: the same in a picture, where there is little room.
    group: what it belongs to; a picture has gaps between groups.
    sample: which one of an example.
  """

  modality: Modality
  role: str
  title: str
  short: str
  group: str
  sample: int = 0


@dataclasses.dataclass(frozen=True)
class Sheet:
  """Captioned rows of tiles.

  Attributes:
    arrays: what is shown, see `samples.Samples`.
    columns: what is in each column.
    rows: (caption, example, sample) of each; the sample is added to that of a column.
  """

  arrays: Mapping[str, np.ndarray]
  columns: list[Column]
  rows: list[tuple[str, int, int]]

  def to_json(self) -> dict[str, Any]:
    """What the report reads."""
    rows = []
    for (caption, _, _), line in zip(self.rows, self._tiles('show'), strict=True):
      tiles = [
        {'html': html or '', 'role': c.role, 'modality': c.modality.name}
        for c, html in zip(self.columns, line, strict=True)
      ]
      rows.append({'caption': caption, 'tiles': tiles})
    return {
      'kind': str(self.arrays['kind']),
      'title': str(self.arrays['title']),
      'modalities': self.arrays['modalities'].tolist(),
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
      'title': f'{self.arrays["title"]}: {" | ".join(dict.fromkeys(groups))}',
    }

  def _tiles(self, method: str) -> list[list[Any]]:
    """What `kind.show` or `kind.picture` makes of each tile; None of an empty one."""
    arrays, names = self.arrays, self.arrays['modalities'].tolist()
    observed, present = arrays['observed'], arrays['present']
    shown = {
      'given': observed,
      # Samples stand where nothing was given, reconstructions where something was.
      'generated': observed == (str(arrays['kind']) == 'reconstruction'),
      'nearest': ~observed,
      'real': present & ~observed,
    }
    lines = []
    for _, row, sample in self.rows:
      line = []
      for column in self.columns:
        name, role, tile = column.modality.name, column.role, None
        # Neighbours are those of the first sample.
        is_empty = role == 'nearest' and sample
        if shown[role][row, names.index(name)] and not is_empty:
          example = arrays[f'{"given" if role == "real" else role}/{name}'][row]
          if role == 'generated':
            example = example[column.sample + sample]
          tile = getattr(column.modality.kind, method)(example)
        line.append(tile)
      lines.append(line)
    return lines


def lay_out(
  arrays: Mapping[str, np.ndarray], modalities: tuple[Modality, ...]
) -> Sheet:
  """Lays samples out, one row for each example, or for each sample from nothing."""
  kind, observed, near = (
    str(arrays['kind']),
    arrays['observed'],
    'nearest in training set',
  )
  size, num_samples = arrays[f'generated/{modalities[0].name}'].shape[:2]

  def block(shown, role, title, group, sample=0):
    return [
      Column(m, role, f'{m.name} {title}'.strip(), m.name, group, sample)
      for m, is_shown in zip(modalities, shown, strict=True)
      if is_shown
    ]

  # Where a sample is not given; everywhere if nothing is.
  hidden = ~observed.all(0)
  if kind == 'unconditional':
    rows = [
      (f'sample {row * num_samples + sample + 1}', row, sample)
      for row in range(size)
      for sample in range(num_samples)
    ]
    columns = block(hidden, 'generated', '', 'sample')
    return Sheet(arrays, columns + block(hidden, 'nearest', near, near), rows)
  rows = [
    (f'class {label}' if label >= 0 else f'example {row + 1}', row, 0)
    for row, label in enumerate(arrays['label'].tolist())
  ]
  if kind == 'reconstruction':
    columns = []
    for m in modalities:
      columns.append(Column(m, 'given', m.name, m.name, m.name))
      columns.append(Column(m, 'generated', f'{m.name} decoded', '', m.name))
    return Sheet(arrays, columns, rows)
  columns = block(observed.any(0), 'given', 'given', 'given')
  for sample in range(num_samples):
    title = f'sample {sample + 1}'
    columns += block(hidden, 'generated', title, title, sample)
  columns += block(hidden, 'nearest', near, near)
  columns += block(hidden, 'real', 'of the example', 'the example')
  return Sheet(arrays, columns, rows)
