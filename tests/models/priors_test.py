"""What priors of joint VAEs say of themselves; `joint_vae_test` draws from them."""

import pytest

from mmsbm.config import Section
from mmsbm.infra.errors import UserError
from mmsbm.models.priors import PRIORS, Mixture, ScorePrior, Standard
from mmsbm.samplers.heun import Heun


def make(spec, score=None):
  return Section(spec, 'samplings.default.prior').make(PRIORS, score=score)


def test_standard():
  prior = make(dict(name='standard'))
  assert prior == Standard() and prior.describe() == 'standard()'
  assert not prior.needs and prior.num_evaluations == 0


def test_mixture():
  prior = make(dict(name='mixture', num_components=7))
  assert prior == Mixture(num_components=7)
  assert prior.describe() == 'mixture(num_components=7)'
  assert (prior.needs, prior.num_evaluations, prior.key) == (('mixtures',), 0, '7')
  with pytest.raises(
    UserError, match='^config.samplings.default.prior: num_comp.* is 0'
  ):
    make(dict(name='mixture', num_components=0))


def test_score():
  spec = dict(name='score', sampler=dict(name='heun', num_steps=4))
  score = object()
  prior = make(spec, score)
  assert prior == ScorePrior(sampler=Heun(num_steps=4), score=score)
  assert prior.describe() == 'heun(num_steps=4)'
  assert prior.needs == ('latents', 'score')
  assert prior.num_evaluations == Heun(num_steps=4).num_evaluations
  with pytest.raises(UserError, match="'score' needs a score model: .*config.score"):
    make(spec)
  with pytest.raises(UserError, match="Did you mean 'heun'"):
    make(dict(name='score', sampler=dict(name='heum')), score)
