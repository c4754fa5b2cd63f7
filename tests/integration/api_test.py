"""mmsbm.load: what a reader of the README calls."""

import shutil

import jax
import numpy as np
import pytest

import mmsbm
from mmsbm import api
from mmsbm.api import _average
from mmsbm.infra import digests
from mmsbm.infra.errors import UserError
from mmsbm.modalities import Modality
from mmsbm.modalities.label import Label
from mmsbm.record import read_record

# Noise is no digit.
pytestmark = pytest.mark.filterwarnings('ignore:.*lie far outside')

SHAPE = (16, 16, 3)
NAMES = ('m0', 'm1', 'm2')


@pytest.fixture(scope='module')
def run(smoke_run, tmp_path_factory):
  """Loaded where neither the data set nor the place of the run is as it was."""
  workdir = tmp_path_factory.mktemp('moved') / 'run'
  shutil.copytree(smoke_run, workdir)
  record = read_record(workdir)
  record['config']['data']['cache_dir'] = '/proc/nothing'
  record['config']['data']['name'] = 'gone'
  (workdir / 'run.json').write_text(digests.to_json(record))
  return mmsbm.load(workdir)


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)


def assert_same(a, b, pixels=0):
  """Equal up to `pixels` levels, which other batch sizes may round otherwise."""
  assert a.keys() == b.keys()
  for name in a:
    difference = np.abs(a[name].astype(int) - b[name].astype(int))
    assert difference.max() <= pixels, name


def test_shapes_and_types(run):
  assert run.modalities == NAMES
  assert run.samplings[0] == 'default' and 'pc200' in run.samplings
  assert run.config['method'] == 'sbm_vae'
  learners = {'score', 'energy', *(f'unimodal/{name}' for name in NAMES)}
  assert set(run.steps) == learners
  out = run.sample(num=4, seed=1)
  assert {n: (a.shape, a.dtype) for n, a in out.items()} == dict.fromkeys(
    NAMES, ((4, *SHAPE), np.dtype(np.uint8))
  )
  assert run.sample()['m0'].shape == (1, *SHAPE)


def test_what_is_given_comes_back_untouched(run, images):
  out = run.sample({'m1': images}, seed=2)
  np.testing.assert_array_equal(out['m1'], images)
  one = run.sample({'m1': images[0]}, num=3)
  np.testing.assert_array_equal(one['m1'], images[[0, 0, 0]])


def test_sample_i_depends_on_the_seed_and_i(run, images):
  whole = run.sample({'m0': images}, seed=3)
  assert_same(whole, run.sample({'m0': images}, seed=3))
  first = run.sample({'m0': images[:2]}, seed=3)
  assert_same({k: v[:2] for k, v in whole.items()}, first, pixels=1)
  other = run.sample({'m0': images}, seed=4)
  assert (whole['m1'] != other['m1']).any(axis=(1, 2, 3)).all()
  repeated = run.sample({'m0': images[0]}, num=2, seed=3)
  assert (repeated['m1'][0] != repeated['m1'][1]).any()


def test_each_row_may_see_something_else(run, images):
  """A row that sees nothing is an unconditional sample, whatever is given."""
  observed = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
  given = {'m0': images, 'm1': images[::-1]}
  out = run.sample(given, observed=observed, seed=5)
  np.testing.assert_array_equal(out['m0'][[0, 2, 4]], images[[0, 2, 4]])
  np.testing.assert_array_equal(out['m1'][[0, 3, 4]], images[::-1][[0, 3, 4]])
  free = run.sample(num=5, seed=5)
  assert_same(
    {k: v[1:2] for k, v in out.items()}, {k: v[1:2] for k, v in free.items()}, 1
  )
  alone = run.sample({'m0': images}, seed=5)
  assert_same(
    {k: v[2:3] for k, v in out.items()}, {k: v[2:3] for k, v in alone.items()}, 1
  )


def test_encode_and_decode_are_those_of_the_networks(run, images):
  """Standardised posterior means, by hand from the variables."""
  z = run.encode({'m2': images})
  assert set(z) == {'m2'}
  model, variables = run._model, jax.device_get(run._inference.variables)
  autoencoder = model.autoencoders[2]
  posterior = autoencoder.network.apply(
    variables['unimodal']['m2'], images / np.float32(255), method='encode'
  )
  where = np.flatnonzero(model.layout.modality_of_dim == 2)
  stats = jax.tree.map(lambda a: np.asarray(a)[where], variables['latents'])
  expected = (np.asarray(posterior.mean) - stats['mean']) / stats['std']
  np.testing.assert_allclose(z['m2'], expected, rtol=1e-3, atol=1e-4)
  decoded = autoencoder.network.apply(
    variables['unimodal']['m2'], posterior.mean, method='decode'
  )
  expected = np.floor(np.clip(decoded, 0, 1) * 255 + 0.5)
  got = run.decode(z)
  assert set(got) == {'m2'} and got['m2'].dtype == np.uint8
  assert np.abs(got['m2'].astype(int) - expected).max() <= 1
  # Modalities together are what they are alone.
  both = run.encode({'m2': images, 'm0': images})
  np.testing.assert_allclose(both['m2'], z['m2'], rtol=1e-4, atol=1e-5)
  assert not np.allclose(both['m0'], both['m2'])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (lambda x: dict(given={'m7': x}), "no modality 'm7'"),
    (lambda x: dict(given={'m0': x[:, :8]}), 'examples have shape'),
    (lambda x: dict(given={'m0': x / 255}), 'is uint8, not float64'),
    (lambda x: dict(given={'m0': np.where(x > 9, np.nan, x)}), 'NaN'),
    (lambda x: dict(given={'m0': x.astype(int) + 1}), 'values from 0 to 255'),
    (lambda x: dict(given={'m0': x}, num=4), '5 examples given for 4 samples'),
    (lambda x: dict(given={'m0': x, 'm1': x[:2]}), '2 examples given for 5 samples'),
    (lambda x: dict(num=2.5), 'num is 2.5; it must be a whole number'),
    (lambda x: dict(draws=0), 'draws is 0'),
    (lambda x: dict(average=True), 'average needs draws'),
    (lambda x: dict(seed=None), 'seed is None; it must be a whole number'),
    (lambda x: dict(seed=True), 'seed is True'),
    (lambda x: dict(seed=-1), 'seed is -1; it must be at least 0'),
    (lambda x: dict(seed=2**32), 'seed is 4294967296; it must be at most 4294967295'),
    (lambda x: dict(given={'m0': [x[0], x[0, :8]]}), "'m0': the given .* no array"),
    (lambda x: dict(observed=np.ones((1, 3), bool)), 'observed says which'),
    (lambda x: dict(sampling={'sampler': {'name': 'huen'}}), "mean 'heun'"),
    (lambda x: dict(num=0), 'num is 0'),
    (lambda x: dict(num=-3), 'num is -3'),
    (lambda x: dict(sampling='pc20'), "Did you mean 'pc200'"),
    (
      lambda x: dict(given={'m0': x[:2]}, observed=np.ones((3, 3), bool)),
      r'observed must be \(2, 3\)',
    ),
  ],
)
def test_mistakes_are_explained(run, images, arguments, message):
  with pytest.raises(UserError, match=message):
    run.sample(**arguments(images))


def test_draws_and_their_average(run, images):
  given = {'m0': images[:2]}
  out = run.sample(given, seed=3, draws=3)
  assert out['m1'].shape == (2, 3, *SHAPE)
  assert_same({k: v[:, 0] for k, v in out.items()}, run.sample(given, seed=3))
  assert (out['m1'][:, 0] != out['m1'][:, 1]).any()
  mean = run.sample(given, seed=3, draws=3, average=True)
  np.testing.assert_array_equal(mean['m1'], np.round(out['m1'].mean(1)))
  np.testing.assert_array_equal(mean['m0'], images[:2])


def test_the_vote_of_classes():
  label = Modality(name='label', kind_name='label', kind=Label(num_classes=4))
  votes = np.array([[3, 1, 3], [0, 0, 2]], np.int32)
  np.testing.assert_array_equal(_average(label, votes), [3, 0])


def test_a_sampling_of_ones_own(run, images):
  named = run.config['samplings']['pc200']
  given = {'m0': images[:2]}
  assert_same(run.sample(given, sampling='pc200'), run.sample(given, sampling=named))


def test_a_new_number_does_not_compile_again(run):
  run.sample(num=5)
  compiled = run._inference._sample._cache_size()
  run.sample(num=7)
  assert run._inference._sample._cache_size() == compiled


def test_what_lies_far_outside_is_said(run, monkeypatch):
  real = run.sample(seed=1)['m0']
  monkeypatch.setattr(api, '_FAR', 1e9)
  run.sample({'m0': real})
  monkeypatch.setattr(api, '_FAR', 1e-9)
  with pytest.warns(UserWarning, match="'m0': 1 given examples lie far outside"):
    run.sample({'m0': real})


def test_a_run_that_is_not_fully_trained(smoke_run, tmp_path):
  workdir = shutil.copytree(smoke_run, tmp_path / 'w')
  record = read_record(workdir)
  record['config']['score']['num_steps'] *= 2
  (workdir / 'run.json').write_text(digests.to_json(record))
  with pytest.raises(UserError, match='score in .*: --mode=train goes on'):
    mmsbm.load(workdir)


def test_mistakes_of_encode_and_decode(run, images):
  with pytest.raises(UserError, match='same number of examples'):
    run.encode({'m0': images, 'm1': images[:2]})
  with pytest.raises(UserError, match='same number of examples'):
    run.encode({})
  with pytest.raises(UserError, match="latents of 'm1' must be"):
    run.decode({'m1': np.zeros((2, 1))})
  with pytest.raises(UserError, match="no latent 'm7'"):
    run.decode({'m7': np.zeros((2, 1))})
  for nothing in ({}, {'m1': np.zeros((0, 16))}):
    with pytest.raises(
      UserError, match=r"decode needs latents: .*\['m0', 'm1', 'm2'\]"
    ):
      run.decode(nothing)


def test_a_folder_that_is_no_run(tmp_path):
  with pytest.raises(UserError, match='is not a run'):
    mmsbm.load(tmp_path)


def test_a_run_of_another_version(smoke_run, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  record = read_record(workdir)
  del record['config']['score']['drop_probability']
  (workdir / 'run.json').write_text(digests.to_json(record))
  with pytest.raises(UserError, match='config.score.drop_probability is missing'):
    mmsbm.load(workdir)
  del record['config']['samplings']
  (workdir / 'run.json').write_text(digests.to_json(record))
  with pytest.raises(UserError, match=f'mmsbm.tools.convert_run {workdir}'):
    mmsbm.load(workdir)


@pytest.mark.parametrize('content', [None, b'', b'PK\x03\x04torn', b'not an npz'])
def test_latents_that_are_gone_or_torn(smoke_run, tmp_path, content):
  workdir = tmp_path / 'w'
  shutil.copytree(smoke_run, workdir)
  (workdir / 'latents.npz').unlink()
  if content is not None:
    (workdir / 'latents.npz').write_bytes(content)
  with pytest.raises(UserError, match='missing or damaged'):
    mmsbm.load(workdir)
