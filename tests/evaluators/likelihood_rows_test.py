"""Likelihood rows of the protocol, with small models that nothing has trained."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mmsbm import evaluate
from mmsbm.data.dataset import MultimodalDataset, Split
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.sde import VE
from mmsbm.distributions import Normal
from mmsbm.evaluators.probability_flow import ProbabilityFlow
from mmsbm.generate import Generator
from mmsbm.infra import sharding
from mmsbm.latents import LatentLayout
from mmsbm.learners.autoencoder import AUTOENCODERS
from mmsbm.learners.joint_vae import JointVAE
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Modality, Vector, make_modality
from mmsbm.models.base import Setup
from mmsbm.models.joint_vae import JointModel, Prior
from mmsbm.models.score_based import ScoreBasedModel
from mmsbm.nn.score_nets import MLPScoreNet
from mmsbm.objectives import MVAE

NUM = 30


def make_generator(autoencoder='vae', condition_probability=0.5, chunk_size=8):
  """A vector and a label; latents that are standardised already."""
  mlp = dict(name='mlp', widths=(8,))
  common = dict(encoder=mlp, decoder=mlp)
  modalities = (
    make_modality(
      'a',
      kind='vector',
      shape=(3,),
      latent_dim=2,
      likelihood=dict(name='normal'),
      **common,
    ),
    make_modality(
      'b',
      kind=dict(name='label', num_classes=4),
      shape=(),
      latent_dim=2,
      likelihood=dict(name='categorical'),
      **common,
    ),
  )
  layout = LatentLayout((2, 2))
  score = LatentScore(
    network=MLPScoreNet(dims=layout.dims, width=8, num_blocks=1),
    layout=layout,
    sde=VE(sigma_min=0.02, sigma_max=40.0),
    parametrization=EDM(),
    times=None,
    weighting='edm',
    condition_probability=condition_probability,
  )
  kind = AUTOENCODERS[autoencoder]
  model = ScoreBasedModel(
    autoencoders=tuple(kind(modality=m, index=i) for i, m in enumerate(modalities)),
    score=score,
    setups={},
  )
  batch = {
    'x': examples(),
    'z': np.zeros((1, 4), np.float32),
    'present': np.ones((1, 2), bool),
  }
  variables = {
    'unimodal': {
      a.modality.name: jax.jit(a.init)(jax.random.key(i), batch)
      for i, a in enumerate(model.autoencoders)
    },
    # Its output is 0 at first, which has no divergence.
    'score': jax.tree.map(
      lambda a: a + 0.02, jax.jit(score.init)(jax.random.key(5), batch)
    ),
    'latents': {
      'mean': np.zeros(4, np.float32),
      'std': np.ones(4, np.float32),
    },
  }
  return Generator(model, variables, mesh=sharding.make_mesh(), chunk_size=chunk_size)


def examples():
  rng = np.random.default_rng(0)
  return {
    'a': rng.normal(size=(NUM, 3)).astype(np.float32),
    'b': rng.integers(0, 4, NUM).astype(np.int32),
  }


class FakeExperiment:
  """What the protocol asks of an experiment without setups and judges."""

  is_joint, main_stage, decoding = False, 'score', {}
  examples = staticmethod(examples)

  def __init__(self, workdir, generator, **likelihood):
    split = Split(self.examples(), np.ones((NUM, 2), bool), None)
    self.workdir = workdir
    self.modalities = generator.model.modalities
    self.names, self.setups = ('a', 'b'), {}
    self.dataset = MultimodalDataset(
      self.names, dict.fromkeys(('train', 'val', 'test'), split), None, 'hash', 'fake'
    )
    options = dict(
      num_examples=20, num_importance_samples=3, num_steps=4, num_probes=0,
      time_min=1e-5,
    )  # fmt: skip
    self.judged_by = {'seed': 3}
    self.config = {
      'seed': 3,
      'method': 'fake',
      'preset': 'none',
      'evaluate': {
        'split': 'test',
        'num_examples': NUM,
        'max_subsets': 10,
        'linear_probe': 0,
        'compare_all_given': False,
        'num_given': (),
        'seed': 4,
        'likelihood': options | likelihood,
      },
    }

  def split(self, section):
    return self.dataset.splits['test']

  def probability_flow(self):
    spec = self.config['evaluate']['likelihood']
    return ProbabilityFlow(
      **{k: spec[k] for k in ('num_steps', 'num_probes', 'time_min')}
    )


def measure(workdir, generator=None, kind=FakeExperiment, **likelihood):
  generator = generator or make_generator()
  experiment = kind(workdir, generator, **likelihood)
  return evaluate.evaluate(experiment, generator, {kind.main_stage: 20})


def test_what_a_run_says(tmp_path):
  rows = measure(tmp_path, num_probes=2)
  said = [(r['metric'], r['target'], r.get('given')) for r in rows]
  assert said == [
    ('latent_log_likelihood', 'all', []),
    ('latent_log_likelihood', 'a', ['b']),
    ('latent_log_likelihood', 'b', ['a']),
    ('vae_log_likelihood_bound', 'a', None),
    ('vae_log_likelihood_bound', 'b', None),
    ('joint_log_likelihood_bound', 'all', None),
  ]
  assert [r['dimensions'] for r in rows] == [4, 2, 2, 3, 1, 4]
  for r in rows:
    assert r['n'] == 20 and r['unit'] == 'nats' and r['split'] == 'test'
    assert np.isfinite(r['value']) and r['stderr'] > 0
    if r['metric'].startswith('latent'):
      assert r['per_dimension'] == r['value'] / r['dimensions']
    else:
      bits = -r['value'] / np.log(2) / r['dimensions']
      np.testing.assert_allclose(r['bits_per_dimension'], bits)
    if r['metric'].startswith('vae'):
      assert r['num_importance_samples'] == 3 and 'num_steps' not in r
    else:
      assert r['num_steps'] == 4 and r['num_probes'] == 2 and r['probe_stderr'] > 0


def test_none_by_default_and_of_all_examples_at_most(tmp_path):
  assert measure(tmp_path, num_examples=0) == []
  assert {r['n'] for r in measure(tmp_path, num_examples=99)} == {NUM}


def test_what_does_not_exist_has_no_row(tmp_path):
  """Bounds of deterministic autoencoders, conditionals of a network of one time."""
  rows = measure(tmp_path, make_generator('rae', condition_probability=0.0))
  assert [(r['metric'], r['target']) for r in rows] == [
    ('latent_log_likelihood', 'all')
  ]


@pytest.mark.parametrize('num_probes', [0, 2])
def test_the_chunk_size_changes_nothing(tmp_path, num_probes):
  rows = [
    measure(
      tmp_path / str(size), make_generator(chunk_size=size), num_probes=num_probes
    )
    for size in (8, 13)
  ]
  for a, b in zip(*rows, strict=True):
    np.testing.assert_allclose(a['value'], b['value'], rtol=1e-5, atol=1e-5)


def test_options_concern_what_uses_them(tmp_path, monkeypatch):
  made = []
  original = evaluate.likelihood_measurements

  def counted(protocol):
    return {
      name: (lambda name=name: made.append(name) or [], options)
      for name, (_, options) in original(protocol).items()
    }

  monkeypatch.setattr(evaluate, 'likelihood_measurements', counted)
  generator = make_generator()
  measure(tmp_path, generator)
  assert made == ['latent_likelihood', 'vae_likelihood', 'joint_likelihood']
  for change, expected in (
    (dict(), set()),
    (dict(num_importance_samples=2), {'vae_likelihood'}),
    (dict(num_steps=5), {'latent_likelihood', 'joint_likelihood'}),
    (dict(time_min=1e-3), {'latent_likelihood', 'joint_likelihood'}),
    (dict(num_examples=9), {'latent_likelihood', 'vae_likelihood', 'joint_likelihood'}),
  ):
    made.clear()
    measure(tmp_path, generator, **change)
    assert set(made) == expected, change


def test_other_measurements_do_not_depend_on_these_options(tmp_path):
  unit = evaluate.Unit(list)
  prints = set()
  for num_examples in (0, 20):
    experiment = FakeExperiment(
      tmp_path, types.SimpleNamespace(model=types.SimpleNamespace(modalities=())),
      num_examples=num_examples,
    )  # fmt: skip
    prints.add(evaluate._fingerprint(experiment, {}, unit))
  assert len(prints) == 1


# --- joint VAEs ---------------------------------------------------------------

SLOPES, SCALE = {'a': (1.0, 0.5, -0.8), 'b': (0.7, -1.2)}, 0.6


class LinearEncoder(nn.Module):
  """p(x_m | z) as a density of z: times the prior it is the exact posterior."""

  slopes: tuple[float, ...]

  def __call__(self, x, train):
    slopes = jnp.array(self.slopes)
    square = jnp.square(slopes).sum()
    mean = x @ slopes[:, None] / square
    return mean, jnp.full_like(mean, jnp.log(SCALE**2 / square))


class LinearDecoder(nn.Module):
  slopes: tuple[float, ...]

  def __call__(self, z, train):
    return z * jnp.array(self.slopes)


class JointExperiment(FakeExperiment):
  """Of x_m = slopes_m z + noise."""

  is_joint, main_stage = True, 'joint'

  def __init__(self, *args, **likelihood):
    super().__init__(*args, **likelihood)
    self.config['decoder_sampler'] = None

  @staticmethod
  def examples():
    rng = np.random.default_rng(1)
    return {
      name: rng.normal(size=(NUM, len(slopes))).astype(np.float32)
      for name, slopes in SLOPES.items()
    }


def joint_generator():
  modalities = tuple(
    Modality(
      name=name,
      kind_name='vector',
      kind=Vector(),
      shape=(len(slopes),),
      latent_dim=1,
      encoder=LinearEncoder(slopes),
      decoder=LinearDecoder(slopes),
      likelihood=Normal(scale=SCALE),
    )
    for name, slopes in SLOPES.items()
  )
  model = JointModel(JointVAE(modalities, MVAE()), {'default': Setup(Prior())})
  return Generator(
    model, {'joint': {'params': {}}}, mesh=sharding.make_mesh(), chunk_size=16
  )


def log_evidence(*names):
  """log p(x) of the modalities together, [NUM]."""
  slopes = np.concatenate([SLOPES[name] for name in names])
  cov = np.outer(slopes, slopes) + SCALE**2 * np.eye(len(slopes))
  x = np.concatenate([JointExperiment.examples()[name] for name in names], axis=1)
  return scipy.stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(x)


def test_a_joint_vae_has_joint_and_conditional_bounds(tmp_path):
  """With the exact posterior the first is the likelihood, the others are near it."""
  options = dict(num_examples=NUM, num_importance_samples=4_000)
  rows = measure(tmp_path, joint_generator(), JointExperiment, **options)
  said = [(r['metric'], r['target'], r.get('given'), r['dimensions']) for r in rows]
  assert said == [
    ('joint_log_likelihood_bound', 'all', None, 5),
    ('conditional_log_likelihood_bound', 'a', ['b'], 3),
    ('conditional_log_likelihood_bound', 'b', ['a'], 2),
  ]
  joint = log_evidence('a', 'b')
  conditional = [joint - log_evidence(given) for given in 'ba']
  for row, exact, atol in zip(
    rows, (joint, *conditional), (1e-4, 0.02, 0.02), strict=True
  ):
    np.testing.assert_allclose(row['value'], exact.mean(), atol=atol)
    np.testing.assert_allclose(row['stderr'], exact.std() / NUM**0.5, rtol=0.1)
    bits = -row['value'] / np.log(2) / row['dimensions']
    np.testing.assert_allclose(row['bits_per_dimension'], bits)
    assert row['n'] == NUM and row['num_importance_samples'] == 4_000
    assert row['unit'] == 'nats' and row.get('num_given') in (None, 1)


def test_diffusion_decoders_have_no_bound(tmp_path):
  generator = joint_generator()
  learner = generator.model.learner
  first, *others = learner.modalities
  first = dataclasses.replace(first, diffusion=object())
  learner = dataclasses.replace(learner, modalities=(first, *others))
  generator.model = dataclasses.replace(generator.model, learner=learner)
  assert measure(tmp_path, generator, JointExperiment) == []
