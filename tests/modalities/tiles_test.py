"""HTML of tiles."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mmsbm.modalities import tiles

HOSTILE = '</title><script>alert("1")</script>&\'"'


@pytest.mark.parametrize(
  'html',
  [
    tiles.words(HOSTILE),
    tiles.drawing(2, 2, [], HOSTILE),
    tiles.picture(np.zeros((1, 1, 3), np.uint8), HOSTILE),
  ],
)
def test_text_is_escaped(html):
  element = ET.fromstring(html)
  assert '<script' not in html
  text = element.text or element.get('aria-label') or element.get('alt')
  assert text == HOSTILE


def test_boxes_close_each_outline():
  html = tiles.boxes([(0, 1, 2, 3), (4, 0.5, 1, 1)], 'positive', '#000')
  outline = 'M0 1h2v3h-2zM4 0.5h1v1h-1z'
  assert html == f'<path class="positive" fill="#000" d="{outline}"/>'
  assert tiles.boxes([], 'positive', '#000') == ''
