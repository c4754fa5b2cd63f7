"""What is measured is not measured again, unless what it depends on changes."""

import pathlib

import pytest

SAMPLED = {
  'unconditional', 'given_2', 'given_1', 'unconditional_with_7_steps',
  'given_2_with_7_steps',
}  # fmt: skip
ALL = {'readers', 'reconstruction'} | SAMPLED


@pytest.fixture
def again(fakes, tmp_path):
  """Evaluates; rows, and names of the measurements that were made."""
  problem = fakes.digits_problem(60)

  def call(identity=None, samplings=None, kwargs=None, readers=None, **config):
    folder = pathlib.Path(tmp_path, 'evaluation')
    before = {p: p.stat().st_mtime_ns for p in folder.glob('*-*.json')}
    plan = fakes.make_plan(problem, readers or (fakes.ReadClass(),), **config)
    model = fakes.ClassModel('perfect', problem.modalities)
    if samplings:
      model = fakes.ClassModel('perfect', problem.modalities, samplings)
    rows = fakes.run(
      tmp_path, plan, fakes.FakeInference(model), identity, **kwargs or {}
    )
    after = {p: p.stat().st_mtime_ns for p in folder.glob('*-*.json')}
    made = {p.name.rpartition('-')[0] for p, t in after.items() if before.get(p) != t}
    return rows, made

  return call


def test_measurements_depend_on_what_they_use(fakes, again):
  first, made = again()
  assert made == ALL
  assert again() == (first, set())
  # Another sampling is measured; what it does not concern stays.
  _, made = again(samplings={'default': 5, 'with_7_steps': 9})
  assert made == {'unconditional_with_7_steps', 'given_2_with_7_steps'}
  _, made = again(samplings={'default': 4, 'with_7_steps': 7})
  assert made == {'unconditional', 'given_2', 'given_1'}
  # Steps that a measurement does not use are of no concern.
  assert again(identity={'energy': 'x@40'})[1] == set()
  samplings = {'default': 5, 'with_7_steps': 7, 'with_energy': 5}
  energy = {'unconditional_with_energy', 'given_2_with_energy'}
  assert again(samplings=samplings)[1] == energy
  assert again(samplings=samplings, identity={'energy': 'x@40'})[1] == energy
  assert again(identity={'score': 'x@40'})[1] == SAMPLED
  assert again(identity={'unimodal': 'y@20'})[1] == ALL - {'readers'}
  assert again(identity={'classifier': 'y@20'})[1] == ALL
  assert again(seed=9)[1] == again(num_examples=50)[1] == ALL


def test_measurements_do_not_depend_on_those_beside_them(fakes, again):
  again()
  conditional = {'conditional': {'all_samplings': True}}
  _, made = again(evaluators=fakes.EVALUATORS | conditional)
  assert made == {'given_1_with_7_steps'}
  assert again(evaluators={'readers': {}, 'conditional': {}})[1] == set()


def test_another_file_of_a_reader_is_another_reader(fakes, again):
  import dataclasses

  @dataclasses.dataclass(frozen=True)
  class FromFile(fakes.ReadClass):
    name: str = 'file'
    learner: object = None
    weights: str = 'one'

    def load(self):
      return {}

  again(readers=(FromFile(),))
  assert again(readers=(FromFile(),))[1] == set()
  assert again(readers=(FromFile(weights='two'),))[1] == ALL


def test_common_fields_are_never_stale(fakes, again):
  """They stand in the rows, not in what is kept."""
  again()
  rows, made = again(kwargs={'common': fakes.COMMON | {'step': 40}})
  assert not made and {r['step'] for r in rows} == {40}


def test_torn_measurements_are_made_again(fakes, again, tmp_path):
  first, _ = again()
  on_disk = pathlib.Path(tmp_path, 'results.jsonl').read_bytes()
  files = sorted(pathlib.Path(tmp_path, 'evaluation').glob('*-*.json'))
  torn = [b'', b'[{"metric": "coh', b'{}', b'\xff']
  for path, content in zip(files, torn, strict=False):
    path.write_bytes(content)
  rows, made = again()
  assert rows == first and len(made) == 4
  assert pathlib.Path(tmp_path, 'results.jsonl').read_bytes() == on_disk


def test_part_of_the_evaluators_keeps_the_rows_of_the_others(fakes, again, tmp_path):
  first, _ = again()
  rows, made = again(kwargs={'only': ('readers',)}, identity={'classifier': 'y@20'})
  assert made == {'readers'}
  # What the other ones measured was measured with another classifier.
  assert {r['metric'] for r in rows} == {'classifier_accuracy'}
  rows, made = again(kwargs={'only': ('readers',)})
  assert rows == first and not made
  rows, _ = again(kwargs={'without': ('readers', 'conditional')})
  assert rows == first


def test_what_draws_when_it_decodes_is_part_of_a_measurement(fakes, again, monkeypatch):
  again()
  monkeypatch.setattr(fakes.ClassModel, 'decoder_sampler', 'heun(9)', raising=False)
  assert again()[1] == ALL - {'readers'}
