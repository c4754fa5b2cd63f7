"""Imports point one way, and heavy packages stay where they belong."""

import ast
import functools
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

import mmsbm

PACKAGE = pathlib.Path(mmsbm.__file__).parent

# A module may import modules of lower layers, and of its own folder.
LAYERS = {
  'infra': 0,
  'latents': 0,
  'distributions': 0,
  'fusion': 1,
  'objectives': 2,
  'build': 1,
  'nn': 1,
  'diffusion': 1,
  'data': 2,
  'modalities': 2,
  'samplers': 2,
  'guidance': 2,
  'report': 2,
  'convert_inception': 2,
  'learners': 3,
  'models': 4,
  'evaluators': 5,
  'generate': 5,
  'train': 5,
  'experiment': 6,
  'evaluate_likelihood': 6,
  'evaluate': 7,
  'sample': 7,
  'run': 7,
  'main': 8,
  'scaling': 8,
  'benchmark': 9,
  'study': 9,
}
# Closer than the layers: what a part may use, itself aside.
ALLOWED = {
  'infra': set(),
  'latents': set(),
  'distributions': set(),
  'build': {'infra'},
  'nn': {'infra', 'latents'},
  'diffusion': {'infra'},
  'fusion': {'distributions'},
  'objectives': {'infra', 'distributions', 'fusion'},
  'data': {'infra'},
  'samplers': {'infra', 'diffusion'},
  'guidance': {'infra', 'diffusion'},
  'report': {'infra'},
  'evaluators': {'infra', 'nn', 'latents', 'distributions', 'diffusion', 'samplers'},
}
ONLY_IN = {
  'orbax': {'infra/checkpoints.py'},
  'tensorboardX': {'infra/metric_writer.py'},
  'ml_collections': {'main.py'},
  'absl': {'main.py', 'benchmark.py'},
  'clu': {'experiment.py'},
  'tensorflow_datasets': {'data/tfds_polymnist.py'},
  'sklearn': {
    'data/digits.py',
    'data/backgrounds.py',
    'models/gaussian_mixture.py',
    'evaluators/linear_probe.py',
  },
  'skimage': {'data/digits.py', 'data/backgrounds.py'},
  # Of images only its font.
  'matplotlib': {'report/figures.py', 'infra/images.py'},
  # At run time nothing needs these at all.
  'tensorflow': set(),
  'torch': set(),
  'torchvision': set(),
}


def sources():
  return sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))


@functools.cache
def imports(source):
  """Every imported module, also in functions; names of ours with their parts."""
  return tuple(_imports(source))


def _imports(source):
  for node in ast.walk(ast.parse((PACKAGE / source).read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{source}: relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def part(source):
  """Folder or file below the package that a source belongs to."""
  return source.split('/')[0].removesuffix('.py')


@pytest.mark.parametrize('source', [s for s in sources() if s != '__init__.py'])
def test_imports_point_down(source):
  own = part(source)
  assert own in LAYERS, f'{own} has no layer yet'
  for name in imports(source):
    if not name.startswith('mmsbm'):
      continue
    other = name.split('.')[1]
    if other == own:
      continue
    assert LAYERS[other] < LAYERS[own], f'{source} imports {name}'
    if own in ALLOWED:
      assert other in ALLOWED[own], f'{source} imports {name}'


def test_importing_the_package_imports_nothing_of_it_eagerly():
  assert all(name == 'mmsbm.run' for name in imports('__init__.py'))


def test_a_back_edge_would_be_seen():
  assert 'mmsbm.report.write_report' in set(imports('main.py'))
  assert 'mmsbm.learners.base.masked_mean' in set(imports('learners/autoencoder.py'))


@pytest.mark.parametrize('package', ONLY_IN)
def test_a_package_is_imported_in_one_place_only(package):
  users = {s for s in sources() if package in {n.split('.')[0] for n in imports(s)}}
  assert users <= ONLY_IN[package]


def test_configs_import_nothing_but_configs():
  for path in sorted((PACKAGE.parent / 'configs').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        names = [node.module]
      elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      else:
        continue
      for name in names:
        assert name.split('.')[0] not in ('mmsbm', 'jax', 'flax'), path.name


def test_import_mmsbm_is_instant():
  code = (
    'import sys, mmsbm; heavy = {"jax", "numpy", "flax", "orbax", "matplotlib", '
    '"tensorflow", "torch"} & set(sys.modules); sys.exit(" ".join(heavy) or 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=PACKAGE.parent,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_a_whole_program_runs_without_the_optional_packages():
  """tensorflow, torch and tensorflow_datasets are not even tried."""
  code = (
    'import sys\n'
    'for name in ("tensorflow", "torch", "tensorflow_datasets"):\n'
    '  sys.modules[name] = None\n'
    'import mmsbm.main, mmsbm.train, mmsbm.evaluate, mmsbm.sample, mmsbm.report\n'
    'import mmsbm.run\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=PACKAGE.parent,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_what_is_imported_is_asked_for():
  """An import that only some other package happens to bring breaks when it stops."""
  root = PACKAGE.parent
  asked = set()
  for path in root.glob('requirements*.txt'):
    for line in path.read_text().splitlines():
      name = re.match(r'[A-Za-z0-9_.-]*', line).group()
      asked.add(name.lower().replace('_', '-'))
  providers = importlib.metadata.packages_distributions()
  own = {'mmsbm', 'configs', *sys.stdlib_module_names}
  missing = set()
  for folder in ('mmsbm', 'configs', 'tests'):
    for path in (root / folder).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
          names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
          names = [node.module]
        else:
          continue
        for name in {name.split('.')[0] for name in names} - own:
          found = providers.get(name, [name])
          if not asked & {each.lower().replace('_', '-') for each in found}:
            missing.add(f'{path.relative_to(root)}: {name}')
  assert not missing
