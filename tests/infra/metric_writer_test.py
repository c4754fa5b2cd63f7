import json
import math
import os
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
  with metric_writer.MetricWriter(tmp_path) as writer:
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
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.write(jnp.int32(1), 'a', values, time=0.0)
  (row,) = _strict(tmp_path / 'metrics.jsonl')
  assert len(row.pop('check')) == 8
  assert row == {
    'step': 1, 'learner': 'a', 'nan': None, 'inf': None, 'jax': 1.5,
    'bfloat16': 0.5, 'count': 3, 'flag': True, 'vector': [1.0, None], 'time': 0.0,
  }  # fmt: skip


def test_torn_last_line_is_ignored_and_mended(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "learner": "a"}\n{"step": 2, "lear')
  assert [row['step'] for row in metric_writer.read_jsonl(path)] == [1]
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.write(2, 'a', {})
  assert [row['step'] for row in _strict(path)] == [1, 2]


def test_whole_last_line_without_newline_is_kept(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "learner": "a"}')
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.write(2, 'a', {})
  assert [row['step'] for row in _strict(path)] == [1, 2]


def test_damage_elsewhere_is_reported_with_its_line(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(errors.UserError, match='line 2'):
    metric_writer.read_jsonl(path)


def test_truncate_after_forgets_only_what_will_be_done_again(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as writer:
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


def _events(folder):
  """All events of a learner's folder, in the order of its files."""
  from tensorboardX.proto import event_pb2

  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    # Records: length (8 bytes), checksum (4), payload, checksum (4).
    while data:
      size = int.from_bytes(data[:8], 'little')
      yield event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]


def test_event_files_hold_the_same_numbers(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer.write(7, 'unimodal/m0', {'loss': 0.5, 'bad': math.nan}, time=3.0)
    writer.write(9, 'unimodal/m0', {'loss': 0.75})
    writer.flush()
    writer.truncate_after({'unimodal/m0': 7})
    writer.write(8, 'unimodal/m0', {'loss': 1.5})
  scalars, restarts = [], []
  for event in _events(tmp_path / 'tensorboard' / 'unimodal' / 'm0'):
    scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    if event.HasField('session_log'):
      restarts.append(event.step)
  assert scalars == [(7, 'loss', 0.5), (9, 'loss', 0.75), (8, 'loss', 1.5)]
  assert restarts == [8]


def test_two_writers_of_one_second_have_files_of_their_own(tmp_path):
  for step in (1, 2):
    with metric_writer.MetricWriter(tmp_path) as writer:
      writer.write(step, 'a', {'loss': 0.5})
  events = [e for e in _events(tmp_path / 'tensorboard' / 'a') if e.summary.value]
  assert [event.step for event in events] == [1, 2]


def test_results_round_trip(tmp_path):
  path = tmp_path / 'results.jsonl'
  assert metric_writer.read_results(path) == []
  row = {'metric': 'coherence', 'value': 0.951, 'given': ('m0', 'm1'), 'n': np.int64(9)}
  rows = [row, {'metric': 'frechet', 'value': np.inf}]
  metric_writer.write_results(tmp_path, rows, {}, 'a run')
  assert (
    _strict(path)
    == metric_writer.read_results(path)
    == [
      {'metric': 'coherence', 'value': 0.951, 'given': ['m0', 'm1'], 'n': 9},
      {'metric': 'frechet', 'value': None},
    ]
  )
  assert metric_writer.check_results(tmp_path, 'results.jsonl') == 'a run'
  metric_writer.write_results(tmp_path, [], {}, 'a run')
  assert metric_writer.read_results(path) == []


def test_results_that_were_edited_are_refused(tmp_path):
  metric_writer.write_results(tmp_path, [{'metric': 'r2', 'value': 0.5}], {}, 'a run')
  path = tmp_path / 'results.jsonl'
  path.write_bytes(path.read_bytes().replace(b'0.5', b'0.9'))
  with pytest.raises(
    errors.UserError, match='results.jsonl is not as it .* --mode=evaluate'
  ):
    metric_writer.read_results(path)


def test_a_line_that_was_edited_is_refused(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as writer:
    for step in (1, 2):
      writer.write(step, 'a', {'loss': 0.5})
  path = tmp_path / 'metrics.jsonl'
  assert [row['loss'] for row in metric_writer.read_jsonl(path)] == [0.5, 0.5]
  path.write_bytes(path.read_bytes().replace(b'0.5', b'0.4', 1))
  with pytest.raises(
    errors.UserError, match='line 1 is .* not as it was written; delete'
  ):
    metric_writer.read_jsonl(path)


@pytest.fixture
def full():
  if not os.path.exists('/dev/full'):
    pytest.skip('no /dev/full')
  return '/dev/full'


def test_metric_writer_reports_a_full_disk(tmp_path, full):
  with (
    pytest.raises(errors.UserError, match='No space left on device; free the disk'),
    metric_writer.MetricWriter(tmp_path) as writer,
    open(full, 'ab', buffering=0) as file,
  ):
    writer._file.close()
    writer._file = file
    writer.write(1, 'a', {'loss': 1.0})


def test_event_files_on_a_full_disk_lose_events_and_stop_nothing(
  tmp_path, monkeypatch, full
):
  opened = classmethod(lambda cls, path: cls(full))
  monkeypatch.setattr(metric_writer._EventFiles, 'open', opened)
  before = set(threading.enumerate())
  with metric_writer.MetricWriter(tmp_path) as writer:
    # More than the queue of tensorboardX holds by default.
    for step in range(50):
      writer.write(step, 'a', {'loss': 1.0})
    writer.flush()
  assert [row['step'] for row in _strict(tmp_path / 'metrics.jsonl')] == [*range(50)]
  for thread in set(threading.enumerate()) - before:
    thread.join(timeout=10)
    assert not thread.is_alive()
