"""All rows of models whose numbers are known."""

import json
import pathlib

import numpy as np
import pytest

from mmsbm.infra.errors import UserError


@pytest.fixture(scope='module')
def rows(fakes, tmp_path_factory):
  """Rows of every kind of model."""
  folder = tmp_path_factory.mktemp('rows')
  kinds = ('perfect', 'independent', 'first')
  return {kind: fakes.measure(folder / kind, kind) for kind in kinds}


def test_perfect_model_scores_one(fakes, rows):
  coherence = ('coherence', 'coherence_macro', 'joint_coherence', 'mean_agreement')
  for metric in (*coherence, 'reconstruction', 'classifier_accuracy'):
    got = fakes.values(rows['perfect'], metric)
    assert got and set(got) == {1.0}


def test_independent_model_is_at_chance(fakes, rows):
  got, values = rows['independent'], fakes.values
  error = np.sqrt(0.1 * 0.9 / 997)
  coherence = values(got, 'coherence')
  assert len(coherence) > 20
  assert np.abs(np.array(coherence) - 0.1).max() < 4.5 * error
  # All three agree: 1/100. Any two: 1 - 0.9 * 0.8.
  joint = values(got, 'joint_coherence', at_least=3)
  np.testing.assert_allclose(joint, 0.01, atol=4.5 * np.sqrt(0.01 * 0.99 / 997))
  two = values(got, 'joint_coherence', at_least=2)
  np.testing.assert_allclose(two, 0.28, atol=4.5 * np.sqrt(0.28 * 0.72 / 997))
  # b or c shows the class of a: 1 - 0.9 * 0.9.
  first = values(got, 'joint_coherence_with_first', at_least=2)
  np.testing.assert_allclose(first, 0.19, atol=4.5 * np.sqrt(0.19 * 0.81 / 997))
  # Three agree, two, or none.
  mean = (3 * 0.01 + 2 * 0.27 + 0.72) / 3
  np.testing.assert_allclose(values(got, 'mean_agreement'), mean, atol=0.02)
  macro = values(got, 'coherence_macro', given='mean')
  assert macro and np.abs(np.array(macro) - 0.1).max() < 0.02
  # Classes are not of equal size.
  assert macro != values(got, 'coherence', given='mean')
  assert set(values(got, 'reconstruction')) == {1.0}


def test_given_modalities_are_those_of_the_row(fakes, rows):
  """A model that looks at a only is coherent exactly where a is given."""
  got = [r for r in rows['first'] if r['metric'] == 'coherence']
  singles = [r for r in got if isinstance(r['given'], list) and r['target'] != 'mean']
  assert {tuple(r['given']) for r in singles} == {
    ('a',), ('b',), ('c',), ('a', 'b'), ('a', 'c'), ('b', 'c'),
  }  # fmt: skip
  for r in singles:
    assert r['target'] not in r['given'] and r['num_given'] == len(r['given'])
    if 'a' in r['given']:
      assert r['value'] == 1.0
    else:
      assert abs(r['value'] - 0.1) < 0.05
  # Averages: one given, (1 + 1 + 4 chance) / 6; two given, (1 + 1 + chance) / 3.
  (one,) = fakes.values(got, 'coherence', num_given=1, given='mean')
  assert abs(one - (2 + 0.4) / 6) < 0.03
  two = fakes.values(got, 'coherence', num_given=2, given='mean')
  np.testing.assert_allclose(two, 2.1 / 3, atol=0.02)
  curve = [r for r in got if r['given'] == 'incremental']
  assert {(r['num_given'], r['target']) for r in curve} == {(1, 'c'), (2, 'c')}


def test_rows_say_what_they_are(fakes, rows):
  got = rows['independent']
  for r in got:
    assert r['n'] == 997 and r['split'] == 'test' and r['step'] == 20
    assert r['seed'] == 3 and r['evaluation_seed'] == 4 and r['model'] == 'fake'
    if r['metric'] in ('coherence', 'joint_coherence', 'frechet'):
      keys = ('sampling', 'sampler', 'conditioning', 'guidance', 'nfe')
      assert tuple(r[key] for key in keys) in {
        ('default', 'dpm_solver(num_steps=5)', 'time_zero()', '', 5),
        ('with_7_steps', 'dpm_solver(num_steps=7)', 'time_zero()',
         'classifier_free(scale=0.5)', 7),
      }  # fmt: skip
    if r['metric'] == 'frechet':
      assert r['features'] == 'digit'
  for metric in ('coherence', 'reconstruction', 'frechet', 'classifier_accuracy'):
    assert fakes.values(got, metric, target='mean')


def test_every_metric_has_its_means(fakes, rows):
  for metric in ('coherence', 'coherence_macro', 'mse', 'frechet', 'recall'):
    for given in (1, 2):
      fields = dict(num_given=given, sampling='default', target='mean')
      assert len(fakes.values(rows['first'], metric, given='mean', **fields)) == 1
  # Of each set of given modalities, too, unless it is a comparison of distributions.
  single = [
    (r['metric'], tuple(r['given']))
    for r in rows['first']
    if r.get('target') == 'mean' and r.get('num_given') == 1
    and r['sampling'] == 'default' and isinstance(r['given'], list)
  ]  # fmt: skip
  metrics = ('coherence', 'coherence_macro', 'mse')
  assert sorted(single) == sorted((m, (g,)) for m in metrics for g in 'abc')


def test_errors_of_shares_are_binomial(fakes, rows):
  for r in rows['independent']:
    if r['metric'] == 'coherence' and r['target'] in fakes.NAMES:
      expected = np.sqrt(r['value'] * (1 - r['value']) / 996)
      np.testing.assert_allclose(r['stderr'], expected, rtol=1e-6)


def test_squared_error_is_that_of_the_first_row_of_pixels(fakes, rows):
  """The model copies the class, sets one pixel to a count and the others to 0."""
  problem = fakes.digits_problem()
  true = problem.dataset.splits['test'].arrays['a'].reshape(997, 4) / 255.0
  drawn = np.zeros((997, 4))
  drawn[:, 0] = true[:, 0]
  # The count starts again with every chunk of 100.
  drawn[:, 1] = (np.arange(997) % 100) % 7 / 255.0
  error = np.square(true - drawn).mean(1)
  (row,) = [
    r for r in rows['perfect']
    if r['metric'] == 'mse' and r['given'] == 'mean' and r['num_given'] == 1
  ]  # fmt: skip
  np.testing.assert_allclose(row['value'], error.mean(), rtol=1e-5)
  np.testing.assert_allclose(row['stderr'], error.std(ddof=1) / 997**0.5, rtol=1e-5)
  got = fakes.values(rows['perfect'], 'reconstruction_mse', target='b')
  np.testing.assert_allclose(got, error.mean(), rtol=1e-5)


def test_chunk_size_changes_nothing(fakes, rows, tmp_path):
  other = fakes.measure(tmp_path, 'independent', chunk_size=64)
  sets = ('frechet', 'precision', 'recall', 'mse')
  sets += tuple(f'reconstruction_{name}' for name in sets)
  drop = lambda rows: [r for r in rows if r['metric'] not in sets]  # noqa: E731
  assert drop(other) == drop(rows['independent'])


def test_num_examples_is_the_most(fakes, tmp_path):
  got = fakes.measure(tmp_path, 'perfect', fakes.digits_problem(130), num_examples=77)
  assert {r['n'] for r in got} == {77}


def test_only_the_numbers_given_that_are_asked_for(fakes, tmp_path):
  conditional = fakes.EVALUATORS | {'conditional': {'num_given': (1,)}}
  problem = fakes.digits_problem(60)
  rows = fakes.measure(tmp_path, 'perfect', problem, evaluators=conditional)
  found = {(r['sampling'], r['num_given']) for r in rows if r['metric'] == 'coherence'}
  # Another sampling is always given the rest.
  assert found == {('default', 1), ('with_7_steps', 2)}


def test_samplings_of_shared_latents_differ_given_nothing_only(fakes, tmp_path):
  class Shared(fakes.ClassModel):
    latents_are_shared = True

  problem = fakes.digits_problem(60)
  inference = fakes.FakeInference(Shared('perfect', problem.modalities))
  rows = fakes.run(tmp_path, fakes.make_plan(problem), inference)
  found = {(r['sampling'], r['num_given']) for r in rows if 'sampling' in r}
  assert found == {('default', k) for k in (0, 1, 2)} | {('with_7_steps', 0)}


def test_file_holds_what_is_returned(fakes, tmp_path):
  rows = fakes.measure(tmp_path, 'perfect', fakes.digits_problem(60))
  assert fakes.stored_rows(tmp_path) == json.loads(json.dumps(rows))
  about = json.loads(pathlib.Path(tmp_path, 'evaluation', 'metrics.json').read_text())
  assert set(about) == {r['metric'] for r in rows}
  assert about['frechet']['better'] == 'low' and about['coherence']['better'] == 'high'
  for metric, entry in about.items():
    assert entry['about'].endswith('.'), metric


def test_subsets_that_were_not_drawn_count_in_no_average(fakes, tmp_path):
  """The prefix is measured for the curve only."""
  conditional = fakes.EVALUATORS | {
    'conditional': {'max_subsets': 1, 'num_given': (1,)}
  }
  got = fakes.measure(
    tmp_path, 'first', fakes.digits_problem(90), evaluators=conditional, seed=1
  )
  coherence = [
    r for r in got if r['metric'] == 'coherence' and r['sampling'] == 'default'
  ]
  given = {tuple(r['given']) for r in coherence if isinstance(r['given'], list)}
  assert len(given) == 2 and ('a',) in given
  (drawn,) = given - {('a',)}
  (whole,) = [r for r in coherence if r['given'] == 'mean']
  (part,) = [
    r for r in coherence if r['given'] == list(drawn) and r['target'] == 'mean'
  ]
  assert (whole['value'], whole['stderr']) == (part['value'], part['stderr'])
  compared = [r for r in got if r['metric'] == 'frechet' and r['num_given'] == 1]
  assert {tuple(r['given']) for r in compared if r['target'] != 'mean'} == {drawn}


def test_mistakes_of_numbers_are_said_before_training(fakes):
  problem = fakes.digits_problem(20)
  model = fakes.ClassModel('perfect', problem.modalities)
  evaluators = 'config.evaluate.evaluators'
  for config, message in (
    (dict(num_examples=0), 'config.evaluate.num_examples is 0; it must be at least 1'),
    (dict(chunk_size=0), 'config.evaluate.chunk_size is 0; it must be at least 1'),
    (dict(split='tets'), "config.evaluate.split='tets' is not one of .* Did you mean"),
    (dict(evaluators={'conditionl': {}}), "conditionl.*Did you mean 'conditional'"),
    (
      dict(evaluators={'conditional': {'max_subset': 3}}),
      f"{evaluators}.conditional: .*no argument 'max_subset'",
    ),
    (
      dict(evaluators={'conditional': {'max_subsets': 0}}),
      f'{evaluators}.conditional: max_subsets is 0; it must be at least 1',
    ),
    (
      dict(evaluators={'conditional': {'num_given': (3,)}}),
      f'{evaluators}.conditional: num_given: of 3 modalities, 1 to 2 can be given, '
      'not 3',
    ),
    (
      dict(evaluators={'linear_probe': {'num_train': -1}}),
      'linear_probe: num_train is -1; it must be at least 0',
    ),
    (
      dict(evaluators={'samples': {'num_samples': 0}}),
      'samples: num_samples is 0; it must be at least 1',
    ),
    (
      dict(evaluators={'conditional': {'num_given': 2}}),
      'num_given is 2; it must be a tuple',
    ),
    (
      dict(evaluators={'samples': {'num_examples': 2.5}}),
      'num_examples is 2.5; it must be a whole number',
    ),
    (dict(evaluators={'samples': {'split': 'x'}}), "samples: split='x' is not one of"),
    (
      dict(evaluators={'likelihood': {'num_importance_samples': 0}}),
      'likelihood: num_importance_samples is 0',
    ),
    (dict(evaluators={'likelihood': {'num_probes': 1}}), 'num_probes=1 is not 0'),
    (dict(metrics={'coherance': {}}), "coherance.*Did you mean 'coherence'"),
    (dict(metrics={'coherence': {'reader': 'x'}}), "there is no reader 'x'"),
    (dict(metrics={'precision': {'num_neighbours': 9}}), 'num_neighbours is 9'),
    (dict(metric={}), "no field 'metric'"),
  ):  # fmt: skip
    with pytest.raises(UserError, match=message) as caught:
      fakes.make_plan(problem, **config).check(model)
    assert '\n' not in str(caught.value) and 'config.' in str(caught.value)
