"""What is measured of a split: moments that blocks and offsets do not change."""

import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.modalities import Vector
from mmsbm.modalities.summary import Summary


def summary(rows, block=7):
  out = Summary()
  for start in range(0, len(rows), block):
    out.add(rows[start : start + block])
  return out


def test_moments_are_those_of_all_rows_in_any_blocks():
  # Far from 0, where a sum of squares would lose the spread.
  rows = np.random.default_rng(0).normal(1e8, 3.0, (50, 2))
  for block in (1, 7, 50):
    found = summary(rows, block)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.std, rows.std(0), rtol=1e-6)
  assert (found.low, found.high, found.count) == (rows.min(), rows.max(), 50)
  assert summary(rows[:0]).count == 0


def test_vector_is_fitted_column_by_column():
  rng = np.random.default_rng(0)
  columns = [rng.normal(2e4, 50, 400), rng.normal(0, 1e-3, 400), np.full(400, 7.0)]
  rows = np.stack(columns, 1)
  kind = Vector(shape=(3,))
  assert kind.unfitted == ('offset', 'scale')
  with pytest.raises(UserError, match='offset and scale of a vector must be fitted'):
    kind.to_model(rows)
  values = kind.fit(summary(rows))
  fitted = Vector(shape=(3,), **values)
  x = np.asarray(fitted.to_model(rows.astype(np.float32)), np.float64)
  np.testing.assert_allclose(x.mean(0), 0, atol=0.01)
  np.testing.assert_allclose(x[:, :2].std(0), 1, rtol=1e-3)
  assert values['scale'][2] == 1 and (x[:, 2] == 0).all()
  np.testing.assert_allclose(fitted.to_data(x), rows, rtol=1e-6, atol=1e-6)
  # What is given is not measured.
  assert Vector(shape=(3,), offset=0.5).fit(summary(rows)).keys() == {'scale'}


def test_vector_of_many_entries_has_one_scale():
  rows = np.random.default_rng(0).normal(np.linspace(0, 8, 5000), 2.0, (20, 5000))
  values = Vector(shape=(5000,)).fit(summary(rows))
  np.testing.assert_allclose(values['offset'], rows.mean(), atol=1e-3)
  np.testing.assert_allclose(values['scale'], rows.std(), rtol=1e-3)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (dict(scale=(1.0, 2.0)), r'scale of a vector has shape \(2,\)'),
    (dict(scale=(1.0, 0.0, 1.0)), 'scale .* positive'),
    (dict(offset=((1.0,), (1.0, 2.0))), 'offset .* finite numbers'),
    (dict(offset=1e39), 'offset .* finite numbers'),
    (dict(scale=True), 'scale .* finite numbers'),
  ],
)
def test_vector_refuses(values, message):
  with pytest.raises(UserError, match=message):
    Vector(shape=(3,), **values)
