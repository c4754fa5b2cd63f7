"""Pictures in rows and columns, for documents and for samples/*.png."""

import io
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmsbm.infra import files

# The height of a tile in inches.
TILE = 0.5
# The width of an empty column in tiles.
GAP = 0.15


def draw_grid(
  tiles: Sequence[Sequence[np.ndarray | None]],
  row_titles: Sequence[str] = (),
  column_titles: Sequence[str] = (),
  title: str = '',
) -> bytes:
  """Draws pictures as a captioned table.

  Args:
    tiles: rows of equal length of uint8 [h, w, 1 or 3]; None leaves a cell blank. A
      column is as wide as its widest picture is for its height, or a gap.
    row_titles: text to the left of each row, or none.
    column_titles: text above each column, or none.
    title: text above all.

  Returns:
    PNG.
  """
  ratios = [
    max(
      (tile.shape[1] / tile.shape[0] for tile in column if tile is not None),
      default=GAP,
    )
    for column in zip(*tiles, strict=True)
  ]
  figure = Figure(figsize=(TILE * sum(ratios), TILE * len(tiles)))
  room = dict(left=0, right=1, bottom=0, top=1, wspace=0.06, hspace=0.06)
  cells = figure.subplots(
    len(tiles), len(ratios), squeeze=False, width_ratios=ratios, gridspec_kw=room
  )
  for axes, tile in zip(cells.flat, (t for row in tiles for t in row), strict=True):
    axes.set_axis_off()
    if tile is not None:
      picture = np.broadcast_to(tile, (*tile.shape[:2], 3))
      axes.imshow(picture, interpolation='nearest')
  text = dict(xycoords='axes fraction', textcoords='offset points', fontsize=8)
  for axes, name in zip(cells[:, 0], row_titles, strict=False):
    axes.annotate(name, (0, 0.5), (-5, 0), ha='right', va='center', **text)
  for axes, name in zip(cells[0], column_titles, strict=False):
    axes.set_title(name, fontsize=8, pad=3)
  above = 20 if column_titles else 6
  cells[0, 0].annotate(title, (0, 1), (0, above), **text | {'fontsize': 9})
  buffer = io.BytesIO()
  figure.savefig(buffer, dpi=144, facecolor='white', bbox_inches='tight')
  return buffer.getvalue()


def save_grid(path: str | os.PathLike, tiles, *titles, **named_titles) -> None:
  """Writes what `draw_grid` draws; the file is whole or absent."""
  files.write_atomic(path, draw_grid(tiles, *titles, **named_titles))
