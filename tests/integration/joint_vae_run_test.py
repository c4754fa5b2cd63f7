"""A run of a joint VAE with a diffusion decoder, from raw data to the report."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsbm
from configs import arrays
from mmsbm.experiment import make_experiment
from mmsbm.infra.errors import UserError
from mmsbm.main import execute
from mmsbm.methods import joint_vae
from mmsbm.methods.latent_diffusion import standardised

ARGUMENTS = 'smoke,method=diff_mvae,modalities=2'


@pytest.fixture(scope='module')
def folder(program, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('joint') / 'run'
  code = program(f'--config=configs/arrays.py:{ARGUMENTS}', f'--workdir={workdir}')
  assert code == 0
  return workdir


@pytest.fixture(scope='module')
def run(folder):
  return mmsbm.load(folder)


@pytest.fixture(scope='module')
def made(folder):
  return make_experiment(arrays.get_config(ARGUMENTS).to_dict(), folder)


def rows_of(folder):
  return [json.loads(s) for s in (folder / 'results.jsonl').read_text().splitlines()]


def test_what_it_measures(folder):
  rows = rows_of(folder)
  joint = {
    (r['sampling'], r['nfe'])
    for r in rows
    if r['metric'] == 'frechet' and r['num_given'] == 0
  }
  # The score model has 4; the one diffusion decoder 10, and 4 at guided levels.
  assert joint == {('default', 18), ('prior', 14), ('mixture', 14)}
  given = {(r['sampling'], r['nfe']) for r in rows if r['metric'] == 'f1'}
  assert given == {('default', 14)}
  assert {r['model'] for r in rows} == {'diff_mvae'}
  probed = [r['num_given'] for r in rows if r['metric'] == 'latent_accuracy']
  assert sorted(set(probed)) == [1, 2]
  page = (folder / 'report' / 'index.html').read_text()
  assert 'diff_mvae' in page and page.count('data:image/png') >= 5
  record = json.loads((folder / 'run.json').read_text())
  assert 'joint' in record['parameters']
  speed = record['seconds_per_sample']
  assert 0 < speed['stderr'] < speed['value'] < 1
  assert 'num_steps=10' in speed['of']['decoding']['decoder_sampler']


def test_the_latents_that_the_score_model_learns(folder, run, made):
  with np.load(folder / 'latents.npz') as f:
    stored = dict(f)
  part = made.problem.dataset.splits['train']
  present = np.asarray(part.present)
  np.testing.assert_array_equal(stored['present'], present.any(1, keepdims=True))
  variables, model = run._inference.variables, run._model
  x = tuple(jnp.asarray(part.arrays[name]) for name in made.problem.names)
  encoded = model.encode(variables, x)
  keys = jax.random.split(jax.random.key(0), len(present))
  q = model.posterior(variables, keys, encoded, present)
  mean, std = np.asarray(q.mean), np.exp(0.5 * np.asarray(q.log_var))
  np.testing.assert_allclose(stored['z'], mean, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(stored['spread'], std, rtol=1e-3)
  total = np.sqrt(mean.var(0) + (std**2).mean(0))
  np.testing.assert_allclose(stored['std'], total, rtol=1e-3)
  source = standardised({'latents': stored})
  np.testing.assert_allclose(source['spread'], stored['spread'] / stored['std'])


def test_from_python(run, made):
  split = made.problem.dataset.splits['test']
  x = {name: np.asarray(a[:3]) for name, a in split.arrays.items()}
  z = run.encode(x)
  assert {name: a.shape for name, a in z.items()} == {'shared': (3, 32)}
  assert (run.encode({'image': x['image']})['shared'] != z['shared']).any()
  out = run.decode(z)
  assert {name: a.shape for name, a in out.items()} == {
    name: a.shape for name, a in x.items()
  }
  again = run.decode({'shared': z['shared'][:1]})
  np.testing.assert_array_equal(again['image'][0], out['image'][0])
  assert (run.decode(z, seed=1)['image'] != out['image']).any()
  drawn = run.sample(given={'attributes': x['attributes']}, seed=3)
  np.testing.assert_array_equal(drawn['attributes'], x['attributes'])
  with pytest.raises(UserError, match="no latent 'image'"):
    run.decode({'image': z['shared']})


def test_a_mixture_is_fitted_once(folder, monkeypatch):
  def refuse(*args):
    raise AssertionError('fitted again')

  monkeypatch.setattr(joint_vae, 'fit_gaussian_mixture', refuse)
  mmsbm.load(folder)
  path = folder / 'mixtures.npz'
  content = path.read_bytes()
  path.write_bytes(content[:100])
  with pytest.raises(UserError, match='mixtures.npz is missing or damaged'):
    mmsbm.load(folder)
  config = arrays.get_config(ARGUMENTS).to_dict()
  with pytest.raises(AssertionError, match='fitted again'):
    execute(config, str(folder), 'train', ['', 'x'])
  path.write_bytes(content)


def test_another_solver_of_the_decoders(folder, program):
  """Is measured and drawn anew; nothing is trained."""
  picture = (folder / 'samples' / 'given_first_1.npz').read_bytes()
  trained = (folder / 'metrics.jsonl').read_bytes()
  arguments = (
    f'--config=configs/arrays.py:{ARGUMENTS}',
    f'--workdir={folder}',
    '--config.decoder_sampler.num_steps=3',
  )
  # Of the levels 20, 2.24 and 0.09 one is guided.
  assert program(*arguments) == 0
  counts = {r['nfe'] for r in rows_of(folder) if 'nfe' in r}
  assert counts == {8, 4}
  record = json.loads((folder / 'run.json').read_text())
  decoding = record['seconds_per_sample']['of']['decoding']
  assert 'num_steps=3' in decoding['decoder_sampler']
  assert (folder / 'samples' / 'given_first_1.npz').read_bytes() != picture
  assert (folder / 'metrics.jsonl').read_bytes() == trained


COUPLED = dict(name='predictor_corrector', num_steps=2, batch_norms=True)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'train_only': ('unimodal',)}, "no step or learner 'unimodal'"),
    ({'samplings.default.guidance': dict(name='energy')}, "no field 'guidance'"),
    ({'samplings.mixture.prior.num_components': 9_999}, 'num_components=9999'),
    ({'samplings.default.prior.sampler.name': 'dpm_solvr'}, "mean 'dpm_solver'"),
    ({'samplings.default.prior.name': 'scor'}, "Did you mean 'score'"),
    ({'joint.networks.image.decoder.weighting': 'edn'}, "Did you mean 'edm'"),
    ({'joint.networks.image.latent_dim': 7}, r'must be the same, not \[7, 32\]'),
    ({'joint.objective.beta_': 2.0}, "'mopoe' has no argument 'beta_'"),
    (
      {'joint.objective': dict(name='mmvae', estimator='dreg', num_samples=2)},
      'num_samples=2 draws inside the logarithm',
    ),
    ({'joint.family': 'laplace'}, "config.joint.family='laplace' is not one of"),
    ({'joint.private_dim': 4}, 'only mmvaeplus has one'),
    ({'evaluate.evaluators.linear_probe.num_train': -5}, 'num_train is -5'),
    ({'joint.likelihood_weights': {'imag': 2.0}}, "Did you mean 'image'"),
    ({'score.weighting': 'edn'}, "Did you mean 'edm'"),
    ({'score.paired_fraction': 0.5}, 'no pairs'),
    ({'decoder_sampler': COUPLED}, 'batch_norms'),
    ({'joint.networks.image.decoder.drop_probability': 0.0}, 'decoder_guidance needs'),
    ({'joint.networks.image.decoder.drop_probability': 2}, 'is 2; it must be below 1'),
    ({'decoder_guidance.scal': 2.0}, "no argument 'scal'"),
    ({'score': {}}, "the prior 'score' needs a score model"),
    ({'borrow.unimodal': 'there'}, "config.borrow.unimodal: this run has no such step"),
  ],
)  # fmt: skip
def test_mistakes_are_explained_before_training(changes, message, check_changed):
  with pytest.raises(UserError, match=message):
    check_changed(arrays.get_config(ARGUMENTS).to_dict(), changes)


def test_only_the_classifier_is_shared_with_another_method(folder, tmp_path):
  config = arrays.get_config('smoke,method=sbm_vae,modalities=2').to_dict()
  config['borrow']['classifier'] = str(folder)
  make_experiment(config, tmp_path).check()
  config['readers']['digit']['num_steps'] = 7
  with pytest.raises(UserError, match='classifier/digit.num_steps: 20 -> 7'):
    make_experiment(config, tmp_path).check()


def test_a_joint_vae_is_lent_with_all_its_modalities_in_their_order(folder, tmp_path):
  config = arrays.get_config(ARGUMENTS).to_dict()
  config['borrow']['joint'] = str(folder)
  make_experiment(config, tmp_path).check()
  config['modalities'] = dict(reversed(config['modalities'].items()))
  with pytest.raises(UserError, match='was trained with another config'):
    make_experiment(config, tmp_path).check()


def test_a_joint_vae_without_a_score_model(cache, tmp_path):
  config = arrays.get_config('smoke,method=mvtcae,modalities=2').to_dict()
  config['score'], config['samplings'] = (
    {},
    {'default': {'prior': {'name': 'standard'}}},
  )
  made = make_experiment(config, tmp_path)
  made.check()
  assert [step.name for step in made.method.steps] == ['joint']
