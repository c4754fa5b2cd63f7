"""What a method is told of the data."""

import jax
import numpy as np

from mmsbm.methods import problem as problem_lib


def test_dataset_is_opened_once_and_late(tiny):
  calls, problem = [], tiny.make_problem()
  lazy = problem_lib.Problem(
    problem.modalities, lambda: calls.append(1) or problem.dataset, seed=3
  )
  assert lazy.names == ('picture', 'profile', 'number') and not calls
  assert lazy.blank['x']['picture'].shape == (1, 4, 4, 1) and not calls
  assert lazy.dataset is lazy.dataset and calls == [1]


def test_num_classes_are_recorded_where_data_are_not_read(tiny):
  problem = tiny.make_problem()
  assert problem.num_classes == {'class': 10}
  recorded = problem_lib.Problem(problem.modalities, None, 0, {'class': 4})
  assert recorded.num_classes == {'class': 4}
  # A run without annotations has none of its data either.
  assert problem_lib.Problem(problem.modalities, None, 0, {}).num_classes == {}


def test_key_is_that_of_the_seed(tiny):
  key = tiny.make_problem(seed=7).key
  assert jax.random.key_data(key).tolist() == (
    jax.random.key_data(jax.random.key(7)).tolist()
  )


def test_examples_are_the_training_split_and_blank_has_their_shapes(tiny):
  problem = tiny.make_problem(share_present=0.5)
  split, examples = problem.dataset.splits['train'], problem.examples()
  for name in problem.names:
    assert examples['x'][name] is split.arrays[name]
    assert problem.blank['x'][name].dtype == split.arrays[name].dtype
    assert problem.blank['x'][name].shape == (1, *split.arrays[name].shape[1:])
  np.testing.assert_array_equal(examples['present'], split.present)
  np.testing.assert_array_equal(problem.present, split.present)
  assert examples['annotations']['class'] is split.annotations['class']
  assert problem.blank['annotations'] == {}


def test_map_split_gives_every_row_once(tiny, monkeypatch):
  """With its number, in chunks of one size; padding leaves no trace."""
  monkeypatch.setattr(problem_lib, '_ENCODE_CHUNK', 16)
  problem = tiny.make_problem(share_present=0.5)
  traces = []

  def fn(factor, rows, x, present):
    traces.append(rows.shape)
    return {'row': rows * factor, 'x': x[1], 'there': present}

  out = problem.map_split(fn, 2)
  split = problem.dataset.splits['train']
  np.testing.assert_array_equal(out['row'], 2 * np.arange(40))
  np.testing.assert_array_equal(out['x'], split.arrays['profile'])
  np.testing.assert_array_equal(out['there'], split.present)
  assert traces == [(16,)]
