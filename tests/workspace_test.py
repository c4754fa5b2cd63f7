"""Steps are space once, kept, borrowed and loaded; on learners of a few numbers."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm import train
from mmsbm.config import Section
from mmsbm.infra import checkpoints, sharding
from mmsbm.infra.errors import UserError
from mmsbm.ledger import DataIdentity, Ledger
from mmsbm.methods.base import Derived, Stage, make_training
from mmsbm.workspace import Workspace

NUM_STEPS = 40
# Halves the distance in every step.
SGD = dict(name='optax:sgd', learning_rate=0.25)
X = np.random.default_rng(0).normal([1.0, -2.0, 0.5], 0.01, (32, 3)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Mean:
  """A vector that goes to the mean of what it is shown, plus what it is told."""

  name: str
  weight: float = 1.0

  def init(self, key, batch):
    return {'params': {'mean': jax.random.normal(key, batch['x'].shape[1:])}}

  def loss(self, variables, frozen, batch, rngs, *, train):
    del rngs, train
    target = self.weight * batch['x'] + (0.0 if frozen is None else frozen)
    loss = jnp.square(variables['params']['mean'] - target).sum(-1).mean()
    return loss, {'distance': loss}, {}


def stage(name, names, num_steps=NUM_STEPS, weight=1.0, **fields):
  spec = dict(num_steps=num_steps, batch_size=8, ema_decay=0.0, optimizer=SGD)
  section, key = Section(spec, name), jax.random.key(0)
  return Stage(
    name=name,
    trainings=tuple(make_training(section, Mean(n, weight), key) for n in names),
    example={'x': np.zeros((1, 3), np.float32)},
    **dict(source=lambda inputs: {'x': X}) | fields,
  )


def first(**options):
  return stage('first', ('first/a', 'first/b'), **options)


def middle(calls=None, scale=2.0):
  """Twice the means of the first stage, in a tree."""

  def compute(inputs):
    if calls is not None:
      calls.append(inputs)
    a, b = (inputs['first'][name]['params']['mean'] for name in 'ab')
    return {'a': scale * a, 'deep': {'b': scale * b, 'only_later': jnp.zeros(9)}}

  return Derived(
    name='middle',
    needs=('first',),
    compute=compute,
    example={'a': np.zeros(3, np.float32)},
    spec={'scale': scale},
  )


def last(**options):
  return stage(
    'last',
    ('last',),
    needs=('first', 'middle'),
    source=lambda inputs: {'x': X * 0 + inputs['middle']['a']},
    frozen=lambda inputs: inputs['first']['b']['params']['mean'],
    **options,
  )


def steps(**options):
  return (first(), middle(**options), last())


def workspace(workdir, chosen=None, seed=0, **borrow):
  workdir.mkdir(parents=True, exist_ok=True)
  return Workspace(
    ledger=Ledger(
      workdir=workdir,
      steps=chosen or steps(),
      seed=seed,
      borrow=borrow,
      data=lambda: DataIdentity('hash', {}),
    ),
    mesh=sharding.make_mesh(),
    options=train.LoopOptions(block_steps=20, checkpoint_every_steps=20),
    device_memory_gb=1.0,
  )


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A folder in which all is space; tests do not change it."""
  folder = tmp_path_factory.mktemp('finished')
  workspace(folder).make()
  record = {'config': {'samplings': {}, 'borrow': {}}, 'data_hash': 'hash',
            'data_samples': {}}  # fmt: skip
  (folder / 'run.json').write_text(json.dumps(record))
  return folder


@pytest.fixture
def copy(finished, tmp_path):
  import shutil

  return shutil.copytree(finished, tmp_path / 'copy')


def learned(space):
  variables, _ = space.load()
  return {
    'a': variables['first']['a']['params']['mean'],
    'b': variables['first']['b']['params']['mean'],
    'last': variables['last']['params']['mean'],
  }


# --- making -------------------------------------------------------------------


def test_make_passes_results_on(finished):
  means = learned(workspace(finished))
  np.testing.assert_allclose(means['a'], X.mean(0), atol=0.02)
  # Twice the one from the source, and the other from what the loss is told.
  expected = 2 * means['a'] + means['b']
  np.testing.assert_allclose(means['last'], expected, atol=1e-3)
  assert (finished / 'steps' / 'first.json').exists()
  assert (finished / 'middle.npz').exists()
  names = {p.name for p in (finished / 'checkpoints').rglob('*') if p.name.isdigit()}
  assert names == {'20', '40'}
  lines = (finished / 'metrics.jsonl').read_text().splitlines()
  assert {json.loads(line)['learner'] for line in lines} == {
    'first/a', 'first/b', 'last',
  }  # fmt: skip


def test_make_tells_what_it_begins(tmp_path):
  began, timed = [], []

  @contextlib.contextmanager
  def clock(name):
    timed.append(('begin', name))
    yield
    timed.append(('end', name))

  space = workspace(tmp_path, (first(num_steps=2), middle()))
  space.make(timed=clock, begin=lambda ts: began.append([t.name for t in ts]))
  assert began == [['first/a', 'first/b']]
  assert timed == [('begin', 'train first'), ('end', 'train first')]


def test_make_does_nothing_twice(copy):
  times = {p: p.stat().st_mtime_ns for p in copy.rglob('*') if p.is_file()}
  calls, began = [], []
  workspace(copy, steps(calls=calls)).make(begin=began.append)
  assert not calls and not began
  assert {p: p.stat().st_mtime_ns for p in copy.rglob('*') if p.is_file()} == times


def test_make_trains_learners_apart_as_together(finished, tmp_path):
  """What one task of a cluster trains is the same as in company."""
  for name in ('first/b', 'first/a'):
    workspace(tmp_path).make(only=(name,))
  folders = {p.name for p in (tmp_path / 'checkpoints' / 'first').iterdir()}
  assert folders == {'a', 'b'} and not (tmp_path / 'middle.npz').exists()
  workspace(tmp_path).make()
  for name, value in learned(workspace(finished)).items():
    np.testing.assert_array_equal(learned(workspace(tmp_path))[name], value)


@pytest.mark.parametrize('only', [('first/a',), ('middle',), ('last',), ('first/b',)])
def test_make_of_some_needs_what_comes_before(tmp_path, only):
  space = workspace(tmp_path)
  if only[0].startswith('first'):
    space.make(only=only)
    with pytest.raises(UserError, match='first/. must be trained before what needs it'):
      space.make(only=('last',))
    return
  with pytest.raises(UserError, match='config.train_only: first/a must be trained'):
    space.make(only=only)
  assert not (tmp_path / 'steps').exists()


def test_make_of_a_late_step_only(copy):
  """Its inputs are loaded or, where they are derived, space."""
  import shutil

  shutil.rmtree(copy / 'checkpoints' / 'last')
  (copy / 'middle.npz').unlink()
  calls = []
  workspace(copy, steps(calls=calls)).make(only=('last',))
  assert len(calls) == 1 and learned(workspace(copy))


def test_make_goes_on_where_it_stopped(finished, tmp_path):
  """Half a training under the same name is no other one."""
  half = workspace(tmp_path, (first(),))

  class Stopped(Exception):
    pass

  real = checkpoints.save
  saved = []

  def save(*args, **kwargs):
    real(*args, **kwargs)
    saved.append(args[1])
    if len(saved) == 2:
      raise Stopped

  with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
    patch.setattr(checkpoints, 'save', save)
    half.make()
  assert saved == [20, 20]
  workspace(tmp_path).ledger.refuse_others()
  workspace(tmp_path).make()
  for name, value in learned(workspace(finished)).items():
    np.testing.assert_array_equal(learned(workspace(tmp_path))[name], value)


def test_train_groups_what_runs_equally_long(tmp_path, monkeypatch):
  """All of a step draw the same batches; their order is that of seed and name."""
  groups = []

  def train_group(group, source, *, workdir, frozen, **options):
    del options
    names = tuple(training.name for training in group)
    groups.append((names, source, workdir, frozen))

  monkeypatch.setattr(train, 'train_group', train_group)
  long = stage('quick', ('quick/b',), num_steps=50)
  short = stage('quick', ('quick/a', 'quick/c'), num_steps=3)
  (a, c), (b,) = short.trainings, long.trainings
  step = dataclasses.replace(short, trainings=(a, b, c), frozen=lambda inputs: 'told')
  workspace(tmp_path, (step,), seed=7).make()
  assert [names for names, *_ in groups] == [('quick/a', 'quick/c'), ('quick/b',)]
  for _, source, workdir, frozen in groups:
    # Another number would train other networks of the same seed: sha1('quick').
    assert source.seed == (7 << 32) + 0x9A5751D5
    assert (source.size, source.resident) == (32, True)
    np.testing.assert_array_equal(source.arrays['x'], X)
    assert (workdir, frozen) == (tmp_path, 'told')


def test_another_seed_draws_other_batches(finished, tmp_path):
  """The order of the examples; initial values are those of the learners' keys."""
  space = workspace(tmp_path, (first(),), seed=1)
  space.make()
  variables, _ = space.load()
  other = variables['first']['a']['params']['mean']
  assert (other != learned(workspace(finished))['a']).any()


def test_sets_that_do_not_fit_the_devices_give_the_same(finished, tmp_path):
  small = dataclasses.replace(workspace(tmp_path), device_memory_gb=1e-7)
  assert X.nbytes > 1e-7 * 2**30
  small.make()
  for name, value in learned(workspace(finished)).items():
    np.testing.assert_allclose(learned(workspace(tmp_path))[name], value, rtol=1e-5)


# --- derived steps ------------------------------------------------------------


def stored(folder):
  with np.load(folder / 'middle.npz') as f:
    return dict(f)


def test_derived_arrays_carry_their_fingerprint(finished):
  arrays = stored(finished)
  assert set(arrays) == {'fingerprint', 'digest', 'a', 'deep/b', 'deep/only_later'}
  expected = workspace(finished).ledger.fingerprints['middle']
  assert str(arrays['fingerprint']) == expected
  np.testing.assert_array_equal(arrays['a'], 2 * learned(workspace(finished))['a'])


def spoil(folder, how):
  path = folder / 'middle.npz'
  content = path.read_bytes()
  if how == 'missing':
    path.unlink()
  elif how == 'empty':
    path.write_bytes(b'')
  elif how == 'torn':
    path.write_bytes(content[: len(content) // 2])
  elif how == 'text':
    path.write_text('nothing of the kind')
  elif how == 'other':
    np.savez(path, **stored(folder) | {'fingerprint': np.array('0123')})
  elif how == 'no fingerprint':
    np.savez(path, a=np.zeros(3))
  elif how == 'rewritten':
    np.savez(path, **stored(folder) | {'a': np.zeros(3, np.float32)})
  elif how == 'flipped':
    middle_of_file = len(content) // 3
    path.write_bytes(
      content[:middle_of_file] + b'\0\0\0\0' + content[middle_of_file + 4 :]
    )


DAMAGE = ['missing', 'empty', 'torn', 'text', 'other', 'no fingerprint', 'rewritten']


@pytest.mark.parametrize('how', DAMAGE)
def test_derived_arrays_are_made_again_where_they_are_not_good(copy, how):
  expected = stored(copy)
  spoil(copy, how)
  with pytest.raises(
    UserError, match='middle.npz is missing or damaged, or from other'
  ):
    workspace(copy).load()
  calls = []
  workspace(copy, steps(calls=calls)).make()
  assert len(calls) == 1
  again = stored(copy)
  assert again.keys() == expected.keys()
  for name, array in again.items():
    np.testing.assert_array_equal(array, expected[name])


def test_derived_arrays_of_another_spec_are_made_again(copy):
  import shutil

  shutil.rmtree(copy / 'checkpoints' / 'last')
  scaled = (first(), middle(scale=3.0), last())
  before = stored(copy)['a']
  workspace(copy, scaled).make()
  np.testing.assert_allclose(stored(copy)['a'], 1.5 * before, rtol=1e-6)


# --- loading ------------------------------------------------------------------


def test_load_gives_what_the_model_sees(finished):
  variables, numbers = workspace(finished).load()
  assert list(variables) == ['first', 'middle', 'last']
  assert set(variables['first']) == {'a', 'b'}
  # The rest of the arrays is only for later steps.
  assert set(variables['middle']) == {'a'}
  assert numbers == dict.fromkeys(('first/a', 'first/b', 'last'), NUM_STEPS)
  variables, numbers = workspace(finished).load(without=('first',))
  assert list(variables) == ['middle', 'last'] and numbers == {'last': NUM_STEPS}


def test_load_before_training_says_what_to_do(tmp_path):
  space = workspace(tmp_path)
  with pytest.raises(UserError, match='no checkpoint in .*first/a: .*--mode=train'):
    space.load()
  with pytest.raises(
    UserError, match=f'no checkpoint of first/a in {tmp_path}: --mode'
  ):
    space.check_trained()
  workspace(tmp_path, (first(num_steps=1),)).make(only=('first/a',))
  with pytest.raises(
    UserError, match='first/a in .* is at step 1 of 40: .*=train goes'
  ):
    space.check_trained()
  with pytest.raises(UserError, match='no checkpoint of first/b'):
    space.check_trained(allow_partial=True)


def test_check_trained_takes_what_is_there(finished):
  workspace(finished).check_trained()


# --- continuing ---------------------------------------------------------------


def latest(folder, name):
  return checkpoints.latest_step(train.directory(folder, name))


def test_the_last_stage_is_trained_further(copy):
  before = workspace(copy).ledger.fingerprints
  longer = (first(), middle(), last(num_steps=60))
  space = workspace(copy, longer)
  space.ledger.refuse_others()
  with pytest.raises(UserError, match='last in .* is at step 40 of 60'):
    space.check_trained()
  trained = []
  space.make(begin=lambda todo: trained.extend(t.name for t in todo))
  assert trained == ['last'] and latest(copy, 'last') == 60
  rows = [json.loads(x) for x in (copy / 'metrics.jsonl').read_text().splitlines()]
  assert {r['step'] for r in rows if r['learner'] == 'last'} == {20, 40, 60}
  # It is another one than before, and than one of 60 steps from the start.
  again = workspace(copy, longer).ledger
  again.refuse_others()
  assert again.fingerprints == space.ledger.fingerprints
  fresh = workspace(copy.parent / 'fresh', longer).ledger.fingerprints
  assert len({f['last'] for f in (before, fresh, again.fingerprints)}) == 3
  assert before['first'] == again.fingerprints['first']
  assert not (copy / 'replaced').exists()
  with pytest.raises(UserError, match='last.num_steps: 60 -> 40'):
    workspace(copy).ledger.refuse_others()


def test_what_depends_on_a_continued_stage_is_made_again(copy, capsys):
  old = learned(workspace(copy))
  longer = (first(num_steps=60), middle(), last())
  space = workspace(copy, longer)
  space.ledger.refuse_others()
  assert space.ledger.replaced == ('last',)
  with pytest.raises(UserError, match='first/a in .* is at step 40 of 60'):
    space.check_trained()
  with pytest.raises(UserError, match='last was made from what is to be trained'):
    space.check_trained(allow_partial=True)
  space.make(only=('first',))
  assert 'last is made again' in capsys.readouterr().err
  # A second process knows nothing but the folder.
  space = workspace(copy, longer)
  assert space.ledger.replaced == () and latest(copy, 'last') is None
  space.ledger.refuse_others()
  space.make()
  space.check_trained()
  new = learned(space)
  np.testing.assert_allclose(new['last'], 2 * new['a'] + new['b'], atol=0.1)
  assert (new['last'] != old['last']).any()
  (aside,) = (copy / 'replaced').iterdir()
  assert latest(aside, 'last') == 40 and (aside / 'steps' / 'last.json').exists()


def test_only_num_steps_may_grow(copy):
  other = (first(num_steps=60, weight=2.0), middle(), last())
  with pytest.raises(UserError, match='first/a.learner.weight: .* -> 2.0'):
    workspace(copy, other).ledger.refuse_others()
  with pytest.raises(UserError, match='seed: 0 -> 1'):
    workspace(
      copy, (first(num_steps=60), middle(), last()), seed=1
    ).ledger.refuse_others()


# --- borrowing ----------------------------------------------------------------


def test_borrowed_steps_are_loaded_from_their_lender(finished, tmp_path):
  borrower = tmp_path / 'own'
  space = workspace(borrower, seed=5, first=finished)
  space.ledger.check_lenders()
  space.make()
  assert not (borrower / 'checkpoints' / 'first').exists()
  assert not (borrower / 'steps' / 'first.json').exists()
  means = learned(space)
  theirs = learned(workspace(finished))
  np.testing.assert_array_equal(means['a'], theirs['a'])
  np.testing.assert_array_equal(stored(borrower)['a'], 2 * theirs['a'])
  space.check_trained()
  # Without the loan they are no results of this run.
  with pytest.raises(UserError, match='no checkpoint of first/a'):
    workspace(borrower, seed=5).check_trained()


def test_a_lender_that_is_not_there_any_more(finished, tmp_path):
  borrower = tmp_path / 'own'
  workspace(borrower, first=finished).make()
  with pytest.raises(
    UserError, match='^config.borrow.first=.*gone/run.json does not exist'
  ):
    workspace(borrower, first=tmp_path / 'gone').load()
