"""Coherence by hand, and as metrics."""

import math
import types

import numpy as np
import pytest

from mmsbm.metrics import coherence
from mmsbm.metrics.base import Reading, Target


class TestJointAgreement:
  PREDICTIONS = np.array([[1, 1, 2, 3], [1, 1, 2, 0], [1, 2, 2, 2], [4, 4, 4, 4]])

  def test_mode(self):
    agreement = coherence.joint_agreement(self.PREDICTIONS)
    assert {k: v for k, (v, _) in agreement.items()} == {2: 1.0, 3: 0.5, 4: 0.25}
    assert agreement[4][1] == pytest.approx(math.sqrt(0.25 * 0.75 / 3))

  def test_first(self):
    agreement = coherence.joint_agreement(self.PREDICTIONS, reference='first')
    assert {k: v for k, (v, _) in agreement.items()} == {2: 0.75, 3: 0.25, 4: 0.25}

  def test_mean_agreement_is_the_number_of_multivae(self):
    predictions = [[1, 1, 2, 3], [1, 1, 2, 0], [1, 2, 2, 3]]
    assert coherence.mean_agreement(predictions)[0] == 0.5
    assert coherence.mean_agreement(predictions, 'first')[0] == pytest.approx(5 / 12)

  def test_independent_modalities_agree_by_chance(self):
    predictions = np.random.default_rng(0).integers(0, 10, (20_000, 3))
    agreement = coherence.joint_agreement(predictions)
    for k, p in ((2, 1 - 0.9 * 0.8), (3, 0.01)):
      assert abs(agreement[k][0] - p) < 4 * agreement[k][1]

  def test_mistakes(self):
    with pytest.raises(ValueError, match='reference'):
      coherence.joint_agreement(self.PREDICTIONS, reference='last')
    with pytest.raises(ValueError, match='N, M'):
      coherence.joint_agreement(np.arange(3))


def target(read, label=None, present=None):
  """A target of which readers say `read`: {name: (annotation, classes)}."""
  num = len(next(iter(read.values()))[1])
  return Target(
    modality=types.SimpleNamespace(name='m'),
    generated=np.zeros(num),
    real=np.zeros(num),
    present=np.ones(num, bool) if present is None else np.array(present),
    annotations={} if label is None else {'class': np.array(label)},
    read_generated={
      name: Reading(np.array(classes), None, annotation)
      for name, (annotation, classes) in read.items()
    },
    read_real={},
  )


class TestCoherence:
  def test_hits_of_the_first_reader_that_predicts(self):
    read = {'fid': ('', [0, 0]), 'one': ('class', [1, 2]), 'two': ('class', [1, 1])}
    got = coherence.Coherence()(target(read, [1, 1]))
    assert got.tolist() == [True, False] and got.dtype == bool
    assert coherence.Coherence(reader='two')(target(read, [1, 1])).all()

  def test_unknown_labels_do_not_count(self):
    got = coherence.Coherence()(target({'one': ('class', [1, 2, -1])}, [1, 1, -1]))
    np.testing.assert_array_equal(got, [1, 0, np.nan])

  def test_none_where_nothing_is_known(self):
    metric = coherence.Coherence()
    assert metric(target({'fid': ('', [0])}, [1])) is None
    assert metric(target({'one': ('class', [0])})) is None
    assert metric(target({'one': ('writer', [0])}, [1])) is None
    assert coherence.Coherence(reader='x')(target({'one': ('class', [0])}, [1])) is None
    other = coherence.Coherence(annotation='writer')
    assert other(target({'one': ('class', [0])}, [1])) is None

  def test_macro_has_the_classes_of_the_examples(self):
    metric, shown = coherence.CoherenceMacro(), target({'one': ('class', [3])}, [5])
    assert metric.groups(shown).tolist() == [5] and metric(shown).tolist() == [False]


class TestTuples:
  def test_only_readers_of_one_annotation_are_compared(self):
    """What a writer is cannot agree with what a digit is."""
    targets = {
      'a': target({'one': ('class', [1, 2])}),
      'b': target({'who': ('writer', [1, 2]), 'two': ('class', [1, 3])}),
      'c': target({'fid': ('', [9, 9])}),
    }
    (both,) = coherence.JointCoherence()(targets)
    assert (both.value, both.fields) == (0.5, {'at_least': 2})
    assert coherence.JointCoherence(annotation='writer')(targets) == []
    (mean,) = coherence.MeanAgreement()(targets)
    assert mean.value == 0.75

  def test_with_first(self):
    targets = {
      name: target({'one': ('class', classes)})
      for name, classes in (('a', [1, 1]), ('b', [2, 1]), ('c', [2, 1]))
    }
    got = coherence.JointCoherenceWithFirst()(targets)
    assert [e.value for e in got] == [0.5, 0.5]
    assert [e.value for e in coherence.JointCoherence()(targets)] == [1.0, 0.5]
