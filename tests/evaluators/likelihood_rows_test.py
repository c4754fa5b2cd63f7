"""Likelihood rows of small models that nothing has trained, and of an exact one."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mmsbm.config import Section
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.process import Diffusion
from mmsbm.diffusion.sde import VE
from mmsbm.distributions import Normal
from mmsbm.inference import Inference
from mmsbm.infra import sharding
from mmsbm.latents import LatentLayout
from mmsbm.learners.autoencoder import AUTOENCODERS
from mmsbm.learners.codec import Codec, make_codec
from mmsbm.learners.joint_vae import JointVAE
from mmsbm.learners.latent_score import LatentScore
from mmsbm.modalities import Label, Modality, Vector
from mmsbm.models.joint_vae import JointModel
from mmsbm.models.priors import Standard
from mmsbm.models.score_based import ScoreBasedModel
from mmsbm.nn.score_nets import MLPScoreNet
from mmsbm.objectives import MVAE

NUM = 30
MLP = dict(name='mlp', widths=(8,))


def score_based_inference(autoencoder='vae', condition_probability=0.5, chunk_size=8):
  """A vector and a label; latents that are standardised already."""
  modalities = (
    Modality(
      name='a', kind_name='vector', kind=Vector(shape=(3,), offset=0.0, scale=1.0)
    ),
    Modality(name='b', kind_name='label', kind=Label(num_classes=4)),
  )
  codecs = [
    make_codec(
      Section(dict(latent_dim=2, encoder=MLP, decoder=MLP, likelihood=dict(name=name))),
      modality,
    )
    for name, modality in zip(('normal', 'categorical'), modalities, strict=True)
  ]
  layout = LatentLayout((2, 2))
  score = LatentScore(
    network=MLPScoreNet(dims=layout.dims, width=8, num_blocks=1),
    layout=layout,
    diffusion=Diffusion(
      sde=VE(sigma_min=0.02, sigma_max=40.0),
      parametrization=EDM(),
      times=None,
      weighting='edm',
    ),
    condition_probability=condition_probability,
  )
  kind = AUTOENCODERS[autoencoder]
  model = ScoreBasedModel(
    autoencoders=tuple(kind(codec=c, index=i) for i, c in enumerate(codecs)),
    score=score,
    samplings={},
  )
  batch = {
    'x': examples(),
    'z': np.zeros((1, 4), np.float32),
    'present': np.ones((1, 2), bool),
  }
  variables = {
    'unimodal': {
      a.codec.name: jax.jit(a.init)(jax.random.key(i), batch)
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
  return Inference(model, variables, mesh=sharding.make_mesh(), chunk_size=chunk_size)


def examples():
  rng = np.random.default_rng(0)
  return {
    'a': rng.normal(size=(NUM, 3)).astype(np.float32),
    'b': rng.integers(0, 4, NUM).astype(np.int32),
  }


@pytest.fixture
def measure(fakes, tmp_path):
  """Rows of the densities of a model."""

  def call(inference=None, arrays=None, folder='rows', **options):
    inference = inference or score_based_inference()
    arrays = arrays or examples()
    split = fakes.Split(arrays, np.ones((NUM, 2), bool), {})
    problem = fakes.make_problem(
      dict.fromkeys(('train', 'val', 'test'), split), inference.model.modalities, {}
    )
    spec = dict(num_examples=20, num_importance_samples=3, num_steps=4) | options
    plan = fakes.make_plan(problem, (), evaluators={'likelihood': spec})
    return fakes.run(tmp_path / folder, plan, inference)

  return call


def test_rows_of_a_score_based_model(measure):
  rows = measure(num_probes=2)
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


def test_what_does_not_exist_has_no_row(measure):
  """Bounds of deterministic autoencoders, conditionals of a network of one time."""
  rows = measure(score_based_inference('rae', condition_probability=0.0))
  assert [(r['metric'], r['target']) for r in rows] == [
    ('latent_log_likelihood', 'all')
  ]


@pytest.mark.parametrize('num_probes', [0, 2])
def test_chunk_size_changes_nothing(measure, num_probes):
  rows = [
    measure(
      score_based_inference(chunk_size=size), num_probes=num_probes, folder=str(size)
    )
    for size in (8, 13)
  ]
  for a, b in zip(*rows, strict=True):
    np.testing.assert_allclose(a['value'], b['value'], rtol=1e-5, atol=1e-5)


# --- joint VAEs -------------------------------------------------------------------

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


def joint_examples():
  """Examples of x_m = slopes_m z + noise, drawn without looking at z."""
  rng = np.random.default_rng(1)
  return {
    name: rng.normal(size=(NUM, len(slopes))).astype(np.float32)
    for name, slopes in SLOPES.items()
  }


def joint_inference(**first):
  codecs = [
    Codec(
      modality=Modality(
        name=name,
        kind_name='vector',
        kind=Vector(shape=(len(slopes),), offset=0.0, scale=1.0),
      ),
      latent_dim=1,
      encoder=LinearEncoder(slopes),
      decoder=LinearDecoder(slopes),
      likelihood=Normal(scale=SCALE),
    )
    for name, slopes in SLOPES.items()
  ]
  codecs[0] = dataclasses.replace(codecs[0], **first)
  model = JointModel(JointVAE(tuple(codecs), MVAE()), {'default': Standard()})
  return Inference(
    model, {'joint': {'params': {}}}, mesh=sharding.make_mesh(), chunk_size=16
  )


def log_evidence(*names):
  """log p(x) of the modalities together, [NUM]."""
  slopes = np.concatenate([SLOPES[name] for name in names])
  cov = np.outer(slopes, slopes) + SCALE**2 * np.eye(len(slopes))
  x = np.concatenate([joint_examples()[name] for name in names], axis=1)
  return scipy.stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(x)


def test_joint_vae_has_joint_and_conditional_bounds(measure):
  """With the exact posterior the first is the likelihood, the others are near it."""
  options = dict(num_examples=NUM, num_importance_samples=4_000)
  rows = measure(joint_inference(), joint_examples(), **options)
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


def test_diffusion_decoders_have_no_bound(measure, capsys):
  assert measure(joint_inference(diffusion=object()), joint_examples()) == []
  assert 'no densities' in capsys.readouterr().err
