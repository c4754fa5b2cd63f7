"""The command: a smoke run, and one clear line for every mistake."""

import contextlib
import errno
import fcntl
import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmsbm import main
from mmsbm import record as record_lib
from mmsbm.infra import files

ROOT = pathlib.Path(main.__file__).parents[1]
DIGITS = '--config=configs/digits.py:smoke,modalities=2'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  """Configs are named as in the README."""
  monkeypatch.chdir(ROOT)


@pytest.fixture
def refused(program, capsys):
  """Runs the program and returns its one line of error."""

  def run(*arguments):
    capsys.readouterr()
    assert program(*arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert 'Traceback' not in captured.err
    # Progress may come before; the last line is the error, and the only one.
    assert [line.startswith('error: ') for line in lines].count(True) == 1, lines
    assert lines[-1].startswith('error: ')
    return lines[-1]

  return run


# --- a whole run --------------------------------------------------------------


def rows_of(path):
  return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_a_run_leaves_what_the_readme_promises(smoke_run):
  record = json.loads((smoke_run / 'run.json').read_text())
  stages = ('classifier', 'unimodal', 'score', 'energy')
  trained = {f'train {stage}' for stage in stages}
  assert set(record['steps']) == {*stages, 'latents'}
  assert set(record['timings']) == trained | {'data', 'evaluate', 'sample', 'report'}
  assert all(seconds >= 0 for seconds in record['timings'].values())
  learners = {f'unimodal/m{i}' for i in range(3)}
  learners |= {'classifier/digit', 'classifier/second', 'score', 'energy'}
  assert set(record['parameters']) == learners
  assert record['seed'] == record['config']['seed']
  assert record['versions']['jax'] and record['devices'] and record['data_source']
  assert {r['learner'] for r in rows_of(smoke_run / 'metrics.jsonl')} == learners
  assert {r['metric'] for r in rows_of(smoke_run / 'results.jsonl')} >= {
    'classifier_accuracy', 'reconstruction', 'coherence', 'joint_coherence', 'frechet',
  }  # fmt: skip
  names = {p.name for p in (smoke_run / 'samples').iterdir()}
  assert {'unconditional.npz', 'unconditional.json', 'unconditional.png'} <= names
  assert {'reconstruction.npz', 'given_any.json'} <= names
  assert {p.stem for p in (smoke_run / 'steps').iterdir()} == set(stages)
  page = (smoke_run / 'report' / 'index.html').read_text()
  assert '</html>' in page
  litter = [p for p in smoke_run.rglob('.*') if p.name != '.lock']
  assert not litter


def test_latents_are_standardised_posterior_means(smoke_run):
  with np.load(smoke_run / 'latents.npz') as stored:
    z = (stored['z'] - stored['mean']) / stored['std']
  np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-4)
  np.testing.assert_allclose(z.std(0), 1.0, rtol=1e-3)


def test_the_same_command_again_repeats_nothing(program, smoke_run, tmp_path, capfd):
  workdir = tmp_path / 'again'
  shutil.copytree(smoke_run, workdir)
  times = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
  results = (workdir / 'results.jsonl').read_bytes()
  arguments = '--config=configs/digits.py:smoke,modalities=3', f'--workdir={workdir}'
  assert program(*arguments) == 0
  assert 'train' not in capfd.readouterr().err
  changed = {
    str(p.relative_to(workdir)) for p, t in times.items() if p.stat().st_mtime_ns != t
  }
  assert changed <= {
    'run.json', 'results.jsonl', 'evaluation/metrics.json', 'digests.json',
    'report/index.html', '.lock',
  }  # fmt: skip
  assert (workdir / 'results.jsonl').read_bytes() == results


# --- mistakes in the command --------------------------------------------------


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--workdir=w'], '--config is missing'),
    ([DIGITS], '--workdir is missing'),
    ([DIGITS, '--workdir=w', '--config.score.nope=1'], "has no field 'nope'"),
    ([DIGITS, '--workdir=w', '--config.score.num_steps=many'], 'num_steps'),
    ([DIGITS, '--workdir=w', '--config.score.num_steps=1.5'], 'num_steps'),
    ([DIGITS, '--workdir=w', '--mode=trian'], "Did you mean 'train'"),
    ([DIGITS, '--workdir=w', 'train'], "unexpected argument 'train'"),
    ([DIGITS, '--workdir=w', '--wrokdir=w'], 'wrokdir'),
    (['--config=configs/digits.py:smok', '--workdir=w'], "Did you mean 'smoke'"),
    (['--config=configs/digits.py:modalities=two', '--workdir=w'], 'two'),
    (['--config=configs/digits.py:method=vae', '--workdir=w'], 'method=vae'),
    (['--config=configs/nothing.py', '--workdir=w'], 'configs/nothing.py'),
  ],
)
def test_a_mistake_on_the_command_line(
  refused, tmp_path, monkeypatch, arguments, message
):
  assert message in refused(*arguments)
  assert not os.path.exists('w')


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('readers.digit.batch_size=0', 'config.readers.digit: batch_size is 0'),
    ('readers.digit.num_steps=-1', 'config.readers.digit: num_steps is -1'),
    ('loop.block_steps=0', 'config.loop.block_steps is 0'),
    ('data.name=digts', "Did you mean 'digits'"),
    ('data.image_size=8', 'image_size'),
    ('modalities.m0.shape=(8,8,3)', 'must have one shape'),
    ('modalities.m0.kind=pictures', "unknown component 'pictures'"),
    ('unimodal.networks.m0.likelihood.name=gauss', "unknown component 'gauss'"),
    ('unimodal.networks.m0.encoder.name=pach', "Did you mean 'patch'"),
    ('readers.digit.network.name=resnt', 'unknown component'),
    ('readers.digit.annotation=colour', "no annotation 'colour'"),
    ('method=mopoe', 'needs a section config.joint'),
    ('train_only=unimodal/m7', "no step or learner 'unimodal/m7'"),
    ('borrow.unimodal=nowhere', 'nowhere/run.json does not exist'),
    ('seed=nan', 'seed'),
  ],
)
def test_a_mistake_in_the_config(refused, tmp_path, override, message):
  arguments = DIGITS, f'--workdir={tmp_path / "w"}', '--mode=train'
  assert message in refused(*arguments, f'--config.{override}')


def altered(smoke_run, tmp_path):
  """A finished run that a test may spoil, and the command that made it."""
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  return workdir, (
    '--config=configs/digits.py:smoke,modalities=3', f'--workdir={workdir}',
  )  # fmt: skip


@pytest.mark.parametrize(
  ('mode', 'override', 'message'),
  [
    ('evaluate', 'samplings.default.sampler.name=dpm_solvr', "mean 'dpm_solver'"),
    ('evaluate', 'samplings.default.conditioning.name=cleen', "Did you mean 'clean'"),
    ('evaluate', 'evaluate.split=tset', "config.evaluate.split='tset' is not one of"),
    (
      'evaluate',
      'samplings.default.sampler.num_steps=0',
      'num_steps is 0; it must be at least 1',
    ),
    (
      'evaluate',
      'samplings.default.sampler.time_min=2.0',
      'time_min is 2.0; it must be below 1',
    ),
    (
      'evaluate',
      "samplings={'default':3}",
      'config.samplings.default is 3, not a dict',
    ),
    ('evaluate', 'samplings={}', "config.samplings has no 'default'"),
    (
      'evaluate',
      "samplings.default.guidance={'a':{'scale':1.0}}",
      'needs a `name`',
    ),
    ('evaluate', 'evaluate.evaluators.conditional.num_given=(3,)', 'of 3 modalities'),
    ('evaluate', 'evaluate.num_examples=0', 'config.evaluate.num_examples is 0'),
    ('evaluate', 'evaluate.chunk_size=0', 'config.evaluate.chunk_size is 0'),
    ('sample', 'evaluate.evaluators.samples.split=tset', 'tset'),
    ('sample', 'evaluate.evaluators.samples.num_samples=0', 'num_samples'),
    ('evaluate', "evaluate.metrics={'f2':{}}", "unknown component 'f2'"),
  ],
)
def test_a_mistake_in_what_is_measured(
  refused, smoke_run, tmp_path, mode, override, message
):
  _, command = altered(smoke_run, tmp_path)
  assert message in refused(*command, f'--mode={mode}', f'--config.{override}')


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('score.paired_fraction=0.0', 'config.score.paired_fraction=0.0'),
    ('score.condition_probability=1.0', 'is 1.0; it must be below 1'),
    ('score.weighting=edn', "Did you mean 'edm'?"),
  ],
)
def test_a_mistake_about_the_score_model(refused, tmp_path, override, message):
  assert message in refused(DIGITS, f'--workdir={tmp_path}', f'--config.{override}')
  assert not (tmp_path / 'checkpoints').exists()


@pytest.mark.parametrize('mode', ['evaluate', 'sample'])
def test_evaluating_what_was_never_trained(refused, tmp_path, mode):
  line = refused(DIGITS, f'--workdir={tmp_path / "w"}', f'--mode={mode}')
  assert 'no checkpoint' in line and '--mode=train' in line


def test_a_report_of_what_is_no_run(refused, tmp_path):
  line = refused(DIGITS, f'--workdir={tmp_path / "w"}', '--mode=report')
  assert 'is not a run' in line
  assert not (tmp_path / 'w').exists()


def test_a_workdir_of_another_config(refused, smoke_run, tmp_path):
  _, command = altered(smoke_run, tmp_path)
  line = refused(*command, '--config.unimodal.batch_size=31', '--config.seed=5')
  assert 'was trained with another config' in line
  line = refused(*command, '--config.unimodal.batch_size=31')
  assert 'unimodal/m0.batch_size: 32 -> 31' in line
  line = refused(*command, '--config.seed=5')
  assert 'seed: 0 -> 5' in line
  assert 'choose another --workdir' in line


@pytest.mark.parametrize(
  'content', [b'', b'{"config": {"se', b'{}', b'[]', b'{"config": 3}', b'\xff\xfe']
)
def test_a_record_that_is_damaged(refused, tmp_path, content):
  (tmp_path / 'run.json').write_bytes(content)
  assert str(tmp_path / 'run.json') in refused(DIGITS, f'--workdir={tmp_path}')


def test_a_workdir_that_cannot_be_written(refused, tmp_path):
  (tmp_path / 'file').write_text('')
  for workdir in (tmp_path / 'file', tmp_path / 'file' / 'w', '/proc/mmsbm', '/sys/x'):
    line = refused(DIGITS, f'--workdir={workdir}')
    assert f'--workdir={workdir} cannot be written' in line
    assert 'choose another folder' in line


def test_a_cache_that_cannot_be_written(refused, tmp_path):
  (tmp_path / 'file').write_text('')
  line = refused(
    DIGITS,
    f'--workdir={tmp_path / "w"}',
    f'--config.data.cache_dir={tmp_path / "file"}',
  )
  assert str(tmp_path / 'file') in line and 'can be written' in line


def test_another_process_in_the_workdir(refused, tmp_path):
  with open(tmp_path / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    line = refused(DIGITS, f'--workdir={tmp_path}')
  assert 'another process is working in' in line


def test_a_loss_that_diverges(refused, tmp_path):
  line = refused(
    DIGITS,
    f'--workdir={tmp_path / "w"}',
    '--mode=train',
    '--config.train_only=unimodal',
    '--config.unimodal.optimizer.learning_rate=1e30',
    '--config.unimodal.optimizer.warmup_steps=0',
  )
  assert 'is not finite' in line and 'lower its learning rate' in line


def test_a_full_disk(refused, tmp_path, monkeypatch):
  real = files.write_atomic

  def full(path, data):
    if str(path).endswith('run.json'):
      raise OSError(errno.ENOSPC, 'No space left on device', str(path))
    real(path, data)

  monkeypatch.setattr(record_lib, 'write_atomic', full)
  line = refused(DIGITS, f'--workdir={tmp_path / "w"}')
  assert 'No space left on device' in line and 'run the same command again' in line


@contextlib.contextmanager
def small_disk(folder, kilobytes):
  folder.mkdir()
  options = f'size={kilobytes}k'
  done = subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder], capture_output=True
  )
  if done.returncode:
    pytest.skip('needs the right to mount a file system')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '-l', folder], check=True)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(refused, tmp_path, settle):
  with small_disk(tmp_path / 'disk', 300) as disk:
    line = refused(DIGITS, f'--workdir={disk / "w"}', '--mode=train')
  assert 'disk' in line or 'space' in line


# --- mistakes in the data -----------------------------------------------------


def config_file(tmp_path, data, modalities, readers=None):
  """A config like configs/digits.py:smoke with other data.

  Args:
    tmp_path: its folder.
    data: section of the data.
    modalities: {name: (section of the modality, section of its networks)}.
    readers: section of the readers.
  """
  kinds = {name: kind for name, (kind, _) in modalities.items()}
  networks = {name: codec for name, (_, codec) in modalities.items()}
  path = tmp_path / 'own.py'
  path.write_text(
    'import ml_collections\n'
    'from configs import digits\n'
    'def get_config(arg=None):\n'
    "  c = digits.get_config('smoke,modalities=2').to_dict()\n"
    f'  c["data"] = {data!r}\n'
    f'  c["modalities"] = {kinds!r}\n'
    f'  c["unimodal"]["networks"] = {networks!r}\n'
    f'  c["readers"] = {readers or {}!r}\n'
    # Energies need two modalities.
    "  c['energy'] = {}\n"
    "  c['samplings'] = {'default': c['samplings']['default'] | {'guidance': {}}}\n"
    '  return ml_collections.ConfigDict(c)\n'
  )
  return f'--config={path}'


def vector(dim, kind=None, **changes):
  network = dict(name='mlp', widths=(8,))
  codec = dict(
    latent_dim=2, encoder=network, decoder=network,
    likelihood=dict(name='normal', scale=1.0),
  )  # fmt: skip
  return kind or dict(kind='vector', shape=(dim,)), codec | changes


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x['a'].__setitem__((3, 1), np.nan), "Modality 'a' has NaN"),
    (lambda x: x.update(a=x['a'][:-1]), 'rows'),
    (lambda x: x.update(a=x['a'][:, :2]), 'have shape (2,)'),
    (lambda x: x.update(a=x['a'].astype('U3')), 'not numbers'),
  ],
)
def test_arrays_that_are_wrong(refused, tmp_path, change, message):
  rng = np.random.default_rng(0)
  arrays = {'a': rng.normal(size=(40, 3)), 'b': rng.normal(size=(40, 2))}
  change(arrays)
  for name, array in arrays.items():
    np.save(tmp_path / f'{name}.npy', array)
  data = dict(
    name='arrays',
    cache_dir=str(tmp_path / 'cache'),
    files={name: str(tmp_path / f'{name}.npy') for name in arrays},
  )
  config = config_file(tmp_path, data, {'a': vector(3), 'b': vector(2)})
  line = refused(config, f'--workdir={tmp_path / "w"}')
  assert message in line


def test_pictures_that_are_not_bytes(refused, tmp_path):
  np.save(tmp_path / 'a.npy', np.random.default_rng(0).random((40, 4, 4, 3)))
  data = dict(
    name='arrays',
    cache_dir=str(tmp_path / 'cache'),
    files={'a': str(tmp_path / 'a.npy')},
  )
  config = config_file(
    tmp_path, data, {'a': vector(1, dict(kind='image', shape=(4, 4, 3)))}
  )
  line = refused(config, f'--workdir={tmp_path / "w"}')
  assert "modality 'a'" in line and 'uint8, not float32' in line


def test_a_classifier_without_labels(refused, tmp_path):
  np.save(tmp_path / 'a.npy', np.random.default_rng(0).normal(size=(40, 3)))
  data = dict(
    name='arrays',
    cache_dir=str(tmp_path / 'cache'),
    files={'a': str(tmp_path / 'a.npy')},
  )
  reader = dict(
    name='classifier', modalities=('a',), network=dict(name='patch', patch=1),
    num_steps=2, batch_size=4, ema_decay=0.9, optimizer=dict(learning_rate=1e-3),
  )  # fmt: skip
  config = config_file(tmp_path, data, {'a': vector(3)}, {'digit': reader})
  line = refused(config, f'--workdir={tmp_path / "w"}')
  assert "no annotation 'class'" in line and 'config.readers.digit' in line


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(latent=3), "config.unimodal.networks.a has no field 'latent'"),
    (dict(encoder=dict(widths=(8,))), 'needs a `name`'),
  ],
)
def test_a_modality_that_is_wrong(refused, tmp_path, changes, message):
  np.save(tmp_path / 'a.npy', np.random.default_rng(0).normal(size=(40, 3)))
  data = dict(
    name='arrays',
    cache_dir=str(tmp_path / 'cache'),
    files={'a': str(tmp_path / 'a.npy')},
  )
  config = config_file(tmp_path, data, {'a': vector(3, **changes)})
  assert message in refused(config, f'--workdir={tmp_path / "w"}')


def test_mnist_that_is_missing_torn_or_something_else(refused, tmp_path):
  folder, work = tmp_path / 'mnist', f'--workdir={tmp_path / "w"}'
  config = '--config=configs/polymnist.py'
  command = (config, work, f'--config.data.mnist_dir={folder}')
  assert str(folder) in refused(*command)
  folder.mkdir()
  names = [
    f'{part}-{kind}-ubyte.gz'
    for part in ('train', 't10k')
    for kind in ('images-idx3', 'labels-idx1')
  ]
  assert names[0] in refused(*command)
  packed = gzip.compress(bytes(range(256)) * 100)
  for name in names:
    (folder / name).write_bytes(packed[: len(packed) // 2])
  assert 'is not the published file' in refused(*command)
  torn = refused(*command, '--config.data.verify_checksums=False')
  assert names[0] in torn
  for name in names:
    (folder / name).write_bytes(packed)
  other = refused(*command, '--config.data.verify_checksums=False')
  assert names[0] in other and 'is not the MNIST file' in other


def test_png_folders_whose_labels_disagree(refused, tmp_path):
  folder = tmp_path / 'png'
  picture = Image.fromarray(np.zeros((28, 28, 3), np.uint8))
  for split in ('train', 'val', 'test'):
    for m in range(5):
      (folder / split / f'm{m}').mkdir(parents=True)
      for i in range(30):
        label = i % 10 if (split, m, i) != ('train', 2, 7) else 3
        picture.save(folder / split / f'm{m}' / f'{i}.{label}.png')
  line = refused(
    '--config=configs/polymnist.py:modalities=5',
    f'--workdir={tmp_path / "w"}',
    '--config.data.source=png',
    f'--config.data.png_dir={folder}',
  )
  assert 'm2' in line and '7' in line


# --- the real command ---------------------------------------------------------


def command_line(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'mmsbm.main', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_the_real_command_prints_one_line_and_exits_with_2(tmp_path):
  done = command_line(
    '--config=configs/digits.py:smoke', f'--workdir={tmp_path}', '--config.nope=1'
  )
  assert done.returncode == 2
  assert done.stdout == ''
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_no_stack_trace(number, tmp_path):
  """Ctrl-C, or a scheduler, while it works."""
  # Where the tests run in the background, children are born deaf to Ctrl-C.
  program = (
    'import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
    'runpy.run_module("mmsbm.main", run_name="__main__", alter_sys=True)'
  )
  command = [sys.executable, '-c', program, DIGITS, f'--workdir={tmp_path / "w"}']
  with subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  ) as process:
    for line in process.stderr:
      if 'compiling' in line:
        break
    process.send_signal(number)
    rest = process.stderr.read()
  assert process.returncode == 130
  assert 'the same command resumes' in rest and 'Traceback' not in rest
  assert os.listdir(tmp_path / 'w' / 'checkpoints')
