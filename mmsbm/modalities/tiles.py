"""HTML of tiles: embedded pictures and inline drawings, which no file accompanies.

The page that shows them may override size and colours by the classes 'pixels',
'drawing', 'positive', 'negative' and 'axis'.
"""

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
import PIL.Image

INK, WARM, RULE = '#2f6fba', '#c95c2e', '#cdd1d9'


def picture(pixels: np.ndarray, text: str) -> str:
  """An <img> of uint8 pixels [h, w, 3] as PNG; `text` is said in place of it."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, 'PNG', optimize=True)
  data = base64.b64encode(buffer.getvalue()).decode()
  return (
    f'<img class="pixels" width="{pixels.shape[1]}" height="{pixels.shape[0]}" '
    f'alt="{html.escape(text)}" src="data:image/png;base64,{data}"/>'
  )


def drawing(width: int, height: int, shapes: Iterable[str], text: str) -> str:
  """An <svg> of shapes in a field of `width` times `height`; `text` describes it."""
  text = html.escape(text)
  return (
    f'<svg class="drawing" width="{width}" height="{height}" '
    f'viewBox="0 0 {width} {height}" role="img" aria-label="{text}">'
    f'<title>{text}</title>{"".join(shapes)}</svg>'
  )


def boxes(corners: Iterable[tuple[float, ...]], name: str, colour: str) -> str:
  """A <path> of class `name`: filled boxes (left, top, width, height); '' for none."""
  outline = ''.join(
    f'M{left:.4g} {top:.4g}h{width:.4g}v{height:.4g}h{-width:.4g}z'
    for left, top, width, height in corners
  )
  return outline and f'<path class="{name}" fill="{colour}" d="{outline}"/>'


def words(text: str) -> str:
  """A paragraph of plain text."""
  return f'<p>{html.escape(text)}</p>'
