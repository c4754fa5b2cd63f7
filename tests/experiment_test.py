"""A config becomes objects without data; all that a run does is gone through before."""

import importlib
import json

import numpy as np
import pytest

from mmsbm.experiment import make_experiment
from mmsbm.infra.errors import UserError

RECORD = {
  'data_hash': 'hash', 'data_samples': {'m0': '1'}, 'num_classes': {'class': 10},
}  # fmt: skip


def config(arguments='smoke,modalities=2', name='digits', **changes):
  c = importlib.import_module(f'configs.{name}').get_config(arguments).to_dict()
  for key, value in changes.items():
    *path, last = key.split('.')
    node = c
    for part in path:
      node = node[part]
    node[last] = value
  return c


def test_make_experiment_opens_no_data(tmp_path):
  c = config(**{'data.name': 'no_such_module:build'})
  experiment = make_experiment(c, tmp_path, RECORD)
  assert [step.name for step in experiment.workspace.steps] == [
    'classifier', 'unimodal', 'latents', 'score', 'energy',
  ]  # fmt: skip
  assert experiment.method.model.modalities == experiment.problem.modalities
  assert set(experiment.workspace.ledger.fingerprints) == {
    step.name for step in experiment.workspace.steps
  }
  with pytest.raises(UserError, match="'no_such_module:build' cannot be imported"):
    experiment.problem.dataset  # noqa: B018
  assert not list(tmp_path.iterdir())


def test_make_experiment_keeps_plain_values(tmp_path):
  c = config(train_only=['unimodal'])
  experiment = make_experiment(c, tmp_path, RECORD)
  assert experiment.config['train_only'] == experiment.train_only == ('unimodal',)
  assert isinstance(experiment.config['data'], dict)
  json.dumps(experiment.config)


def test_make_experiment_without_trained_readers(tmp_path):
  experiment = make_experiment(
    config(readers={}), tmp_path, RECORD | {'num_classes': {}}
  )
  assert experiment.workspace.steps[0].name == 'unimodal'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'method': 'sbm_vea'}, "^config.method: .*Did you mean 'sbm_vae'"),
    ({'method': 'no_such_module:make'}, '^config.method: .* cannot be imported'),
    ({'modalities': {}}, 'modalities'),
    ({'modalities.m0.kind': 'pictures'}, "unknown component 'pictures'"),
    ({'loop.block_steps': 0}, '^config.loop.block_steps is 0'),
    ({'loop.checkpoint_every_steps': 0}, '^config.loop.checkpoint_every_steps is 0'),
    ({'loop.keep_checkpoints': 0}, '^config.loop.keep_checkpoints is 0'),
    ({'loop.device_memory_gb': -1}, '^config.loop.device_memory_gb is -1'),
    ({'borrow.unimodel': 'x'}, "^config.borrow.unimodel: .*Did you mean 'unimodal'"),
    ({'train_only': ('scoer',)}, "^config.train_only: .*Did you mean 'score'"),
    ({'score.ema_decay': float('nan')}, '^config.score.ema_decay=nan is not a number'),
    (
      {'evaluate.split': 'tset'},
      "^config.evaluate.split='tset' is not one of .*'test'",
    ),
    ({'evaluate.chunk_size': 0}, '^config.evaluate.chunk_size is 0'),
    ({'evaluate.metrics.coherense': {}}, "metrics.coherense: .*mean 'coherence'"),
    ({'evaluate.evaluators.reader': {}}, "evaluators.reader: .*mean 'readers'"),
    ({'readers.digit.name': 'clasifier'}, "^config.readers.digit: .*n 'classifier'"),
    ({'readers.digit.batch_size': 0}, '^config.readers.digit: batch_size is 0'),
    ({'readers.digit.num_steps': -1}, '^config.readers.digit: num_steps is -1'),
    ({'readers.digit.network.name': 'resnt'}, "^config.readers.digit: .*'resnt'"),
    ({'readers.digit.modalities': ('m7',)}, "^config.readers.digit: .*'m7'"),
    ({'readers.digit.annotation': 'clas'}, "readers.digit.*Did you mean 'class'"),
  ],
)
def test_make_experiment_refuses(tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as error:
    make_experiment(config(**changes), tmp_path, RECORD)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['data', 'readers', 'evaluate', 'loop', 'samplings'])
def test_make_experiment_names_a_section_that_is_missing(tmp_path, name):
  c = config()
  del c[name]
  with pytest.raises(UserError, match=f'^config.{name} is missing'):
    experiment = make_experiment(c, tmp_path, RECORD)
    experiment.problem.dataset  # noqa: B018


# --- with data ----------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path):
  """A config of arrays in a file."""
  rng = np.random.default_rng(0)
  np.savez(
    tmp_path / 'data.npz',
    image=rng.integers(0, 256, (60, 16, 16, 1), np.uint8),
    attributes=rng.integers(0, 2, (60, 4), np.uint8),
    labels=rng.integers(0, 10, 60),
  )
  return config(
    'smoke,modalities=2',
    'arrays',
    **{
      'data.files': str(tmp_path / 'data.npz'),
      'data.standin': False,
      'data.cache_dir': str(tmp_path / 'cache'),
      'evaluate.num_examples': 6,
    },
  )


def test_check_counts_parameters_and_writes_nothing(tmp_path, arrays):
  experiment = make_experiment(arrays, tmp_path / 'run')
  parameters = experiment.check()
  assert set(parameters) == {
    'classifier/digit', 'unimodal/image', 'unimodal/attributes', 'score', 'energy',
  }  # fmt: skip
  assert not (tmp_path / 'run').exists()
  facts = experiment.facts()
  assert facts['num_classes'] == {'class': 10}
  assert facts['data_hash'] == experiment.problem.dataset.content_hash
  assert set(facts['data_samples']) == {'image', 'attributes'}
  assert facts['steps'] == experiment.workspace.ledger.fingerprints
  # Loaded from this record, the steps are the same without the data.
  again = make_experiment(arrays, tmp_path / 'run', json.loads(json.dumps(facts)))
  assert again.workspace.ledger.fingerprints == facts['steps']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.name': 'arays'}, "^config.data: .*Did you mean 'arrays'"),
    ({'data.filse': ''}, "^config.data: 'arrays' has no argument 'filse'"),
    ({'modalities.image.shape': (8, 8, 1)}, 'image.*the config says'),
    ({'evaluate.evaluators.conditional.num_given': (3,)}, 'conditional: .*3'),
  ],
)
def test_check_refuses(tmp_path, arrays, changes, message):
  for key, value in changes.items():
    *path, last = key.split('.')
    node = arrays
    for part in path:
      node = node[part]
    node[last] = value
  with pytest.raises(UserError, match=message) as error:
    make_experiment(arrays, tmp_path / 'run').check()
  assert '\n' not in str(error.value)
