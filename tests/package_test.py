"""The package as `pip install .` makes it, used from another folder."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# What the build reads.
SOURCES = ('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE', 'mmsbm')


def project():
  return tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  place = tmp_path_factory.mktemp('wheel')
  for name in SOURCES:
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    copy(ROOT / name, place / name)
  command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--wheel-dir=out', '.']
  try:
    # The requirement of pyproject.toml; without it pip asks its index for one.
    if int(importlib.metadata.version('setuptools').split('.')[0]) >= 77:
      command.append('--no-build-isolation')
  except importlib.metadata.PackageNotFoundError:
    pass
  done = subprocess.run(command, cwd=place, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  (path,) = (place / 'out').iterdir()
  return path


@pytest.fixture(scope='module')
def command(wheel, tmp_path_factory):
  """Runs python with the package installed, in a folder that is not the clone.

  The environment is a fresh one, which borrows the packages that mmsbm needs from that
  of the tests.
  """
  place = tmp_path_factory.mktemp('elsewhere')
  venv.create(place / 'venv', symlinks=True)
  python = place / 'venv' / 'bin' / 'python'
  pip = [sys.executable, '-m', 'pip', f'--python={python}']
  install = [*pip, 'install', '--quiet', '--no-deps', '--no-index', str(wheel)]
  subprocess.run(install, check=True)
  (site,) = (place / 'venv' / 'lib').glob('python*/site-packages')
  borrowed = dict.fromkeys(sysconfig.get_path(n) for n in ('purelib', 'platlib'))
  (site / 'borrowed.pth').write_text('\n'.join(borrowed))
  shutil.copy(ROOT / 'configs' / 'arrays.py', place / 'mine.py')
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}

  def run(*arguments):
    return subprocess.run(
      [python, *arguments], cwd=place, env=environment, capture_output=True, text=True
    )

  run.place = place
  return run


def test_wheel_holds_the_package_and_nothing_else(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  expected = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'mmsbm').rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  assert 'mmsbm/report/templates/run.html.j2' in expected
  info = f'mmsbm-{project()["version"]}.dist-info/'
  assert {name for name in names if not name.startswith(info)} == expected
  assert f'{info}licenses/LICENSE' in names


def test_wheel_asks_for_the_requirements(wheel):
  text = zipfile.ZipFile(wheel).read(f'mmsbm-{project()["version"]}.dist-info/METADATA')
  asked = re.findall(r'^Requires-Dist: ([\w.-]+)', text.decode(), re.M)
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  assert asked == [re.match(r'[\w.-]+', x).group() for x in lines if x[:1].isalnum()]
  assert 'License-Expression: Apache-2.0' in text.decode()


def test_version_is_the_same_everywhere():
  version = project()['version']
  citation = (ROOT / 'CITATION.cff').read_text()
  assert f'\nversion: {version}\n' in citation
  changes = re.findall(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)
  assert changes[0] == version


def test_package_is_imported_from_another_folder(command):
  code = 'import mmsbm; print(mmsbm.__file__, mmsbm.load.__name__)'
  done = command('-c', code)
  assert done.returncode == 0, done.stderr
  path, name = done.stdout.split()
  assert command.place in pathlib.Path(path).parents
  assert name == 'load'


def test_main_reads_a_copy_of_a_config_in_another_folder(command):
  """To the end of its flags: the section is known, its field is not."""
  done = command(
    '-m', 'mmsbm.main', '--config=mine.py:smoke', '--workdir=run', '--config.loop.x=1'
  )
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.splitlines()
  assert re.match('error: .*[\'"]x[\'"]', line)


@pytest.mark.parametrize('module', ['main', 'studies', 'tools.convert_run'])
def test_commands_start_in_another_folder(command, module):
  done = command('-m', f'mmsbm.{module}', '--help')
  # absl ends with 1 after --help.
  assert done.returncode in (0, 1), done.stderr
  assert 'Traceback' not in done.stderr
  assert '--' in done.stdout


@pytest.mark.slow
def test_a_whole_run_in_another_folder(command):
  done = command('-m', 'mmsbm.main', '--config=mine.py:smoke', '--workdir=run')
  assert done.returncode == 0, done.stderr
  assert (command.place / 'run' / 'report' / 'index.html').exists()
  code = 'import mmsbm; print(*mmsbm.load("run").sample(num=2))'
  done = command('-c', code)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ['image', 'attributes', 'profile', 'number']
