"""Every config runs from raw data to the report; README and configs agree."""

import importlib
import json
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

from configs import common
from mmsbm.experiment import Experiment
from mmsbm.infra.errors import UserError
from mmsbm.main import execute
from mmsbm.nn.denoisers import DENOISERS

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(
  p.stem
  for p in (ROOT / 'configs').glob('*.py')
  if p.stem not in ('__init__', 'common')
)
# Every config, every method and every preset, with few modalities: time goes to
# compilation.
RUNS = (
  ('arrays', 'method=sbm_vae'),
  ('digits', 'method=sbm_vae,modalities=3'),
  ('digits', 'method=mld,modalities=2'),
  ('digits', 'method=mmvaeplus,modalities=3'),
  ('polymnist', 'method=sbm_vae,modalities=2'),
  ('polymnist', 'method=sbm_rae,modalities=2,preset=cpu'),
  ('polymnist', 'method=sbm_vae,modalities=2,preset=paper'),
  ('arrays', 'method=sbm_rae,modalities=2,refine'),
  # U-Nets for decoders.
  ('polymnist', 'method=diff_mvae,modalities=2'),
  # A diffusion decoder and one that is not.
  ('arrays', 'method=diff_mvae,modalities=2'),
  ('arrays', 'method=mopoe,modalities=3'),
  ('digits', 'method=mmvae,modalities=2'),
  ('digits', 'method=mmjsd,modalities=2'),
  ('digits', 'method=mvae,modalities=2'),
  ('digits', 'method=mvtcae,modalities=2'),
  ('digits', 'method=hoelder,modalities=2'),
)


def _get_config(name, arguments):
  return importlib.import_module(f'configs.{name}').get_config(arguments)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv('MMSBM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))


def _run(config, workdir):
  execute(config.to_dict(), str(workdir), 'run', ['', '--config=smoke'])
  with open(workdir / 'results.jsonl') as f:
    return [json.loads(line) for line in f]


def test_all_methods_and_presets_are_run():
  assert {name for name, _ in RUNS} == set(CONFIGS)
  methods = {_get_config(name, arguments).method for name, arguments in RUNS}
  assert methods == set(common.METHODS)
  for name in CONFIGS:
    module = importlib.import_module(f'configs.{name}')
    done = [_get_config(name, arguments) for n, arguments in RUNS if n == name]
    assert {c.preset for c in done} == set(getattr(module, 'PRESETS', ('default',)))


@pytest.mark.parametrize('method', common.METHODS)
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_has_every_method(name, method, tmp_path):
  preset = ',preset=cpu' if name == 'polymnist' else ''
  config = _get_config(name, f'smoke,modalities=2,method={method}{preset}')
  experiment = Experiment(config.to_dict(), tmp_path)
  assert len(experiment.setups) == 1 + len(config.compare)
  if method in common.JOINT_METHODS:
    if name == 'digits':
      # Shapes and options fit together; nothing is computed.
      experiment.check()
    assert experiment.model.learner is experiment.joint
    mopoe = method in ('mopoe', 'diff_mvae')
    assert config.joint.objective.name == ('mopoe' if mopoe else method)
    kinds = {m.kind_name for m in experiment.modalities if m.diffusion}
    assert kinds == ({'image'} if method == 'diff_mvae' else set())
    return
  kinds = {type(a).__name__ for a in experiment.autoencoders}
  assert kinds == {'VAE' if method == 'sbm_vae' else 'RAE'}
  scored = experiment.score
  # As in multi-modal latent diffusion: VP, predicted noise, no dropped conditions.
  assert (type(scored.sde).__name__ == 'VP') == (method == 'mld')
  assert (type(scored.parametrization).__name__ == 'Noise') == (method == 'mld')
  assert (scored.drop_probability == 0) == (method == 'mld')


def test_a_modality_is_the_same_among_few_and_many(tmp_path):
  few, many = (
    Experiment(
      _get_config('digits', f'smoke,modalities={number}').to_dict(), tmp_path
    ).data_samples
    for number in (4, 12)
  )
  assert list(many) == [f'm{i}' for i in range(12)]
  assert few.items() <= many.items() and len(set(many.values())) == 12


def test_autoencoders_are_of_modalities_of_that_name(smoke_run, tmp_path):
  config = _get_config('digits', 'smoke,modalities=2').to_dict()
  config['pretrained'] = str(smoke_run)
  Experiment(config, tmp_path).check_pretrained()
  # The photograph of a modality is that of its place.
  flipped = dict(reversed(config['modalities'].items()))
  with pytest.raises(UserError, match='other data, or modalities in another order'):
    Experiment(config | {'modalities': flipped}, tmp_path).check_pretrained()


@pytest.mark.parametrize('value', [float('nan'), (0.9, float('nan'))])
def test_what_is_not_a_number_is_refused(tmp_path, value):
  config = _get_config('digits', 'smoke').to_dict()
  config['score']['optimizer']['learning_rate'] = value
  with pytest.raises(UserError, match=r'config\.score\.optimizer\.learning_rate=.*nan'):
    Experiment(config, tmp_path)


# Only with -m slow: programs much like those of others or, of `digits`, the very one
# that other tests run; and the convolutions of `paper`, minutes of compilation.
SLOW = {
  ('arrays', 'method=diff_mvae,modalities=2'),
  ('arrays', 'method=mopoe,modalities=3'),
  ('arrays', 'method=sbm_rae,modalities=2,refine'),
  ('digits', 'method=mmvaeplus,modalities=3'),
  ('digits', 'method=mmvae,modalities=2'),
  ('digits', 'method=mmjsd,modalities=2'),
  ('digits', 'method=mvae,modalities=2'),
  ('digits', 'method=mvtcae,modalities=2'),
  ('digits', 'method=hoelder,modalities=2'),
  ('digits', 'method=sbm_vae,modalities=3'),
  ('digits', 'method=mld,modalities=2'),
  ('polymnist', 'method=sbm_rae,modalities=2,preset=cpu'),
  ('polymnist', 'method=sbm_vae,modalities=2'),
  ('polymnist', 'method=sbm_vae,modalities=2,preset=paper'),
  ('polymnist', 'method=diff_mvae,modalities=2'),
}


@pytest.mark.parametrize(
  'arguments',
  ['preset=default', 'preset=cpu', 'preset=paper', 'method=diff_mvae,modalities=2'],
)
def test_presets_can_be_run(arguments, tmp_path):
  """Shapes and options fit together, at full size; nothing is computed."""
  config = _get_config('polymnist', f'smoke,{arguments}')
  full = _get_config('polymnist', arguments)
  for section in ('modalities', 'classifier', 'joint', 'score', 'sampler', 'evaluate'):
    if section in full:
      config[section] = full[section]
  Experiment(config.to_dict(), tmp_path).check()


@pytest.mark.parametrize('side', [28, 32, 64, 96, 128])
def test_unets_of_image_sizes(side):
  network = DENOISERS['unet'](shape=(side, side, 3), **_unet(side))
  assert (network.dtype, network.remat) == (
    ('float32', False) if side <= 32 else ('bfloat16', True)
  )
  x, t, z = (
    jax.ShapeDtypeStruct(s, 'float32') for s in ((1, side, side, 3), (1,), (1, 9))
  )
  out, variables = jax.eval_shape(
    lambda *args: network.init_with_output(jax.random.key(0), *args, False), x, t, z
  )
  assert out.shape == x.shape and out.dtype == 'float32'
  # It attends somewhere.
  names = str(jax.tree_util.tree_structure(variables))
  assert 'attention' in names


def _unet(side):
  spec = dict(common.unet_decoder(side)['network'])
  assert spec.pop('name') == 'unet'
  return spec


@pytest.mark.slow
def test_diffusion_decoder_of_64_pixels_is_trained(tmp_path):
  """A narrow one, in bfloat16, its blocks computed again; from a file of images."""
  rng = np.random.default_rng(0)
  np.savez(
    tmp_path / 'faces.npz',
    image=rng.integers(0, 256, (200, 64, 64, 3), np.uint8),
    attributes=rng.integers(0, 2, (200, 4), np.uint8),
    labels=rng.integers(0, 10, 200),
  )
  config = _get_config('arrays', 'method=diff_mvae,modalities=2')
  common.shrink(config, num_steps=4, batch_size=8, sampler_steps=2)
  config.data.files = str(tmp_path / 'faces.npz')
  config.modalities.image.shape = (64, 64, 3)
  config.modalities.image.decoder = common.unet_decoder(64, width=16, num_blocks=1)
  config.evaluate.num_examples = config.sample.num_examples = 4
  rows = _run(config, tmp_path / 'run')
  assert any(r['metric'] == 'coherence' for r in rows)


@pytest.mark.parametrize(
  'name,arguments',
  [pytest.param(*run, marks=[pytest.mark.slow] * (run in SLOW)) for run in RUNS],
)
def test_smoke(name, arguments, tmp_path):
  config = _get_config(name, f'smoke,{arguments}')
  rows = _run(config, tmp_path)
  values = {(r['metric'], r['num_given']) for r in rows if 'num_given' in r}
  num = len(config.modalities)
  assert {('coherence', k) for k in range(1, num)} <= values
  judged = [spec for spec in config.modalities.values() if spec.judge]
  assert (('joint_coherence', 0) in values) == (len(judged) > 1)
  assert {r['target'] for r in rows if r['metric'] == 'reconstruction'} > {'mean'}
  assert all(r['n'] <= config.evaluate.num_examples and r['n'] > 10 for r in rows)
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert config.method in page and page.count('data:image/png') >= 5
  record = json.loads((tmp_path / 'run.json').read_text())
  assert list(record['config']['modalities']) == list(config.modalities)
  trained = (
    'joint' if 'joint' in config else f'unimodal/{next(iter(config.modalities))}'
  )
  assert trained in record['parameters']


@pytest.mark.slow
def test_arrays_without_labels(tmp_path):
  config = _get_config('arrays', 'smoke,modalities=2')
  config.modalities.image.judge = ''
  rows = _run(config, tmp_path)
  # Nothing is judged; attributes need no judge.
  assert {(r['metric'], r['target']) for r in rows} == {('f1', 'attributes')}
  assert (tmp_path / 'samples' / 'given_first_1.png').exists()
  assert (tmp_path / 'report' / 'index.html').exists()


@pytest.mark.parametrize('name', CONFIGS)
def test_arguments(name):
  config = _get_config(name, None)
  assert (config.method, config.preset) == ('sbm_vae', 'default')
  assert len(_get_config(name, 'modalities=2').modalities) == 2
  for argument, message in (
    ('smok', "unknown config argument 'smok'; .* Did you mean 'smoke'?"),
    ('method=sbm', r'method=sbm is not one of \['),
    ('preset=none', r'preset=none is not one of \['),
    ('modalities=two', "modalities is of type int: 'two'"),
    ('modalities=1', 'modalities=1 is not'),
    ('smoke=maybe', "smoke is True or False, not 'maybe'"),
  ):
    with pytest.raises(ValueError, match=message) as error:
      _get_config(name, argument)
    assert '\n' not in str(error.value)


def test_defaults_are_complete():
  """All configs have the same sections, so that a tool can read any of them."""
  sections = [set(_get_config(name, None)) for name in CONFIGS]
  assert all(s == sections[0] for s in sections)


def _readme_commands():
  """Command lines in the README's fenced blocks, continued lines joined."""
  text = (ROOT / 'README.md').read_text()
  blocks = re.findall(r'^```\w*\n(.*?)^```', text, flags=re.M | re.S)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  return [line.partition('#')[0].strip() for line in lines if '--config=' in line]


@pytest.mark.parametrize('command', _readme_commands())
def test_readme_commands(command):
  words = shlex.split(command)
  if words[0] == 'bash':
    assert (ROOT / words[1]).is_file()
  else:
    assert words[:2] == ['python', '-m']
    assert (ROOT / (words[2].replace('.', '/') + '.py')).is_file()
  options = dict(w.lstrip('-').split('=', 1) for w in words if w.startswith('--'))
  path, _, arguments = options.pop('config').partition(':')
  config = _get_config(pathlib.Path(path).stem, arguments)
  assert (ROOT / path).is_file()
  for option, value in options.items():
    if option.startswith('config.'):
      node = config
      for key in option.split('.')[1:]:
        assert key in node, f'{option} does not exist'
        node = node[key]
      assert isinstance(node, str) or type(node)(value) is not None
    else:
      assert option in ('workdir', 'mode', 'what', 'format', 'blocks')


def test_readme_has_the_two_commands():
  commands = ' '.join((ROOT / 'README.md').read_text().split())
  assert (
    'bash launch/local.sh --config=configs/digits.py --workdir=runs/digits' in commands
  )
  assert 'bash launch/test.sh' in commands
