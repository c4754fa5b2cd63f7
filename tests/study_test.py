"""Studies: rows as runs of the program, results, tables."""

import fcntl
import html.parser
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import threading
import time

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mmsbm import main, study
from mmsbm.infra.errors import UserError
from mmsbm.infra.metric_writer import read_results, write_results
from mmsbm.report import numbers, tables, write_report, write_study_report

ROOT = pathlib.Path(main.__file__).parents[1]

# --- hand-made results --------------------------------------------------------


def line(metric, value, count=None, stderr=0.002, **changes):
  """A line of a results file; `changes` may be any of its fields."""
  out = {
    'row': 'vae_s0', 'columns': {'group': 'methods', 'method': 'SBM-VAE'},
    'setup': 'default', 'sampler': 'heun(num_steps=10)',
    'conditioning': 'time_zero()', 'guidance': '',
    'nfe': 19, 'metric': metric, 'num_given': count, 'value': value, 'stderr': stderr,
    'n': 1500, 'seed': 0, 'step': 10000, 'modalities': 4, 'paired_fraction': 1.0,
    'pretrained_seed': 0, 'command': 'python -m mmsbm.study', 'jax': '0.10.2',
    'device': 'cpu',
  }  # fmt: skip
  out |= {'features': 'classifier'} if metric in ('frechet', 'precision') else {}
  out |= changes
  return {k: v for k, v in out.items() if v is not None or k == 'value'}


def some_lines():
  """SBM-VAE with three seeds, SBM-RAE with one, and a solver with two."""
  rae = {'row': 'rae_s0', 'columns': {'group': 'methods', 'method': 'SBM-RAE'}}
  solver = {
    'columns': {'group': 'solvers', 'method': 'SBM-VAE'},
    'setup': 'dpm_10', 'sampler': 'dpm_solver(num_steps=10, grid=edm)', 'nfe': 10,
  }  # fmt: skip
  out = []
  for seed, (rest, joint) in enumerate(((0.95, 0.70), (0.97, 0.74), (0.96, 0.72))):
    run = {'seed': seed, 'row': f'vae_s{seed}'}
    out.append(line('coherence', rest, 3, **run))
    out.append(line('joint_coherence', joint, 0, **run))
    if seed < 2:
      out.append(line('joint_coherence', joint - 0.1, 0, **run | solver))
  out += [line('coherence', 0.85, 1), line('coherence', 0.9, 2)]
  out += [line('frechet', 14.5, 0, 0.6), line('frechet', 13.25, 3, 0.6)]
  out += [
    line('coherence', 0.9655, 3, **rae),
    line('joint_coherence', 0.71, 0, **rae),
    line('frechet', 12.5, 0, 0.6, **rae),
    line('frechet', None, 3, None, **rae),
    line(
      'classifier_accuracy', 0.975, setup=None, sampler=None, conditioning=None,
      guidance=None, nfe=None, stderr=None,
    ),
  ]  # fmt: skip
  return out


def test_seeds_are_averaged():
  rows = [line('coherence', v, 3, seed=s) for s, v in enumerate((0.95, 0.97, 0.96))]
  mean = tables.over_seeds(rows)
  # Deviations -1, 1, 0 per cent: variance 1 of 2 degrees of freedom, over 3 seeds.
  assert mean['value'] == pytest.approx(0.96)
  assert mean['stderr'] == pytest.approx(0.01 / 3**0.5)
  assert (mean['seeds'], mean['n']) == (3, 1500)
  assert tables.over_seeds(rows[:1])['stderr'] == 0.002
  assert tables.over_seeds([*rows, line('coherence', None, 3)])['value'] is None
  counts = [line('parameters', 1000, stderr=None, seed=s) for s in range(2)]
  assert tables.over_seeds(counts)['value'] == 1000
  assert tables.over_seeds(counts).get('stderr') is None


def test_the_table_is_exact():
  lines = some_lines()
  assert tables.markdown(lines).splitlines() == [
    '| group | run | sampled with | NFE | seeds | coherence given 1 | given 2 '
    '| given the rest | joint | Fréchet, unconditional | Fréchet, given the rest |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    '| methods | SBM-VAE | heun(num_steps=10) | 19 | 3 | 0.850 ± 0.002 '
    '| 0.900 ± 0.002 | 0.960 ± 0.006 | **0.720 ± 0.012** | 14.5 ± 0.6 '
    '| 13.2 ± 0.6 |',
    '| methods | SBM-RAE | heun(num_steps=10) | 19 | 1 | – | – '
    '| **0.966 ± 0.002** | 0.710 ± 0.002 | **12.5 ± 0.6** | not finite |',
    # 0.60 and 0.64: deviations of 0.02, so a standard error of 0.02.
    '| solvers | SBM-VAE | dpm_solver(num_steps=10, grid=edm) | 10 | 2 | – | – | – '
    '| 0.62 ± 0.02 | – | – |',
    '',
    'In all lines: conditioning time_zero. ± is one standard error over seeds of the '
    'training, where there is one over test examples. n = 1,500 test examples. Made on '
    'cpu, jax 0.10.2.',
  ]
  # A comparison of methods says what the networks are, too.
  lines = [each for each in lines if each['columns']['group'] == 'methods']
  network = {
    'setup': None, 'sampler': None, 'conditioning': None, 'guidance': None,
    'nfe': None, 'stderr': None,
  }  # fmt: skip
  own = {'row': 'ae_s0', 'columns': {'group': 'autoencoders', 'method': 'SBM-VAE'}}
  lines.append(line('classifier_accuracy', 0.5, **network, **own))
  lines.append(line('seconds_per_sample', 0.0012, **network))
  assert tables.markdown(lines).splitlines()[-4:] == [
    '',
    '| run | classifier accuracy | seconds per sample |',
    '| --- | --- | --- |',
    '| SBM-VAE | 0.975 | 0.00120 |',
  ]


def test_given_one_of_two_is_given_the_rest():
  two = {'row': 'm2_s0', 'columns': {'method': 'two'}, 'modalities': 2}
  lines = [*some_lines(), line('coherence', 0.625, 1, **two)]
  (found,) = (e for e in tables.entries(lines) if e.modalities == 2)
  assert found.cell(('coherence', 1, None))['value'] == 0.625
  assert found.cell(('coherence', 'rest', None))['value'] == 0.625
  assert found.cell(('coherence', 2, None)) is None


def test_two_rows_with_the_same_columns_are_refused():
  lines = [line('coherence', 0.5, 3), line('coherence', 0.6, 3, row='other_s0')]
  with pytest.raises(UserError, match='vae_s0 and other_s0 have the same columns'):
    tables.entries(lines)


def test_a_family_is_a_sampler_without_its_steps():
  row = {'sampler': 'dpm_solver(num_steps=10, grid=edm)', 'conditioning': 'clean()'}
  assert numbers.family(row) == 'dpm_solver(grid=edm), clean'
  assert numbers.family({'sampler': 'heun(num_steps=5)'}) == 'heun'
  assert numbers.family({'sampler': 'ancestral(eta=0.0, num_steps=5)'}) == (
    numbers.family({'sampler': 'ancestral(num_steps=7, eta=0.0)'})
  )


def test_only_averages_are_kept():
  average = {'metric': 'coherence', 'target': 'mean', 'given': 'mean'}
  assert numbers.is_average(average, 4)
  assert not numbers.is_average(average | {'given': ['m0']}, 4)
  assert not numbers.is_average(average | {'target': 'm0'}, 4)
  assert numbers.is_average({'metric': 'latent_log_likelihood', 'target': 'all'}, 4)
  joint = {'metric': 'joint_coherence', 'given': [], 'at_least': 4}
  assert numbers.is_average(joint, 4)
  assert not numbers.is_average(joint | {'at_least': 3}, 4)
  first = joint | {'metric': 'joint_coherence_with_first'}
  assert not numbers.is_average(first, 4)


def test_curves_of_quality():
  def point(nfe, value, metric='joint_coherence', count=0):
    return ('heun', nfe, line(metric, value, count), 4)

  points = [
    point(20, 0.7), point(5, 0.5), point(5, 0.9, 'coherence', 3),
    point(20, 0.95, 'coherence', 2), ('alone', 7, line('joint_coherence', 0.1, 0), 4),
  ]  # fmt: skip
  panels = numbers.quality_curves(points)
  # Given 2 of 4 is not given the rest, which leaves one point: no curve.
  assert list(panels) == ['joint coherence']
  (curve,) = panels['joint coherence'].values()
  assert [(x, row['value']) for x, row in curve.items()] == [(5, 0.5), (20, 0.7)]


class _Page(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.words, self.links = [], []
    self.feed(text)
    self.text = ' '.join(' '.join(self.words).split())

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.links += [attrs[k] for k in ('src', 'href') if k in attrs]

  def handle_data(self, data):
    self.words.append(data)


def test_the_page_of_a_study(tmp_path):
  lines = some_lines()
  for number in (2, 10):
    columns = {'group': 'modalities', 'method': 'SBM-VAE', 'modalities': str(number)}
    many = {'row': f'm{number}_s0', 'columns': columns, 'modalities': number}
    lines.append(line('joint_coherence', 0.5, 0, **many))
  for percent in (20, 5):
    columns = {'group': 'pairs', 'method': 'SBM-VAE', 'paired': f'{percent} %'}
    paired = {'row': f'p{percent}_s0', 'columns': columns | {'unpaired': 'used'}}
    paired['paired_fraction'] = percent / 100
    lines.append(line('joint_coherence', 0.6, 0, **paired))
  lines.append(
    line(
      'joint_coherence', 0.65, 0, setup='heun_5', sampler='heun(num_steps=5)', nfe=9,
      columns={'group': 'solvers', 'method': 'SBM-VAE'},
    )
  )  # fmt: skip
  path = write_study_report(tmp_path / 'report' / 'index.html', 'a <study>', lines)
  page = _Page(path.read_text())
  assert 'a <study>' in page.text and '0.960 ± 0.006' in page.text
  for title in (
    'Quality against network evaluations', 'Paired tuples', 'Number of modalities',
    'Trained networks', 'The command of every row',
  ):  # fmt: skip
    assert title in page.text
  pictures = [link for link in page.links if link.startswith('data:image/png')]
  # Three of curves, and the trade-off.
  assert len(pictures) == 4
  assert all(link.startswith(('data:', '#')) for link in page.links)
  # Without such rows there are no such sections.
  lines = [each for each in some_lines() if each['row'] != 'rae_s0']
  page = _Page(write_study_report(path, 'x', lines).read_text())
  assert 'Paired tuples' not in page.text and 'Number of modalities' not in page.text
  assert not any(link.startswith('data:image/png') for link in page.links)
  assert 'No row is finished yet' in write_study_report(path, 'x', []).read_text()


def test_one_ends_the_curve_of_all_kinds_of_unpaired_tuples():
  def paired(fraction, **columns):
    columns = {'group': 'g', 'method': 'SBM-VAE'} | columns
    row = f'{fraction} {columns.get("unpaired")}'
    return line(
      'coherence', fraction, 3, row=row, columns=columns, paired_fraction=fraction
    )

  lines = [
    paired(1.0), paired(0.2, paired='20 %', unpaired='used'),
    paired(0.2, paired='20 %', unpaired='left out'),
    paired(1.0, modalities='10'),
  ]  # fmt: skip
  from mmsbm.report import study_page

  points = study_page._paired_points(tables.entries(lines))
  assert sorted((name, x) for name, x, _ in points) == [
    ('SBM-VAE, unpaired left out', 0.2), ('SBM-VAE, unpaired left out', 1.0),
    ('SBM-VAE, unpaired used', 0.2), ('SBM-VAE, unpaired used', 1.0),
  ]  # fmt: skip
  assert {e.columns.get('paired') for _, x, e in points if x == 1} == {None}
  # One that was trained as the others were is preferred.
  lines.append(paired(1.0, paired='100 %', unpaired='-') | {'row': 'all'})
  points = study_page._paired_points(tables.entries(lines))
  assert len(points) == 4
  assert {e.columns['paired'] for _, x, e in points if x == 1} == {'100 %'}


def test_costs_that_are_not_known(tmp_path):
  record = {
    'config': {
      'stages': ['classifier', 'unimodal', 'score'], 'modalities': {'m0': {}},
      'pretrained': '../ae', 'pretrained_stages': ['classifier', 'unimodal'],
    },
    'timings': {'train score': 5.0}, 'parameters': {'score': 7},
  }  # fmt: skip
  own = {'latent_model_parameters': 7, 'latent_model_seconds': 5.0}
  (tmp_path / 'one').mkdir()
  assert study._costs(tmp_path / 'one', record) == own
  # Of autoencoders of other modalities the time says nothing.
  (tmp_path / 'ae').mkdir()
  other = {
    'config': {'modalities': {'m0': {}, 'm1': {}}},
    'timings': {'train unimodal': 9.0},
    'parameters': {'unimodal/m0': 11, 'unimodal/m1': 12, 'classifier/digit': 13},
  }
  (tmp_path / 'ae' / 'run.json').write_text(json.dumps(other))
  costs = study._costs(tmp_path / 'one', record)
  assert costs == own | {'autoencoder_parameters': 11}


@pytest.mark.parametrize(
  'points, front',
  [
    ([(0.9, 20.0), (0.8, 10.0), (0.7, 15.0)], [(0.9, 20.0), (0.8, 10.0)]),
    ([(0.9, 5.0), (0.9, 6.0), (0.8, 5.0)], [(0.9, 5.0)]),
    ([(0.5, 1.0)], [(0.5, 1.0)]),
  ],
)
def test_nothing_beats_the_front_in_both(points, front):
  # Coherence is better high, the distance low.
  assert numbers.pareto_front(points) == front


def test_methods_are_set_against_each_other(tmp_path):
  lines = some_lines()
  lines += [
    line('coherence', 0.9, 3, row='x_s0', columns={'group': 'methods', 'method': 'X'}),
    line('frechet', 9.0, 3, row='x_s0', columns={'group': 'methods', 'method': 'X'}),
  ]
  title = 'Coherence against quality'
  page = write_study_report(tmp_path / 'a.html', 'x', lines).read_text()
  assert title in page and page.count('data:image/png') == 1
  # Ways of sampling that differ in their guidance only are two points.
  guided = {'guidance': 'energy(scale=1.0)', 'setup': 'guided'}
  more = [each | guided for each in lines if each['row'] == 'x_s0']
  methods = tables.entries([*lines, *more])
  assert len({(e.run(), e.sampling()) for e in methods}) == len(methods)
  # A distance that is not finite is no point, and one point is no comparison.
  alone = [each for each in lines if each['row'] != 'x_s0' and each.get('num_given')]
  assert title not in write_study_report(tmp_path / 'a.html', 'x', alone).read_text()


def test_the_report_of_a_run_shows_quality_against_cost(tmp_path):
  rows = [
    {
      'metric': 'coherence', 'value': value, 'stderr': 0.01, 'target': 'mean',
      'given': 'mean', 'num_given': 1, 'n': 100, 'nfe': nfe,
      'sampler': f'heun(num_steps={nfe})',
    }
    for nfe, value in ((9, 0.5), (19, 0.6))
  ]  # fmt: skip
  (tmp_path / 'run.json').write_text('{"config": {"modalities": ["m0", "m1"]}}')
  title = 'Quality against network evaluations'
  write_results(tmp_path / 'results.jsonl', rows)
  assert title in write_report(tmp_path).read_text()
  write_results(tmp_path / 'results.jsonl', rows[:1])
  assert title not in write_report(tmp_path).read_text()


# --- README -------------------------------------------------------------------


def test_a_table_is_put_between_its_marks(tmp_path):
  readme = tmp_path / 'README.md'
  readme.write_text(
    'a\n<!-- study:x -->\nold\n<!-- /study -->\nb\n<!-- study:y -->\n<!-- /study -->\n'
  )
  study.insert_table(readme, 'x', r'| new \1 |' + '\n')
  study.insert_table(readme, 'y', 'other\n')
  assert readme.read_text() == (
    'a\n<!-- study:x -->\n| new \\1 |\n<!-- /study -->\nb\n<!-- study:y -->\nother\n'
    '<!-- /study -->\n'
  )
  assert study.read_table(readme, 'x') == '| new \\1 |\n'
  assert study.read_table(readme, 'z') is None


RESULTS = sorted((ROOT / 'launch' / 'results').glob('*.jsonl'))


@pytest.mark.skipif(not RESULTS, reason='no results are committed')
@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_the_table_that_is_shown_is_that_of_the_results(path):
  lines = study.read_lines(path)
  pages = (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))
  shown = [study.read_table(page, path.stem) for page in pages]
  assert [table for table in shown if table] == [tables.markdown(lines)]
  for each in lines:
    assert not any(os.path.isabs(v) for v in each.values() if isinstance(v, str))
    assert '=/' not in each['command'] and '=~' not in each['command']


@pytest.mark.skipif(not RESULTS, reason='no results are committed')
@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_the_results_are_of_the_study_as_it_is(path, tmp_path, monkeypatch):
  """Or else the next run of the study would throw them away."""
  monkeypatch.chdir(ROOT)
  lines = study.read_lines(path)
  words = dict(
    word.lstrip('-').split('=', 1)
    for word in shlex.split(lines[0]['command'])
    if '=' in word
  )
  settings = (words['set'],) if 'set' in words else ()
  rows = study.load_study(words['study'])
  made = study.Study(words['study'], tmp_path, settings, tuple(rows))
  expected = {row.name: made.fingerprint(row) for row in rows}
  stored = {each['row']: each['definition'] for each in lines}
  assert stored.items() <= expected.items()


def test_tables_are_made_from_the_results_alone(tmp_path, capsys):
  results, readme = tmp_path / 'digits.jsonl', tmp_path / 'README.md'
  study.write_lines(results, some_lines())
  readme.write_text('<!-- study:digits -->\n<!-- /study -->\n')
  arguments = ['study', '--mode=table', f'--results={results}', f'--readme={readme}']
  assert study.main(arguments) == 0
  assert tables.markdown(some_lines()) in readme.read_text()
  picture = tmp_path / 'a.png'
  arguments.append(f'--figure={picture}')
  # Of two methods with both numbers.
  assert study.main(arguments) == 0
  assert picture.read_bytes().startswith(b'\x89PNG')
  study.write_lines(results, [each for each in some_lines() if each['row'] != 'rae_s0'])
  assert study.main(arguments) == 0
  assert 'no two methods' in capsys.readouterr().err
  assert study.main([*arguments, '--samples=b.png']) == 2
  assert '--samples needs the runs' in capsys.readouterr().err
  readme.write_text('')
  assert study.main(arguments) == 2
  assert 'lacks the lines <!-- study:digits -->' in capsys.readouterr().err


def test_what_lines_share_is_said_once_and_comes_back(tmp_path):
  path = tmp_path / 'x.jsonl'
  lines = [
    line('coherence', 0.5, 1), line('coherence', None, 2),
    line('joint_coherence', 0.4, 0, setup='few', nfe=3, columns={'group': 'solvers'}),
    line('reconstruction', 0.9, setup=None, sampler=None, nfe=None),
    line('coherence', 0.6, 1, row='b', n=7), line('coherence', 0.7, 2, row='b', n=8),
  ]  # fmt: skip
  study.write_lines(path, lines)
  assert study.read_lines(path) == lines
  held = [json.loads(text) for text in path.read_text().splitlines()]
  assert [each.get('metric') for each in held] == [
    None, None, 'coherence', 'coherence', None, 'joint_coherence', 'reconstruction',
    None, None, 'coherence', 'coherence',
  ]  # fmt: skip
  assert sum('command' in each for each in held) == 2
  assert held[2] == {
    'row': 'vae_s0', 'setup': 'default', 'metric': 'coherence', 'num_given': 1,
    'value': 0.5, 'stderr': 0.002,
  }  # fmt: skip
  study.write_lines(path, [])
  assert study.read_lines(path) == []


# --- definitions --------------------------------------------------------------


def write_study(folder, rows, **names):
  """A definition whose rows are the expressions `rows`."""
  text = 'from configs.studies import Row\n'
  text += ''.join(f'{name} = {value!r}\n' for name, value in names.items())
  text += f'def get_study(arg=None):\n  return [{", ".join(rows)}]\n'
  (folder / 'own.py').write_text(text)
  return folder / 'own.py'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


DIGITS = "config='configs/digits.py:smoke,modalities=2'"


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([f"Row(name='a', {DIGITS})"] * 2, 'two rows of one name'),
    ([f"Row(name='a/b', {DIGITS})"], 'not fit for a folder'),
    ([f"Row(name='a', pretrained='b', {DIGITS})"], "'b', which is no row"),
    (
      [f"Row(name='a', overrides={{'score.num_step': 3}}, {DIGITS})"],
      "no 'score.num_step'. Did you mean 'num_steps'",
    ),
    (["Row(name='a', config='configs/digits.py:smok')"], "Did you mean 'smoke'"),
    (["Row(name='a', config='configs/none.py')"], 'no file configs/none.py'),
    (["Row(nam='a')"], "argument 'nam'"),
  ],
)
def test_a_mistake_in_a_definition(tmp_path, capsys, rows, message):
  own = write_study(tmp_path, rows)
  assert study.main(['study', f'--study={own}', f'--workdir={tmp_path / "w"}']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and message in error and error.count('\n') == 1
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--only=zz'], '--only=zz fits no row'),
    (['--only=('], 'no regular expression'),
    (['--task=2', '--num_tasks=2'], '--task=2 is not one of 0 .. 1'),
    (['--set=score.num_steps=3'], 'not of the form config.a.b=value'),
    (['--wrong'], 'unrecognized arguments: --wrong'),
    (['--mode=fly'], "invalid choice: 'fly'"),
  ],
)
def test_a_mistake_on_the_command_line(tmp_path, capsys, arguments, message):
  own = write_study(tmp_path, [f"Row(name='a', {DIGITS})"])
  command = ['study', f'--study={own}', f'--workdir={tmp_path / "w"}', *arguments]
  assert study.main(command) == 2
  assert message in capsys.readouterr().err


def test_tasks_share_the_rows_out():
  class R:
    def __init__(self, name, pretrained=''):
      self.name, self.pretrained = name, pretrained

  rows = [R('ae'), R('x'), *(R(f'v{i}', 'ae') for i in range(4))]

  def names(*arguments):
    return [row.name for row in study.select(rows, *arguments)]

  assert names('', 0, 1) == ['ae', 'x', 'v0', 'v1', 'v2', 'v3']
  assert names('', 0, 2) == ['ae', 'x', 'v1', 'v3']
  assert names('', 1, 2) == ['ae', 'v0', 'v2']
  assert names('v[23]', 0, 1) == ['ae', 'v2', 'v3']
  assert names('^x$', 0, 1) == ['x']


def test_commands_hold_no_paths_of_the_machine(tmp_path):
  own = write_study(tmp_path, [f"Row(name='a', {DIGITS})"])
  made = study.Study(
    'configs/studies/s.py:data=digits',
    pathlib.Path('/home/somebody/runs/big'),
    ('config.data.mnist_dir=/data/mnist', 'config.score.num_steps=7'),
    tuple(study.load_study(str(own))),
  )
  assert made.command(made.rows[0]) == (
    'python -m mmsbm.study --study=configs/studies/s.py:data=digits '
    "--workdir=runs/studies/big '--only=^a$' --set=config.data.mnist_dir=DIR "
    '--set=config.score.num_steps=7'
  )
  assert made.arguments(made.rows[0])[-2:] == [
    '--config.data.mnist_dir=/data/mnist', '--config.score.num_steps=7',
  ]  # fmt: skip


# --- the definitions of the tables -------------------------------------


def built(rows, folder):
  """(row, config, experiment) of the rows of a study; nothing is computed."""
  from mmsbm.experiment import Experiment

  columns = [tuple(row.columns.items()) for row in rows]
  assert len(set(columns)) == len(columns)
  made = study.Study('x', folder, (), tuple(rows))
  for row in rows:
    made.fingerprint(row)
    config = study._load(row.config, 'get_config')
    for key, value in row.overrides.items():
      *path, last = key.split('.')
      node = config
      for part in path:
        node = node[part]
      # A new section keeps nothing of the old one, as on the command line.
      node[last] = (
        ml_collections.ConfigDict(value) if isinstance(value, dict) else value
      )
    experiment = Experiment(config.to_dict(), folder / row.name)
    assert set(row.setup_columns) <= set(experiment.setups)
    for name in experiment.setups:
      if 'score' in config.stages:
        experiment._check_setup(name)
    yield row, config, experiment


@pytest.mark.parametrize('data', ['digits', 'polymnist'])
@pytest.mark.parametrize('smoke', [True, False])
def test_any_to_any_can_be_built(data, smoke, tmp_path):
  """Every row and setup; evaluations as their names promise."""
  from configs.studies import any_to_any

  rows = any_to_any.get_study(f'data={data},seeds=1' + ',smoke' * smoke)
  for row, _, experiment in built(rows, tmp_path):
    assert set(experiment.setups) == {'default', *row.overrides['compare']}
    for name in experiment.setups:
      solver, _, number = name.rpartition('_')
      if solver in any_to_any.SOLVERS and row.name == 'vae_s0':
        nfe = experiment.model.num_evaluations(name, 0)
        assert nfe in (int(number), int(number) - 1)
        if solver not in ('heun', 'pc'):
          assert nfe == int(number)


@pytest.mark.parametrize('data', ['digits', 'polymnist,smoke'])
def test_the_study_of_methods_can_be_built(data, tmp_path):
  """All methods, judged by one classifier; each latent drawn in every way."""
  from configs import common
  from configs.studies import methods

  rows = methods.get_study(f'data={data},seeds=1')
  products = [row.overrides for row in rows if 'product' in row.name]
  assert [p['joint.objective']['single_terms'] for p in products] == [False, False]
  seen = {}
  for row, config, experiment in built(rows, tmp_path):
    if row.mode == 'train':
      continue
    assert row.pretrained == 'ae_s0'
    assert 'classifier' in experiment.pretrained_stages
    shares = 'unimodal' in experiment.pretrained_stages
    assert shares == (config.method == 'sbm_vae')
    assert 'joint' not in experiment.pretrained_stages
    drawn = {name: columns['sampler'] for name, columns in row.setup_columns.items()}
    if config.method in common.JOINT_METHODS:
      assert set(drawn) == set(experiment.setups)
      assert sorted(drawn.values()) == sorted(methods.SAMPLERS.values())
      for name, sampler in drawn.items():
        kind = type(experiment.setups[name].sampler).__name__
        assert kind == {
          'prior': 'Prior', 'Gaussian mixture': 'GaussianMixture',
        }.get(sampler, 'DPMSolver')  # fmt: skip
      seen.setdefault(config.method, set()).add(type(experiment.joint.objective))
    else:
      guided = config.method != 'mld'
      assert set(drawn) == set(experiment.setups)
      assert set(drawn) == ({'default', 'unguided'} if guided else {'default'})
      assert bool(experiment.setups['default'].guidance) == guided
      assert not (guided and experiment.setups['unguided'].guidance)
      assert config.evaluate.compare_all_given == guided
      seen[config.method] = None
  assert set(seen) == set(common.METHODS)
  fusions = {objective.__name__ for objective in seen['diff_mvae']}
  assert fusions == {'MoPoE', 'MVAE', 'MVTCAE'}


# --- running ------------------------------------------------------------------

CONFIG = '''
import ml_collections
from configs import digits

def get_config(arg=None):
  """digits with two modalities and tiny networks."""
  c = digits.get_config('smoke,modalities=2').to_dict()
  small = dict(name='mlp', widths=(8,))
  for modality in c['modalities'].values():
    modality.update(encoder=small, decoder=small, latent_dim=2)
  patch = dict(name='patch', patch=8, width=4, num_layers=1, dropout=0.1)
  c['classifier']['network'] = patch
  c['score']['network'] = dict(name='mlp', width=8, num_blocks=1, expansion=1)
  c['data'].update(num_train=96, num_val=16, num_test=32)
  c['stages'], c['guidance'] = ('classifier', 'unimodal', 'score'), {}
  for stage in c['stages']:
    c[stage].update(num_steps=6, batch_size=8, ema_decay=0.9)
  c['loop'].update(block_steps=3, checkpoint_every_steps=3)
  c['evaluate'].update(num_examples=30, max_subsets=2, chunk_size=30)
  c['evaluate']['precision_recall'] = False
  c['sampler'] = dict(name='dpm_solver', num_steps=2)
  c['compare'] = {}
  c['sample'].update(num_examples=2, num_samples=1)
  return ml_collections.ConfigDict(c)
'''


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A folder with the config above, in which compiled programs are kept."""
  folder = tmp_path_factory.mktemp('studies')
  (folder / 'tiny.py').write_text(CONFIG)
  changes = {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': str(ROOT),
    'MMSBM_CACHE': str(folder / 'cache'),
  }
  with pytest.MonkeyPatch.context() as patch:
    for key, value in changes.items():
      patch.setenv(key, value)
    yield folder


def tiny_rows(folder):
  config = f'config={str(folder / "tiny.py")!r}'
  stages = "{'stages': ('classifier', 'unimodal')}"
  return [
    "Row(name='one', columns={'group': 'methods', 'method': 'one'}, pretrained='ae', "
    "overrides={'compare': {'heun': {'sampler': {'name': 'heun', 'num_steps': 2}}}}, "
    f"setup_columns={{'heun': {{'group': 'solvers'}}}}, {config})",
    f"Row(name='ae', overrides={stages}, mode='train', {config})",
    "Row(name='two', columns={'group': 'methods', 'method': 'two'}, pretrained='ae', "
    f"seed=1, overrides={{'score.num_steps': 3}}, {config})",
  ]


def snapshot(folder):
  return {
    p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b'')
    for p in sorted(folder.rglob('*'))
  }


@pytest.fixture(scope='module')
def finished_study(tiny):
  """A study that was run to its end, and what the last command printed."""
  work = tiny / 'work'
  own = write_study(tiny, tiny_rows(tiny))
  arguments = [f'--study={own}', f'--workdir={work}']
  # From the root of the repository, where the configs are.
  done = subprocess.run(
    [sys.executable, '-m', 'mmsbm.study', *arguments, '--only=^ae$'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  autoencoders = snapshot(work / 'ae')
  done = subprocess.run(
    [sys.executable, '-m', 'mmsbm.study', *arguments],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert '3 rows, 1 of them finished' in done.stderr
  return work, arguments, autoencoders


def test_rows_share_autoencoders_and_leave_them_as_they_are(finished_study):
  work, _, autoencoders = finished_study
  assert snapshot(work / 'ae') == autoencoders
  for name, seed in (('one', 0), ('two', 1)):
    record = json.loads((work / name / 'run.json').read_text())
    assert not {'train classifier', 'train unimodal'} & set(record['timings'])
    assert (record['seed'], record['pretrained_seed']) == (seed, 0)
    checkpoints = {p.name for p in (work / name / 'checkpoints').iterdir()}
    assert checkpoints == {'score'}
    assert (work / name / 'latents.npz').exists()


def test_results_hold_the_averages_of_all_rows(finished_study):
  work, _, _ = finished_study
  lines = study.read_lines(work / 'results.jsonl')
  assert {each['row'] for each in lines} == {'one', 'two'}
  ours = [each for each in lines if each['row'] == 'one']
  assert {each.get('setup') for each in ours} == {'default', 'heun', None}
  measured = {(e['metric'], e.get('num_given'), e.get('setup')) for e in ours}
  assert len(measured) == len(ours)
  for wanted in (
    ('coherence', 1, 'default'), ('joint_coherence', 0, 'default'),
    ('frechet', 0, 'default'), ('frechet', 1, 'heun'), ('joint_coherence', 0, 'heun'),
    ('classifier_accuracy', None, None), ('reconstruction', None, None),
    ('seconds_per_sample', None, None),
  ):  # fmt: skip
    assert wanted in measured
  # Networks of this run and those that it took over, but for the classifier.
  records = [json.loads((work / n / 'run.json').read_text()) for n in ('ae', 'one')]
  cost = {e['metric']: e['value'] for e in ours if 'num_given' not in e}
  parameters, times = (
    {k: v for record in records for k, v in record[key].items()}
    for key in ('parameters', 'timings')
  )
  assert cost['autoencoder_parameters'] == (
    parameters['unimodal/m0'] + parameters['unimodal/m1']
  )
  assert cost['latent_model_parameters'] == parameters['score']
  assert cost['autoencoder_seconds'] == times['train unimodal'] > 0
  assert cost['latent_model_seconds'] == times['train score'] > 0
  raw = read_results(work / 'one' / 'results.jsonl')
  (joint,) = (
    row for row in raw
    if row['metric'] == 'joint_coherence' and row['at_least'] == 2 and row['nfe'] == 3
  )  # fmt: skip
  (kept,) = (
    e for e in ours if e['metric'] == 'joint_coherence' and e['setup'] == 'heun'
  )
  for field in ('value', 'stderr', 'n', 'nfe', 'sampler', 'conditioning'):
    assert kept[field] == joint[field]
  assert kept['columns'] == {'method': 'one', 'group': 'solvers'}
  assert str(work) not in json.dumps(lines).replace('own.py', '')
  assert '0 of 2' not in (work / 'report' / 'index.html').read_text()


def test_what_is_finished_is_not_run_again(finished_study, tmp_path, capsys):
  work, arguments, _ = finished_study
  before = {k: v for k, v in snapshot(work).items() if k.parent != work / 'report'}
  picture = tmp_path / 'samples.png'
  start = time.monotonic()
  assert study.main(['study', *arguments, f'--samples={picture}']) == 0
  assert time.monotonic() - start < 10
  # The same test examples in both rows, and what each made of them.
  assert picture.read_bytes().startswith(b'\x89PNG')
  page = _Page((work / 'report' / 'index.html').read_text())
  assert 'Samples given one modality' in page.text
  assert '3 rows, 3 of them finished' in capsys.readouterr().err
  changed = {
    p.relative_to(work).parts[0]
    for p, state in snapshot(work).items()
    if p.is_file() and before.get(p) != state
  }
  assert changed <= {'results.jsonl', 'report', 'logs'}


def test_another_definition_is_another_row(finished_study):
  work, arguments, _ = finished_study
  rows = study.load_study(arguments[0].partition('=')[2])
  made = study.Study('x', work, (), tuple(rows))
  changed = study.Study('x', work, ('config.score.num_steps=4',), tuple(rows))
  assert all(made.finished(row) for row in rows)
  assert not any(changed.finished(row) for row in rows)


def score_parameters(workdir):
  folder = workdir / 'checkpoints' / 'score'
  step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  handler, path = ocp.PyTreeCheckpointHandler(), folder / str(step) / 'state'
  as_numpy = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
  )
  tree = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves}


@pytest.mark.slow
def test_shared_autoencoders_give_the_run_that_own_ones_give(
  finished_study, program, tiny, tmp_path
):
  work, _, _ = finished_study
  arguments = f'--config={tiny / "tiny.py"}', f'--workdir={tmp_path / "own"}'
  assert program(*arguments, '--mode=train') == 0
  own = score_parameters(tmp_path / 'own')
  assert len(own) > 10 and own == score_parameters(work / 'one')
  latents = [dict(np.load(p / 'latents.npz')) for p in (tmp_path / 'own', work / 'one')]
  assert all(np.array_equal(*(a[key] for a in latents)) for key in latents[0])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.unimodal.num_steps=7'], 'unimodal.num_steps: 6 -> 7'),
    (['--config.data.num_train=97'], 'data.num_train: 96 -> 97'),
    (['--config.only=m0'], 'leaves config.only nothing to train'),
    (['--config.pretrained=/none'], '/none/run.json does not exist'),
    (['--config.pretrained={one}'], 'has no autoencoders of its own'),
    (['--config.pretrained={torn}'], 'unimodal/m1 is not fully trained there'),
    (['--config.pretrained={own}'], 'config.pretrained is the workdir itself'),
    (["--config.pretrained_stages=('score',)"], "'score' is not one of"),
    (['--config.pretrained={other}'], 'other data, or modalities in another order'),
  ],
)
def test_a_mistake_about_pretrained(
  finished_study, program, tiny, tmp_path, capsys, arguments, message
):
  work, _, _ = finished_study
  (tmp_path / 'own').mkdir()
  places = {name: tmp_path / name for name in ('own', 'torn', 'other')}
  for name in ('torn', 'other'):
    shutil.copytree(work / 'ae', places[name])
  shutil.rmtree(places['torn'] / 'checkpoints' / 'unimodal' / 'm1' / '6')
  record = json.loads((work / 'ae' / 'run.json').read_text())
  (places['other'] / 'run.json').write_text(json.dumps(record | {'data_hash': '0'}))
  places |= {'one': work / 'one'}
  before = {name: snapshot(path) for name, path in places.items() if name != 'own'}
  code = program(
    f'--config={tiny / "tiny.py"}', f'--workdir={tmp_path / "own"}', '--mode=train',
    f'--config.pretrained={work / "ae"}', *(a.format(**places) for a in arguments),
  )  # fmt: skip
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert code == 2 and error.startswith('error: ') and message in error
  assert before == {name: snapshot(places[name]) for name in before}
  assert not (tmp_path / 'own' / 'checkpoints').exists()


def test_autoencoders_of_its_own_under_a_shared_classifier(
  finished_study, program, tiny, tmp_path
):
  work, _, _ = finished_study
  code = program(
    f'--config={tiny / "tiny.py"}', f'--workdir={tmp_path / "own"}', '--mode=train',
    f'--config.pretrained={work / "ae"}', '--config.unimodal.num_steps=7',
    "--config.pretrained_stages=('classifier',)",
  )  # fmt: skip
  assert code == 0
  trained = {path.name for path in (tmp_path / 'own' / 'checkpoints').iterdir()}
  assert trained == {'unimodal', 'score'}
  record = json.loads((tmp_path / 'own' / 'run.json').read_text())
  assert record.get('pretrained_seed', 0) == 0


def test_autoencoders_of_another_seed_under_a_trained_score_are_refused(
  finished_study, program, tiny, tmp_path, capsys
):
  work, _, _ = finished_study
  shutil.copytree(work / 'two', tmp_path / 'two')
  shutil.copytree(work / 'ae', tmp_path / 'ae')
  record = json.loads((tmp_path / 'ae' / 'run.json').read_text())
  record['config']['seed'] = 5
  (tmp_path / 'ae' / 'run.json').write_text(json.dumps(record))
  code = program(
    f'--config={tiny / "tiny.py"}', f'--workdir={tmp_path / "two"}', '--mode=train',
    '--config.pretrained=../ae', '--config.seed=1', '--config.score.num_steps=3',
  )  # fmt: skip
  assert code == 2
  assert 'seed of the autoencoders: 0 -> 5' in capsys.readouterr().err


# --- the runner, with a program that only writes down that it was called ------

STAND_IN = """
import json, os, pathlib, signal, sys, time
workdir = pathlib.Path(dict(a.split('=', 1) for a in sys.argv[1:])['--workdir'])
workdir.mkdir(exist_ok=True)
with open(workdir / 'calls', 'a') as f:
  f.write('x')
calls = (workdir / 'calls').read_text()
time.sleep(0.3)
if workdir.name == 'killed' and calls == 'x':
  os.kill(os.getpid(), signal.SIGKILL)
if workdir.name == 'wrong':
  sys.exit('error: this row is wrong.')
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
  path = tmp_path / 'stand_in.py'
  path.write_text(STAND_IN)
  monkeypatch.setattr(study, '_PROGRAM', (sys.executable, str(path)))
  return tmp_path


def calls(folder):
  return {p.parent.name: len(p.read_text()) for p in folder.glob('w/*/calls')}


def stand_in_study(folder, *rows):
  rows = [f'Row(name={name!r}, pretrained={needs!r}, {DIGITS})' for name, needs in rows]
  own = write_study(folder, rows)
  return ['study', f'--study={own}', f'--workdir={folder / "w"}']


def test_a_failed_row_is_said_at_the_end_and_stops_no_other(stand_in, capsys):
  command = stand_in_study(
    stand_in, ('wrong', ''), ('needs_it', 'wrong'), ('killed', ''), ('good', '')
  )
  assert study.main(command) == 1
  assert calls(stand_in) == {'wrong': 1, 'killed': 1, 'good': 1}
  failed = [s for s in capsys.readouterr().err.splitlines() if s.startswith('failed:')]
  assert len(failed) == 3
  assert 'wrong: exit code 1: error: this row is wrong.' in failed[0]
  assert failed[1] == 'failed: needs_it: its autoencoders, wrong, failed'
  assert 'killed: exit code -9' in failed[2]
  # The killed row is picked up, what failed is tried again, the rest is left alone.
  assert study.main(command) == 1
  assert calls(stand_in) == {'wrong': 2, 'killed': 2, 'good': 1}
  assert study.main([*command, '--only=killed|good']) == 0


BENCHMARK = """
import json, sys
names = [a.split('=')[0] for a in sys.argv[1:]]
# Flags of a config are refused before it.
assert names.index('--config') < names.index('--config.loop.block_steps')
with open('calls', 'a') as f:
  f.write('x')
if any('=../a' in a for a in sys.argv):
  sys.exit('error: no time.')
for row in (
  {"stage": "unimodal", "seconds": 4.0},
  {"stage": "score", "seconds": 7.0},
  {"stage": "energy", "seconds": 1.5},
  {"seconds_per_sample": 0.25},
):
  print(json.dumps(row | {"matmul_gflops": 50.0, "device": "abacus"}))
"""


def test_rows_that_differ_by_their_seed_are_timed_once(stand_in, capsys, monkeypatch):
  rows = [
    f"Row(name='{name}', {more} {DIGITS})"
    for name, more in [
      ('a', ''),
      ('b', "seed=1, columns={'method': 'b'},"),
      ('other', "overrides={'score.num_steps': 3},"),
      ('failing', "pretrained='a', overrides={'score.num_steps': 4},"),
      ('wrong', "overrides={'score.num_steps': 5},"),
    ]
  ]
  own, work = write_study(stand_in, rows), stand_in / 'w'
  command = ['study', f'--study={own}', f'--workdir={work}']
  study.main(command)
  path = stand_in / 'benchmark.py'
  path.write_text(BENCHMARK)
  monkeypatch.setattr(study, '_BENCHMARK', (sys.executable, str(path)))
  monkeypatch.chdir(stand_in)
  assert study.main([*command, '--mode=time']) == 1
  assert (stand_in / 'calls').read_text() == 'xxx'
  assert 'failed: failing: exit code 1: error: no time.' in capsys.readouterr().err
  made = study.Study(str(own), work, (), tuple(study.load_study(str(own))))
  costs, by_name = study.read_costs(made), {row.name: row for row in made.rows}
  assert costs.keys() == {made.program(by_name[name]) for name in ('b', 'other')}
  assert costs[made.program(by_name['b'])] == {
    'row': 'a', 'seconds': {'unimodal': 4.0, 'score': 7.0, 'energy': 1.5},
    'seconds_per_sample': 0.25, 'matmul_gflops': [50.0] * 4,
    'where': {'jax': jax.__version__, 'device': 'abacus'},
  }  # fmt: skip
  # What is known is not measured again.
  study.main([*command, '--mode=time', '--only=^(a|b|other)$'])
  assert (stand_in / 'calls').read_text() == 'xxx'
  # Rows of other machines need results, and no runs.
  results = stand_in / 'results.jsonl'
  of_b = {
    'row': 'b',
    'columns': {'method': 'b'},
    'definition': made.fingerprint(by_name['b']),
  }
  before = {'seconds_per_sample': 9.0, 'latent_model_parameters': 5, 'coherence': 0.5}
  study.write_lines(results, [line(m, value, **of_b) for m, value in before.items()])
  elsewhere = ['study', f'--study={own}', f'--workdir={stand_in / "elsewhere"}']
  elsewhere += ['--mode=time', f'--results={results}']
  assert study.main(elsewhere) == 0
  assert (stand_in / 'calls').read_text() == 'xxxx'
  after = {x['metric']: (x['value'], x['device']) for x in study.read_lines(results)}
  assert after == {
    'latent_model_parameters': (5, 'cpu'), 'coherence': (0.5, 'cpu'),
    'seconds_per_sample': (0.25, 'abacus'), 'autoencoder_seconds': (4.0, 'abacus'),
    'latent_model_seconds': (8.5, 'abacus'),
  }  # fmt: skip
  # As other rows they have no results; the file stays as it is.
  text = results.read_text()
  capsys.readouterr()
  assert study.main([*elsewhere, '--set=config.seed=3']) == 2
  assert 'has none of these rows' in capsys.readouterr().err
  assert results.read_text() == text
  assert study.main([*command, '--mode=time', '--num_tasks=2']) == 2
  (work / study.COSTS).write_text('{')
  capsys.readouterr()
  assert study.main([*command, '--mode=time']) == 2
  assert 'costs.json is damaged' in capsys.readouterr().err


def test_two_processes_share_the_rows(stand_in):
  names = [f'r{i}' for i in range(6)]
  command = stand_in_study(stand_in, ('ae', ''), *((name, 'ae') for name in names))
  program = (
    'import sys; from mmsbm import study; study._POLL_SECONDS = 0.1; '
    f'study._PROGRAM = {study._PROGRAM!r}; sys.exit(study.main(sys.argv))'
  )
  processes = [
    subprocess.Popen([sys.executable, '-c', program, *command[1:]]) for _ in range(2)
  ]
  assert [process.wait() for process in processes] == [0, 0]
  assert calls(stand_in) == dict.fromkeys(['ae', *names], 1)


def test_a_row_waits_for_another_process_at_its_autoencoders(stand_in, monkeypatch):
  monkeypatch.setattr(study, '_POLL_SECONDS', 0.05)
  command = stand_in_study(stand_in, ('ae', ''), ('row', 'ae'))
  lock = stand_in / 'w' / 'logs' / 'ae.lock'
  lock.parent.mkdir(parents=True)
  with open(lock, 'w') as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    thread = threading.Thread(target=study.main, args=(command,))
    thread.start()
    time.sleep(0.5)
    assert calls(stand_in) == {}
  thread.join(timeout=60)
  assert calls(stand_in) == {'ae': 1, 'row': 1}
