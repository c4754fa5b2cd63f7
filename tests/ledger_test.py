"""What steps are, whose they are, and which of them are taken for the same."""

import dataclasses
import json

import jax
import pytest

from mmsbm import identity
from mmsbm.config import Section
from mmsbm.infra.errors import UserError
from mmsbm.learners.base import POSITION
from mmsbm.ledger import DataIdentity, Ledger, find_lenders, names_to_train
from mmsbm.methods.base import Derived, Stage, make_training

DATA = DataIdentity('hash', {'a': '1', 'b': '2'})


@dataclasses.dataclass(frozen=True)
class Part:
  """One of the modalities that a learner reads."""

  name: str
  width: int = 4


@dataclasses.dataclass(frozen=True)
class Own:
  """Learns one modality."""

  modality: Part
  rate: float = 0.5
  index: int = dataclasses.field(default=0, metadata=POSITION)

  @property
  def name(self):
    return f'first/{self.modality.name}'


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads each of its modalities alone."""

  modalities: tuple[Part, ...]
  name: str = 'readers/r'

  reads_each_alone = True


@dataclasses.dataclass(frozen=True)
class Top:
  width: int = 3
  name: str = 'top'


def stage(name, learners, needs=(), **training):
  spec = dict(
    num_steps=10, batch_size=8, ema_decay=0.5, optimizer=dict(learning_rate=0.1)
  )
  section = Section(spec | training, name)
  key = jax.random.key(0)
  return Stage(
    name=name,
    trainings=tuple(make_training(section, learner, key) for learner in learners),
    example={},
    source=lambda inputs: {},
    needs=needs,
  )


def first(rate=0.5, names='ab', **training):
  learners = [Own(Part(name), rate, index=i) for i, name in enumerate(names)]
  return stage('first', learners, **training)


def readers(names='ab', width=4):
  return stage('readers', [Reader(tuple(Part(name, width) for name in names))])


def middle(**spec):
  return Derived(
    name='middle', needs=('first',), compute=lambda inputs: {}, example={}, spec=spec
  )


def top(width=3, **training):
  return stage('top', [Top(width)], needs=('middle',), **training)


STEPS = (readers(), first(), middle(), top())


def ledger(workdir, steps=STEPS, seed=0, data=DATA, **borrow):
  return Ledger(
    workdir=workdir, steps=steps, seed=seed, borrow=borrow, data=lambda: data
  )


def save(book, name, step=10):
  """Puts an empty checkpoint of a learner where one would be."""
  folder = book.workdir / 'checkpoints' / name / str(step)
  folder.mkdir(parents=True)


def trained(workdir, steps=STEPS, seed=0, data=DATA, config=None, unfinished=()):
  """A folder in which all is trained."""
  book = ledger(workdir, steps, seed, data)
  for step in steps:
    book.claim(step)
    for training in getattr(step, 'trainings', ()):
      save(book, training.name, 3 if training.name in unfinished else 10)
  record = {
    'config': {'samplings': {}, 'borrow': {}} | (config or {}),
    'data_hash': data.content_hash,
    'data_samples': dict(data.digests),
  }
  (workdir / 'run.json').write_text(json.dumps(record))
  return book


# --- fingerprints -------------------------------------------------------------


def changed(tmp_path, **options):
  """Names of the steps whose fingerprints differ from those of STEPS."""
  plain = ledger(tmp_path).fingerprints
  other = ledger(tmp_path, **options).fingerprints
  return {name for name in plain if plain[name] != other[name]}


def test_fingerprints_are_those_of_what_a_step_needs(tmp_path):
  assert list(ledger(tmp_path).fingerprints) == ['readers', 'first', 'middle', 'top']
  assert changed(tmp_path) == set()
  same = (readers(), first(), middle(), top())
  assert changed(tmp_path, steps=same) == set()
  steps = (readers(), first(), middle(), top(width=5))
  assert changed(tmp_path, steps=steps) == {'top'}
  steps = (readers(), first(), middle(scaled=False), top())
  assert changed(tmp_path, steps=steps) == {'middle', 'top'}
  steps = (readers(), first(rate=0.25), middle(), top())
  assert changed(tmp_path, steps=steps) == {'first', 'middle', 'top'}
  steps = (readers(width=5), first(), middle(), top())
  assert changed(tmp_path, steps=steps) == {'readers'}


@pytest.mark.parametrize(
  'training',
  [
    dict(num_steps=11),
    dict(batch_size=4),
    dict(ema_decay=0.25),
    dict(optimizer=dict(learning_rate=0.2)),
  ],
)
def test_fingerprints_are_those_of_the_training(tmp_path, training):
  steps = (readers(), first(), middle(), top(**training))
  assert changed(tmp_path, steps=steps) == {'top'}


def test_fingerprints_are_those_of_seed_data_and_format(tmp_path, monkeypatch):
  all_steps = {'readers', 'first', 'middle', 'top'}
  assert changed(tmp_path, seed=1) == all_steps
  assert changed(tmp_path, data=DataIdentity('other', DATA.digests)) == all_steps
  # Digests only say what a lender may have more of.
  assert changed(tmp_path, data=DataIdentity('hash', {})) == set()
  plain = ledger(tmp_path).fingerprints
  monkeypatch.setattr(identity, 'FORMAT', identity.FORMAT + 1)
  other = ledger(tmp_path).fingerprints
  assert all(plain[name] != other[name] for name in plain)


def test_fingerprints_do_not_depend_on_the_folder(tmp_path):
  assert ledger(tmp_path).fingerprints == ledger(tmp_path / 'b').fingerprints


# --- claims -------------------------------------------------------------------


def test_claim_writes_what_the_fingerprint_is_made_of(tmp_path):
  book = ledger(tmp_path, seed=3)
  book.claim(STEPS[1])
  card = json.loads((tmp_path / 'steps' / 'first.json').read_text())
  assert card.pop('fingerprint') == book.fingerprints['first'] == identity.digest(card)
  assert (card['seed'], card['data'], card['needs']) == (3, 'hash', {})
  assert set(card['spec']) == {'first/a', 'first/b'}
  assert card['spec']['first/a'] == {
    'learner': {'is': f'{__name__}:Own', 'modality': {'is': f'{__name__}:Part',
                                                      'name': 'a'}},
    'num_steps': 10,
    'batch_size': 8,
    'ema_decay': 0.5,
    'optimizer': {'learning_rate': 0.1},
  }  # fmt: skip
  book.claim(STEPS[2])
  card = json.loads((tmp_path / 'steps' / 'middle.json').read_text())
  assert card['needs'] == {'first': book.fingerprints['first']}
  assert card['spec'] == {'middle': {}}


def test_refuse_others_takes_the_same_config(tmp_path):
  trained(tmp_path)
  ledger(tmp_path).refuse_others()


REFUSED = [
  (dict(steps=(readers(), first(), middle(), top(width=5))),
   r'\(top.learner.width: \(absent\) -> 5\): choose another --workdir, or delete'),
  (dict(steps=(readers(), first(0.25), middle(), top())),
   r'\(first/a.learner.rate: \(absent\) -> 0.25; first/b.learner.rate: .* 0.25\)'),
  (dict(steps=(readers(), first(num_steps=7), middle(), top())),
   'first/a.num_steps: 10 -> 7; first/b.num_steps: 10 -> 7'),
  (dict(steps=(readers(), first(num_steps=7, batch_size=2), middle(), top())),
   'num_steps: 10 -> 7; .*batch_size: 8 -> 2; .*; and 1 more'),
  (dict(steps=(readers(), first(optimizer=dict(learning_rate=1.0)), middle(), top())),
   'first/a.optimizer.learning_rate: 0.1 -> 1.0'),
  (dict(steps=(readers('abc'), first(), middle(), top())),
   r"readers/r.learner.modalities.c: \(absent\) -> \{"),
  (dict(steps=(readers(), first(names='abc'), middle(), top())), r'first/c: \(abs'),
  (dict(seed=5), r'\(seed: 0 -> 5\)'),
  (dict(data=DataIdentity('x', {})), 'other data, or modalities in another order'),
  (dict(steps=(readers(), first(), middle(scaled=False), top())),
   "top was made from another 'middle'"),
]  # fmt: skip


@pytest.mark.parametrize(('options', 'message'), REFUSED)
def test_refuse_others_names_the_first_differences(tmp_path, options, message):
  trained(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    ledger(tmp_path, **options).refuse_others()
  text = str(error.value)
  assert text.startswith(f'{tmp_path} was trained with another config (')
  assert '\n' not in text


def test_refuse_others_only_where_there_are_checkpoints(tmp_path):
  """A command that ended before them binds nobody."""
  for step in STEPS:
    ledger(tmp_path).claim(step)
  other = (readers(), first(0.25), middle(), top(width=7))
  ledger(tmp_path, steps=other, seed=9).refuse_others()
  save(ledger(tmp_path), 'first/b', step=1)
  with pytest.raises(UserError, match='first/a.learner.rate'):
    ledger(tmp_path, steps=other).refuse_others()
  ledger(tmp_path, steps=(readers(), first(), middle(), top(width=7))).refuse_others()


def test_refuse_others_lets_a_run_have_more_steps_and_fewer(tmp_path):
  trained(tmp_path, steps=STEPS[1:3])
  ledger(tmp_path).refuse_others()
  ledger(tmp_path, steps=(first(),)).refuse_others()


def test_refuse_others_leaves_borrowed_steps_to_their_lender(tmp_path):
  trained(tmp_path / 'own')
  trained(tmp_path / 'lender', steps=(readers(), first(0.25), middle(), top()), seed=4)
  steps = (readers(), first(0.25), middle())
  ledger(tmp_path / 'own', steps, first=tmp_path / 'lender').refuse_others()


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, "has checkpoints of 'top', but .*top.json is missing, which says what"),
    (b'{"spec', 'top.json is damaged'),
    (b'[]', 'top.json does not say what the step is'),
    (b'{"spec": {}}', 'top.json does not say what the step is'),
    (b'\xff\xfe', 'top.json is damaged'),
  ],
)
def test_refuse_others_without_a_word_of_what_they_are(tmp_path, content, message):
  trained(tmp_path)
  path = tmp_path / 'steps' / 'top.json'
  path.unlink() if content is None else path.write_bytes(content)
  with pytest.raises(UserError, match=message):
    ledger(tmp_path).refuse_others()


def test_checkpoint_identity(tmp_path):
  book = ledger(tmp_path)
  result = book.checkpoint_identity({'first/a': 10, 'first/b': 7, 'top': 3})
  prints = book.fingerprints
  assert result == {
    'readers': f'{prints["readers"]}@',
    'first': f'{prints["first"]}@10,7',
    'middle': f'{prints["middle"]}@',
    'top': f'{prints["top"]}@3',
  }


# --- borrowed steps -----------------------------------------------------------


@pytest.fixture
def lender(tmp_path):
  trained(tmp_path / 'lender', seed=4)
  return tmp_path / 'lender'


def test_folder(tmp_path, lender):
  book = ledger(tmp_path / 'own', first=lender)
  assert book.folder('first') == lender and book.folder('top') == tmp_path / 'own'


def test_borrowed_steps_have_the_fingerprint_of_their_lender(tmp_path, lender):
  plain = ledger(tmp_path / 'own')
  book = ledger(tmp_path / 'own', first=lender)
  book.check_lenders()
  theirs = ledger(lender, seed=4).fingerprints
  assert book.fingerprints['first'] == theirs['first'] != plain.fingerprints['first']
  # What is book of it here is that of no other run.
  assert book.fingerprints['top'] not in (theirs['top'], plain.fingerprints['top'])
  assert book.fingerprints['readers'] == plain.fingerprints['readers']


def check(tmp_path, lender, steps=STEPS, names=('first',), **options):
  book = ledger(tmp_path / 'own', steps, **dict.fromkeys(names, lender), **options)
  book.check_lenders()


def test_check_lenders_takes_a_whole_run(tmp_path, lender):
  check(tmp_path, lender, names=('readers', 'first'))
  check(tmp_path, lender, names=('readers', 'first', 'top'), seed=4)
  # What is book here of the same seed and data is the same.
  check(tmp_path, lender, names=('top',), seed=4)


@pytest.mark.parametrize(
  ('steps', 'names', 'message'),
  [
    (
      (readers(), first(0.25), middle(), top()),
      ('first',),
      r'a.learner.rate: .abs.*25',
    ),
    (
      (readers(), first(num_steps=7), middle(), top()),
      ('first',),
      'num_steps: 10 -> 7',
    ),
    ((readers(), first(names='abc'), middle(), top()), ('first',), 'has no first/c'),
    ((readers('ac'), first(), middle(), top()), ('readers',), r'modalities.c: \(abs'),
    ((readers(width=5), first(), middle(), top()), ('readers',), r'a.width: \(absent'),
    ((stage('last', [Top(name='last')]),), ('last',), "has no step 'last'"),
  ],
)
def test_check_lenders_refuses_another_config(tmp_path, lender, steps, names, message):
  with pytest.raises(UserError, match=message) as error:
    check(tmp_path, lender, steps, names)
  assert str(error.value).startswith(f'config.borrow.{names[0]}={lender} ')
  assert '\n' not in str(error.value)


FEWER = DataIdentity('fewer', {'a': '1'})


def test_check_lenders_takes_a_run_with_more_modalities(tmp_path, lender):
  """Where each is learned, or read, alone: the data as a whole are others."""
  steps = (readers('a'), first(names='a'), middle(), top())
  check(tmp_path, lender, steps, ('readers', 'first'), data=FEWER)


@pytest.mark.parametrize(
  'data',
  [
    DataIdentity('other', DATA.digests),
    DataIdentity('fewer', {'a': '2'}),
    DataIdentity('more', {'a': '1', 'c': '3'}),
  ],
)
def test_check_lenders_refuses_other_data(tmp_path, lender, data):
  with pytest.raises(UserError, match='other data, or modalities in another order'):
    check(tmp_path, lender, (readers('a'), first(names='a')), data=data)


def test_check_lenders_refuses_what_was_made_from_another_step(tmp_path, lender):
  """A score model is of the latents of its own autoencoders."""
  for names in (('top',), ('first', 'top')):
    with pytest.raises(UserError, match="was made from another 'middle' than this run"):
      check(tmp_path, lender, names=names, seed=0)


def test_check_lenders_refuses_a_run_that_is_not_finished(tmp_path):
  trained(tmp_path / 'lender', unfinished=('first/b',))
  with pytest.raises(UserError, match='lender: first/b is not fully trained there'):
    check(tmp_path, tmp_path / 'lender')
  # The other learner's step may be borrowed.
  check(tmp_path, tmp_path / 'lender', names=('readers',))


def test_check_lenders_refuses_a_run_that_borrowed_it_itself(tmp_path):
  trained(tmp_path / 'lender', config={'borrow': {'first': '../origin'}})
  with pytest.raises(UserError, match="has no 'first' of its own: give .*../origin"):
    check(tmp_path, tmp_path / 'lender')


def test_check_lenders_refuses_what_is_no_run(tmp_path):
  place = 'config.borrow.first=.*lender'
  with pytest.raises(UserError, match=f'{place}: .* is not a run'):
    check(tmp_path, tmp_path / 'lender')
  trained(tmp_path / 'lender')
  (tmp_path / 'lender' / 'run.json').write_text('{"config": {"stages": []}}')
  with pytest.raises(UserError, match=f'{place}: .* older version .*convert_run'):
    check(tmp_path, tmp_path / 'lender')
  with pytest.raises(
    UserError, match=r'config.borrow.first=.*nothing: .* is not a run'
  ):
    ledger(tmp_path / 'own', first=tmp_path / 'nothing').fingerprints  # noqa: B018


# --- what the config says -----------------------------------------------------


def test_find_lenders(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'here').mkdir()
  (tmp_path / 'runs' / 'beside').mkdir(parents=True)
  workdir = tmp_path / 'runs' / 'own'
  section = Section(
    {'readers': 'here', 'first': '../beside', 'middle': '', 'top': None}, 'borrow'
  )
  assert find_lenders(section, STEPS, workdir) == {
    'readers': tmp_path / 'here',
    'first': workdir / '../beside',
  }
  monkeypatch.setenv('HOME', str(tmp_path))
  (result,) = find_lenders(Section({'first': '~/here'}), STEPS, workdir).values()
  assert result == tmp_path / 'here'


@pytest.mark.parametrize(
  ('borrow', 'message'),
  [
    ({'frist': 'x'}, "^config.borrow.frist: this run has no such step; .*mean 'first'"),
    ({'middle': 'x'}, 'config.borrow.middle: this run has no such step'),
    ({'first': '.'}, '^config.borrow.first is the workdir itself; name another run'),
  ],
)
def test_find_lenders_refuses(tmp_path, borrow, message, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message):
    find_lenders(Section(borrow, 'borrow'), STEPS, tmp_path)


@pytest.mark.parametrize(
  ('only', 'expected'),
  [
    ((), ()),
    ('', ()),
    (('',), ()),
    ('first', ('first',)),
    (('first/a', 'middle'), ('first/a', 'middle')),
  ],
)
def test_names_to_train(tmp_path, only, expected):
  assert names_to_train(Section({'train_only': only}), ledger(tmp_path)) == expected


def test_names_to_train_refuses(tmp_path):
  with pytest.raises(UserError, match="no step or learner 'first/c'; there are .*'fir"):
    names_to_train(Section({'train_only': ('first/c',)}), ledger(tmp_path))
  borrows = ledger(tmp_path, first=tmp_path / 'x')
  with pytest.raises(UserError, match='config.borrow leaves config.train_only nothing'):
    names_to_train(Section({'train_only': ('first/a', 'first')}), borrows)
  both = Section({'train_only': ('first/a', 'top')})
  assert names_to_train(both, borrows) == ('first/a', 'top')


def test_data_identity_fits():
  record = {'data_hash': 'hash', 'data_samples': {'b': '2', 'a': '1'}}
  assert DATA.fits(record)
  assert not DataIdentity('other', DATA.digests).fits(record)
  assert DataIdentity('other', {'b': '2'}).fits(record)
  assert not DataIdentity('hash', {'b': '1'}).fits(record)
  assert not DataIdentity('hash', DATA.digests | {'c': '3'}).fits(record)
