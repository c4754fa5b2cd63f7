"""Pictures from arrays: grids, tiles of every kind of modality, captioned panels.

Everything is uint8 on the host. Only Pillow is needed; the font is the one that
it carries, so that a picture looks the same on every machine.
"""

import functools
import io
import os
import textwrap
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmsbm.infra import files

Colour = int | tuple[int, int, int]

INK = (38, 42, 51)
MUTED = (116, 122, 134)
RULE = (205, 209, 217)
CELL = (243, 244, 247)
ACCENT = (47, 111, 186)
WARM = (201, 92, 46)

# A cell of a panel that holds no picture because the modality was not shown.
HATCHED = 'hatched'


def to_rgb(image: np.ndarray) -> np.ndarray:
  """Turns uint8 images [..., H, W, 1 or 3] into [..., H, W, 3]."""
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] not in (1, 3):
    raise ValueError(
      f'Wanted uint8 images [..., H, W, 1 or 3], got {image.dtype} {image.shape}.'
    )
  return np.broadcast_to(image, (*image.shape[:-1], 3))


def upscale(images: np.ndarray, factor: int) -> np.ndarray:
  """Repeats every pixel of images [..., H, W, C] `factor` times along H and W."""
  return np.repeat(np.repeat(images, factor, axis=-3), factor, axis=-2)


def grid(images: np.ndarray, padding: int = 2, background: Colour = 255) -> np.ndarray:
  """Lays images out in rows and columns.

  Args:
    images: uint8 [R, C, H, W, 3 or 1].
    padding: pixels between images, and around all of them.
    background: gray level or RGB of the padding.

  Returns:
    RGB uint8 [R * (H + padding) + padding, C * (W + padding) + padding, 3].
  """
  images = to_rgb(images)
  if images.ndim != 5:
    raise ValueError(f'Wanted images [R, C, H, W, 3 or 1], got {images.shape}.')
  rows, columns, height, width, _ = images.shape
  out = _canvas(
    rows * (height + padding) + padding,
    columns * (width + padding) + padding,
    background,
  )
  for r in range(rows):
    top = padding + r * (height + padding)
    for c in range(columns):
      left = padding + c * (width + padding)
      out[top : top + height, left : left + width] = images[r, c]
  return out


def encode_png(image: np.ndarray) -> bytes:
  """Encodes a uint8 image [H, W, 3 or 1] as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(to_rgb(image))).save(
    buffer, format='PNG', optimize=True
  )
  return buffer.getvalue()


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes a uint8 image [H, W, 3 or 1]; the file is whole or absent."""
  files.write_atomic(path, encode_png(image))


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
  """DejaVu Sans at `size` pixels, which has more than Latin letters.

  Matplotlib carries it; the one that Pillow carries has ASCII letters only.
  """
  folder = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf')
  return ImageFont.truetype(os.path.join(folder, 'DejaVuSans.ttf'), size)


def text_size(text: str, size: int) -> tuple[int, int]:
  """Width and line height of one line of text, in pixels."""
  # The line height must not depend on the letters, or captions would dance.
  return int(np.ceil(font(size).getlength(text))), size + 4


def draw_example(
  kind: str,
  value: np.ndarray | str | int,
  size: int | tuple[int, int],
  names: Sequence[str] | None = None,
) -> np.ndarray:
  """Draws one example of a modality as a tile.

  Args:
    kind: a key of `KINDS`.
    value: the example: uint8 [H, W, 1 or 3] for an image, [H, W, 1] of 0/1 or
      0/255 for a mask, 0/1 [A] for attributes, an integer for a label, a string,
      bytes or character codes [L] for text, floats [D] for a vector, [T] or
      [T, 1] for audio.
    size: side of the tile, or (height, width).
    names: names of the attributes [A], or of the classes for a label.

  Returns:
    RGB uint8 [height, width, 3].
  """
  if kind not in KINDS:
    raise ValueError(f'Unknown kind {kind!r}; choose from {sorted(KINDS)}.')
  height, width = (size, size) if isinstance(size, int) else size
  return KINDS[kind](value, height, width, names)


def labelled_panel(
  rows: Sequence[Sequence[np.ndarray | str | None]],
  *,
  row_captions: Sequence[str] | None = None,
  column_captions: Sequence[str] | None = None,
  groups: Sequence[tuple[str, int]] | None = None,
  breaks: Sequence[int] = (),
  padding: int = 3,
  gap: int = 22,
  background: Colour = 255,
) -> np.ndarray:
  """Arranges tiles in a captioned table.

  A column is as wide as its widest tile and a row as high as its highest, so that
  modalities of different shapes can stand side by side.

  Args:
    rows: tiles, uint8 [h, w, 3 or 1]; None leaves a cell blank, `HATCHED` marks
      it as not shown. All rows have the same number of cells.
    row_captions: text to the left of each row.
    column_captions: text above each column.
    groups: (caption, number of columns) from left to right; a vertical rule
      separates neighbours.
    breaks: indices of rows with additional space above.
    padding: pixels between tiles.
    gap: pixels between groups and at breaks.
    background: gray level or RGB.

  Returns:
    RGB uint8 [height, width, 3].
  """
  num_columns = len(rows[0])
  groups = groups or [('', num_columns)]
  if sum(count for _, count in groups) != num_columns:
    raise ValueError(f'Groups {groups} do not cover {num_columns} columns.')
  heights = [max([8, *(t.shape[0] for t in row if _is_tile(t))]) for row in rows]
  widths = [
    max([8, *(row[c].shape[1] for row in rows if _is_tile(row[c]))])
    for c in range(num_columns)
  ]
  size = 13
  margin = 10
  if row_captions and any(row_captions):
    left = margin + 8 + max(text_size(text, size)[0] for text in row_captions)
  else:
    left = margin
  starts, rules, spans, x, column = [], [], [], left, 0
  for index, (caption, count) in enumerate(groups):
    if index:
      rules.append(x - padding + gap // 2)
      x += gap - padding
    first = x
    for _ in range(count):
      starts.append(x)
      x += widths[column] + padding
      column += 1
    # A long caption over a narrow group pushes the following groups aside.
    x = max(x, first + text_size(caption, size)[0] + padding)
    spans.append((caption, first))
  total_width = x - padding + margin

  top = margin
  group_line = top if any(caption for caption, _ in groups) else None
  if group_line is not None:
    top += size + 8
  column_line = top if column_captions and any(column_captions) else None
  if column_line is not None:
    top += size + 6
  tops, y = [], top
  for r, height in enumerate(heights):
    y += (gap - padding) if r in breaks else 0
    tops.append(y)
    y += height + padding
  total_height = y - padding + margin

  out = _canvas(total_height, total_width, background)
  for r, row in enumerate(rows):
    for c, tile in enumerate(row):
      if tile is None:
        continue
      if isinstance(tile, str):
        tile = _hatched(heights[r], widths[c])
      tile = to_rgb(tile)
      dy = tops[r] + (heights[r] - tile.shape[0]) // 2
      dx = starts[c] + (widths[c] - tile.shape[1]) // 2
      out[dy : dy + tile.shape[0], dx : dx + tile.shape[1]] = tile

  picture = Image.fromarray(out)
  draw = ImageDraw.Draw(picture)
  for x in rules:
    draw.line([(x, margin), (x, total_height - margin - 1)], fill=RULE)
  if group_line is not None:
    for caption, first in spans:
      draw.text((first, group_line), caption, fill=INK, font=font(size))
  if column_line is not None:
    for c, caption in enumerate(column_captions):
      caption = _shorten(caption, widths[c] + padding, size - 1)
      dx = starts[c] + (widths[c] - text_size(caption, size - 1)[0]) // 2
      draw.text((dx, column_line), caption, fill=MUTED, font=font(size - 1))
  for r, caption in enumerate(row_captions or ()):
    dx = left - 8 - text_size(caption, size)[0]
    dy = tops[r] + (heights[r] - size - 4) // 2
    draw.text((dx, dy), caption, fill=MUTED, font=font(size))
  return np.asarray(picture)


def _is_tile(cell) -> bool:
  return isinstance(cell, np.ndarray)


def _canvas(height: int, width: int, colour: Colour) -> np.ndarray:
  out = np.empty((height, width, 3), np.uint8)
  out[...] = colour
  return out


def _hatched(height: int, width: int) -> np.ndarray:
  """A pale tile with diagonal stripes: nothing was shown here."""
  i, j = np.mgrid[:height, :width]
  out = _canvas(height, width, CELL)
  out[(i + j) % 8 < 1] = (222, 225, 232)
  return out


def _shorten(text: str, width: int, size: int) -> str:
  """Cuts `text` until it fits into `width` pixels."""
  if text_size(text, size)[0] <= width:
    return text
  while text and text_size(text + '\u2026', size)[0] > width:
    text = text[:-1]
  return text + '\u2026'


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scales an image into a tile: whole factors up (sharp pixels), smoothly down."""
  image = to_rgb(image)
  factor = min(height // image.shape[0], width // image.shape[1])
  if factor >= 1:
    image = upscale(image, factor)
  else:
    ratio = min(height / image.shape[0], width / image.shape[1])
    new = [max(1, round(side * ratio)) for side in image.shape[:2]]
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
      (new[1], new[0]), Image.Resampling.LANCZOS
    )
    image = np.asarray(resized)
  out = _canvas(height, width, 255)
  dy, dx = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
  out[dy : dy + image.shape[0], dx : dx + image.shape[1]] = image
  return out


def _draw_image(value, height, width, names):
  del names
  return _fit(np.asarray(value), height, width)


def _draw_mask(value, height, width, names):
  del names
  value = np.asarray(value)
  value = value[..., None] if value.ndim == 2 else value
  # Masks are stored as 0/1 or as 0/255.
  return _fit((value > value.max() / 2).astype(np.uint8) * 255, height, width)


def _text_tile(lines: Sequence[str], height: int, width: int, size: int, colour=INK):
  """Lines of text in a framed cell, cut where the cell ends."""
  picture = Image.fromarray(_canvas(height, width, CELL))
  draw = ImageDraw.Draw(picture)
  draw.rectangle([0, 0, width - 1, height - 1], outline=RULE)
  pitch = size + 2
  room = max(1, (height - 4) // pitch)
  if len(lines) > room:
    lines = [*lines[: room - 1], f'+{len(lines) - room + 1}']
  y = max(2, (height - pitch * len(lines)) // 2)
  for line in lines:
    line = _shorten(line, width - 6, size)
    x = max(3, (width - text_size(line, size)[0]) // 2)
    draw.text((x, y), line, fill=colour, font=font(size))
    y += pitch
  return np.asarray(picture)


def _draw_attributes(value, height, width, names):
  value = np.asarray(value).reshape(-1) > 0
  if names is not None:
    lines = [name for name, is_set in zip(names, value, strict=True) if is_set]
    return _text_tile(lines or ['none'], height, width, 10)
  # Without names: one square each, filled where the attribute is set.
  columns = int(np.ceil(np.sqrt(value.size * width / height)))
  side = max(2, min(width // columns, height // -(-value.size // columns)))
  out = _canvas(height, width, CELL)
  for i, is_set in enumerate(value):
    top, left = (i // columns) * side, (i % columns) * side
    out[top + 1 : top + side, left + 1 : left + side] = ACCENT if is_set else RULE
  return out


def _draw_label(value, height, width, names):
  index = int(np.asarray(value).reshape(-1)[0])
  if names is not None and 0 <= index < len(names):
    return _text_tile([names[index]], height, width, 11)
  return _text_tile([str(index)], height, width, min(28, height // 2))


def _draw_text(value, height, width, names):
  del names
  if isinstance(value, bytes):
    value = value.decode('utf-8', errors='replace')
  if not isinstance(value, str):
    value = np.asarray(value)
    if value.dtype.kind in 'US':
      value = str(value[()])
    else:
      # Character codes, 0 where the text has ended.
      value = ''.join(chr(code) for code in value.reshape(-1) if code > 0)
  letters = max(4, (width - 6) // 6)
  return _text_tile(textwrap.wrap(value, letters) or [''], height, width, 10)


def _draw_vector(value, height, width, names):
  """Bars from a middle line: +-3 standard units fill the height."""
  del names
  value = np.asarray(value, np.float64).reshape(-1)
  out = _canvas(height, width, CELL)
  middle = height // 2
  edges = np.linspace(2, width - 2, value.size + 1).astype(int)
  for i, level in enumerate(np.nan_to_num(np.clip(value / 3, -1, 1))):
    reach = round(abs(level) * (middle - 2))
    top = middle - reach if level > 0 else middle
    right = max(edges[i] + 1, edges[i + 1] - 1)
    out[top : top + reach, edges[i] : right] = ACCENT if level > 0 else WARM
  out[middle] = RULE
  return out


def _draw_audio(value, height, width, names):
  """The envelope of a waveform: minimum to maximum within each column."""
  del names
  value = np.asarray(value, np.float64).reshape(-1)
  value = value / max(np.abs(value).max(), 1e-12)
  out = _canvas(height, width, CELL)
  middle = (height - 1) / 2
  edges = np.linspace(0, value.size, width + 1).astype(int)
  for x in range(width):
    part = value[edges[x] : max(edges[x] + 1, edges[x + 1])]
    top, bottom = middle - part.max() * middle, middle - part.min() * middle
    out[int(np.floor(top)) : int(np.ceil(bottom)) + 1, x] = ACCENT
  return out


KINDS: dict[str, Callable[..., np.ndarray]] = {
  'image': _draw_image,
  'mask': _draw_mask,
  'attributes': _draw_attributes,
  'label': _draw_label,
  'text': _draw_text,
  'vector': _draw_vector,
  'audio': _draw_audio,
}
