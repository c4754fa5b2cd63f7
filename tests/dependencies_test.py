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
ROOT = PACKAGE.parent

# From the bottom up. A part may import parts of lower layers, and itself.
LAYERS = (
  ('infra',),
  ('record',),
  ('config', 'configs', 'distributions', 'latents', 'report'),
  ('diffusion', 'fusion', 'nn'),
  ('guidance', 'objectives', 'samplers'),
  ('modalities',),
  ('data',),
  ('learners',),
  ('models',),
  ('methods', 'metrics'),
  ('identity', 'inference', 'train'),
  ('evaluators', 'ledger'),
  ('automatic', 'workspace'),
  ('experiment',),
  ('command_line', 'trained'),
  ('api', 'main', 'studies'),
  ('tools',),
)
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
# Closer than the layers: what a part may use, itself aside.
ALLOWED = {
  'config': {'infra'},
  'configs': {'infra'},
  'distributions': {'infra'},
  'latents': set(),
  'record': {'infra'},
  'report': {'infra', 'record'},
  'diffusion': {'config', 'infra'},
  'fusion': {'distributions'},
  'nn': {'infra', 'latents'},
  'guidance': {'infra', 'diffusion'},
  'objectives': {'infra', 'distributions', 'fusion'},
  'samplers': {'infra', 'diffusion'},
  'modalities': {'config', 'infra'},
  'data': {'config', 'infra', 'modalities'},
  'metrics': {'config', 'infra', 'modalities'},
}
ONLY_IN = {
  'orbax': {'infra/checkpoints.py', 'infra/old_checkpoints.py'},
  'tensorboardX': {'infra/metric_writer.py'},
  'tqdm': {'infra/progress.py'},
  'ml_collections': {'command_line.py', 'configs/'},
  'absl': {'command_line.py', 'main.py', 'tools/'},
  'tensorflow_datasets': {'data/tfds_polymnist.py'},
  'sklearn': {
    'models/gaussian_mixture.py',
    'methods/latent_diffusion.py',
    'metrics/linear_probe.py',
    'tools/small_tables.py',
  },
  'matplotlib': {'report/'},
  'jinja2': {'report/'},
  'pandas': {'report/', 'studies/', 'tools/small_tables.py'},
  # At run time nothing needs these at all. Of skimage only files are read.
  'skimage': set(),
  'tensorflow': set(),
  'torch': set(),
  'torchvision': set(),
}


def sources():
  return sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))


def _imports(path):
  """Every imported module, also in functions; what is imported from it with a dot."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@functools.cache
def imports(source):
  return tuple(_imports(PACKAGE / source))


def part(source):
  """Folder or file below the package that a source belongs to."""
  return source.split('/')[0].removesuffix('.py')


def forbidden(source, names):
  """Those of the imported names that a source must not import."""
  own = part(source)
  for name in names:
    if name.startswith('mmsbm.') and (other := name.split('.')[1]) != own:
      is_below = LAYER_OF[other] < LAYER_OF[own]
      if not is_below or other not in ALLOWED.get(own, LAYER_OF):
        yield f'{source} imports {name}'


@pytest.mark.parametrize('source', [s for s in sources() if s != '__init__.py'])
def test_imports_point_down(source):
  assert part(source) in LAYER_OF, f'{part(source)} has no layer yet'
  assert not list(forbidden(source, imports(source)))


def test_forbidden_sees_a_back_edge():
  assert 'mmsbm.learners.base.TrainState' in imports('train.py')
  assert list(forbidden('learners/base.py', ['mmsbm.train.train_group']))
  assert list(forbidden('report/page.py', ['mmsbm.config.Section']))
  assert not list(forbidden('train.py', ['mmsbm.learners.base', 'jax']))


def test_layers_name_no_part_that_is_gone():
  assert set(LAYER_OF) == {part(s) for s in sources()} - {'__init__'}


def test_package_imports_its_api_alone():
  assert set(imports('__init__.py')) == {'mmsbm.api'}


@pytest.mark.parametrize('package', ONLY_IN)
def test_package_is_imported_in_one_place_only(package):
  users = [s for s in sources() if package in {n.split('.')[0] for n in imports(s)}]
  places = tuple(ONLY_IN[package])
  assert [s for s in users if s not in places and not s.startswith(places)] == []


def test_config_files_import_shared_parts_of_configs_only():
  """They are plain values: no jax, so that a typo shows at once."""
  allowed = {'ml_collections', 'mmsbm', 'configs'} | set(sys.stdlib_module_names)
  for path in sorted((ROOT / 'configs').rglob('*.py')):
    names = set(_imports(path))
    assert {name.split('.')[0] for name in names} <= allowed, path.name
    ours = [name for name in names if name.startswith('mmsbm')]
    shared = ('mmsbm.configs', 'mmsbm.studies')
    assert all(name.startswith(shared) for name in ours), path.name


# Modules that are imported only once there is something for them to do.
LAZY = ('jinja2', 'matplotlib', 'orbax', 'pandas', 'skimage', 'sklearn', 'tensorboardX')
IMPORTS = f"""
import importlib, sys, warnings
warnings.simplefilter('ignore')
# Not even tried.
for name in ('tensorflow', 'torch', 'tensorflow_datasets'):
  sys.modules[name] = None
def loaded(names):
  return sorted(set(names) & set(sys.modules))
import mmsbm
print('mmsbm:', *loaded(('absl', 'flax', 'jax', 'numpy', 'ml_collections', *{LAZY})))
import mmsbm.command_line
print('command_line:', *loaded(('flax', 'jax', *{LAZY})))
import mmsbm.main, mmsbm.api, mmsbm.evaluators, mmsbm.studies
mmsbm.load
print('program:', *loaded({LAZY}))
for name in sys.argv[1:]:
  importlib.import_module(name)
print('all: well')
"""


def test_imports_are_lazy_and_need_no_optional_package():
  skipped = ('__main__.py', 'tfds_polymnist.py')
  modules = [
    'mmsbm.' + source.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
    for source in sources()
    if not source.endswith(skipped) and source != '__init__.py'
  ]
  done = subprocess.run(
    [sys.executable, '-c', IMPORTS, *modules], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    'mmsbm:',
    'command_line:',
    # Checkpoints are read and written by every program.
    'program: orbax',
    'all: well',
  ]


def requirements():
  """Names of what the requirement files list."""
  for path in ROOT.glob('requirements*.txt'):
    for line in path.read_text().splitlines():
      if name := re.match(r'[A-Za-z0-9_.-]*', line).group():
        yield name.lower().replace('_', '-')


def test_requirements_are_what_is_imported():
  """An import that only some other package happens to bring breaks when it stops."""
  providers = importlib.metadata.packages_distributions()
  known = {'mmsbm', 'configs', 'my_parts', *sys.stdlib_module_names}
  listed, needed = set(requirements()), set()
  for folder in ('mmsbm', 'configs', 'tests'):
    for path in (ROOT / folder).rglob('*.py'):
      for name in {name.split('.')[0] for name in _imports(path)} - known:
        packages = {p.lower().replace('_', '-') for p in providers.get(name, [name])}
        assert listed & packages, f'{path.relative_to(ROOT)} imports {name}'
        needed |= packages
  # Plugins, commands, files, and what other requirements make use of.
  indirect = {
    'array-record', 'importlib-resources', 'pytest-xdist', 'ruff', 'scikit-image',
    'selenium', 'setuptools',
  }  # fmt: skip
  assert listed <= needed | indirect
