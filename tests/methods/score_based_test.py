"""SBM-VAE, SBM-RAE and MLD from a config: steps, what they hold, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name
from mmsbm.learners.autoencoder import RAE, VAE
from mmsbm.learners.base import init_state
from mmsbm.methods.base import Derived, Stage

FREE = dict(name='classifier_free', scale=1.0)
DIFFUSION = dict(
  name='diffusion',
  network=dict(name='mlp', width=8, num_blocks=1),
  sde=dict(name='ve'),
  parametrization=dict(name='edm'),
  times=dict(name='lognormal'),
  weighting='edm',
  offset=0.5,
  scale=0.35,
  drop_probability=0.0,
)
COUPLED = dict(name='predictor_corrector', num_steps=2, batch_norms=True)
NOISED = dict(name='noised')


@pytest.fixture(scope='module')
def problem(tiny):
  return tiny.make_problem()


@pytest.fixture(scope='module')
def method(tiny, problem):
  return tiny.make_method(tiny.make_config('sbm_vae'), problem)


def by_name(method):
  return {step.name: step for step in method.steps}


# --- what a config describes --------------------------------------------------


@pytest.mark.parametrize(
  ('name', 'kind'), [('sbm_vae', VAE), ('sbm_rae', RAE), ('mld', RAE)]
)
def test_make_has_the_steps_of_its_sections(tiny, problem, name, kind):
  method = tiny.make_method(tiny.make_config(name, refine=True), problem)
  energies = [] if name == 'mld' else ['energy']
  order = ['unimodal', 'latents', 'score', *energies, 'refiner']
  assert [step.name for step in method.steps] == order
  assert method.main == 'score'
  steps = by_name(method)
  assert {name: step.needs for name, step in steps.items()} == {
    'unimodal': (),
    'latents': ('unimodal',),
    'score': ('latents',),
    **dict.fromkeys(energies, ('latents',)),
    'refiner': ('unimodal',),
  }
  learners = [training.learner for training in steps['unimodal'].trainings]
  assert {type(learner) for learner in learners} == {kind}
  assert [learner.index for learner in learners] == [0, 1, 2]
  assert [t.name for t in steps['refiner'].trainings] == ['refiner/picture']
  assert method.model.score is steps['score'].trainings[0].learner
  assert method.model.layout.dims == (4, 3, 2)
  assert method.model.refiners and method.model.refiner_sampler is not None


def test_make_leaves_out_what_has_no_section(tiny, problem):
  config = tiny.make_config(
    'sbm_vae',
    **{
      'energy': {},
      'samplings.default.guidance.energy': {},
      'samplings.unguided': {},
    },
  )
  method = tiny.make_method(config, problem)
  assert [step.name for step in method.steps] == ['unimodal', 'latents', 'score']
  assert method.model.energy is None and method.model.refiner_sampler is None
  assert list(method.model.samplings) == ['default']
  (term,) = method.model.samplings['default'].guidance
  assert term.needs == 'dropped'
  del config['energy']
  assert len(tiny.make_method(config, problem).steps) == 3


def test_make_puts_the_sampling_default_first(tiny, problem):
  config = tiny.make_config('sbm_vae')
  ways = config['samplings']
  config['samplings'] = {
    'a': ways['unguided'], 'default': ways['default'], 'b': ways['unguided'], 'c': {},
  }  # fmt: skip
  method = tiny.make_method(config, problem)
  assert list(method.model.samplings) == ['default', 'a', 'b']
  assert method.model.uses('a') == {'unimodal', 'latents', 'score'}
  assert method.model.uses('default') == {'unimodal', 'latents', 'score', 'energy'}


def test_make_looks_at_no_data(tiny):
  """A trained run is loaded without them."""
  blind = tiny.make_problem()
  object.__setattr__(blind, 'open_dataset', None)
  assert tiny.make_method(tiny.make_config('sbm_vae', refine=True), blind).steps


def test_keys_follow_from_the_names_of_learners(method, problem):
  for step in method.steps:
    for training in step.trainings if isinstance(step, Stage) else ():
      expected = fold_in_name(problem.key, training.name)
      assert jax.random.key_data(training.key).tolist() == (
        jax.random.key_data(expected).tolist()
      )


# --- the dry run --------------------------------------------------------------


def test_dry_run_counts_parameters(tiny, problem, method):
  parameters = tiny.check(tiny.make_config('sbm_vae'), problem)
  assert list(parameters) == [
    'unimodal/picture', 'unimodal/profile', 'unimodal/number', 'score', 'energy',
  ]  # fmt: skip
  # 16 entries, six hidden units, two times four moments; and back.
  assert parameters['unimodal/picture'] == (17 * 6 + 2 * 7 * 4) + (5 * 6 + 7 * 16)
  # 3 entries and latents; 5 classes and 2 latents.
  assert parameters['unimodal/profile'] == (4 * 6 + 2 * 7 * 3) + (4 * 6 + 7 * 3)
  assert parameters['unimodal/number'] == (6 * 6 + 2 * 7 * 2) + (3 * 6 + 7 * 5)
  step = by_name(method)['score']
  state = init_state(step.trainings[0], step.example)
  assert parameters['score'] == sum(a.size for a in jax.tree.leaves(state.params))


MISTAKES = [
  ({'unimodal': {}}, "'sbm_vae' needs a section config.unimodal"),
  ({'unimodal.num_steps': 0}, '^config.unimodal.num_steps is 0; it must be at least 1'),
  ({'unimodal.num_steps': 'x'}, "^config.unimodal.num_steps is 'x'; .* a whole number"),
  ({'unimodal.batch_size': -1}, '^config.unimodal.batch_size is -1'),
  ({'unimodal.ema_decay': 2.0}, '^config.unimodal.ema_decay is 2.0; .* below 1'),
  ({'unimodal.numsteps': 3}, "^config.unimodal has no field 'numsteps'.*'num_steps'"),
  ({'unimodal.autoencoder.name': 'vea'}, "^config.unimodal.autoencoder: .*n 'vae'"),
  ({'unimodal.autoencoder.bet': 1}, "no argument 'bet'; it has .'beta'.*"),
  ({'unimodal.autoencoder': {}}, '^config.unimodal.autoencoder: .* needs a `name`'),
  ({'unimodal.optimizer.learning_rte': 1}, "^config.unimodal.optimizer: .*'learning_r"),
  ({'unimodal.optimizer': {}}, "optimizer: .* needs the argument 'learning_rate'"),
  ({'unimodal.optimizer.learning_rate': 0}, 'optimizer: learning_rate is 0; .* posi'),
  ({'unimodal.optimizer.schedule': 'cosin'}, "schedule must be .* not 'cosin'"),
  ({'unimodal.optimizer.name': 'adam'}, "unknown component 'adam'.*'adamw'"),
  ({'unimodal.networks': {}}, '^config.unimodal.networks.picture is missing'),
  ({'unimodal.networks.pictur': {}}, "networks.pictur: there is no.*mean 'picture'"),
  ({'unimodal.networks.picture.latent': 3}, "no field 'latent'.* mean 'latent_dim'"),
  ({'unimodal.networks.picture.latent_dim': 0}, 'networks.picture.latent_dim is 0'),
  ({'unimodal.networks.picture.decoder': DIFFUSION}, "has no 'diffusion' deco"),
  ({'unimodal.networks.picture.decoder': 'mlp'}, "picture.decoder is 'mlp', not a dic"),
  ({'unimodal.networks.picture.encoder': dict(name='patch', patch=3)},
   "^learner 'unimodal/picture': Shape .4, 4, 1. cannot be cut into 3x3 patches"),
  ({'unimodal.networks.profile.encoder.name': 'mpl'}, 'profile.encoder: .*mean .mlp'),
  ({'unimodal.networks.profile.encoder.width': 3}, "'width'.* mean 'widths'"),
  ({'unimodal.networks.profile.likelihood.name': 'gauss'}, "likelihood: .*'gauss'"),
  ({'unimodal.networks.profile.likelihood.scale': -1.0}, 'scale is -1.0; it must be'),
  ({'score': {}}, "'sbm_vae' needs a section config.score"),
  ({'score.num_steps': 1.5}, '^config.score.num_steps is 1.5; .* a whole number'),
  ({'score.netwrk': 3}, "^config.score has no field 'netwrk'.*mean 'network'"),
  ({'score.network.name': 'mpl'}, "^config.score.network: .*Did you mean 'mlp'"),
  ({'score.weighting': 'edn'}, "^config.score.weighting: .*Did you mean 'edm'"),
  ({'score.condition_probability': 1.0}, 'condition_probability is 1.0; '),
  ({'score.drop_probability': -0.1}, '^config.score.drop_probability is -0.1; '),
  ({'score.paired_fraction': 0.0}, 'config.score.paired_fraction=0.0 must leave some'),
  ({'score.paired_fraction': 0.01}, 'paired_fraction=0.01 must leave some of 40 tupl'),
  ({'score.paired_fraction': 1.5}, '^config.score.paired_fraction=1.5 must .*most 1'),
  ({'score.paired_fraction': 'half'}, "^config.score.paired_fraction is 'half'; "),
  ({'score.sde.name': 'vpp'}, "^config.score.sde: .*Did you mean 'vp'"),
  ({'score.sde.sigma_mx': 1}, "'ve' has no argument 'sigma_mx'.*mean 'sigma_max'"),
  ({'score.sde.sigma_max': 0.01}, '^config.score.sde: sigma_min=0.02 must be .*=0.01'),
  ({'score.sde': dict(name='vp', beta_min=3.0, beta_max=1.0)}, 'beta_min=3.0 must be'),
  ({'score.times': dict(name='lognormal', std=0.0)}, 'config.score.times: std is 0.0'),
  ({'score.parametrization.name': 'noize'}, 'score.parametrization: .*n .noise'),
  ({'score.network': dict(name='unet', width=8)},
   "'unet' knows one time for all .* config.score.condition_probability=0"),
  ({'energy': {}}, "^config.samplings.default.guidance: 'energy' needs a trained"),
  ({'energy.num_steps': 0}, '^config.energy.num_steps is 0'),
  ({'energy.group_sise': 4}, "^config.energy has no field 'group_sise'"),
  ({'energy.group_size': 5}, '^config.energy: batch_size=8 must be a multiple of gro'),
  ({'energy.group_size': 1}, '^config.energy: group_size=1 must be at least 2'),
  ({'energy.clean_probability': 1.0}, '^config.energy: clean_probability=1.0 must be'),
  ({'energy.false_negative_rate': -0.5}, '^config.energy: false_negative_rate=-0.5'),
  ({'energy.network.name': 'towr'}, "^config.energy.network: .*mean 'tower'"),
  ({'score.drop_probability': 0.0},
   "^config.samplings.default.guidance: 'classifier_free' needs .*score.drop_prob"),
  ({'score.condition_probability': 0.0},
   "^config.samplings.default.conditioning: 'time_zero' needs a network that has"),
  ({'score.condition_probability': 0.0, 'samplings.unguided': {},
    'samplings.default.conditioning': NOISED, 'samplings.default.guidance': FREE},
   "^config.samplings.default.guidance: 'classifier_free' needs"),
  ({'score.condition_probability': 0.0, 'samplings.default.guidance': {},
    'samplings.default.conditioning': NOISED},
   "^config.samplings.unguided.conditioning: 'time_zero' needs"),
  ({'samplings': {}}, "^config.samplings has no 'default'"),
  ({'samplings.default': {}}, "^config.samplings has no 'default'"),
  ({'samplings.a': 3}, '^config.samplings.a is 3, not a dict'),
  ({'samplings.unguided': dict(sampler=dict(name='heun', num_steps=2))},
   '^config.samplings.unguided.guidance is missing'),
  ({'samplings.default.guidnce': {}}, "default has no field 'guidnce'.*'guidance'"),
  ({'samplings.default': dict(prior=dict(name='standard'))}, "no field 'prior'; it ha"),
  ({'samplings.default.sampler.name': 'dpm_solvr'}, "sampler: .*mean 'dpm_solver'"),
  ({'samplings.default.sampler.num_steps': 0}, 'default.sampler: num_steps is 0; '),
  ({'samplings.default.sampler.time_min': 2.0}, 'time_min is 2.0; it must be below'),
  ({'samplings.default.sampler.num_stps': 2}, "'num_stps'.*mean 'num_steps'"),
  ({'samplings.default.conditioning.name': 'cleen'}, "ditioning: .*mean 'clean'"),
  ({'samplings.default.guidance': 3}, '^config.samplings.default.guidance is 3, not'),
  ({'samplings.default.guidance': {'scale': 1.0}}, 'guidance.scale is 1.0, not a dict'),
  ({'samplings.default.guidance': {'a': {'scale': 1.0}}}, 'guidance.a: .* a `name`'),
  ({'samplings.default.guidance': FREE | dict(noise_min=3.0, noise_max=1.0)},
   '^config.samplings.default.guidance: .*noise_min=3.0 must be'),
  ({'samplings.default.guidance': dict(name='energy', scale=1.0, pairs='some')},
   "^config.samplings.default.guidance: .*pairs='some' is not"),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'message'), MISTAKES)
def test_check_refuses(tiny, problem, changes, message):
  with pytest.raises(UserError, match=message) as error:
    tiny.check(tiny.make_config('sbm_vae', **changes), problem)
  assert '\n' not in str(error.value)


REFINER_MISTAKES = [
  ({'decoder_sampler': {}}, '^config.decoder_sampler: .* needs a `name`'),
  ({'decoder_sampler.name': 'heum'}, "^config.decoder_sampler: .*mean 'heun'"),
  ({'decoder_sampler': COUPLED}, '^config.decoder_sampler.batch_norms: .* to False'),
  ({'decoder_guidance': dict(name='classifier_free')},
   '^config.decoder_guidance: refiners are not guided; leave it empty'),
  ({'refiner.num_steps': 0}, '^config.refiner.num_steps is 0'),
  ({'refiner.decoder': {}}, "^config.refiner has no field 'decoder'.*mean 'decoders'"),
  ({'refiner.decoders': {}}, '^config.refiner.decoders is empty'),
  ({'refiner.decoders': ('picture',)}, '^config.refiner.decoders is .* not a dict'),
  ({'refiner.decoders.m7': {}}, "^config.refiner.decoders.m7: 'm7' is no modality"),
  ({'refiner.decoders.picture': 'mlp'}, "decoders.picture is 'mlp', not a dict"),
  ({'refiner.decoders.picture.name': 'mlp'}, "picture.name must be 'diffusion'"),
  ({'refiner.decoders.picture.drop_probability': 0.1}, 'drop_prob.*: refiners are not'),
  ({'refiner.decoders.picture.weighting': 'edn'}, "weighting: .*Did you mean 'edm'"),
  ({'refiner.decoders.picture.widht': 3}, "decoders.picture has no field 'widht'"),
  ({'refiner.decoders.picture.scale': 0.0}, 'picture.scale is 0.0; .* positive'),
  ({'refiner.decoders.picture.network': dict(name='mixer', patch=3)},
   "^learner 'refiner/picture': .*divides height and width"),
]  # fmt: skip


@pytest.mark.parametrize(('changes', 'message'), REFINER_MISTAKES)
def test_check_refuses_refiners(tiny, problem, changes, message):
  with pytest.raises(UserError, match=message) as error:
    tiny.check(tiny.make_config('sbm_vae', refine=True, **changes), problem)
  assert '\n' not in str(error.value)


def test_check_refuses_refiners_without_a_sampler(tiny, problem):
  config = tiny.make_config('sbm_vae', refine=True)
  del config['decoder_sampler']
  with pytest.raises(UserError, match='^config.decoder_sampler is missing'):
    tiny.check(config, problem)


ONE_TIME = {
  'score.network': dict(name='unet', width=8),
  'score.condition_probability': 0.0,
  'score.drop_probability': 0.0,
  'energy': {},
  'samplings.default.conditioning': NOISED,
  'samplings.default.guidance': {},
  'samplings.unguided': {},
}


@pytest.mark.parametrize(
  ('share_present', 'changes', 'fine'),
  [
    (1.0, {}, True),
    (0.7, {}, False),
    (1.0, {'score.paired_fraction': 0.5}, False),
    (1.0, {'score.paired_fraction': 0.5, 'score.use_unpaired': False}, True),
  ],
)
def test_check_refuses_holes_where_the_network_knows_one_time(
  tiny, share_present, changes, fine
):
  problem = tiny.make_problem(share_present=share_present)
  method = tiny.make_method(tiny.make_config('sbm_vae', **ONE_TIME | changes), problem)
  check = by_name(method)['score'].check
  if fine:
    check()
    return
  with pytest.raises(UserError, match="'unet' cannot learn from missing modalities"):
    check()


# --- latents ------------------------------------------------------------------


def trained(step):
  """Random variables of a stage, as a training leaves them."""
  variables = {}
  for training in step.trainings:
    state = init_state(training, step.example)
    variables[training.name] = {'params': state.params, **state.mutables}
  return step.collect(variables)


@pytest.fixture(scope='module')
def with_holes(tiny):
  return tiny.make_problem(share_present=0.7)


@pytest.fixture(scope='module')
def encoders(tiny, with_holes):
  method = tiny.make_method(tiny.make_config('sbm_vae'), with_holes)
  return trained(by_name(method)['unimodal'])


def test_latents_are_posterior_means_of_what_is_there(tiny, with_holes, encoders):
  method = tiny.make_method(tiny.make_config('sbm_vae'), with_holes)
  step = by_name(method)['latents']
  assert isinstance(step, Derived) and step.spec == {'splits': ['train', 'val']}
  out = step.compute({'unimodal': encoders})
  split = with_holes.dataset.splits['train']
  parts = []
  for number, autoencoder in enumerate(method.model.autoencoders):
    codec = autoencoder.codec
    x = codec.kind.to_model(jnp.asarray(split.arrays[codec.name]))
    q = autoencoder.network.apply(encoders[codec.name], x, method='encode')
    parts.append(np.where(split.present[:, [number]], q.mean, 0.0))
  z, known = np.concatenate(parts, 1), np.repeat(split.present, (4, 3, 2), axis=1)
  np.testing.assert_allclose(out['z'], z, rtol=1e-5, atol=1e-6)
  for dim in range(9):
    column = z[known[:, dim], dim]
    np.testing.assert_allclose(out['mean'][dim], column.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out['std'][dim], column.std(), rtol=1e-4)
  assert {name: a.shape for name, a in step.example.items()} == {
    'mean': (9,), 'std': (9,),
  }  # fmt: skip
  assert {name: a.dtype for name, a in out.items()} == dict.fromkeys(out, np.float32)


def test_latents_that_are_not_standardised(tiny, with_holes, encoders):
  config = tiny.make_config('sbm_vae', **{'score.standardise': False})
  step = by_name(tiny.make_method(config, with_holes))['latents']
  out = step.compute({'unimodal': encoders})
  assert not out['mean'].any() and (out['std'] == 1).all() and out['z'].any()
  assert step.spec['standardise'] is False


def test_latents_that_are_not_finite(tiny, with_holes, encoders):
  method = tiny.make_method(tiny.make_config('sbm_vae'), with_holes)
  torn = jax.tree.map(lambda a: a * jnp.nan, encoders)
  with pytest.raises(UserError, match='the encoders give latents that are not finite'):
    by_name(method)['latents'].compute({'unimodal': torn})


def stored(problem):
  """Latents whose first entry is the number of the row."""
  num = len(problem.present)
  z = np.random.default_rng(0).normal(size=(num, 9)).astype(np.float32)
  z[:, 0] = np.arange(num)
  return {'z': z, 'mean': np.zeros(9, np.float32), 'std': np.ones(9, np.float32)}


@pytest.mark.parametrize('stage', ['score', 'energy'])
def test_pairs_of_all_rows(method, problem, stage):
  latents = stored(problem)
  latents |= {'mean': np.full(9, 2.0, np.float32), 'std': np.full(9, 4.0, np.float32)}
  source = by_name(method)[stage].source({'latents': latents})
  assert set(source) == {'z', 'present'}
  np.testing.assert_allclose(source['z'], (latents['z'] - 2) / 4)
  np.testing.assert_array_equal(source['present'], problem.present)


@pytest.mark.parametrize(
  ('fraction', 'use_unpaired', 'num_paired', 'num_unpaired'),
  [(0.25, True, 30, 30), (0.25, False, 10, 0), (0.75, True, 30, 10)],
)
def test_pairs_of_a_fraction(
  tiny, with_holes, fraction, use_unpaired, num_paired, num_unpaired
):
  """Known pairs are repeated until they are half; the order is that of the seed."""
  changes = {'score.paired_fraction': fraction, 'score.use_unpaired': use_unpaired}
  method = tiny.make_method(tiny.make_config('sbm_vae', **changes), with_holes)
  latents = stored(with_holes)
  for stage in ('score', 'energy'):
    source = by_name(method)[stage].source({'latents': latents})
    rows = source['z'][:, 0].astype(int)
    np.testing.assert_array_equal(source['z'], latents['z'][rows])
    np.testing.assert_array_equal(source['present'], with_holes.present[rows])
    paired = source['paired']
    assert (paired.sum(), (~paired).sum()) == (num_paired, num_unpaired)
    order = np.random.default_rng(0).permutation(40)
    known = order[: round(40 * fraction)]
    np.testing.assert_array_equal(rows[paired], np.resize(known, num_paired))
    if use_unpaired:
      np.testing.assert_array_equal(rows[~paired], order[len(known) :])


def test_another_seed_pairs_other_rows(tiny):
  rows = []
  for seed in (0, 1):
    problem = tiny.make_problem(seed=seed)
    config = tiny.make_config('sbm_vae', **{'score.paired_fraction': 0.25})
    step = by_name(tiny.make_method(config, problem))['score']
    rows.append(step.source({'latents': stored(problem)})['z'][:10, 0])
  assert set(rows[0]) != set(rows[1])


def test_refiners_are_told_the_autoencoders(tiny, problem):
  method = tiny.make_method(tiny.make_config('sbm_vae', refine=True), problem)
  variables = {'picture': 1, 'profile': 2, 'number': 3}
  step = by_name(method)['refiner']
  assert step.frozen({'unimodal': variables}) is variables
  assert step.source({})['x'].keys() == problem.blank['x'].keys()
