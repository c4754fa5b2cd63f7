"""run.json, and the lock on the folder of a run."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from mmsbm.infra.errors import UserError
from mmsbm.record import PACKAGES, Record, lock, read_record

CONFIG = {'seed': 3, 'samplings': {'default': {}}, 'method': 'mld'}
ARGV = ['main.py', '--config=a b.py', '--workdir=w']


# --- the record ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, "run.json does not exist: .* is not a run"),
    (b'', 'run.json is damaged'),
    (b'{"config": {"se', 'run.json is damaged'),
    (b'\xff\xfe', 'run.json is damaged'),
    (b'{}', 'is not the record of a run: it has no config'),
    (b'[]', r'run.json is damaged .not an object.'),
    (b'{"config": 3}', 'is not the record of a run: it has no config'),
    (b'{"config": {"stages": ["score"]}}',
     'older version of this program: `python -m mmsbm.tools.convert_run '),
    (b'{"config": {"samplings": {}}, "timings": [1]}', "'timings' is not an object"),
    (b'{"config": {"samplings": {}}, "history": {}}', "'history' is not a list"),
    (b'{"config": {"samplings": {}}, "parameters": {"a": "1"}}', 'what is no number'),
    (b'{"config": {"samplings": {}}, "digest": "0"}', 'not as it was written'),
  ],
)  # fmt: skip
def test_read_record_refuses(tmp_path, content, message):
  if content is not None:
    (tmp_path / 'run.json').write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    read_record(tmp_path)
  assert str(tmp_path) in str(error.value) and '\n' not in str(error.value)
  if content is not None:
    with pytest.raises(UserError, match=message):
      Record(tmp_path)


def test_record_writes_nothing_before_it_is_saved(tmp_path):
  record = Record(tmp_path)
  record.add_call(CONFIG, 'run', ARGV, ['cpu'])
  record.add_seconds('data', 1.0)
  assert not os.listdir(tmp_path)
  record.save()
  assert read_record(tmp_path) == json.loads(json.dumps(record.data))


def test_add_call_notes_the_command(tmp_path):
  record = Record(tmp_path)
  record.add_call(CONFIG, 'run', ARGV, ['cpu', 'cpu'])
  data = record.data
  assert data['command'] == "python -m mmsbm.main '--config=a b.py' --workdir=w"
  assert (data['config'], data['seed']) == (CONFIG, 3)
  assert data['devices'] == ['cpu', 'cpu'] and data['num_cpus'] == os.cpu_count()
  assert set(data['versions']) == {'python', *PACKAGES} and all(
    data['versions'].values()
  )
  assert len(data['history']) == 1
  assert data['history'][0]['command'] == data['command']


def test_add_call_keeps_at_the_top_what_trained(tmp_path):
  """Wherever it is evaluated later; a report changes nothing of what was run."""
  for number, mode in enumerate(('train', 'evaluate', 'report')):
    record = Record(tmp_path)
    config = CONFIG | {'seed': number}
    record.add_call(config, mode, ['main.py', f'--mode={mode}'], [f'device {number}'])
    record.save()
  data = read_record(tmp_path)
  assert data['command'] == 'python -m mmsbm.main --mode=train'
  assert data['devices'] == ['device 0']
  # That of the evaluation, which had the last word on how it is measured.
  assert data['seed'] == data['config']['seed'] == 1
  assert [call['devices'] for call in data['history']] == [
    ['device 0'], ['device 1'], ['device 2'],
  ]  # fmt: skip
  record.add_call(CONFIG, 'run', ['main.py', '--mode=run'], ['device 3'])
  assert record.data['command'] == 'python -m mmsbm.main --mode=run'


def test_seconds_are_added_up_over_calls(tmp_path):
  first = Record(tmp_path)
  first.add_call(CONFIG, 'run', ARGV, [])
  first.add_seconds('train score', 1.25)
  with first.timed('evaluate'):
    pass
  second = Record(tmp_path)
  second.add_seconds('train score', 2.5)
  assert second.data['timings']['train score'] == 3.75
  assert second.data['timings']['evaluate'] >= 0


def test_timed_saves_when_the_body_fails(tmp_path):
  record = Record(tmp_path)
  record.add_call(CONFIG, 'run', ARGV, [])
  with pytest.raises(ValueError, match='x'), record.timed('train score'):
    raise ValueError('x')
  assert 'train score' in read_record(tmp_path)['timings']


def test_save_keeps_what_other_processes_have_noted(tmp_path):
  """Tasks of a cluster, each of which trains one learner."""
  first, second = Record(tmp_path), Record(tmp_path)
  for number, record in enumerate((first, second)):
    record.add_call(CONFIG, 'train', ['main.py', str(number)], [])
    record.data['parameters'][f'unimodal/m{number}'] = number
    record.add_seconds('train unimodal', number + 1.0)
    record.save()
  first.add_seconds('train unimodal', 4.0)
  first.save()
  data = read_record(tmp_path)
  assert data['parameters'] == {'unimodal/m0': 0, 'unimodal/m1': 1}
  assert data['timings'] == {'train unimodal': 7.0}
  assert [call['command'][-1] for call in data['history']] == ['0', '1']
  assert data == json.loads(json.dumps(first.data))


# --- the lock -----------------------------------------------------------------


def locked_by_another_process(folder, only=()):
  """Whether another process is refused."""
  code = (
    'import sys; from mmsbm.record import lock\n'
    'from mmsbm.infra.errors import UserError\n'
    'try:\n'
    '  with lock(sys.argv[1], sys.argv[2:]): print("free")\n'
    'except UserError as e: print(e)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(folder), *only],
    capture_output=True,
    text=True,
    check=True,
  )
  text = done.stdout.strip()
  assert text == 'free' or 'another process is working in' in text, text
  return text != 'free'


def test_lock_makes_the_folder_and_lets_go(tmp_path):
  folder = tmp_path / 'a' / 'b'
  with lock(folder):
    assert folder.is_dir() and locked_by_another_process(folder)
  assert not locked_by_another_process(folder)
  with pytest.raises(ValueError, match='x'), lock(folder):
    raise ValueError('x')
  with lock(folder):
    pass


def test_lock_lets_others_train_other_learners(tmp_path):
  with lock(tmp_path, ('unimodal/m0',)):
    assert not locked_by_another_process(tmp_path, ['unimodal/m1'])
    assert locked_by_another_process(tmp_path, ['unimodal/m0'])
    assert locked_by_another_process(tmp_path)
  for everything in ((), ('',)):
    with lock(tmp_path, everything):
      assert locked_by_another_process(tmp_path, ['unimodal/m1'])


def test_lock_of_a_step_is_that_of_all_its_learners(tmp_path):
  with lock(tmp_path, ('unimodal', 'unimodal/m0')):
    assert locked_by_another_process(tmp_path, ['unimodal/m1'])
    assert not locked_by_another_process(tmp_path, ['classifier/digit'])
  with lock(tmp_path, ('unimodal/m0', 'unimodal/m1')):
    assert locked_by_another_process(tmp_path, ['unimodal'])
    assert locked_by_another_process(tmp_path, ['unimodal/m2', 'unimodal/m1'])
    assert not locked_by_another_process(tmp_path, ['unimodal/m2', 'score'])


def test_lock_in_one_process(tmp_path):
  message = f'another process is working in {tmp_path}: wait for it or stop it.'
  with lock(tmp_path), pytest.raises(UserError, match=message), lock(tmp_path):
    pass


@pytest.mark.parametrize('number', ['ENOLCK', 'ENOTSUP', 'ENOSYS', 'EINVAL'])
def test_a_file_system_without_locks_is_a_warning(
  tmp_path, monkeypatch, number, capsys
):
  def refuse(file, how):
    raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with lock(tmp_path, ('a', 'b')):
    pass
  assert capsys.readouterr().err.count(f'{tmp_path} gives no locks') == 1


@pytest.mark.parametrize('inside', ['file', 'file/w'])
def test_lock_of_a_place_that_cannot_be_written(tmp_path, inside):
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(UserError, match=f'--workdir={tmp_path}/{inside} cannot be written'),
    lock(tmp_path / inside),
  ):
    pass
