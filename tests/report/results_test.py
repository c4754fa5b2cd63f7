import json

import pytest

from mmsbm.report import references, results
from mmsbm.report.results import ADDED, MEAN, Number

MODALITIES = ('m0', 'm1', 'm2')


@pytest.fixture
def read(tmp_path):
  """Rows as `read_rows` gives them; a row lacks what it does not say."""

  def make(*rows):
    path = tmp_path / 'results.jsonl'
    defaults = {'metric': 'coherence', 'sampling': 'default', 'n': 10}
    path.write_text(''.join(json.dumps(defaults | row) + '\n' for row in rows))
    return results.read_rows(path)

  return make


@pytest.fixture
def panel(read):
  def make(*rows, about=None):
    return results.Panel('coherence', None, read(*rows), about or {}, MODALITIES)

  return make


def subset(value, target, given, **fields):
  fields |= {'given': given, 'num_given': len(given)}
  return {'value': value, 'target': target, **fields}


def test_panel_lines_prefer_the_measured_mean_over_averages_of_subsets(panel):
  rows = [subset(0.2, 'm0', ['m1'], stderr=0.1), subset(0.4, 'm0', ['m2'], stderr=0.1)]
  average = panel(*rows).lines['m0'][1]
  assert average.value == pytest.approx(0.3)
  assert (average.stderr, average.n, average.averaged) == (None, 10, 2)
  measured = {'value': 0.25, 'target': 'm0', 'given': 'mean', 'num_given': 1}
  assert panel(*rows, measured).lines['m0'][1] == Number(0.25, None, 10)


def test_panel_lines_come_in_the_order_of_modalities_between_mean_and_increments(panel):
  rows = [
    {'value': 0.1, 'target': 'm2', 'given': 'incremental', 'num_given': 1},
    subset(0.2, 'm2', ['m0']),
    subset(0.3, 'm0', ['m1']),
    {'value': 0.4, 'target': 'mean', 'given': 'mean', 'num_given': 1},
    {'value': 0.5, 'target': 'mean', 'given': 'mean', 'num_given': 2},
  ]
  lines = panel(*rows).lines
  assert list(lines) == [MEAN, 'm0', 'm2', ADDED]
  assert [x.value for x in lines[MEAN].values()] == [0.4, 0.5]
  assert list(panel(*rows).main) == [MEAN]


def test_panel_lines_call_the_mean_over_one_target_by_its_name(panel):
  rows = [
    subset(0.2, 'm0', ['m1']),
    subset(0.4, 'm0', ['m2']),
    {'value': 0.3, 'stderr': 0.05, 'target': 'mean', 'given': 'mean', 'num_given': 1},
  ]
  assert panel(*rows).lines == {'m0': {1: Number(0.3, 0.05, 10)}}


def test_panel_main_takes_the_strictest_threshold(panel):
  rows = [subset(share, None, [], at_least=k) for k, share in ((2, 0.9), (3, 0.6))]
  shown = panel(*rows)
  assert {k: x.value for k, x in shown.levels.items()} == {2: 0.9, 3: 0.6}
  assert shown.main == {'at least 3 agree': {0: Number(0.6, None, 10)}}


def test_panel_pairs_are_of_one_given_modality_and_another_target(panel):
  rows = [
    subset(0.2, 'm0', ['m1']),
    subset(0.9, 'm0', ['m0']),
    subset(0.3, 'm0', ['m1', 'm2']),
    subset(0.4, 'mean', ['m1']),
  ]
  assert panel(*rows).pairs == {'m1': {'m0': Number(0.2, None, 10)}}


def test_read_rows_gives_no_count_to_a_modality_given_itself(read):
  rows = read(subset(0.9, 'm0', ['m0']), subset(0.8, 'm0', ['m1']))
  assert list(rows['count']) == [None, 1]


def test_read_rows_prefers_the_test_split_and_the_last_of_repeated_rows(read):
  row = subset(0.1, 'm0', ['m1'], split='test')
  rows = read(row, row | {'value': 0.2}, row | {'value': 0.3, 'split': 'val'})
  assert list(rows.value) == [0.2]
  assert list(read(row | {'split': 'val'}).value) == [0.1]


def test_read_rows_of_an_absent_file_is_empty(tmp_path):
  rows = results.read_rows(tmp_path / 'results.jsonl')
  assert len(rows) == 0 and {'metric', 'value', 'count'} <= set(rows)


def test_make_panels_leaves_out_other_samplings_and_keeps_features_apart(read):
  rows = read(
    {'metric': 'classifier_accuracy', 'value': 0.9, 'sampling': None},
    {'metric': 'frechet', 'value': 3.0, 'features': 'inception'},
    {'metric': 'frechet', 'value': 2.0, 'features': 'digit'},
    {'metric': 'new_metric', 'value': 2.0},
    {'metric': 'f1', 'value': 0.5},
    {'metric': 'f1', 'value': 0.7, 'sampling': 'few'},
  )
  about = {'new_metric': {'better': 'low', 'title': 'A new one'}}
  shown = results.make_panels(rows, about, MODALITIES, 'default')
  assert [panel.title for panel in shown] == [
    'F1', 'FID (Inception features)', 'Fréchet distance (digit features)', 'A new one',
    'Classifier accuracy',
  ]  # fmt: skip
  assert [panel.better for panel in shown] == [None, 'low', 'low', 'low', None]
  assert [x.value for x in shown[0].lines['value'].values()] == [0.5]
  assert not shown[-1].is_generated


@pytest.mark.parametrize(('better', 'best'), [('high', 'b'), ('low', 'a'), (None, '')])
def test_mark_best_follows_the_direction(better, best):
  numbers = {'a': Number(1.0), 'b': Number(2.0), 'c': None, 'd': Number(None)}
  marked = results.mark_best(numbers, better)
  assert [key for key, x in marked.items() if x and x.best] == list(best)


@pytest.mark.parametrize(
  ('metric', 'title'),
  [
    ('coherence_macro', 'Coherence (macro average)'), ('f1_by_entry', 'F1 by entry'),
    ('reconstruction_r2', 'Reconstruction R²'), ('mse', 'Mean squared error'),
    ('vae_log_likelihood_bound', 'VAE log-likelihood bound'),
    ('joint_coherence_with_first', 'Joint coherence with the first modality'),
    ('frechet', 'Fréchet distance'), ('sharpness', 'Sharpness'),
  ],
)  # fmt: skip
def test_title_is_written_as_people_do(metric, title):
  assert results.title(metric) == title


def test_mark_best_marks_what_lies_within_two_errors_of_the_best():
  numbers = {'a': Number(0.9, 0.03), 'b': Number(0.80, 0.04), 'c': Number(0.799, 0.04)}
  marked = results.mark_best(numbers, 'high')
  # sqrt(0.03^2 + 0.04^2) is 0.05.
  assert [x.best for x in marked.values()] == [True, True, False]
  near_one = {'a': Number(0.7), 'b': Number(1.2), 'c': Number(0.1)}
  assert [x.best for x in results.mark_best(near_one, 'one').values()] == [0, 1, 0]


@pytest.mark.parametrize(
  ('better', 'real', 'best'),
  [('low', 4.0, 'ab'), ('low', 2.5, 'a'), ('high', 4.5, 'bc'), ('high', None, 'c')],
)
def test_what_is_beyond_real_data_is_no_better(better, real, best):
  numbers = {'a': Number(3.0), 'b': Number(4.0 if better == 'low' else 4.6)}
  numbers['c'] = Number(9.0)
  marked = results.mark_best(numbers, better, real and Number(real))
  assert [k for k, x in marked.items() if x.best] == list(best)


def test_references_are_those_of_the_metric_and_its_features(read):
  rows = read(
    {'metric': 'coherence', 'value': 0.99, 'target': 'mean', 'given': 'mean',
     'num_given': 1},
    {'metric': 'coherence_second', 'value': 0.9, 'target': 'mean', 'given': 'mean',
     'num_given': 1},
    {'metric': 'frechet', 'value': 2.0, 'target': 'mean', 'features': 'conv'},
    *({'metric': metric, 'value': value, 'target': 'mean', 'features': features,
       'sampling': None} for metric, value, features in (
      ('classifier_accuracy', 0.97, None), ('classifier_accuracy', 0.96, 'second'),
      ('reconstruction', 0.95, None), ('real_train_frechet', 4.0, 'conv'),
      ('real_train_frechet', 5.0, 'digit'), ('real_half_frechet', 7.0, 'conv'),
      ('reconstruction_frechet', 6.0, 'conv'))),
  )  # fmt: skip
  panels = results.make_panels(rows, {}, MODALITIES, 'default')
  found = {
    p.metric: [x.value for x in references.references_of(p, line, panels).values()]
    for p in panels if p.is_generated for line in p.main
  }  # fmt: skip
  assert found == {
    'coherence': [0.97, 0.95], 'coherence_second': [0.96], 'frechet': [4.0, 7.0, 6.0]
  }  # fmt: skip
  assert references.is_reference('real_train_frechet')


def test_mark_best_needs_a_rival():
  assert not results.mark_best({'a': Number(1.0), 'b': None}, 'high')['a'].best


def test_compare_samplings_holds_what_several_have(read):
  mean = {'target': 'mean', 'given': 'mean', 'num_given': 1}
  rows = read(
    mean | {'value': 0.5, 'sampling': 'few'},
    mean | {'value': 0.6},
    mean | {'value': 0.7, 'num_given': 2},
  )
  about = {'coherence': {'better': 'high'}}
  compared = references.compare_samplings(rows, about, MODALITIES)
  ((panel, line, count, numbers),) = compared
  assert (panel.metric, line, count) == ('coherence', MEAN, 1)
  # The run's own sampling comes first.
  assert [(k, x.value, x.best) for k, x in numbers.items()] == [
    ('default', 0.6, True), ('few', 0.5, False),
  ]  # fmt: skip


def test_samplings_states_the_range_of_network_evaluations(read):
  settings = {'sampler': 'heun(num_steps=5)', 'conditioning': 'time_zero()'}
  rows = read(
    settings | {'value': 1, 'nfe': 9, 'num_given': 0}, settings | {'nfe': 1000}
  )
  assert results.samplings(rows) == {
    'default': {
      'sampler': 'heun(num_steps=5)', 'conditioning': 'time_zero', 'guidance': '',
      'nfe': '9 to 1,000',
    }
  }  # fmt: skip


def test_family_leaves_out_the_number_of_steps():
  settings = {'sampler': 'heun(num_steps=5, order=2)', 'conditioning': 'time_zero()'}
  assert results.family(settings) == 'heun(order=2), time_zero'


@pytest.mark.parametrize(
  ('row', 'expected'),
  [
    ({'metric': 'coherence', 'target': 'mean', 'given': 'mean'}, True),
    ({'metric': 'coherence', 'target': 'm0', 'given': 'mean'}, False),
    ({'metric': 'coherence', 'target': 'mean', 'given': ['m0']}, False),
    ({'metric': 'coherence', 'target': 'm2', 'given': 'incremental'}, False),
    ({'metric': 'joint_coherence', 'given': [], 'at_least': 3}, True),
    ({'metric': 'joint_coherence', 'given': [], 'at_least': 2}, False),
    ({'metric': 'joint_log_likelihood_bound', 'target': 'all'}, True),
  ],
)
def test_is_average_is_of_no_single_target_or_subset(row, expected):
  assert results.is_average(row, 3) == expected


def test_number_says_other_units_of_a_likelihood(read):
  row = {'value': -66.8, 'bits_per_dimension': 1.46, 'target': 'all'}
  (number,) = map(results.number, read(row).itertuples())
  assert number.detail == '1.46 bits per dimension'
