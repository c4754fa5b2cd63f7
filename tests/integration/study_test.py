"""A study of three small runs, from the first step to the table."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import mmsbm
from mmsbm.infra.metric_writer import read_results
from mmsbm.studies import main, results
from mmsbm.studies.definition import Study, load_study

ROOT = pathlib.Path(mmsbm.__file__).parents[1]

CONFIG = '''
from configs import digits

def get_config(arg=None):
  """digits with two modalities and tiny networks."""
  c = digits.get_config('smoke,modalities=2')
  small = dict(name='mlp', widths=(8,))
  for codec in c.unimodal.networks.values():
    codec.encoder, codec.decoder, codec.latent_dim = small, small, 2
  c.readers.digit.network = dict(
    name='patch', patch=8, width=4, num_layers=1, dropout=0.1
  )
  c.score.network = dict(name='mlp', width=8, num_blocks=1, expansion=1)
  c.data.num_train, c.data.num_val, c.data.num_test = 96, 16, 32
  c.energy = {}
  for section in (c.readers.digit, c.unimodal, c.score):
    section.num_steps, section.batch_size, section.ema_decay = 6, 8, 0.9
  c.loop.block_steps = c.loop.checkpoint_every_steps = 3
  c.evaluate.num_examples = c.evaluate.chunk_size = 30
  c.evaluate.evaluators.conditional.max_subsets = 2
  c.evaluate.evaluators.samples.num_examples = 2
  c.evaluate.evaluators.samples.num_samples = 1
  del c.evaluate.metrics.precision, c.evaluate.metrics.recall
  c.samplings = dict(default=dict(
    sampler=dict(name='dpm_solver', num_steps=2), conditioning=dict(name='time_zero'),
    guidance={},
  ))
  return c
'''

STUDY = """
from mmsbm.studies import Row

CONFIG = {config!r}
TRAINED = ('classifier', 'unimodal')
WAY = dict(conditioning=dict(name='time_zero'), guidance={{}})
SAMPLINGS = dict(
  default=WAY | dict(sampler=dict(name='dpm_solver', num_steps=2)),
  heun=WAY | dict(sampler=dict(name='heun', num_steps=2)),
)

def get_study(arg=None):
  borrow = dict.fromkeys(TRAINED, 'ae')
  return [
    Row(
      name='one', config=CONFIG, columns=dict(group='methods', method='one'),
      borrow=borrow, overrides=dict(samplings=SAMPLINGS),
      sampling_columns=dict(heun=dict(group='solvers')),
    ),
    Row(name='ae', config=CONFIG, mode='train', overrides=dict(train_only=TRAINED)),
    Row(
      name='two', config=CONFIG, columns=dict(group='methods', method='two'),
      borrow=borrow, seed=1, overrides={{'score.num_steps': 3}},
    ),
  ]
"""


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A folder with the files above, in which compiled programs are kept."""
  folder = tmp_path_factory.mktemp('studies')
  (folder / 'tiny.py').write_text(CONFIG)
  (folder / 'own.py').write_text(STUDY.format(config=str(folder / 'tiny.py')))
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
    # The tiny config imports that of digits.
    patch.chdir(ROOT)
    yield folder


def snapshot(folder):
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b'')
    for path in sorted(folder.rglob('*'))
  }


@pytest.fixture(scope='module')
def finished_study(tiny):
  """Folder of a finished study, its command, and its autoencoders before all else."""
  work = tiny / 'work'
  command = [f'--study={tiny / "own.py"}', f'--workdir={work}']
  program = [sys.executable, '-m', 'mmsbm.studies', *command]
  process = subprocess.run([*program, '--only=^ae$'], capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  autoencoders = snapshot(work / 'ae')
  process = subprocess.run(program, capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  assert '3 rows, 1 of them finished' in process.stderr
  return work, command, autoencoders


def test_study_rows_borrow_steps_and_leave_them_as_they_are(finished_study):
  work, _, autoencoders = finished_study
  assert snapshot(work / 'ae') == autoencoders
  steps = json.loads((work / 'ae' / 'run.json').read_text())['steps']
  for name, seed in (('one', 0), ('two', 1)):
    record = json.loads((work / name / 'run.json').read_text())
    assert not {'train classifier', 'train unimodal'} & set(record['timings'])
    assert record['seed'] == seed
    for step in ('classifier', 'unimodal'):
      assert record['steps'][step] == steps[step]
    assert {path.name for path in (work / name / 'checkpoints').iterdir()} == {'score'}
    assert (work / name / 'latents.npz').exists()


def test_study_results_are_averages_of_its_runs(finished_study):
  work, _, _ = finished_study
  lines = results.read_lines(work / 'results.csv')
  assert {line['row'] for line in lines} == {'one', 'two'}
  of_one = [line for line in lines if line['row'] == 'one']
  assert {line.get('sampling') for line in of_one} == {'default', 'heun', None}
  keys = ('metric', 'num_given', 'features', 'sampling')
  measured = {tuple(line.get(key) for key in keys) for line in of_one}
  assert len(measured) == len(of_one)
  assert measured >= {
    ('coherence', 1, None, 'default'), ('joint_coherence', 0, None, 'default'),
    ('frechet', 0, 'digit', 'default'), ('frechet', 1, 'digit', 'heun'),
    ('joint_coherence', 0, None, 'heun'), ('classifier_accuracy', None, None, None),
    ('reconstruction', None, None, None), ('seconds_per_sample', None, None, None),
  }  # fmt: skip
  # Costs are those of networks of this run and of those it borrows, but not of readers.
  records = [json.loads((work / n / 'run.json').read_text()) for n in ('ae', 'one')]
  costs = {a['metric']: a['value'] for a in of_one if 'num_given' not in a}
  parameters, timings = (
    {key: value for record in records for key, value in record[field].items()}
    for field in ('parameters', 'timings')
  )
  assert costs['autoencoder_parameters'] == (
    parameters['unimodal/m0'] + parameters['unimodal/m1']
  )
  assert costs['latent_model_parameters'] == parameters['score']
  assert costs['autoencoder_seconds'] == timings['train unimodal'] > 0
  assert costs['latent_model_seconds'] == timings['train score'] > 0
  (joint,) = (
    row for row in read_results(work / 'one' / 'results.jsonl')
    if row['metric'] == 'joint_coherence' and row['at_least'] == 2 and row['nfe'] == 3
  )  # fmt: skip
  (kept,) = (
    line for line in of_one
    if line['metric'] == 'joint_coherence' and line['sampling'] == 'heun'
  )  # fmt: skip
  for field in ('value', 'stderr', 'n', 'nfe', 'sampler', 'conditioning'):
    assert kept[field] == joint[field]
  assert kept['columns'] == {'method': 'one', 'group': 'solvers'}
  assert str(work) not in json.dumps(lines).replace('own.py', '')


def test_study_does_not_run_again_what_is_finished(finished_study, tmp_path, capsys):
  work, command, _ = finished_study
  before = snapshot(work)
  picture = tmp_path / 'samples.png'
  start = time.monotonic()
  assert main.main(['studies', *command, f'--samples={picture}']) == 0
  assert time.monotonic() - start < 10
  # The same test examples in both rows, and what each made of them.
  assert picture.read_bytes().startswith(b'\x89PNG')
  assert 'Samples given one modality' in (work / 'report' / 'index.html').read_text()
  assert '3 rows, 3 of them finished' in capsys.readouterr().err
  changed = {
    path.relative_to(work).parts[0]
    for path, state in snapshot(work).items()
    if path.is_file() and before.get(path) != state
  }
  assert changed <= {'results.csv', 'results.rows.csv', 'report', 'logs'}


def test_study_with_other_settings_is_not_finished(finished_study, tiny):
  work, _, _ = finished_study
  rows = tuple(load_study(str(tiny / 'own.py')))
  settings = ('config.score.num_steps=4',)
  assert all(Study('x', work, (), rows).finished(row) for row in rows)
  assert not any(Study('x', work, settings, rows).finished(row) for row in rows)


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
def test_borrowed_steps_give_the_run_that_own_ones_give(
  finished_study, program, tiny, tmp_path
):
  work, _, _ = finished_study
  alone = tmp_path / 'alone'
  assert (
    program(f'--config={tiny / "tiny.py"}', f'--workdir={alone}', '--mode=train') == 0
  )
  parameters = score_parameters(alone)
  assert len(parameters) > 10 and parameters == score_parameters(work / 'one')
  latents = [dict(np.load(path / 'latents.npz')) for path in (alone, work / 'one')]
  assert all(np.array_equal(*(a[key] for a in latents)) for key in latents[0])
