"""Latents that say little, and samples that are copies."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.evaluators import checks
from mmsbm.infra.errors import UserError


def measured(fakes, workdir, name, model, problem, **options):
  plan = fakes.make_plan(problem, evaluators={name: options}, split='test')
  return fakes.run(workdir, plan, fakes.FakeInference(model))


@pytest.fixture
def whole(fakes):
  """A model whose latents are whole pictures."""

  class Whole(fakes.ClassModel):
    def encode(self, variables, x):
      return jnp.stack([a.reshape(len(a), -1) for a in x], 1) / 255.0

    def reconstruct(self, variables, keys, encoded):
      shape = self.modalities[0].shape
      return tuple(encoded[:, i].reshape(-1, *shape) for i in range(3))

    def latents(self, variables, keys, encoded, observed):
      return {m.name: encoded[:, i] for i, m in enumerate(self.modalities)}

  return Whole


def test_what_is_decoded_as_it_was_is_kept(fakes, whole, tmp_path):
  problem = fakes.digits_problem(40)
  model = whole('perfect', problem.modalities)
  rows = measured(fakes, tmp_path, 'kept_share', model, problem)
  assert [r['target'] for r in rows] == [m.name for m in problem.modalities]
  assert all(r['value'] > 0.999 and r.get('note') is None for r in rows)


def test_a_latent_that_says_nothing_is_warned_of(fakes, whole, tmp_path, capsys):
  problem = fakes.digits_problem(40)

  class Collapsed(whole):
    def reconstruct(self, variables, keys, encoded):
      first, *rest = super().reconstruct(variables, keys, encoded)
      return (jnp.broadcast_to(first.mean(0), first.shape), *rest)

  model = Collapsed('perfect', problem.modalities)
  rows = measured(fakes, tmp_path, 'kept_share', model, problem)
  name = problem.modalities[0].name
  assert rows[0]['value'] < 0.2 and f'the latent of {name} keeps' in rows[0]['note']
  assert not any(r.get('note') for r in rows[1:])
  assert f'the latent of {name} keeps' in capsys.readouterr().err


@pytest.mark.parametrize('source, expected', (('train', 0.0), ('test', 1.0)))
def test_copies_are_warned_of(fakes, whole, tmp_path, capsys, source, expected):
  problem = fakes.digits_problem(60)
  splits = dict(problem.dataset.splits)
  others = {n: np.roll(a, 1, 2) // 2 for n, a in splits['test'].arrays.items()}
  splits['train'] = dataclasses.replace(splits['train'], arrays=others)
  problem = fakes.make_problem(splits, problem.modalities)

  class Copier(whole):
    def sample(self, variables, keys, z, observed, sampling):
      arrays = splits[source].arrays
      return tuple(jnp.asarray(arrays[m.name]) / 255.0 for m in self.modalities)

  model = Copier('perfect', problem.modalities)
  (row,) = measured(fakes, tmp_path, 'memorised', model, problem)
  np.testing.assert_allclose(row['value'], expected, atol=1e-3)
  assert row['num_given'] == 0 and row['sampling'] == 'default'
  assert ('repeats' in (row.get('note') or '')) == (source == 'train')
  assert ('repeats' in capsys.readouterr().err) == (source == 'train')


def test_nearest_distances():
  x = np.random.default_rng(0).normal(size=(230, 3))
  known = np.random.default_rng(1).normal(size=(17, 3))
  expected = np.linalg.norm(x[:, None] - known, axis=-1).min(1)
  np.testing.assert_allclose(checks.nearest_distances(x, known), expected)


@pytest.mark.parametrize('part', (checks.KeptShare, checks.Memorised))
def test_a_share_that_is_none(part):
  with pytest.raises(UserError, match='least is 1.5; it must be at most 1'):
    part(least=1.5)
