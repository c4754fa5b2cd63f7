import io

import numpy as np
import PIL.Image

from mmsbm.report import grid


def colours(png):
  """Number of pixels of each grey of a picture, white left out."""
  picture = np.asarray(PIL.Image.open(io.BytesIO(png)).convert('RGB'))
  is_grey = (picture == picture[..., :1]).all(-1) & (picture[..., 0] < 255)
  values, counts = np.unique(picture[is_grey][:, 0], return_counts=True)
  return dict(zip(values.tolist(), counts.tolist(), strict=True))


def tile(value, height=8, width=8, channels=1):
  return np.full((height, width, channels), value, np.uint8)


def test_draw_grid_shows_every_tile_once_and_alike():
  areas = colours(
    grid.draw_grid([[tile(60), tile(120)], [tile(180, channels=3), None]])
  )
  assert {60, 120, 180} <= set(areas)
  assert (
    max(areas.values()) < 1.1 * areas[60] and min(areas[k] for k in (60, 120)) > 3000
  )


def test_draw_grid_makes_wide_columns_for_wide_tiles():
  areas = colours(grid.draw_grid([[tile(60), tile(120, 8, 16)]]))
  assert abs(areas[120] / areas[60] - 2) < 0.1


def test_draw_grid_puts_titles_around_the_tiles():
  plain = PIL.Image.open(io.BytesIO(grid.draw_grid([[tile(60)]])))
  titled = grid.draw_grid([[tile(60)]], ['a row of a name'], ['column'], 'A title')
  picture = PIL.Image.open(io.BytesIO(titled))
  assert picture.width > plain.width and picture.height > plain.height
  assert colours(titled)[60] >= 0.95 * colours(grid.draw_grid([[tile(60)]]))[60]


def test_save_grid_writes_a_picture(tmp_path):
  grid.save_grid(tmp_path / 'a.png', [[tile(60)]], title='A title')
  with PIL.Image.open(tmp_path / 'a.png') as picture:
    assert picture.format == 'PNG'
