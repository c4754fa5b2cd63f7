"""The notebooks run from top to bottom, on a smoke configuration."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# In this order: the second samples from the run of the first.
NOTEBOOKS = {'digits_walkthrough': 5, 'sample_from_run': 4}  # name -> figures

# Executes code cells as Jupyter would, then looks at the figures they have left.
_DRIVER = """
import json, sys
import matplotlib.pyplot as plt
import numpy as np

with open(sys.argv[1]) as f:
  cells = [c for c in json.load(f)['cells'] if c['cell_type'] == 'code']
namespace = {'__name__': '__main__'}
for i, cell in enumerate(cells):
  exec(compile(''.join(cell['source']), f'cell {i}', 'exec'), namespace)
for number in plt.get_fignums():
  canvas = plt.figure(number).canvas
  canvas.draw()
  print('figure with contrast', np.asarray(canvas.buffer_rgba()).std().round(1))
"""


def _cells(name):
  return json.loads((ROOT / 'colab' / f'{name}.ipynb').read_text())['cells']


def test_all_notebooks_are_tested():
  assert {p.stem for p in (ROOT / 'colab').glob('*.ipynb')} == set(NOTEBOOKS)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_form(name):
  cells = _cells(name)
  first = ''.join(cells[0]['source'])
  assert first.startswith('[![Open In Colab]') and f'/colab/{name}.ipynb' in first
  assert 'arxiv.org' in first
  code = [c for c in cells if c['cell_type'] == 'code']
  assert not any(c['outputs'] or c['execution_count'] for c in code)
  sources = [''.join(c['source']) for c in code]
  assert all(source.startswith('# @title') for source in sources)
  assert '# Tested on:' in sources[0] and sources[1].startswith('# @title Parameters')


def test_notebooks_run(tmp_path):
  environment = {
    **os.environ,
    'MMSBM_SMOKE': '1',
    'MMSBM_CACHE': str(tmp_path / 'cache'),
    'MPLBACKEND': 'Agg',
    'PYTHONPATH': str(ROOT),
  }
  for name, num_figures in NOTEBOOKS.items():
    result = subprocess.run(
      [sys.executable, '-c', _DRIVER, ROOT / 'colab' / f'{name}.ipynb'],
      cwd=tmp_path,
      env=environment,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    contrasts = [
      float(line.rpartition(' ')[2])
      for line in result.stdout.splitlines()
      if line.startswith('figure with contrast')
    ]
    assert len(contrasts) == num_figures
    assert min(contrasts) > 10
