"""Small runs as they stand on disk, generated without training anything."""

import base64
import html.parser
import io
import json

import numpy as np
import PIL.Image
import pytest

from mmsbm import report

SAMPLER = dict(sampler='heun(num_steps=9)', conditioning='time_zero()', guidance='')
OTHER = dict(sampler='heun(num_steps=5)', conditioning='time_zero()', guidance='')


def make_row(metric, value, target=None, given=None, num_given=None, **fields):
  """A row of results.jsonl of generated examples; sampling=None: of a network."""
  row = {'metric': metric, 'value': value, 'stderr': 0.002, 'target': target}
  row |= {'given': given, 'num_given': num_given, 'sampling': 'default', 'nfe': 17}
  row |= SAMPLER | {'n': 1234, 'split': 'test', 'seed': 3, 'step': 40000} | fields
  if row['sampling'] is None:
    row = {k: v for k, v in row.items() if k not in ('nfe', *SAMPLER)}
  return {
    name: value for name, value in row.items() if name not in fields or value != ''
  }


def labelled_rows():
  rows = [
    make_row('classifier_accuracy', 0.9913, 'mean', sampling=None),
    make_row('reconstruction', 0.97, 'm0', ['m0'], 1, sampling=None),
    make_row('reconstruction', 0.9871, 'mean', sampling=None),
    make_row('coherence', 0.8125, 'mean', 'mean', 1),
    make_row('coherence', 0.9375, 'mean', 'mean', 2),
    make_row('coherence', 0.861, 'm2', 'incremental', 1),
    make_row('coherence', 0.871, 'm2', 'incremental', 2),
    make_row('coherence', None, 'm2', ['m0'], 1),
    make_row('joint_coherence', 0.9125, None, [], 0, at_least=2),
    make_row('joint_coherence', 0.6875, None, [], 0, at_least=3),
    make_row('frechet', 7.25, 'm0', [], 0, features='digit', stderr=None),
    make_row('frechet', 9.25, 'm1', [], 0, features='digit', stderr=None),
    make_row('frechet', 8.25, 'mean', [], 0, features='digit', note='A note <b>.'),
    make_row('coherence', 0.5625, 'mean', 'mean', 1, sampling='few', nfe=9, **OTHER),
    make_row('frechet', 6.5, 'mean', [], 0, sampling='few', nfe=9, features='digit',
             **OTHER),
  ]  # fmt: skip
  pairs = [('m0', 'm1'), ('m1', 'm0'), ('m1', 'm2'), ('m2', 'm1')]
  return rows + [
    make_row('coherence', 0.7 + 0.05 * i, target, [source], 1)
    for i, (source, target) in enumerate(pairs)
  ]


def unlabelled_rows():
  rows = []
  for k in (1, 2):
    for i, (metric, target) in enumerate([('f1', 'tags'), ('r2', 'profile')]):
      value = 0.5 + 0.1 * k - 0.3 * i
      rows.append(make_row(metric, value, target, 'mean', k))
      rows.append(make_row(metric, value, 'mean', 'mean', k))
    rows.append(make_row('sharpness', 2.0 * k, 'image', 'mean', k, stderr=0.1))
  return rows


ABOUT = {
  'coherence': {'about': 'Share of examples of the given <class>.', 'better': 'high'},
  'frechet': {'about': 'Distance of features.', 'better': 'low'},
  'f1': {'about': 'F1 of generated attributes.', 'better': 'high'},
  'r2': {'about': 'Explained variance.', 'better': 'high', 'title': 'R squared'},
}


def picture_tile(grey):
  buffer = io.BytesIO()
  PIL.Image.new('L', (8, 8), grey).save(buffer, 'PNG')
  data = 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
  return f'<img class="pixels" width="8" height="8" alt="" src="{data}"/>'


TILES = {
  'vector': '<svg width="96" height="64" role="img"><title>v</title></svg>',
  'words': '<p>three &lt;words&gt; here</p>',
}


def write_samples(path, kind, shown, num_rows=2):
  """Rows of tiles, `shown`: [(role, modality, HTML)]."""
  rows = [
    {
      'caption': f'class <{i}>',
      'tiles': [
        {'role': role, 'modality': modality, 'caption': '', 'html': text}
        for role, modality, text in shown
      ],
    }
    for i in range(num_rows)
  ]
  content = {'kind': kind, 'title': f'A title of <{kind}>', 'rows': rows}
  path.parent.mkdir(exist_ok=True)
  columns = [f'{modality} {role}' for role, modality, _ in shown]
  path.write_text(json.dumps(content | {'modalities': [], 'columns': columns}))


def write_run(path, rows, modalities, about=None):
  path.mkdir(exist_ok=True)
  record = {
    'command': 'python -m mmsbm.main --config=configs/digits.py',
    'seed': 3,
    'versions': {'jax': '0.10.2'},
    'devices': ['TFRT_CPU_0'],
    'git_commit': 'abc123def',
    'num_classes': {'class': 10},
    'data_source': 'Digits <16 x 16>, see https://example.org/digits',
    'timings': {'train unimodal': 61.0, 'train score': 3.25},
    'parameters': {'unimodal/m0': 1000, 'unimodal/m1': 2345, 'score': 70000},
    'seconds_per_sample': {
      'value': 0.002, 'stderr': 0.0001, 'of': {'chunk_size': 64},
    },
    'config': {
      'method': 'sbm_vae',
      'preset': 'default',
      'modalities': {name: {'kind': 'image'} for name in modalities},
    },
  }  # fmt: skip
  (path / 'run.json').write_text(json.dumps(record))
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (path / 'results.jsonl').write_text(lines)
  if about is not None:
    (path / 'evaluation').mkdir()
    (path / 'evaluation' / 'metrics.json').write_text(json.dumps(about))
  with open(path / 'metrics.jsonl', 'w') as f:
    for step in range(100, 2100, 100):
      for learner in ('unimodal/m0', 'unimodal/m1', 'score'):
        values = {'loss': 100 / step, 'steps_per_second': 50.0, 'time': 1e9 + step}
        f.write(json.dumps({'step': step, 'learner': learner, **values}) + '\n')
    f.write('{"step": 2100, "learner": "score", "loss": null}\n')
    f.write('{"step": 2200, "learner": "sco')


@pytest.fixture(scope='session')
def labelled_run(tmp_path_factory):
  """Three modalities with classes, two samplings."""
  path = tmp_path_factory.mktemp('runs') / 'labelled'
  write_run(path, labelled_rows(), ('m0', 'm1', 'm2'), ABOUT)
  given = ('given', 'm0', picture_tile(10))
  generated = [('generated', f'm{i}', picture_tile(100 * i)) for i in (1, 2)]
  beside = [('nearest', 'm1', picture_tile(50)), ('nearest', 'm2', '')]
  beside += [('real', 'm1', picture_tile(90))]
  shown = [given, *generated, *generated, *beside]
  write_samples(path / 'samples' / 'a.json', 'conditional', shown)
  write_samples(
    path / 'samples' / 'b.json', 'unconditional', [*generated, ('nearest', 'm1', '')], 4
  )
  write_samples(
    path / 'samples' / 'c.json',
    'reconstruction',
    [given, generated[0], given, generated[1]],
  )
  return path


@pytest.fixture(scope='session')
def unlabelled_run(tmp_path_factory):
  """Image, attributes and a vector without labels; metrics.json lacks a metric."""
  path = tmp_path_factory.mktemp('runs') / 'unlabelled'
  write_run(path, unlabelled_rows(), ('image', 'tags', 'profile'), ABOUT)
  shown = [
    ('given', 'image', picture_tile(200)),
    ('generated', 'profile', TILES['vector']),
    ('generated', 'tags', TILES['words']),
    ('nearest', 'profile', TILES['vector']),
  ]
  write_samples(path / 'samples' / 'given_first_1.json', 'conditional', shown)
  return path


def study_lines():
  """Two methods over two seeds, one of them with two numbers of steps, and costs."""
  lines = []
  for method, shift in (('A', 0.0), ('B', 0.1)):
    for seed in (0, 1):
      common = dict(
        row=f'{method}_s{seed}', seed=seed, modalities=3, paired_fraction=1.0,
        command=f'python run {method} {seed}', device='cpu', jax='0.10.2', n=1500,
      )  # fmt: skip
      name = {'group': 'methods', 'method': method}
      for metric, value in (('reconstruction', 0.9), ('autoencoder_parameters', 1000)):
        line = {'metric': metric, 'value': value, 'columns': name}
        stderr = {'stderr': 0.01} if metric == 'reconstruction' else {}
        lines.append(common | line | stderr)
      for nfe in (5, 20) if method == 'B' else (20,):
        for metric, count, features, value in (
          ('coherence', 1, None, 0.6),
          ('coherence', 2, None, 0.7),
          ('joint_coherence', 0, None, 0.5),
          ('frechet', 0, 'digit', 20.0),
          ('frechet', 2, 'digit', 18.0),
        ):
          scale = 1 + shift + 0.01 * seed + 0.001 * nfe
          lines.append(
            common
            | dict(
              columns=name, sampling='default' if nfe == 20 else 'few', nfe=nfe,
              metric=metric, num_given=count, value=value * scale, stderr=0.01,
              sampler=f'heun(num_steps={nfe})', conditioning='time_zero()',
              guidance='',
            )
            | ({'features': features} if features else {})
          )  # fmt: skip
  return lines


@pytest.fixture
def lines():
  return study_lines()


def write_npz(path, generated, observed=(True, False), given=10, shape=(8, 8, 1)):
  """A file of samples of two modalities, of constant grey."""
  count = 3
  arrays = {
    'kind': np.array('conditional'),
    'title': np.array('A title'),
    'modalities': np.array(['m0', 'm1']),
    'observed': np.broadcast_to(observed, (count, 2)),
  }
  for m in ('m0', 'm1'):
    arrays[f'given/{m}'] = np.full((count, *shape), given, np.uint8)
    arrays[f'generated/{m}'] = np.full((count, 2, *shape), generated, np.uint8)
  np.savez(path, **arrays)
  return path


class Page(html.parser.HTMLParser):
  """The elements of a page: links, ids, tags, classes, and its visible text."""

  VOID = ('meta', 'img', 'br', 'link', 'input', 'hr')

  def __init__(self, text):
    super().__init__()
    self.links, self.ids, self.tags, self.elements, self.open = [], [], set(), [], []
    self.words = []
    self.feed(text)
    self.close()
    assert not self.open
    self.text = ' '.join(' '.join(self.words).split())

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.add(tag)
    self.elements.append((tag, attrs))
    self.links += [
      attrs[key] for key in ('src', 'href', 'xlink:href', 'data') if key in attrs
    ]
    self.ids += [attrs['id']] if 'id' in attrs else []
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in self.VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['style']:
      self.words.append(data)


@pytest.fixture(scope='session')
def read_page():
  """Writes the page of a run and reads its elements."""

  def read(run):
    return Page(report.write_report(run).read_text(encoding='utf-8'))

  return read


@pytest.fixture(scope='session')
def page_class():
  return Page


@pytest.fixture(scope='session')
def make_study(tmp_path_factory):
  """Writes the page of a study, with pictures of both methods; returns its path."""

  def make(lines=None):
    path = tmp_path_factory.mktemp('study')
    samples = {
      'A': write_npz(path / 'a.npz', 100),
      'B': write_npz(path / 'b.npz', 200),
    }
    lines = study_lines() if lines is None else lines
    return report.write_study_report(path / 'index.html', 'digits', lines, samples)

  return make


@pytest.fixture
def make_npz():
  return write_npz
