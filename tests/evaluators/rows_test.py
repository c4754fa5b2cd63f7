"""The protocol, with models whose numbers are known."""

import dataclasses
import json
import pathlib
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm import evaluate
from mmsbm.data.dataset import MultimodalDataset, Split
from mmsbm.distributions import Normal
from mmsbm.experiment import Experiment, describe_setup
from mmsbm.generate import Generator
from mmsbm.guidance import Energy
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.learners.classifier import Classifier
from mmsbm.modalities import Image, Modality
from mmsbm.models.base import Setup
from mmsbm.samplers.conditioning import Clean, RePaint
from mmsbm.samplers.dpm_solver import DPMSolver

CLASSES, NAMES, SHAPE = 10, ('a', 'b', 'c'), (2, 2, 1)


class ReadClass(nn.Module):
  """The first pixel is the class."""

  def __call__(self, x, train):
    pixel = jnp.round(x[:, 0, 0, 0] * 255).astype(jnp.int32)
    return jax.nn.one_hot(pixel, CLASSES), x.reshape(len(x), -1)[:, :2]


MODALITIES = tuple(
  Modality(
    name=name,
    kind_name='image',
    kind=Image(),
    shape=SHAPE,
    latent_dim=1,
    encoder=None,
    decoder=None,
    likelihood=Normal(),
    judge='digit',
  )
  for name in NAMES
)


@dataclasses.dataclass(frozen=True, eq=False)
class Fake:
  """The latent of a modality is its class.

  'perfect' gives hidden modalities the class of an observed one, or one class
  for all; 'independent' gives each a class of its own; 'first' copies a only.
  """

  kind: str
  modalities = MODALITIES
  code_dim = 3
  latent_dims = types.MappingProxyType(dict.fromkeys(NAMES, 1))
  setups = types.MappingProxyType(
    {name: Setup(DPMSolver(), Clean()) for name in ('default', 'with_7_steps')}
  )

  def num_evaluations(self, setup, num_given):
    return {'default': 5, 'with_7_steps': 7}[setup]

  def encode(self, variables, x):
    return jnp.stack([a[:, 0, 0, 0] for a in x], 1).astype(jnp.float32)

  def decode(self, variables, keys, z):
    pixels = jnp.zeros((len(z), 3, *SHAPE), jnp.uint8)
    pixels = pixels.at[:, :, 0, 0, 0].set(z.astype(jnp.uint8))
    # Features need some spread for a Frechet distance.
    spread = (jnp.arange(len(z)) % 7).astype(jnp.uint8)
    pixels = pixels.at[:, :, 0, 1, 0].set(spread[:, None])
    return tuple(pixels[:, m] / 255.0 for m in range(3))

  def reconstruct(self, variables, keys, codes):
    return self.decode(variables, keys, codes)

  def mean_latents(self, variables, keys, codes, observed):
    seen = observed & (jnp.arange(3) == 0) if self.kind == 'first' else observed
    return jnp.where(seen, codes, 0.0)

  def sample_latents(self, variables, keys, z, observed, setup):
    def one(key):
      return jax.random.randint(key, (3,), 0, CLASSES)

    drawn = jax.vmap(one)(keys).astype(jnp.float32)
    if self.kind == 'perfect':
      shown = jnp.take_along_axis(z, observed.argmax(1)[:, None], 1)
      drawn = jnp.where(observed.any(1, keepdims=True), shown, drawn[:, :1])
    elif self.kind == 'first':
      drawn = jnp.where(observed[:, :1], z[:, :1], drawn)
    return jnp.where(observed, z, jnp.broadcast_to(drawn, z.shape))


class FakeExperiment:
  """What the protocol asks of an experiment."""

  is_joint, main_stage, decoding = False, 'score', {}

  def __init__(self, workdir, num=997, num_present=997, **config):
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, num).astype(np.int32)
    images = rng.integers(0, 9, (num, *SHAPE)).astype(np.uint8)
    images[:, 0, 0, 0] = label
    present = np.ones((num, 3), bool)
    present[num_present:, 1] = False
    split = Split(dict.fromkeys(NAMES, images), present, label)
    # Of other classes than their pictures show: who learns from them is wrong.
    train = dataclasses.replace(split, labels=(label + 1) % CLASSES)
    self.workdir = workdir
    self.names, self.modalities = NAMES, MODALITIES
    self.dataset = MultimodalDataset(
      NAMES, {'train': train, 'val': split, 'test': split}, CLASSES, 'hash', 'fake'
    )
    self.judged_by = {'seed': 3}
    self.config = {
      'seed': 3,
      'method': 'fake',
      'preset': 'none',
      'conditioning': {'name': 'time_zero'},
      'sampler': {'name': 'dpm_solver', 'num_steps': 5},
      'guidance': {},
      'compare': {
        'with_7_steps': {
          'sampler': {'name': 'dpm_solver', 'num_steps': 7},
          'guidance': {'name': 'classifier_free', 'scale': 0.5},
        }
      },
      'evaluate': {
        'split': 'test',
        'num_examples': 10_000,
        'max_subsets': 10,
        'chunk_size': 100,
        'compare_all_given': False,
        'num_given': (),
        'linear_probe': 0,
        'precision_recall': False,
        'inception_weights': '',
        'likelihood': {'num_examples': 0},
        'seed': 4,
      }
      | config,
    }

  def split(self, section):
    return self.dataset.splits[self.config[section]['split']]

  setup_spec = Experiment.setup_spec
  setups = Experiment.setups
  _guidance = Experiment._guidance


def make_generator(kind, chunk_size=100):
  return Generator(
    Fake(kind),
    {},
    mesh=sharding.make_mesh(),
    chunk_size=chunk_size,
    judges=(Classifier('digit', ReadClass(), MODALITIES, (0, 1, 2)),),
    judge_variables={'digit': {}},
  )


def measure(workdir, kind, chunk_size=100, steps=None, **kwargs):
  experiment = FakeExperiment(workdir, **kwargs)
  steps = steps or {'score': 20}
  return evaluate.evaluate(experiment, make_generator(kind, chunk_size), steps)


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  """Rows of every kind of model."""
  folder = tmp_path_factory.mktemp('rows')
  kinds = ('perfect', 'independent', 'first')
  return {kind: measure(folder / kind, kind) for kind in kinds}


def values(rows, metric, **fields):
  return [
    r['value']
    for r in rows
    if r['metric'] == metric and all(r.get(k) == v for k, v in fields.items())
  ]


def test_a_perfect_model_scores_one_everywhere(rows):
  coherence = ('coherence', 'coherence_macro', 'joint_coherence', 'mean_agreement')
  for metric in (*coherence, 'reconstruction'):
    got = values(rows['perfect'], metric)
    assert got and set(got) == {1.0}
  assert set(values(rows['perfect'], 'classifier_accuracy')) == {1.0}


def test_an_independent_model_is_at_chance(rows):
  got = rows['independent']
  error = np.sqrt(0.1 * 0.9 / 997)
  coherence = values(got, 'coherence')
  assert len(coherence) > 20
  assert np.abs(np.array(coherence) - 0.1).max() < 4.5 * error
  # All three agree: 1/100. Any two: 1 - 0.9 * 0.8.
  joint = values(got, 'joint_coherence', at_least=3)
  np.testing.assert_allclose(joint, 0.01, atol=4.5 * np.sqrt(0.01 * 0.99 / 997))
  two = [
    r['value']
    for r in got
    if r['metric'] == 'joint_coherence' and r['at_least'] == 2 and 'reference' not in r
  ]
  np.testing.assert_allclose(two, 0.28, atol=4.5 * np.sqrt(0.28 * 0.72 / 997))
  # Three agree, two, or none.
  mean = (3 * 0.01 + 2 * 0.27 + 0.72) / 3
  np.testing.assert_allclose(values(got, 'mean_agreement'), mean, atol=0.02)
  macro = values(got, 'coherence_macro')
  assert macro and np.abs(np.array(macro) - 0.1).max() < 0.02
  # Classes are not of equal size.
  assert macro != values(got, 'coherence', given='mean')
  assert set(values(got, 'reconstruction')) == {1.0}


def test_the_right_modalities_are_given(rows):
  """A model that looks at a only is coherent exactly where a is given."""
  got = [r for r in rows['first'] if r['metric'] == 'coherence']
  singles = [r for r in got if isinstance(r['given'], list) and r['target'] != 'mean']
  assert {tuple(r['given']) for r in singles} == {
    ('a',), ('b',), ('c',), ('a', 'b'), ('a', 'c'), ('b', 'c'),
  }  # fmt: skip
  for r in singles:
    assert r['target'] not in r['given'] and r['num_given'] == len(r['given'])
    if 'a' in r['given']:
      assert r['value'] == 1.0
    else:
      assert abs(r['value'] - 0.1) < 0.05
  # Averages: one given, (1 + 1 + 4 chance) / 6; two given, (1 + 1 + chance) / 3.
  (one,) = values(got, 'coherence', num_given=1, given='mean')
  assert abs(one - (2 + 0.4) / 6) < 0.03
  two = values(got, 'coherence', num_given=2, given='mean')
  np.testing.assert_allclose(two, 2.1 / 3, atol=0.02)
  curve = [r for r in got if r['given'] == 'incremental']
  assert {(r['num_given'], r['target']) for r in curve} == {(1, 'c'), (2, 'c')}


def test_every_row_says_what_it_is(rows):
  got = rows['independent']
  for r in got:
    assert r['n'] == 997 and r['split'] == 'test' and r['step'] == 20
    assert r['seed'] == 3 and r['evaluation_seed'] == 4 and r['model'] == 'fake'
    if r['metric'] in ('coherence', 'joint_coherence', 'frechet'):
      keys = ('setup', 'sampler', 'conditioning', 'guidance', 'nfe')
      assert tuple(r[key] for key in keys) in {
        ('default', 'dpm_solver(num_steps=5)', 'time_zero()', '', 5),
        ('with_7_steps', 'dpm_solver(num_steps=7)', 'time_zero()',
         'classifier_free(scale=0.5)', 7),
      }  # fmt: skip
    if r['metric'] == 'frechet':
      assert r['features'] == 'classifier'
  both = (Energy(scale=1.0, noise_max=3.0), Energy(scale=2.0, pairs='observed'))
  assert describe_setup(Setup(DPMSolver(), RePaint(num_resamples=3), both)) == {
    'sampler': 'dpm_solver()',
    'conditioning': 'repaint(num_resamples=3)',
    'guidance': 'energy(scale=1.0, noise_max=3.0) + energy(scale=2.0, pairs=observed)',
  }
  for metric in ('coherence', 'reconstruction', 'frechet', 'classifier_accuracy'):
    assert values(got, metric, target='mean')


def test_errors_are_binomial(rows):
  for r in rows['independent']:
    if r['metric'] == 'coherence' and r['target'] in NAMES:
      expected = np.sqrt(r['value'] * (1 - r['value']) / 997)
      np.testing.assert_allclose(r['stderr'], expected, rtol=1e-6)


def test_the_chunk_size_changes_nothing(rows, tmp_path):
  other = measure(tmp_path, 'independent', chunk_size=64)
  drop = lambda rows: [  # noqa: E731
    r for r in rows if r['metric'] != 'frechet'
  ]
  assert drop(other) == drop(rows['independent'])


def test_only_complete_examples_are_counted(tmp_path):
  got = measure(tmp_path, 'perfect', num=130, num_present=107)
  assert {r['n'] for r in got} == {107}
  with pytest.raises(UserError, match='no test example has all modalities'):
    measure(tmp_path / 'none', 'perfect', num=130, num_present=0)


def test_as_many_examples_as_asked_for(tmp_path):
  got = measure(tmp_path, 'perfect', num=130, num_present=130, num_examples=77)
  assert {r['n'] for r in got} == {77}


def test_a_linear_probe_of_every_number_of_modalities(tmp_path):
  """The latents of the model that looks at a only say nothing of the others."""
  got = measure(
    tmp_path, 'first', num=300, num_present=290, linear_probe=120, split='val'
  )
  probed = [r for r in got if r['metric'] == 'latent_accuracy']
  assert {r['num_train'] for r in probed} == {120} and {r['n'] for r in probed} == {290}
  assert not any('setup' in r for r in probed)
  single = {tuple(r['given']): r['value'] for r in probed if r['given'] != 'mean'}
  assert len(single) == 7
  mean = {r['num_given']: r['value'] for r in probed if r['given'] == 'mean'}
  for k in (1, 2, 3):
    own = [value for given, value in single.items() if len(given) == k]
    np.testing.assert_allclose(mean[k], np.mean(own))
  # Nothing is learned from what is evaluated.
  assert max(single.values()) < 0.25


def test_a_linear_probe_reads_what_it_was_fitted_to(tmp_path, monkeypatch):
  splits = FakeExperiment(tmp_path, num=300).dataset.splits
  true = dataclasses.replace(splits['train'], labels=splits['test'].labels)
  monkeypatch.setitem(splits, 'train', true)
  experiment = FakeExperiment(tmp_path, num=300, linear_probe=200, num_given=(1,))
  experiment.dataset = dataclasses.replace(experiment.dataset, splits=splits)
  got = evaluate.evaluate(experiment, make_generator('first'), {'score': 20})
  single = {
    tuple(r['given']): r['value']
    for r in got
    if r['metric'] == 'latent_accuracy' and r['given'] != 'mean'
  }
  assert set(single) == {('a',), ('b',), ('c',), ('a', 'b', 'c')}
  for given, value in single.items():
    # One pixel orders the classes, which a linear classifier tells apart in part.
    assert value > 0.4 if 'a' in given else value < 0.25


@pytest.mark.parametrize(
  'config', [dict(linear_probe=0), dict(linear_probe=50, split='train')]
)
def test_no_linear_probe_where_it_would_mean_nothing(config, tmp_path):
  assert not values(measure(tmp_path, 'first', num=30, **config), 'latent_accuracy')


@pytest.fixture
def counted(monkeypatch):
  """Names of the measurements that are made."""
  made = []
  for name in ('classifier', 'reconstruction', 'unconditional', 'given'):
    original = getattr(evaluate.Protocol, name)

    def wrapper(self, *args, _original=original, _name=name):
      made.append('_'.join(map(str, (_name, *args))))
      return _original(self, *args)

    monkeypatch.setattr(evaluate.Protocol, name, wrapper)
  return made


DEFAULT = {'unconditional_default', 'given_2_default', 'given_1_default'}
OTHER = {'unconditional_with_7_steps', 'given_2_with_7_steps'}
PLAIN = {'classifier', 'reconstruction'}


def test_what_is_measured_is_not_measured_again(tmp_path, counted):
  small = dict(num=60, num_present=60)

  def again(change=None, **kwargs):
    counted.clear()
    experiment = FakeExperiment(tmp_path, **small)
    if change:
      change(experiment.config)
    return evaluate.evaluate(
      experiment, make_generator('perfect'), {'score': 20} | kwargs
    )

  first = again()
  assert set(counted) == PLAIN | DEFAULT | OTHER
  assert again() == first and not counted
  # Another setup is measured; what it does not concern stays.
  for key in ('sampler', 'guidance'):
    other = {'sampler': {'num_steps': 9}, 'guidance': {'scale': 2.0}}[key]
    again(lambda c, k=key, o=other: c['compare']['with_7_steps'][k].update(o))
    assert set(counted) == OTHER
  again(lambda c: c['sampler'].update(num_steps=4))
  assert set(counted) == DEFAULT
  again(lambda c: c.update(guidance={'name': 'classifier_free', 'scale': 0.5}))
  assert set(counted) == DEFAULT
  # Both setups have the conditioning of the run; neither has energies.
  again(lambda c: c.update(conditioning={'name': 'clean'}))
  assert set(counted) == DEFAULT | OTHER
  again(energy=40)
  assert not counted
  again(lambda c: c.update(guidance={'name': 'energy', 'scale': 1.0}))
  again(lambda c: c.update(guidance={'name': 'energy', 'scale': 1.0}), energy=40)
  assert set(counted) == DEFAULT
  # Everything depends on the checkpoints and on the settings.
  again(score=40)
  assert set(counted) == PLAIN | DEFAULT | OTHER
  again(lambda c: c['evaluate'].update(seed=9))
  assert set(counted) == PLAIN | DEFAULT | OTHER
  # What else is measured changes nothing.
  again(lambda c: c['evaluate'].update(compare_all_given=True))
  assert set(counted) == {'given_1_with_7_steps'}


def test_only_the_numbers_given_that_are_asked_for(tmp_path, counted):
  experiment = FakeExperiment(tmp_path, num=60, num_present=60)
  experiment.config['evaluate'].update(num_given=(1,))
  rows = evaluate.evaluate(experiment, make_generator('perfect'), {'score': 20})
  found = {(r['setup'], r['num_given']) for r in rows if r['metric'] == 'coherence'}
  # Another setup is always given the rest.
  assert found == {('default', 1), ('with_7_steps', 2)}


def test_a_torn_measurement_is_made_again(tmp_path, counted):
  small = dict(num=60, num_present=60)
  first = measure(tmp_path, 'perfect', **small)
  on_disk = pathlib.Path(tmp_path, 'results.jsonl').read_bytes()
  files = sorted(pathlib.Path(tmp_path, 'evaluation').iterdir())
  for path, content in zip(
    files, [b'', b'[{"metric": "coh', b'{}', b'\xff'], strict=False
  ):
    path.write_bytes(content)
  counted.clear()
  assert measure(tmp_path, 'perfect', **small) == first
  assert len(counted) == 4
  assert pathlib.Path(tmp_path, 'results.jsonl').read_bytes() == on_disk


def test_the_file_holds_what_is_returned(tmp_path):
  rows = measure(tmp_path, 'perfect', num=60, num_present=60)
  lines = pathlib.Path(tmp_path, 'results.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == rows


def test_setups_are_those_of_the_run_but_for_what_is_said(tmp_path):
  experiment = FakeExperiment(tmp_path)
  guided = {
    'strong': {'name': 'classifier_free', 'scale': 3.0},
    'pairs': {'name': 'energy', 'scale': 1.0},
  }
  experiment.config |= {
    'guidance': {'name': 'classifier_free', 'scale': 0.5},
    'compare': {'bare': {'guidance': {}}, 'clean': {'conditioning': {'name': 'clean'}},
                'two': {'guidance': guided}},
  }  # fmt: skip
  made = {name: describe_setup(setup) for name, setup in experiment.setups.items()}
  default = made['default']
  assert default['guidance'] == 'classifier_free(scale=0.5)'
  assert made['bare'] == default | {'guidance': ''}
  assert made['clean'] == default | {'conditioning': 'clean()'}
  two = 'classifier_free(scale=3.0) + energy(scale=1.0)'
  assert made['two'] == default | {'guidance': two}
  for compare, message in (
    ({'x': {'samplr': {}}}, "no field 'samplr'.* Did you mean 'sampler'"),
    ({'default': {}}, "'default' is the setup of the run itself"),
    ({'x': {'guidance': {'name': 'energy'}}}, "'energy' needs the argument 'scale'"),
  ):
    other = FakeExperiment(tmp_path)
    other.config['compare'] = compare
    with pytest.raises(UserError, match=message):
      other.setups  # noqa: B018
