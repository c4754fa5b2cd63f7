"""SIGKILL at any moment: the same command again gives the same run, bit for bit.

A process that imports everything once and then forks runs the real
`mmsbm.main.main`. The child kills itself at the k-th change it makes to a file
(opening for writing, renaming, removing, making a folder), which is where a kill
can do harm; k is drawn at random, and every change of a whole run has a number.
The long campaign kills the real command from outside, at random times.
"""

import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mmsbm import main

ROOT = pathlib.Path(main.__file__).parents[1]

CONFIG = '''
import ml_collections
from configs import digits

def get_config(arg=None):
  """digits with three modalities of unequal latent sizes and tiny networks.

  arg: 'score', 'energy' for that stage too, or 'joint' for a joint VAE, of which one
  modality has a diffusion decoder.
  """
  method = 'diff_mvae' if arg == 'joint' else 'sbm_vae'
  c = digits.get_config(f'smoke,modalities=3,method={method}').to_dict()
  small = dict(name='mlp', widths=(8,))
  networks = c['joint' if arg == 'joint' else 'unimodal']['networks']
  for size, codec in enumerate(networks.values(), start=2):
    if arg != 'joint':
      codec.update(encoder=small, decoder=small, latent_dim=size)
    elif size > 2:
      codec.update(encoder=small, decoder=small)
    else:
      codec['decoder']['network'].update(width=8, num_layers=1)
  reader = c['readers']['digit']
  reader['network'] = dict(name='patch', patch=8, width=4, num_layers=1, dropout=0.1)
  c['score']['network'] = dict(name='mlp', width=8, num_blocks=1, expansion=1)
  c['data'].update(num_train=96, num_val=16, num_test=32)
  sampling = c['samplings']['default']
  c['samplings'] = {'default': sampling}
  few = dict(name='dpm_solver', num_steps=2)
  if arg == 'energy':
    c['energy']['network'].update(width=8, num_blocks=1, features=4)
  elif arg == 'score':
    c['energy'] = {}
    sampling.update(sampler=few, guidance={})
  else:
    sampling['prior']['sampler'] = few
  steps = (c.get(name) for name in ('unimodal', 'joint', 'score', 'energy'))
  second = c['readers']['second']
  second['network'].update(widths=(4,), feature_dim=4)
  for section in (reader, second, *filter(None, steps)):
    section.update(num_steps=6, batch_size=8, ema_decay=0.9)
  c['loop'].update(block_steps=1, checkpoint_every_steps=2)
  c['evaluate'].update(num_examples=30, chunk_size=30)
  for name in ('precision', 'recall'):
    del c['evaluate']['metrics'][name]
  evaluators = c['evaluate']['evaluators']
  evaluators['conditional']['max_subsets'] = 2
  evaluators['linear_probe']['num_train'] = 0
  evaluators['samples'].update(num_examples=2, num_samples=1)
  return ml_collections.ConfigDict(c)
'''

# What a line of metrics.jsonl says of the time, and its digest.
TIMED = ('time', 'steps_per_second', 'check')

# Reads {'argv': [...], 'kill_at': k} and answers {'status': ..., 'changes': ...}.
ZYGOTE = """
import json, os, signal, sys, warnings
warnings.simplefilter('ignore')
from mmsbm import experiment, main, report, trained
from mmsbm.infra import checkpoints

CHANGES = ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'shutil.rmtree')

def child(argv, kill_at, folder, pipe):
  os.dup2(os.open(folder + '/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
  os.dup2(2, 1)
  count = 0
  def hook(event, args):
    nonlocal count
    if event == 'open':
      path, mode, flags = args
      if not flags & (os.O_WRONLY | os.O_RDWR):
        return
    elif event in CHANGES:
      path = args[0]
    else:
      return
    if not str(path).startswith(folder):
      return
    count += 1
    if count == kill_at:
      os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(hook)
  sys.argv = argv
  status = main.main(argv)
  os.write(pipe, str(count).encode())
  os._exit(status)

for line in sys.stdin:
  task = json.loads(line)
  ours, theirs = os.pipe()
  pid = os.fork()
  if not pid:
    try:
      child(task['argv'], task['kill_at'], task['folder'], theirs)
    except BaseException:
      import traceback
      traceback.print_exc()
      os._exit(99)
  os.close(theirs)
  _, status = os.waitpid(pid, 0)
  changes = int(os.read(ours, 20) or 0)
  os.close(ours)
  answer = {'status': os.waitstatus_to_exitcode(status), 'changes': changes}
  print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """Compiled programs are kept, or most of the time would go into compiling."""
  folder = tmp_path_factory.mktemp('kill')
  (folder / 'tiny.py').write_text(CONFIG)
  (folder / 'zygote.py').write_text(ZYGOTE)
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': str(ROOT),
  }
  return folder, env


@pytest.fixture(scope='module')
def forked(environment):
  """Runs the program in a fork: place, kill_at and variant to status and changes."""
  folder, env = environment
  with subprocess.Popen(
    [sys.executable, folder / 'zygote.py'],
    cwd=ROOT,
    env=env,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as process:

    def run(place, kill_at=0, variant='score'):
      place.mkdir(exist_ok=True)
      task = {
        'argv': arguments(folder, place, variant),
        'kill_at': kill_at,
        'folder': str(place),
      }
      process.stdin.write(json.dumps(task) + '\n')
      process.stdin.flush()
      answer = json.loads(process.stdout.readline())
      return answer['status'], answer['changes']

    yield run
    process.stdin.close()


def arguments(folder, place, variant='score'):
  """The command; data set and run both lie in `place`."""
  return [
    'main.py',
    f'--config={folder / "tiny.py"}:{variant}',
    f'--workdir={place / "run"}',
    f'--config.data.cache_dir={place / "cache"}',
  ]


def state(place):
  """Everything a run leaves that must not depend on how often it was killed."""
  run = place / 'run'
  out = {}
  for folder in sorted(p for p in (run / 'checkpoints').rglob('*') if p.is_dir()):
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    if not steps:
      continue
    name = folder.relative_to(run / 'checkpoints')
    out[f'{name} steps'] = steps
    for item in ('state', 'ema'):
      path, handler = folder / str(steps[-1]) / item, ocp.PyTreeCheckpointHandler()
      as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
      )
      tree = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
      for path, leaf in jax.tree.leaves_with_path(tree):
        out[f'{name} {item} {jax.tree_util.keystr(path)}'] = np.asarray(leaf).tobytes()
  with np.load(run / 'latents.npz') as stored:
    out |= {f'latents {k}': stored[k].tobytes() for k in stored.files}
  out['results'] = (run / 'results.jsonl').read_text()
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  for row in rows:
    key = f'metrics {row["learner"]} {row["step"]}'
    assert key not in out, f'{key} twice'
    out[key] = {k: v for k, v in row.items() if k not in TIMED}
  for path in sorted((run / 'samples').glob('*.npz')):
    with np.load(path) as stored:
      out |= {f'{path.name} {k}': stored[k].tobytes() for k in stored.files}
    out[f'{path.stem}.json'] = path.with_suffix('.json').read_text()
    assert path.with_suffix('.png').exists()
  out |= {f'steps {p.name}': p.read_text() for p in (run / 'steps').iterdir()}
  out['pages'] = sorted(p.name for p in (run / 'report').glob('*.html'))
  return out


def assert_same(got, expected):
  assert got.keys() == expected.keys()
  different = [k for k in got if got[k] != expected[k]]
  assert not different


@pytest.fixture(scope='module')
def straight(forked, tmp_path_factory):
  """Variant to a run that nobody disturbed, and how many changes it made to files."""

  @functools.cache
  def run(variant='score'):
    place = tmp_path_factory.mktemp(f'straight_{variant}')
    status, changes = forked(place, variant=variant)
    assert status == 0, (place / 'log').read_text()
    return state(place), changes

  return run


def kill_and_resume(forked, place, moments, variant='score'):
  """Kills at each of the moments (counted from every start), then lets it end."""
  for moment in moments:
    status, _ = forked(place, moment, variant)
    # A late moment may never come: then the run has ended well.
    assert status in (-signal.SIGKILL, 0), (place / 'log').read_text()
  status, _ = forked(place, variant=variant)
  assert status == 0, (place / 'log').read_text()


def test_the_state_of_a_run_is_worth_comparing(straight):
  expected, changes = straight()
  assert changes > 200
  kinds = {k.split()[0].split('/')[0] for k in expected}
  assert {'classifier', 'unimodal', 'score', 'latents', 'results', 'metrics'} <= kinds
  assert expected['unimodal/m0 steps'] == [4, 6]
  lines = [k.split() for k in expected if k.startswith('metrics')]
  for learner in {words[1] for words in lines}:
    steps = [int(words[2]) for words in lines if words[1] == learner]
    assert sorted(steps) == list(range(1, 7)), (learner, steps)


@pytest.mark.parametrize('seed', range(1))
def test_killed_at_random_changes_of_files(forked, straight, tmp_path, seed):
  """Two runs, each killed twice."""
  expected, changes = straight()
  rng = random.Random(seed)
  # One early and one late kill; the second counts from the restart.
  first = rng.randrange(1, changes)
  second = rng.randrange(1, max(2, changes - first))
  kill_and_resume(forked, tmp_path, [first, second])
  assert_same(state(tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('variant', 'seed'),
  [
    *(('score', seed) for seed in range(100, 120)),
    *(('energy', seed) for seed in range(200, 205)),
    *(('joint', seed) for seed in range(300, 305)),
  ],
)
def test_killed_at_many_random_changes_of_files(
  forked, straight, tmp_path, variant, seed
):
  expected, changes = straight(variant)
  assert any(key.startswith(f'{variant} ') for key in expected)
  rng = random.Random(seed)
  moments = [rng.randrange(1, max(2, changes // 3)) for _ in range(rng.randrange(1, 5))]
  kill_and_resume(forked, tmp_path, moments, variant)
  assert_same(state(tmp_path), expected)


@pytest.mark.slow
def test_the_real_command_killed_from_outside_forty_times(
  environment, straight, tmp_path
):
  """At random times, with compiled programs thrown away now and then."""
  folder, env = environment
  command = [sys.executable, '-m', 'mmsbm.main', *arguments(folder, tmp_path)[1:]]
  rng = random.Random(0)
  seconds = []

  def start():
    with open(tmp_path / 'log', 'ab') as log:
      return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)

  kills = 0
  run = 0
  while kills < 40:
    begin = time.monotonic()
    process = start()
    limit = rng.uniform(2, 1.2 * max(seconds, default=25))
    try:
      status = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      kills += 1
      continue
    assert status == 0, (tmp_path / 'log').read_text()
    seconds.append(time.monotonic() - begin)
    assert_same(state(tmp_path), straight()[0])
    # Finished before it was killed: once more from nothing.
    run += 1
    (tmp_path / 'run').rename(tmp_path / f'finished_{run}')
    (tmp_path / 'cache').rename(tmp_path / f'cache_{run}')
  assert start().wait() == 0
  assert_same(state(tmp_path), straight()[0])
