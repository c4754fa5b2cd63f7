import json
import math
import os
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.infra import errors, metric_writer


def _strict(path):
  def refuse(word):
    raise AssertionError(f'{word} is not JSON')

  lines = path.read_text().splitlines()
  return [json.loads(line, parse_constant=refuse) for line in lines]


def test_lines_are_on_disk_at_once(tmp_path):
  with metric_writer.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(5, 'score', {'loss': 0.25}, time=12.0)
    expected = {'step': 5, 'learner': 'score', 'loss': 0.25, 'time': 12.0}
    assert metric_writer.read_jsonl(tmp_path / 'metrics.jsonl') == [expected]
    writer.write(6, 'score', {'loss': 0.5})
  assert [row['step'] for row in _strict(tmp_path / 'metrics.jsonl')] == [5, 6]


def test_numbers_that_json_cannot_hold_become_null(tmp_path):
  values = {
    'nan': math.nan,
    'inf': np.float32(np.inf),
    'jax': jnp.float32(1.5),
    'bfloat16': jnp.asarray(0.5, jnp.bfloat16),
    'count': np.int64(3),
    'flag': np.bool_(True),
    'vector': np.asarray([1.0, -np.inf]),
  }
  with metric_writer.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(jnp.int32(1), 'a', values, time=0.0)
  (row,) = _strict(tmp_path / 'metrics.jsonl')
  assert row == {
    'step': 1, 'learner': 'a', 'nan': None, 'inf': None, 'jax': 1.5,
    'bfloat16': 0.5, 'count': 3, 'flag': True, 'vector': [1.0, None], 'time': 0.0,
  }  # fmt: skip


def test_torn_last_line_is_ignored_and_mended(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "learner": "a"}\n{"step": 2, "lear')
  assert [row['step'] for row in metric_writer.read_jsonl(path)] == [1]
  with metric_writer.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(2, 'a', {})
  assert [row['step'] for row in _strict(path)] == [1, 2]


def test_whole_last_line_without_newline_is_kept(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "learner": "a"}')
  with metric_writer.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(2, 'a', {})
  assert [row['step'] for row in _strict(path)] == [1, 2]


def test_damage_elsewhere_is_reported_with_its_line(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(errors.UserError, match='line 2'):
    metric_writer.read_jsonl(path)


def test_truncate_after_forgets_only_what_will_be_done_again(tmp_path):
  with metric_writer.MetricWriter(tmp_path, tensorboard=False) as writer:
    for step in (10, 20, 30):
      for learner in ('unimodal/m0', 'unimodal/m1', 'score'):
        writer.write(step, learner, {'loss': step / 10})
    writer.truncate_after({'unimodal/m0': 20, 'unimodal/m1': 0})
    writer.write(21, 'unimodal/m0', {'loss': 2.1})
  rows = _strict(tmp_path / 'metrics.jsonl')
  steps = {
    name: [row['step'] for row in rows if row['learner'] == name]
    for name in ('unimodal/m0', 'unimodal/m1', 'score')
  }
  assert steps == {
    'unimodal/m0': [10, 20, 21], 'unimodal/m1': [], 'score': [10, 20, 30],
  }  # fmt: skip


def test_event_files_hold_the_same_numbers(tmp_path):
  pytest.importorskip('tensorboardX')
  from tensorboardX.proto import event_pb2

  def read(learner):
    events = []
    for path in sorted((tmp_path / 'tensorboard' / learner).iterdir()):
      data = path.read_bytes()
      # Records: length (8 bytes), checksum (4), payload, checksum (4).
      while data:
        size = int.from_bytes(data[:8], 'little')
        events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events

  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.write(7, 'unimodal/m0', {'loss': 0.5, 'bad': math.nan}, time=3.0)
    writer.write(9, 'unimodal/m0', {'loss': 0.75})
    writer.truncate_after({'unimodal/m0': 7})
    writer.write(8, 'unimodal/m0', {'loss': 1.5})
  scalars, restarts = [], []
  for event in read('unimodal/m0'):
    scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    if event.HasField('session_log'):
      restarts.append(event.step)
  assert sorted(scalars) == [(7, 'loss', 0.5), (8, 'loss', 1.5), (9, 'loss', 0.75)]
  assert restarts == [8]


def test_works_without_tensorboardx(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.write(1, 'a', {'loss': 1.0})
    writer.flush()
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_results_round_trip(tmp_path):
  path = tmp_path / 'results.jsonl'
  assert metric_writer.read_results(path) == []
  row = {'metric': 'coherence', 'value': 0.951, 'given': ('m0', 'm1'), 'n': np.int64(9)}
  metric_writer.write_results(path, [row, {'metric': 'frechet', 'value': np.inf}])
  assert (
    _strict(path)
    == metric_writer.read_results(path)
    == [
      {'metric': 'coherence', 'value': 0.951, 'given': ['m0', 'm1'], 'n': 9},
      {'metric': 'frechet', 'value': None},
    ]
  )
  metric_writer.write_results(path, [])
  assert metric_writer.read_results(path) == []


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_event_files_on_a_full_disk(tmp_path, monkeypatch):
  writing = pytest.importorskip('tensorboardX.record_writer')

  class Full(writing.RecordWriter):
    def __init__(self, path):
      super().__init__('/dev/full')

  monkeypatch.setattr(writing, 'RecordWriter', Full)
  threads = threading.active_count()
  with (
    pytest.raises(errors.UserError, match='No space left on device'),
    metric_writer.MetricWriter(tmp_path) as writer,
  ):
    writer.write(1, 'a', {'loss': 1.0})
  # It is said at the end if not before, and what was said before stays.
  monkeypatch.setattr(metric_writer._EventFile, 'flush', lambda self: None)
  with (
    pytest.raises(errors.UserError, match='No space left on device'),
    metric_writer.MetricWriter(tmp_path) as writer,
  ):
    writer.write(2, 'a', {'loss': 1.0})
  with (
    pytest.raises(KeyError, match='first'),
    metric_writer.MetricWriter(tmp_path) as writer,
  ):
    writer.write(3, 'a', {'loss': 1.0})
    raise KeyError('first')
  # Nothing is left that could complain later.
  assert threading.active_count() == threads
  assert [row['step'] for row in _strict(tmp_path / 'metrics.jsonl')] == [1, 2, 3]
