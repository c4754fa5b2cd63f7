"""Joint VAEs from a config: steps, what they hold, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.distributions import POSTERIORS
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name, row_keys
from mmsbm.learners.base import init_state
from mmsbm.methods import METHODS
from mmsbm.models.gaussian_mixture import fit_gaussian_mixture
from mmsbm.models.priors import Mixture, ScorePrior, Standard

JOINT = ('mvae', 'mmvae', 'mopoe', 'mmjsd', 'mvtcae', 'mmvaeplus', 'hoelder')
COUPLED = dict(name='predictor_corrector', num_steps=2, batch_norms=True)


@pytest.fixture(scope='module')
def problem(tiny):
  return tiny.make_problem()


@pytest.fixture(scope='module')
def with_holes(tiny):
  return tiny.make_problem(share_present=0.5)


def by_name(method):
  return {step.name: step for step in method.steps}


def trained(step):
  training = step.trainings[0]
  state = init_state(training, step.example)
  return step.collect({training.name: {'params': state.params, **state.mutables}})


# --- what a config describes --------------------------------------------------


@pytest.mark.parametrize('name', (*JOINT, 'diff_mvae'))
def test_make_has_the_steps_of_its_sections(tiny, problem, name):
  method = tiny.make_method(tiny.make_config(name), problem)
  assert [step.name for step in method.steps] == [
    'joint',
    'latents',
    'score',
    'mixtures',
  ]
  assert method.main == 'joint'
  assert [step.needs for step in method.steps] == [
    (), ('joint',), ('latents',), ('latents',),
  ]  # fmt: skip
  learner = method.steps[0].trainings[0].learner
  assert method.model.learner is learner
  private = 3 if name == 'mmvaeplus' else 0
  assert (learner.private_dim, learner.shared_dim) == (private, 6 - private)
  assert learner.family == ('laplace' if name in ('mmvae', 'mmvaeplus') else 'normal')
  score = method.steps[2].trainings[0].learner
  assert score.layout.dims == (learner.shared_dim,) and score.family == learner.family
  diffuse = [codec.name for codec in learner.codecs if codec.diffusion]
  assert diffuse == (['picture'] if name == 'diff_mvae' else [])
  assert (method.model.decoder_sampler is None) == (name != 'diff_mvae')
  assert (method.model.decoder_guidance is None) == (name != 'diff_mvae')
  order = [Standard, Mixture, ScorePrior]
  if name == 'diff_mvae':
    order = [ScorePrior, Mixture, Standard]
  assert [type(prior) for prior in method.model.samplings.values()] == order


def test_all_methods_of_the_table_are_tested():
  assert {*JOINT, 'diff_mvae', 'sbm_vae', 'sbm_rae', 'mld'} == set(METHODS)


@pytest.mark.parametrize(
  ('changes', 'steps'),
  [
    ({'samplings.score': {}}, ['joint', 'latents', 'score', 'mixtures']),
    ({'samplings.score': {}, 'score': {}}, ['joint', 'latents', 'mixtures']),
    ({'samplings.mixture': {}}, ['joint', 'latents', 'score']),
    ({'samplings.mixture': {}, 'samplings.score': {}, 'score': {}}, ['joint']),
  ],
)
def test_make_leaves_out_what_is_not_needed(tiny, problem, changes, steps):
  method = tiny.make_method(tiny.make_config('mopoe', **changes), problem)
  assert [step.name for step in method.steps] == steps
  for sampling in method.model.samplings:
    assert method.model.uses(sampling) <= set(steps)


def test_make_looks_at_no_data(tiny):
  """A trained run is loaded without them."""
  blind = tiny.make_problem()
  object.__setattr__(blind, 'open_dataset', None)
  assert tiny.make_method(tiny.make_config('diff_mvae'), blind).steps


@pytest.mark.parametrize(
  ('scale', 'weights', 'expected'),
  [
    (False, {}, (1, 1, 1)),
    # The largest has 16 entries, the others 3 and 5.
    (True, {}, (1, 16 / 3, 16 / 5)),
    (True, {'number': 10.0}, (1, 16 / 3, 32)),
    (False, {'picture': 0.5}, (0.5, 1, 1)),
  ],
)
def test_likelihoods_are_weighted_by_size_and_by_name(
  tiny, problem, scale, weights, expected
):
  changes = {'joint.scale_likelihoods': scale, 'joint.likelihood_weights': weights}
  method = tiny.make_method(tiny.make_config('mopoe', **changes), problem)
  np.testing.assert_allclose(method.model.learner.weights, expected)


def test_dry_run_counts_parameters(tiny, problem):
  parameters = tiny.check(tiny.make_config('mopoe'), problem)
  assert list(parameters) == ['joint', 'score']
  # Six hidden units, twice six moments; and back.
  assert parameters['joint'] == sum(
    (size + 1) * 6 + 2 * 7 * 6 + 7 * 6 + 7 * size for size in (16, 3, 5)
  )


MISTAKES = [
  ({'joint': {}}, "'diff_mvae' needs a section config.joint"),
  ({'energy': dict(num_steps=3)}, '^config.energy: a joint VAE has no such step'),
  ({'refiner': dict(num_steps=3)}, '^config.refiner: a joint VAE has no such step'),
  ({'joint.num_steps': 0}, '^config.joint.num_steps is 0'),
  ({'joint.objectiv': {}}, "^config.joint has no field 'objectiv'.*mean 'objective'"),
  ({'joint.objective.name': 'mopo'}, "^config.joint.objective: .*mean 'mopoe'"),
  ({'joint.objective.beta_': 2.0}, "'mopoe' has no argument 'beta_'.*mean 'beta'"),
  ({'joint.objective': dict(name='mmvae', estimator='dreg', num_samples=2)},
   '^config.joint.objective: .*num_samples=2 draws inside the logarithm'),
  ({'joint.family': 'laplace'}, "^config.joint.family='laplace' is not one of"),
  ({'joint.objective': dict(name='mmvae'), 'joint.family': 'laplce'},
   "^config.joint.family: .*Did you mean 'laplace'"),
  ({'joint.private_dim': 4}, "^config.joint.private_dim=4: 'mopoe' has no private"),
  ({'joint.objective': dict(name='mmvaeplus')}, 'private_dim=0: .* needs a part of'),
  ({'joint.objective': dict(name='mmvaeplus'), 'joint.private_dim': 6},
   "^config.joint.private_dim=6: 'mmvaeplus' needs a part of latent_dim=6"),
  ({'joint.networks.picture.latent_dim': 7}, r'must be the same, not \[6, 7\]'),
  ({'joint.networks.picture.decoder.weighting': 'edn'}, 'decoder.weighting: .*n .edm'),
  ({'joint.networks.picture.decoder.widht': 3}, "decoder has no field 'widht'"),
  ({'joint.networks.picture.decoder.drop_probability': 0.0},
   '^config.decoder_guidance needs .*picture.decoder.drop_probability must be posit'),
  ({'joint.networks.picture.decoder.drop_probability': 2}, 'drop_.* is 2; .* below 1'),
  ({'joint.likelihood_weights': {'pictur': 2.0}}, "weights.pictur: .*mean 'picture'"),
  ({'joint.likelihood_weights': {'picture': 'x'}}, "weights.picture is 'x'; .* a nu"),
  ({'joint.likelihood_weights': {'picture': -1.0}}, 'picture is -1.0; it must be at'),
  ({'decoder_sampler': {}}, '^config.decoder_sampler: .* needs a `name`'),
  ({'decoder_sampler': COUPLED}, '^config.decoder_sampler.batch_norms: .* to False'),
  ({'decoder_guidance.scal': 2.0}, "^config.decoder_guidance: .*mean 'scale'"),
  ({'score.weighting': 'edn'}, "^config.score.weighting: .*Did you mean 'edm'"),
  ({'score.paired_fraction': 0.5}, '^config.score.paired_fraction: .* no pairs'),
  ({'score.netwrk': 0.5}, "^config.score has no field 'netwrk'"),
  ({'score': {}}, "the prior 'score' needs a score model: a section config.score"),
  ({'samplings': {}}, "^config.samplings has no 'default'"),
  ({'samplings.default.guidance': {}}, "^config.samplings.default has no field 'guid"),
  ({'samplings.default.prior': {}}, '^config.samplings.default.prior: .* a `name`'),
  ({'samplings.default.prior.name': 'scroe'}, "default.prior: .*mean 'score'"),
  ({'samplings.default.prior.size': 3}, "'score' has no argument 'size'"),
  ({'samplings.default.prior.sampler.name': 'heum'}, "mean 'heun'"),
  ({'samplings.mixture.prior.num_components': 0}, 'num_components is 0; it must'),
  ({'samplings.mixture.prior.num_components': 41},
   '^config.samplings: num_components=41 cannot be fitted to 40 examples'),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'message'), MISTAKES)
def test_check_refuses(tiny, problem, changes, message):
  with pytest.raises(UserError, match=message) as error:
    tiny.check(tiny.make_config('diff_mvae', **changes), problem)
  assert '\n' not in str(error.value)


# --- latents and mixtures -----------------------------------------------------


@pytest.fixture(scope='module')
def joint(tiny, with_holes):
  """A method with a posterior that is a mixture, and what 'joint' has trained."""
  method = tiny.make_method(tiny.make_config('mmvae'), with_holes)
  return method, trained(by_name(method)['joint'])


@pytest.fixture(scope='module')
def latents(joint):
  method, variables = joint
  return by_name(method)['latents'].compute({'joint': variables})


def test_latents_are_moments_of_posteriors(joint, latents, with_holes):
  """Of one component of a mixture, drawn by the key of the row."""
  method, variables = joint
  split = with_holes.dataset.splits['train']
  encoded = method.model.encode(
    {'joint': variables}, tuple(jnp.asarray(a) for a in split.arrays.values())
  )
  keys = row_keys(fold_in_name(with_holes.key, 'latents'), jnp.arange(40))
  q = method.model.posterior({'joint': variables}, keys, encoded, split.present)
  present = split.present.any(1, keepdims=True)
  assert not present.all()
  np.testing.assert_array_equal(latents['present'], present)
  z, spread = np.where(present, q.mean, 0), np.exp(0.5 * np.asarray(q.log_var))
  np.testing.assert_allclose(latents['z'], z, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(latents['spread'], spread, rtol=1e-4)
  used = present[:, 0]
  np.testing.assert_allclose(latents['mean'], z[used].mean(0), rtol=1e-4, atol=1e-6)
  # Their spread is a part of the variance.
  variance = z[used].var(0) + (spread[used] ** 2).mean(0)
  np.testing.assert_allclose(latents['std'], np.sqrt(variance), rtol=1e-4)
  # Rows show components of their own.
  means = np.asarray(encoded['mean'])[used]
  given = split.present[used]
  near = np.abs(means - latents['z'][used][:, None]).max(-1) < 1e-4
  assert (near & given).any(1).all()
  chosen = [int(np.flatnonzero(row)[0]) for row in (near & given)[given.all(1)]]
  assert len(set(chosen)) > 1 or len(chosen) < 3


def test_score_learns_standardised_latents(joint, latents):
  source = by_name(joint[0])['score'].source({'latents': latents})
  assert set(source) == {'z', 'spread', 'present'}
  expected = (latents['z'] - latents['mean']) / latents['std']
  np.testing.assert_allclose(source['z'], expected)
  np.testing.assert_allclose(source['spread'], latents['spread'] / latents['std'])
  np.testing.assert_array_equal(source['present'], latents['present'])
  example = by_name(joint[0])['score'].example
  assert {k: v.shape[1:] for k, v in example.items()} == {
    k: v.shape[1:] for k, v in source.items()
  }


@pytest.mark.parametrize('family', POSTERIORS)
def test_mixtures_are_fitted_to_draws(tiny, with_holes, latents, family):
  """From the posteriors of rows that have any modality."""
  changes = {
    'joint.family': family,
    'samplings.other': dict(prior=dict(name='mixture', num_components=2)),
    'samplings.same': dict(prior=dict(name='mixture', num_components=3)),
  }
  method = tiny.make_method(tiny.make_config('mmvae', **changes), with_holes)
  step = by_name(method)['mixtures']
  assert step.spec == {'num_components': [2, 3]}
  out = step.compute({'latents': latents})
  assert set(out) == {'2', '3'}
  assert jax.tree.map(np.shape, dict(out)) == jax.tree.map(np.shape, step.example)
  used = np.flatnonzero(latents['present'])
  rows = np.random.default_rng(0).permutation(used)
  q = POSTERIORS[family](latents['z'][rows], 2 * np.log(latents['spread'][rows]))
  z = np.asarray(q.sample(fold_in_name(with_holes.key, 'mixture')))
  for number in (2, 3):
    expected = fit_gaussian_mixture(z, number, 0)
    for name, value in expected.items():
      np.testing.assert_allclose(out[str(number)][name], value, rtol=1e-5)
