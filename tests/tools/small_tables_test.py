"""Own data against simple models: what is measured, and the table in the documents."""

import pathlib

import numpy as np
import pandas as pd
import pytest

import mmsbm
from mmsbm.tools import small_tables

ROOT = pathlib.Path(mmsbm.__file__).parents[1]


def test_score_of_numbers_is_the_mean_r2_of_outputs():
  true = np.array([[0.0, 10.0], [2.0, 30.0]])
  # R2 is 1 of the first column and 0 of the second.
  assert small_tables.score(true, np.array([[0.0, 20.0], [2.0, 20.0]])) == 0.5
  # A pixel that never changes has no R2 of its own.
  flat = np.concatenate([true, np.ones((2, 1))], axis=1)
  guess = np.array([[0.0, 20.0, 1.0], [2.0, 20.0, 1.0]])
  np.testing.assert_allclose(small_tables.score(flat, guess), 1 - 200 / 202)
  assert small_tables.score(np.array([1, 2, 0, 1]), np.array([1, 2, 2, 2])) == 0.5


def test_summary_is_the_vote_or_the_mean():
  assert small_tables.summary(np.array([[2, 0, 2], [1, 1, 0]])).tolist() == [2, 1]
  draws = np.array([[[1.0, 2.0], [3.0, 4.0]]])
  assert small_tables.summary(draws).tolist() == [[2.0, 3.0]]


def test_baselines_are_fitted_to_training_examples():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 2))
  splits = {}
  for name, rows in (('train', slice(0, 40)), ('test', slice(40, 60))):
    part = x[rows]
    splits[name] = {
      'x': part,
      'y': part @ [[2.0], [-1.0]] + 3,
      'which': (part[:, 0] > 0).astype(int),
    }
  of_y = small_tables.baselines(splits, 'y')
  assert small_tables.score(splits['test']['y'], of_y['ridge regression']) > 0.99
  np.testing.assert_allclose(of_y['constant'], splits['train']['y'].mean())
  of_class = small_tables.baselines(splits, 'which')
  assert np.mean(of_class['logistic regression'] == splits['test']['which']) > 0.8


def test_lines_that_are_measured_again_are_replaced(tmp_path):
  line = dict.fromkeys(small_tables.FIELDS, 0) | dict(data='wine', method='constant')
  path = tmp_path / 'a.csv'
  small_tables.merge(path, [line, line | dict(seed=1, value=0.5)])
  out = small_tables.merge(path, [line | dict(value=0.25)])
  assert out.value.tolist() == [0.25, 0.5]
  assert pd.read_csv(path).value.tolist() == [0.25, 0.5]


@pytest.mark.parametrize('name', small_tables.TABLES)
def test_a_table_fits_its_config(name):
  table = small_tables.TABLES[name]()
  path = str(ROOT / 'configs' / 'arrays.py')
  config = small_tables.make_config(path, table, pathlib.Path('a.npz'), 3)
  assert list(config['modalities']) == list(table)
  assert config['seed'] == config['data']['seed'] == 3 and not config['readers']
  for values in table.values():
    assert len(values) == len(next(iter(table.values())))


def test_the_table_in_the_documents_is_that_of_the_results():
  results = pd.read_csv(ROOT / 'launch' / 'results' / 'small_tables.csv')
  text = (ROOT / 'docs' / 'own_data.md').read_text()
  start, end = '<!-- small tables -->\n', '<!-- end of small tables -->'
  assert text.partition(start)[2].partition(end)[0] == small_tables.markdown(results)
