"""Pictures in rows and columns, for documents and for samples/*.png."""

import io
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmsbm.infra import files

# Inches: the height of a tile, and the room of a letter of a caption.
TILE, LETTER = 0.5, 0.085
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
  columns = [
    [t for t in column if t is not None] for column in zip(*tiles, strict=True)
  ]
  ratios = [max((t.shape[1] / t.shape[0] for t in c), default=GAP) for c in columns]
  left = LETTER * max(map(len, row_titles), default=0) + 0.1
  top = 0.08 + 0.26 * bool(column_titles) + 0.3 * bool(title)
  width, height = TILE * sum(ratios) + left + 0.1, TILE * len(tiles) + top + 0.1
  figure = Figure(figsize=(max(width, LETTER * len(title) + 0.2), height))
  FigureCanvasAgg(figure)
  full, _ = figure.get_size_inches()
  cells = figure.subplots(
    len(tiles), len(ratios), squeeze=False,
    gridspec_kw=dict(
      width_ratios=ratios, wspace=0.06, hspace=0.06, left=left / full,
      right=(width - 0.1) / full, top=1 - top / height, bottom=0.1 / height,
    ),
  )  # fmt: skip
  for axes, tile in zip(cells.flat, (t for row in tiles for t in row), strict=True):
    axes.set_axis_off()
    if tile is not None:
      picture = np.broadcast_to(tile, (*tile.shape[:2], 3))
      axes.imshow(picture, interpolation='nearest')
  for axes, text in zip(cells[:, 0], row_titles, strict=False):
    axes.text(
      -0.12, 0.5, text, transform=axes.transAxes, ha='right', va='center', fontsize=8
    )
  for axes, text in zip(cells[0], column_titles, strict=False):
    axes.set_title(text, fontsize=8, pad=3)
  if title:
    figure.suptitle(title, x=0.1 / full, ha='left', fontsize=9, y=1 - 0.1 / height)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=144, facecolor='white')
  return buffer.getvalue()


def save_grid(path: str | os.PathLike, tiles, *titles, **named_titles) -> None:
  """Writes what `draw_grid` draws; the file is whole or absent."""
  files.write_atomic(path, draw_grid(tiles, *titles, **named_titles))
