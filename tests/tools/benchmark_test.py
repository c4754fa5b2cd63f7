"""The benchmark prints a row for everything that it measures."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def _benchmark(tmp_path, *arguments):
  environment = {
    **os.environ,
    'MMSBM_CACHE': str(tmp_path),
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  return subprocess.run(
    [sys.executable, '-m', 'mmsbm.tools.benchmark', *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
@pytest.mark.parametrize('method', ['sbm_vae,refine', 'diff_mvae'])
def test_cost_of_a_run(tmp_path, method):
  result = _benchmark(
    tmp_path, f'--config=configs/arrays.py:smoke,method={method}', '--what=cost',
    '--config.loop.block_steps=2', '--blocks=3',
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  *stages, sample = [json.loads(line) for line in result.stdout.splitlines()]
  stage = ['joint', 'score']
  if method != 'diff_mvae':
    stage = ['unimodal', 'score', 'energy', 'refiner']
  assert [r['stage'] for r in stages] == stage
  assert all(0 < r['seconds'] < 60 for r in stages)
  assert 0 < sample['seconds_per_sample'] < 1


@pytest.mark.slow
def test_rows(tmp_path):
  result = _benchmark(
    tmp_path, '--config=configs/arrays.py:smoke', '--what=startup,train,sample',
    '--blocks=2',
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  rows = [json.loads(line) for line in result.stdout.splitlines()]
  assert [r['stage'] for r in rows if r['what'] == 'train'] == [
    'classifier', 'unimodal', 'score', 'energy',
  ]  # fmt: skip
  evaluations = [r['nfe'] for r in rows if 'nfe' in r]
  # The steps, and what guidance adds to them.
  assert all(
    n <= e <= 3 * n for n, e in zip((4, 5, 10, 50), evaluations[:4], strict=True)
  )
  assert rows[0]['train_examples'] == 480
  for row in rows:
    assert min(v for v in row.values() if isinstance(v, int | float)) > 0, row
    assert row['matmul_gflops'] and row['peak_memory_mb'] > 50


@pytest.mark.slow
def test_table_of_scaling(tmp_path):
  result = _benchmark(
    tmp_path, '--config=configs/arrays.py:smoke', '--what=scaling', '--format=table',
    '--networks=mlp', '--num_modalities=2,3',
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  header, *rows = (line.split() for line in result.stdout.splitlines())
  assert header[:3] == ['what', 'network', 'modalities']
  assert [row[:3] for row in rows] == [['scaling', 'mlp', n] for n in ('2', '3', '3/2')]
  memory = header.index('train_memory_mb') - len(header)
  ratio = float(rows[2][memory]) / (float(rows[1][memory]) / float(rows[0][memory]))
  assert abs(ratio - 1) < 0.02


def test_mistakes(tmp_path):
  result = _benchmark(tmp_path, '--config=configs/arrays.py:smoke', '--what=speed')
  assert result.returncode == 2
  assert result.stderr.startswith('error: --what=speed is not one of [')
