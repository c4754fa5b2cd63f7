"""One finished smoke run for all tests that look at a run."""

import fcntl
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import pytest

COMPILED = 'JAX_COMPILATION_CACHE_DIR'
# Most of the time goes to compilation of small programs, which these halve.
FAST_COMPILATION = (
  '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)


def accepted(flags):
  """Whether XLA knows its flags: it ends a process that gives it others."""
  command = [sys.executable, '-c', 'import jax; jax.devices()']
  env = os.environ | {'XLA_FLAGS': flags}
  return not subprocess.run(command, env=env, capture_output=True).returncode


def pytest_configure(config):
  """What several of the tests' processes compile is compiled once."""
  if COMPILED not in os.environ:
    folder = tempfile.mkdtemp(prefix='mmsbm_compiled_')
    # Workers of pytest-xdist and programs that tests start inherit it.
    os.environ[COMPILED] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  if 'XLA_FLAGS' not in os.environ and accepted(FAST_COMPILATION):
    os.environ['XLA_FLAGS'] = FAST_COMPILATION


@pytest.fixture
def settle():
  """Lets what a failed restore left behind complain before the next test."""
  yield
  for _ in range(2):
    gc.collect()
    time.sleep(0.2)


@pytest.fixture
def check_changed(tmp_path, cache):
  """Checks a config, as a dict, with other values: {dotted key: value}."""
  del cache

  def check(config, changes):
    from mmsbm.experiment import make_experiment

    for key, value in changes.items():
      *path, last = key.split('.')
      node = config
      for part in path:
        node = node[part]
      node[last] = value
    return make_experiment(config, tmp_path).check()

  return check


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
  """A folder of prepared data sets of the tests' own."""
  folder = tmp_path_factory.mktemp('cache')
  old = os.environ.get('MMSBM_CACHE')
  os.environ['MMSBM_CACHE'] = str(folder)
  yield folder
  if old is None:
    del os.environ['MMSBM_CACHE']
  else:
    os.environ['MMSBM_CACHE'] = old


@pytest.fixture(scope='session')
def program(cache):
  """Runs `python -m mmsbm.main` in this process: arguments to exit code."""
  from absl import flags

  from mmsbm import main

  def run(*arguments):
    argv = ['main.py', *arguments]
    for name in ('config', 'workdir', 'mode'):
      flags.FLAGS[name].unparse()
    # Overrides of an earlier config, each of which is a flag.
    for name in [n for n in flags.FLAGS if n.startswith('config.')]:
      delattr(flags.FLAGS, name)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
      # ml_collections reads config files by a function that Python will drop, and
      # overrides from sys.argv.
      warnings.filterwarnings('ignore', 'the load_module', DeprecationWarning)
      patch.setattr(sys, 'argv', argv)
      return main.main(argv)

  return run


@pytest.fixture(scope='session')
def smoke_run(program, tmp_path_factory):
  """Workdir of a finished run of configs/digits.py:smoke; tests do not change it."""
  place = tmp_path_factory.mktemp('runs')
  common = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    common = common.parent
  made = common / 'smoke_run'
  # Whichever process comes first makes it; each has a copy of its own.
  with open(common / 'smoke_run.lock', 'w') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    if not made.exists():
      code = program(
        '--config=configs/digits.py:smoke,modalities=3', f'--workdir={place / "made"}'
      )
      assert code == 0
      (place / 'made').rename(made)
  return shutil.copytree(made, place / 'smoke')
