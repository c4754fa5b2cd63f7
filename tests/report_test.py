import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from mmsbm import report
from mmsbm.infra import errors, images, metric_writer
from mmsbm.report import figures, numbers

MODALITIES = ('m0', 'm1', 'm2')


def _row(metric, value, target, given, num_given, **fields):
  return {
    'metric': metric, 'value': value, 'stderr': 0.002, 'target': target,
    'given': given, 'num_given': num_given, 'n': 1234, 'split': 'test', 'seed': 3,
    'setup': 'default', 'sampler': 'heun', 'nfe': 17, 'step': 40000, 'model': 'sbm',
    **fields,
  }  # fmt: skip


def _rows():
  rows = [
    _row('coherence', 0.8125, 'mean', 'mean', 1),
    _row('coherence', 0.9375, 'mean', 'mean', 2),
    _row('coherence', 0.861, 'm2', 'incremental', 1),
    _row('coherence', 0.871, 'm2', 'incremental', 2),
    _row('coherence', None, 'm2', ['m0'], 1),
    _row('joint_coherence', 0.6875, 'mean', [], 0),
    _row('joint_coherence', 0.9125, 'mean', [], 0, at_least=2),
    _row(
      'reconstruction', 0.9871, 'mean', 'self', 1, setup=None, sampler=None, nfe=None
    ),
    _row(
      'classifier_accuracy', 0.9913, 'mean', [], 0, setup=None, sampler=None, nfe=None
    ),
    _row('frechet', 7.25, 'm0', [], 0, features='classifier', stderr=None),
    _row('frechet', 9.25, 'm1', [], 0, features='classifier', stderr=None),
    _row('frechet', 3.5, 'm0', 'mean', 2, features='classifier', stderr=None),
    _row('precision', 0.7111, 'm0', [], 0),
    _row('recall', 0.6222, 'm0', [], 0),
  ]
  rows += [
    _row('coherence', 0.7 + 0.05 * i, target, [source], 1)
    for i, (source, target) in enumerate([('m0', 'm1'), ('m1', 'm0'), ('m1', 'm2')])
  ]
  rows += [
    _row('coherence', 0.5625, 'mean', 'mean', 1, setup='dpm', sampler='dpm', nfe=5)
  ]
  return rows


def _write_samples(path, kind, observed, num_samples, *, mark=None):
  """Tiles of constant gray: given 10, generated 20 + sample, nearest 90."""
  count = len(observed)
  arrays = {}
  for m in MODALITIES:
    generated = np.arange(20, 20 + num_samples, dtype=np.uint8)
    generated = np.broadcast_to(
      generated[None, :, None, None, None], (count, num_samples, 8, 8, 1)
    )
    arrays[f'generated/{m}'] = generated
    arrays[f'given/{m}'] = np.full((count, 8, 8, 1), 10, np.uint8)
    arrays[f'nearest/{m}'] = np.full((count, 8, 8, 1), 90, np.uint8)
  arrays.update(mark or {})
  path.parent.mkdir(exist_ok=True)
  np.savez(
    path, kind=np.array(kind), title=np.array(f'A title of <{kind}>'),
    modalities=np.array(MODALITIES), observed=np.asarray(observed),
    label=np.arange(count), **arrays,
  )  # fmt: skip


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  record = {
    'command': ['python', '-m', 'mmsbm.main', '--config=configs/digits.py'],
    'seed': 3,
    'versions': {'jax': '0.10.2'},
    'devices': ['TFRT_CPU_0'],
    'git_commit': 'abc123def',
    'num_classes': 10,
    'data_source': 'Digits <16 x 16>, see https://example.org/digits',
    'timings': {'unimodal': 61.0, 'score': 3.25},
    'parameters': {'unimodal/m0': 1000, 'unimodal/m1': 2345, 'score': 70000},
    'config': {
      'method': 'sbm_vae',
      'preset': 'default',
      'data': {'name': 'digits'},
      'sampler': {'name': 'heun', 'num_steps': 9},
      'modalities': {m: {'shape': [8, 8, 1]} for m in MODALITIES},
    },
  }
  (path / 'run.json').write_text(json.dumps(record))
  metric_writer.write_results(path / 'results.jsonl', _rows())
  with metric_writer.MetricWriter(path, tensorboard=False) as writer:
    for step in range(100, 2100, 100):
      for learner in ('unimodal/m0', 'unimodal/m1', 'score'):
        writer.write(step, learner, {'loss': 100 / step, 'steps_per_second': 50.0})
    writer.write(2100, 'score', {'loss': float('nan')})
  with open(path / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 2200, "learner": "sco')
  observed = [[True, False, False], [True, True, False]]
  _write_samples(path / 'samples' / 'a.npz', 'conditional', observed, 2)
  _write_samples(path / 'samples' / 'b.npz', 'unconditional', [[False] * 3] * 4, 1)
  _write_samples(path / 'samples' / 'c.npz', 'reconstruction', [[True] * 3] * 4, 1)
  return path


class _Page(html.parser.HTMLParser):
  """Collects links, pictures and the visible text of a page."""

  VOID = ('meta', 'img', 'br', 'link', 'input', 'hr')

  def __init__(self, text):
    super().__init__()
    self.links, self.pictures, self.words, self.open = [], [], [], []
    self.ids, self.tags = [], set()
    self.feed(text)
    self.close()
    self.text = ' '.join(' '.join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    attrs = dict(attrs)
    self.links += [attrs[key] for key in ('src', 'href', 'data') if key in attrs]
    self.ids += [attrs['id']] if 'id' in attrs else []
    if tag == 'img':
      self.pictures.append(attrs)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['style']:
      self.words.append(data)


@pytest.fixture(scope='module')
def page(run):
  path = report.write_report(run)
  assert path == run / 'report' / 'index.html'
  page = _Page(path.read_text(encoding='utf-8'))
  assert not page.open
  return page


def test_page_needs_nothing_but_itself(run, page):
  for link in page.links:
    assert link.startswith(('data:image/png;base64,', '#')), link[:80]
  for link in page.links:
    assert not link.startswith('#') or link[1:] in page.ids
  source = (run / 'report' / 'index.html').read_text()
  assert 'url(' not in source and '@import' not in source
  assert not page.tags & {'script', 'link', 'iframe', 'object'}


def test_pictures_decode(page):
  assert len(page.pictures) >= 8
  for picture in page.pictures:
    data = base64.b64decode(picture['src'].partition(',')[2], validate=True)
    image = Image.open(io.BytesIO(data))
    image.load()
    ratio = int(picture['width']) / int(picture['height'])
    assert abs(ratio / (image.width / image.height) - 1) < 0.02
    assert picture['alt']


@pytest.mark.parametrize(
  'text',
  [
    '0.812 ± 0.002', '0.938 ± 0.002', '0.688 ± 0.002', '0.987 ± 0.002',
    '0.991 ± 0.002', '0.912 ± 0.002', '0.711 ± 0.002', '0.622 ± 0.002', '1,234',
    '8.25',  # mean over m0 and m1 of the unconditional Fréchet distances
    'Fréchet distance (classifier features)', 'not finite', 'heun(num_steps=9)',
    '17 network evaluations', 'seed 3', 'step 40,000', 'abc123def', 'jax 0.10.2',
    'unimodal 3,345, score 70,000 (together 73,345)', '1 min 04 s',
    'unimodal 2,000, score 2,100', 'Digits <16 x 16>, see https://example.org/digits',
    'Chance is 0.1', 'python -m mmsbm.main', '"num_steps": 9',
    'A title of <conditional>', 'A title of <unconditional>',
    'A title of <reconstruction>', 'Samplers compared', '0.562 ± 0.002',
  ],
)  # fmt: skip
def test_page_says(page, text):
  assert text in page.text


@pytest.mark.parametrize(
  ('title', 'expected'),
  [
    ('Reconstruction, mean over modalities', '0.987 ± 0.002 1,234 test split, step'),
    ('Coherence given one modality', '0.812 ± 0.002 1,234 test split, heun, 17'),
    ('Coherence given all the others', '0.938 ± 0.002 1,234'),
    ('unconditional sample agree', '0.688 ± 0.002 1,234'),
    ('the judge, on real examples', '0.991 ± 0.002 1,234'),
    ('unconditional, mean over modalities', '8.25 1,234 average of 2 numbers'),
  ],
)
def test_headline_puts_numbers_beside_their_names(page, title, expected):
  assert page.text.partition(title)[2].strip().startswith(expected)


def test_inception_is_the_only_fid(run, page, tmp_path):
  assert 'FID' not in page.text
  rows = [_row('frechet', 30.0, 'm0', [], 0, features='inception')]
  metric_writer.write_results(tmp_path / 'results.jsonl', rows)
  text = _Page(report.write_report(tmp_path).read_text()).text
  assert 'FID (Inception features)' in text


def test_empty_folder_gives_a_page_of_missing_pieces(tmp_path):
  page = _Page(report.write_report(tmp_path).read_text())
  assert page.text.count('not evaluated') >= 7
  assert 'run.json is missing' in page.text
  assert 'No conditional samples were drawn.' in page.text
  assert not page.pictures


@pytest.mark.parametrize('name', ['run.json', 'metrics.jsonl', 'results.jsonl'])
def test_any_file_may_be_missing(run, tmp_path, name):
  for path in ('run.json', 'metrics.jsonl', 'results.jsonl'):
    if path != name:
      (tmp_path / path).write_bytes((run / path).read_bytes())
  assert not _Page(report.write_report(tmp_path).read_text()).open


def test_mistakes_have_one_line(tmp_path):
  with pytest.raises(errors.UserError, match='not a folder'):
    report.write_report(tmp_path / 'nowhere')
  (tmp_path / 'run.json').write_text('{"seed"')
  with pytest.raises(errors.UserError, match='not JSON'):
    report.write_report(tmp_path)
  (tmp_path / 'torn.npz').write_bytes(b'PK\x03\x04torn')
  with pytest.raises(errors.UserError, match='not a file of samples'):
    report.render_samples(tmp_path / 'torn.npz')


def test_damaged_samples_do_not_cost_the_page(tmp_path):
  (tmp_path / 'samples').mkdir()
  (tmp_path / 'samples' / 'torn.npz').write_bytes(b'PK')
  page = _Page(report.write_report(tmp_path).read_text())
  assert 'torn.npz is not a file of samples' in page.text


def _area(panel, gray):
  return int((panel == gray).all(-1).sum())


def test_conditional_panel_shows_each_part_as_often_as_it_should(run):
  panel = report.render_samples(run / 'samples' / 'a.npz')
  tile = 64 * 64
  # Observed: m0 | m0 m1. Generated: m1 m2 | m2, twice each; nearest alike.
  assert _area(panel, 10) == 3 * tile
  assert _area(panel, 20) == _area(panel, 21) == 3 * tile
  assert _area(panel, 90) == 3 * tile
  # Not given: m1 of the first row. Not generated: m1 of the second row, in two
  # samples and among the nearest. An eighth of each is striped.
  assert _area(panel, images.CELL) == 4 * tile * 7 // 8
  left = {gray: np.argwhere((panel == gray).all(-1))[:, 1].min() for gray in (10, 20)}
  assert left[10] < left[20]


def test_modalities_are_drawn_under_their_own_caption(tmp_path):
  gray = {f'given/{m}': np.full((1, 8, 8, 1), 50 + i, np.uint8)
          for i, m in enumerate(MODALITIES)}  # fmt: skip
  _write_samples(
    tmp_path / 's' / 'a.npz', 'conditional', [[True, False, True]], 1, mark=gray
  )
  panel = report.render_samples(tmp_path / 's' / 'a.npz')
  assert _area(panel, 51) == 0
  first, last = (np.argwhere((panel == v).all(-1))[:, 1].min() for v in (50, 52))
  assert first < last


def test_wide_examples_wrap_and_keep_all_samples(tmp_path):
  _write_samples(tmp_path / 's' / 'a.npz', 'conditional', [[True, False, False]], 12)
  panel = report.render_samples(tmp_path / 's' / 'a.npz')
  assert panel.shape[1] <= 1160
  areas = [_area(panel, 20 + sample) for sample in range(12)]
  assert areas == [areas[0]] * 12 and areas[0] in (2 * 64 * 64, 2 * 48 * 48)


def test_runs_stand_below_each_other(tmp_path):
  given = [[True, False, False]] * 2
  paths = {name: tmp_path / 's' / f'{name}.npz' for name in ('a', 'b', 'other')}
  _write_samples(paths['a'], 'conditional', given, 3)
  darker = {
    f'generated/{m}': np.full((2, 3, 8, 8, 1), 60, np.uint8) for m in MODALITIES
  }
  _write_samples(paths['b'], 'conditional', given, 3, mark=darker)
  elsewhere = {'given/m0': np.full((2, 8, 8, 1), 11, np.uint8)}
  _write_samples(paths['other'], 'conditional', given, 3, mark=elsewhere)
  panel = report.compare_samples(paths)
  # Two examples of two modalities: the first samples of both runs, and twice above
  # them what was given and what is true. The third file is of other examples.
  assert _area(panel, 20) == _area(panel, 60) == 4 * 48 * 48
  assert _area(panel, 10) == 8 * 48 * 48
  assert _area(panel, 11) == _area(panel, 21) == 0
  tops = [np.argwhere((panel == gray).all(-1))[:, 0].min() for gray in (10, 20, 60)]
  assert tops == sorted(tops)
  assert report.compare_samples(paths, max_examples=1).shape[1] < panel.shape[1]


def test_unconditional_and_reconstruction_panels(run):
  tile = 64 * 64
  panel = report.render_samples(run / 'samples' / 'b.npz')
  assert (_area(panel, 10), _area(panel, 20)) == (0, 4 * 3 * tile)
  panel = report.render_samples(run / 'samples' / 'c.npz')
  assert _area(panel, 10) == _area(panel, 20) == 4 * 3 * tile
  # The original stands above its reconstruction.
  rows = [np.argwhere((panel == gray).all(-1))[:, 0].min() for gray in (10, 20)]
  assert rows[0] < rows[1]


def test_other_kinds_of_modalities_are_drawn(tmp_path):
  mark = {
    'generated/m1': np.ones((1, 2, 5), np.uint8),
    'names/m1': np.array(['hat', 'beard', 'young', 'smiling', 'glasses']),
    'generated/m2': np.full((1, 2), 7, np.int32),
    'nearest/m1': np.zeros((1, 5), np.uint8),
    'nearest/m2': np.full((1,), 3, np.int32),
    'draw/m2': np.array('label'),
  }
  _write_samples(
    tmp_path / 's' / 'a.npz', 'conditional', [[True, False, False]], 2, mark=mark
  )
  panel = report.render_samples(tmp_path / 's' / 'a.npz')
  assert panel.dtype == np.uint8 and _area(panel, images.INK) > 20


@pytest.mark.parametrize(
  ('value', 'stderr', 'expected'),
  [
    (0.95123, 0.0021, '0.951 ± 0.002'),
    (0.95123, 0.0012, '0.9512 ± 0.0012'),
    (0.95123, 0.00196, '0.951 ± 0.002'),
    (812.34, 23.0, '812 ± 23'),
    (1.0, 0.0, '1.00 ± 0'),
    (0.5, None, '0.500'),
    (18.3, None, '18.30'),
    (123456.7, None, '123,457'),
    (120345, None, '120,345'),
    (0.000123, None, '0.000123'),
    (0.00003643, None, '0.0000364'),
    (0.0499, None, '0.0499'),
    (3.2e-9, None, '3.2e-09'),
    (None, 0.1, 'not finite'),
  ],
)
def test_numbers_carry_the_digits_they_deserve(value, stderr, expected):
  assert numbers.format_number(value, stderr) == expected


@pytest.mark.parametrize(
  ('seconds', 'expected'),
  [(0.421, '0.42 s'), (59.96, '60.0 s'), (125, '2 min 05 s'), (7380, '2 h 03 min')],
)
def test_durations(seconds, expected):
  assert numbers.format_seconds(seconds) == expected


def test_measured_mean_wins_over_the_average_of_subsets():
  rows = [
    _row('coherence', 0.2, 'm0', ['m1'], 1),
    _row('coherence', 0.4, 'm0', ['m2'], 1),
    _row('coherence', 0.9, 'm1', ['m0'], 1),
  ]
  curve = numbers.curve(rows, 'm0')
  assert curve[1]['value'] == pytest.approx(0.3)
  assert curve[1]['stderr'] is None and curve[1]['n'] == 1234
  # Of the means of m0 (0.3) and m1 (0.9).
  assert numbers.curve(rows, 'mean')[1]['value'] == pytest.approx(0.6)
  rows.append(_row('coherence', 0.25, 'm0', 'mean', 1))
  assert numbers.curve(rows, 'm0')[1]['value'] == 0.25


def test_main_setting_prefers_test_then_own_setup_then_step():
  rows = [
    _row('coherence', 0.1, 'mean', 'mean', 1, setup='more_guidance', step=9),
    _row('coherence', 0.2, 'mean', 'mean', 1, step=5),
    _row('coherence', 0.3, 'mean', 'mean', 1, step=7),
    _row('coherence', 0.4, 'mean', 'mean', 1, step=6),
    _row('coherence', 0.5, 'mean', 'mean', 1, step=8, split='val'),
  ]
  results = numbers.Results(rows, MODALITIES)
  assert [row['value'] for row in results.of('coherence')] == [0.3]
  assert len(numbers.distinct_settings(rows)) == 5


def test_smoothing_is_unbiased_from_the_start():
  np.testing.assert_allclose(figures.smooth(np.full(400, 3.0)), 3.0, rtol=1e-12)
  # Time constant 8 of 400 values: the weights of 0, 1 are (1 - 1/8) : 1.
  out = figures.smooth(np.r_[0.0, np.ones(399)])
  np.testing.assert_allclose(out[:2], [0.0, 8 / 15])
