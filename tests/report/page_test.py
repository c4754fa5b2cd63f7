import json
import re
import shutil

import pytest

from mmsbm import report
from mmsbm.infra import errors


@pytest.fixture(scope='module')
def page(labelled_run, read_page):
  return read_page(labelled_run)


def panel_text(page, metric):
  """The text from the heading of a metric's panel on."""
  text = page.text[page.text.index('Metrics sampling default') :]
  return text[text.index(metric) :]


def test_page_needs_nothing_but_itself(labelled_run, page):
  for link in page.links:
    assert link.startswith(('data:image/png;base64,', '#')), link[:80]
    assert not link.startswith('#') or link[1:] in page.ids
  source = (labelled_run / 'report' / 'index.html').read_text()
  assert source.count('url(') == source.count('url(#') and '@import' not in source
  assert not page.tags & {'script', 'link', 'iframe', 'object'}
  (policy,) = [a['content'] for tag, a in page.elements if 'http-equiv' in a]
  assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize(
  'text',
  [
    '0.812 ± 0.002', '0.938 ± 0.002', '0.688 ± 0.002', '0.987 ± 0.002', '1,234',
    '0.991 ± 0.002', '0.912 ± 0.002', '8.250 ± 0.002', 'not finite', '7.25',
    'Fréchet distance (digit features)', 'seed 3', 'step 40,000', 'abc123def',
    'jax 0.10.2', '73,345', '1 min 04 s', '2.00 ± 0.10 ms', 'class 10', '2,100',
    'Digits <16 x 16>, see https://example.org/digits', 'python -m mmsbm.main',
    '"preset": "default"', 'A title of <conditional>', 'class <1>', 'A note <b>.',
    'Share of examples of the given <class>.', 'Samplings compared', '0.562 ± 0.002',
  ],
)  # fmt: skip
def test_page_says(page, text):
  assert text in page.text


def test_page_has_one_panel_for_each_metric_and_its_features(labelled_run, page):
  rows = (labelled_run / 'results.jsonl').read_text().splitlines()
  panels = [a['data-metric'] for _, a in page.elements if 'data-metric' in a]
  assert sorted(panels) == sorted({json.loads(row)['metric'] for row in rows})
  assert panels[:3] == ['coherence', 'joint_coherence', 'frechet']


def test_page_of_a_run_without_labels_shows_what_was_measured(
  unlabelled_run, read_page
):
  page = read_page(unlabelled_run)
  panels = [a['data-metric'] for _, a in page.elements if 'data-metric' in a]
  # The file of metrics does not know the last one.
  assert panels == ['f1', 'r2', 'sharpness']
  start = page.text.index('Generated examples')
  assert page.text[start:].startswith(
    'Generated examples given 1 given 2 (rest) n F1 , tags ↑ 0.600 ± 0.002 '
    '0.700 ± 0.002 1,234 R squared , profile ↑ 0.300 ± 0.002 0.400 ± 0.002 1,234 '
    'Sharpness , image 2.00 ± 0.10 4.00 ± 0.10 1,234'
  )
  assert 'not evaluated' not in page.text and 'three <words> here' in page.text


def test_page_shows_the_accuracy_on_real_examples_beside_coherence(
  page, unlabelled_run
):
  start = page.text.index('Generated examples')
  assert page.text[start:].startswith(
    'Generated examples given nothing given 1 given 2 (rest) real data n '
    'Coherence ↑ – 0.812 ± 0.002 0.938 ± 0.002 0.991 ± 0.002 1,234 '
    'Joint coherence , at least 3 agree 0.688 ± 0.002 – – 1,234 '
  )
  assert 'real data' not in report.write_report(unlabelled_run).read_text()


def test_page_states_the_settings_of_a_sampling_once(page):
  assert page.text.count('heun(num_steps=9)') == 1
  assert page.text.count('heun(num_steps=5)') == 1


def test_page_compares_samplings_with_the_best_in_bold(page):
  best = [a['class'] for tag, a in page.elements if tag == 'td' and 'class' in a]
  assert best.count('num best') == 2
  text = page.text[page.text.index('Samplings compared default few') :]
  assert text.startswith(
    'Samplings compared default few Coherence , given 1 ↑ 0.812 ± 0.002 0.562 ± 0.002 '
    'Fréchet distance (digit features) , given nothing ↓ 8.250 ± 0.002 6.500 ± 0.002'
  )


def test_panel_shows_each_source_and_target(page):
  text = panel_text(page, 'Given exactly one modality')
  assert 'm0 – 0.700 ± 0.002' in text and 'm1 0.750 ± 0.002 – 0.800 ± 0.002' in text
  heat = [a['style'] for tag, a in page.elements if tag == 'td' and 'style' in a]
  assert '--heat: 45%' in heat and '--heat: 51%' in heat


def test_samples_are_boxes_of_tiles_with_their_roles(page):
  boxes = [
    a['class'].split()[1]
    for _, a in page.elements
    if a.get('class', '').startswith('box ')
  ]
  # Each sample of two modalities has a box, and the truth comes before neighbours.
  row = ['given', 'generated', 'generated', 'real', 'nearest']
  # Boxes that hold nothing are left out, and reconstructions stand together.
  assert boxes == 2 * row + 4 * ['generated'] + 2 * ['given', 'generated']
  tiles = [
    a['class'] for _, a in page.elements if a.get('class', '').startswith('tile ')
  ]
  assert len(tiles) == 2 * 8 + 4 * 2 + 2 * 4
  assert tiles.count('tile small empty') == 2


def test_captions_of_samples_are_escaped_and_tiles_are_not(unlabelled_run, read_page):
  page = read_page(unlabelled_run)
  source = (unlabelled_run / 'report' / 'index.html').read_text()
  assert 'class &lt;0&gt;' in source and '<p>three &lt;words&gt; here</p>' in source
  looks = [
    a['class'] for _, a in page.elements if a.get('class', '').startswith('tile ')
  ]
  assert set(looks) == {'tile small', 'tile free'}


def test_empty_folder_gives_a_page_of_missing_pieces(tmp_path, read_page):
  page = read_page(tmp_path)
  for text in ('run.json is missing', 'Nothing is measured yet', 'no curves'):
    assert text in page.text
  assert 'img' not in page.tags and 'svg' not in page.tags


@pytest.mark.parametrize(
  'name', ['run.json', 'metrics.jsonl', 'results.jsonl', 'evaluation', 'samples']
)
def test_any_file_may_be_missing(labelled_run, tmp_path, read_page, name):
  folder = tmp_path / 'run'
  shutil.copytree(labelled_run, folder, ignore=shutil.ignore_patterns(name))
  assert 'Training' in read_page(folder).text


@pytest.mark.parametrize(
  ('name', 'content', 'says'),
  [
    ('run.json', '{"seed"', 'run.json is damaged'),
    ('run.json', '[]', 'run.json is damaged (not an object)'),
    ('results.jsonl', 'torn\n{"metric": "f1"}\n', 'line 1 is not a JSON object'),
    ('metrics.jsonl', '{"a"\n{"step": 1, "learner": "score"}\n', 'metrics.jsonl, line'),
    ('evaluation/metrics.json', '', 'evaluation/metrics.json is not readable'),
    ('samples/a.json', '{"kind": "conditional"}', 'samples/a.json is not readable'),
    ('samples/a.json', '{"kind": "new", "rows": []}', "kind 'new' is none of"),
    ('samples/a.json', '{"kind": "conditional", "rows": [1]}', 'rows of another form'),
  ],
)  # fmt: skip
def test_a_damaged_file_is_a_line_of_the_page(
  labelled_run, tmp_path, read_page, name, content, says
):
  folder = tmp_path / 'run'
  shutil.copytree(labelled_run, folder)
  (folder / name).write_text(content)
  page = read_page(folder)
  (problem,) = [a for _, a in page.elements if a.get('class') == 'problem']
  assert says in page.text and 'Training' in page.text


def test_write_report_refuses_what_is_no_folder(tmp_path):
  with pytest.raises(errors.UserError, match='not a folder'):
    report.write_report(tmp_path / 'nowhere')


def test_summary_of_many_modalities_has_few_columns(tmp_path, read_page):
  names = [f'm{i}' for i in range(30)]
  row = {
    'metric': 'coherence',
    'target': 'mean',
    'given': 'mean',
    'sampling': 'default',
  }
  rows = [row | {'value': 0.01 * k, 'num_given': k, 'n': 5} for k in range(1, 30)]
  (tmp_path / 'results.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
  (tmp_path / 'run.json').write_text(
    json.dumps({'config': {'modalities': dict.fromkeys(names)}})
  )
  text = read_page(tmp_path).text
  summary = text[text.index('Generated examples') : text.index('How examples')]
  assert len(re.findall(r'given \d', summary)) == 8 and 'given 29 (rest)' in summary
  assert 'given 15' in text[text.index('How examples') :]
