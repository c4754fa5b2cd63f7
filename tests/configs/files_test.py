"""The config files: arguments, methods, overrides on the command line."""

import importlib
import pathlib
import shutil
import sys
import warnings

import pytest
from absl import flags
from ml_collections import config_flags

from mmsbm.configs import methods

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')


def get_config(name, arguments=None):
  return importlib.import_module(f'configs.{name}').get_config(arguments)


def override(arguments, *overrides, folder=ROOT / 'configs'):
  """The config as the command line makes it: a dict."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, '', flag_values=values, lock_config=True
  )
  argv = ['main.py', f'--config={folder}/{arguments}', *overrides]
  with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    # ml_collections reads config files by a function that Python will drop, and
    # overrides from sys.argv.
    warnings.filterwarnings('ignore', 'the load_module', DeprecationWarning)
    patch.setattr(sys, 'argv', argv)
    values(argv)
  return values.config.to_dict()


@pytest.mark.parametrize('name', FILES)
def test_get_config_has_arguments(name):
  config = get_config(name)
  assert (config.method, config.preset) == ('sbm_vae', 'default')
  assert len(get_config(name, 'modalities=2').modalities) == 2
  for argument, message in (
    ('smok', "unknown config argument 'smok'; .* Did you mean 'smoke'?"),
    ('method=sbm', r'method=sbm is not one of \['),
    ('preset=none', r'preset=none is not one of \['),
    ('modalities=1', 'modalities=1 is not'),
    ('method=mvae,refine', 'a joint VAE may have diffusion decoders: method=diff_mvae'),
  ):
    with pytest.raises(ValueError, match=message) as error:
      get_config(name, argument)
    assert '\n' not in str(error.value)


def test_get_config_of_the_paper_has_two_methods():
  with pytest.raises(ValueError, match=r"method=mld is not one of \['sbm_vae', 'sbm_r"):
    get_config('polymnist', 'preset=paper,method=mld')
  with pytest.raises(ValueError, match=r'refine=True is not one of \[False\]'):
    get_config('polymnist', 'preset=paper,refine')


@pytest.mark.parametrize('method', methods.METHODS)
@pytest.mark.parametrize('name', FILES)
def test_get_config_is_complete_for_every_method(name, method):
  config = get_config(name, f'modalities=2,method={method}')
  assert config.method == method
  steps = {'joint', 'score'} if method in methods.JOINT_METHODS else {
    'unimodal', 'score', *(['energy'] if method != 'mld' else []),
  }  # fmt: skip
  assert {step for step in config.borrow if step in config} == steps
  assert set(config.borrow) == steps | {'classifier'}
  main = config['joint' if 'joint' in steps else 'unimodal']
  assert list(main.networks) == list(config.modalities)
  fields = {'prior'} if 'joint' in steps else {'sampler', 'conditioning', 'guidance'}
  assert list(config.samplings)[0] == 'default'
  assert all(set(sampling) == fields for sampling in config.samplings.values())
  # The decoders of images are diffusion models with one method only.
  diffusion = {
    n for n, spec in main.networks.items() if spec.decoder.get('name') == 'diffusion'
  }
  images = {n for n, spec in config.modalities.items() if spec.kind == 'image'}
  assert diffusion == (images if method == 'diff_mvae' else set())
  assert ('decoder_sampler' in config) == bool(diffusion)


def test_get_config_shares_no_dictionary():
  """An override changes what it names, and nothing else."""
  for name in FILES:
    for method in ('sbm_vae', 'diff_mvae'):
      config = get_config(name, f'modalities=2,method={method}')
      seen = []

      def visit(node, seen=seen):
        seen.append(id(node))
        for value in node.values():
          if hasattr(value, 'values'):
            visit(value)

      visit(config)
      assert len(seen) == len(set(seen)), (name, method)


# --- the command line ---------------------------------------------------------


@pytest.mark.parametrize(
  'option,path,value',
  [
    ('borrow.classifier=../ae', 'borrow.classifier', '../ae'),
    ("train_only=('unimodal/m0',)", 'train_only', ('unimodal/m0',)),
    ('train_only=unimodal/m0', 'train_only', ('unimodal/m0',)),
    ('train_only=unimodal', 'train_only', ('unimodal',)),
    ('energy={}', 'energy', {}),
    (
      'samplings.default.guidance.energy={}',
      'samplings.default.guidance.energy',
      {},
    ),
    ('samplings.default.guidance={}', 'samplings.default.guidance', {}),
    ('samplings.pc200={}', 'samplings.pc200', {}),
    ('readers={}', 'readers', {}),
    ('readers.digit={}', 'readers.digit', {}),
    ('readers.inception.weights=w.npz', 'readers.inception.weights', 'w.npz'),
    ('method=my.module:make', 'method', 'my.module:make'),
    ("score.network={'name': 'hub'}", 'score.network', {'name': 'hub'}),
    (
      'evaluate.evaluators.conditional.num_given=(1,2)',
      'evaluate.evaluators.conditional.num_given',
      (1, 2),
    ),
    ("evaluate.metrics={'f1': {}}", 'evaluate.metrics', {'f1': {}}),
  ],
)
def test_override_changes_one_value(option, path, value):
  arguments = 'digits.py:modalities=3'
  changed = override(arguments, f'--config.{option}')
  *parents, last = path.split('.')
  node, old = changed, override(arguments)
  expected = old
  for parent in parents:
    node, expected = node[parent], expected[parent]
  assert node[last] == value and type(node[last]) is type(value)
  expected[last] = value
  assert changed == old


@pytest.mark.parametrize(
  'option,message',
  [
    ('borrow.unimodl=x', 'Did you mean "unimodal"'),
    ('samplings.defualt={}', 'Did you mean "default"'),
    ('energy=no', "Failed to parse 'no' as a ConfigDict"),
    ('score.num_steps=many', 'invalid literal for int'),
    ('stages=(1,)', 'stages'),
  ],
)
def test_override_refuses_mistakes(option, message):
  with pytest.raises(
    (AttributeError, KeyError, ValueError, flags.Error), match=message
  ):
    override('digits.py:modalities=3', f'--config.{option}')


def test_a_copy_of_arrays_works_in_any_folder(tmp_path, monkeypatch):
  shutil.copy(ROOT / 'configs' / 'arrays.py', tmp_path / 'mine.py')
  # As after `pip install`, where there is no folder of config files.
  monkeypatch.setitem(sys.modules, 'configs', None)
  config = override('mine.py:modalities=2', '--config.seed=3', folder=tmp_path)
  assert config == override('arrays.py:modalities=2', '--config.seed=3')
