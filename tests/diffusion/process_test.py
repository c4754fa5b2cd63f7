"""A diffusion from a section of the config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.config import Section
from mmsbm.diffusion.losses import LognormalTimes, denoising_loss
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.process import Diffusion, make_diffusion, without
from mmsbm.diffusion.sde import VE
from mmsbm.infra.errors import UserError

SPEC = dict(
  sde=dict(name='ve', sigma_max=9.0),
  parametrization=dict(name='score'),
  times=dict(name='lognormal', mean=0.5),
  weighting='likelihood',
)


def flat(sde, t):
  """A weighting of a user's own."""
  return 3.0 + 0.0 * t


def test_make_diffusion():
  diffusion = make_diffusion(Section(SPEC | {'num_steps': 3}, 'score'))
  assert diffusion == Diffusion(
    sde=VE(sigma_max=9.0),
    parametrization=PARAMETRIZATIONS['score'](),
    times=LognormalTimes(mean=0.5),
    weighting='likelihood',
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'sde': dict(name='vee')}, "^config.score.sde: .*Did you mean 've'"),
    ({'sde': 've'}, "^config.score.sde is 've', not a dict"),
    ({'times': dict(name='lognormal', std=0)}, '^config.score.times: std is 0; '),
    ({'weighting': 'edn'}, "^config.score.weighting: .*Did you mean 'edm'"),
    ({'weighting': dict(name='edm')}, '^config.score.weighting: unknown'),
    (
      {'weighting': 'math:nothing'},
      "^config.score.weighting: 'math:nothing' cannot be",
    ),
  ],
)
def test_make_diffusion_refuses(changes, message):
  with pytest.raises(UserError, match=message):
    make_diffusion(Section(SPEC | changes, 'score'))


@pytest.mark.parametrize('name', SPEC)
def test_make_diffusion_names_what_is_missing(name):
  spec = {key: value for key, value in SPEC.items() if key != name}
  with pytest.raises(UserError, match=f'^config.score.{name} is missing'):
    make_diffusion(Section(spec, 'score'))


def test_without_keeps_the_place():
  rest = without(Section(SPEC | {'offset': 1}, 'refiner'), SPEC)
  assert dict(rest) == {'offset': 1} and rest.path == 'refiner'


def test_loss_and_score_are_those_of_its_parts():
  diffusion = make_diffusion(Section(SPEC, 'score'))
  z, noise = jax.random.normal(jax.random.key(0), (2, 5, 3))
  t = jnp.linspace(0.1, 0.9, 5)[:, None]
  score = diffusion.score(lambda z, level: z + level, z, t, jnp.full((5, 3), 7.0))
  expected = diffusion.parametrization.score(
    lambda z, level: z + 7.0, diffusion.sde, z, t, None
  )
  np.testing.assert_allclose(score, expected)
  score_fn = lambda z, t: -z  # noqa: E731
  got = diffusion.loss(score_fn, z, noise, t)
  expected = denoising_loss(
    score_fn, z, noise, t, sde=diffusion.sde, weighting='likelihood'
  )
  np.testing.assert_array_equal(got, expected)
  times, factors = diffusion.draw_times(jax.random.key(1), (4, 1))
  assert times.shape == factors.shape == (4, 1)


def test_weighting_of_a_users_own(monkeypatch):
  import sys
  import types

  module = types.ModuleType('own_weightings')
  module.flat = flat
  monkeypatch.setitem(sys.modules, 'own_weightings', module)
  z, noise = jax.random.normal(jax.random.key(0), (2, 5, 3))
  t, score_fn = jnp.full((5, 1), 0.3), lambda z, t: -z
  loss = {
    name: make_diffusion(Section(SPEC | {'weighting': name}, 'score')).loss(
      score_fn, z, noise, t
    )
    for name in ('uniform', 'own_weightings:flat')
  }
  np.testing.assert_allclose(
    loss['own_weightings:flat'], 3 * loss['uniform'], rtol=1e-6
  )
