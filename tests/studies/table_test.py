"""Pages, pictures and tables of studies."""

import os
import pathlib

import pytest

import mmsbm
from mmsbm.report import tables
from mmsbm.studies import main, results, table

ROOT = pathlib.Path(mmsbm.__file__).parents[1]
RESULTS = sorted(
  path
  for path in (ROOT / 'launch' / 'results').glob('*.csv')
  if path.with_suffix('.rows.csv').exists()
)


def test_insert_table_replaces_what_stands_between_the_marks(tmp_path):
  readme = tmp_path / 'README.md'
  readme.write_text(
    'a\n<!-- study:x -->\nold\n<!-- /study -->\nb\n<!-- study:y -->\n<!-- /study -->\n'
  )
  table.insert_table(readme, 'x', r'| new \1 |' + '\n')
  table.insert_table(readme, 'y', 'other\n')
  assert readme.read_text() == (
    'a\n<!-- study:x -->\n| new \\1 |\n<!-- /study -->\nb\n<!-- study:y -->\nother\n'
    '<!-- /study -->\n'
  )
  assert table.read_table(readme, 'x') == '| new \\1 |\n'
  assert table.read_table(readme, 'z') is None
  with pytest.raises(ValueError, match='lacks the marks of study z'):
    table.insert_table(readme, 'z', '')


def some_lines(methods):
  """Lines of the methods, with coherence and distance given the rest."""
  return [
    {
      'row': f'{method}_s0', 'columns': {'group': 'methods', 'method': method},
      'sampling': 'default', 'sampler': 'heun(num_steps=2)', 'conditioning': '',
      'guidance': '', 'nfe': 3, 'metric': metric, 'num_given': 3, 'value': value,
      'stderr': 0.01, 'n': 100, 'seed': 0, 'modalities': 4, 'paired_fraction': 1.0,
      'command': 'python -m mmsbm.studies', 'jax': '0.10.2', 'device': 'cpu',
    } | ({'features': 'classifier'} if metric == 'frechet' else {})
    for method in methods
    for metric, value in (('coherence', 0.5), ('frechet', 12.0))
  ]  # fmt: skip


def test_write_tables_from_the_results_alone(tmp_path, capsys):
  path, readme = tmp_path / 'digits.csv', tmp_path / 'README.md'
  lines = some_lines(('SBM-VAE', 'SBM-RAE'))
  results.write_lines(path, lines)
  readme.write_text('<!-- study:digits -->\n<!-- /study -->\n')
  command = ['studies', '--mode=table', f'--results={path}', f'--readme={readme}']
  assert main.main(command) == 0
  assert tables.markdown(lines) in readme.read_text()
  assert '| SBM-VAE |' in readme.read_text()
  picture = tmp_path / 'a.png'
  command.append(f'--figure={picture}')
  assert main.main(command) == 0
  assert picture.read_bytes().startswith(b'\x89PNG')
  # With one method there is nothing to compare.
  picture.unlink()
  results.write_lines(path, some_lines(('SBM-VAE',)))
  assert main.main(command) == 0
  assert 'no two methods' in capsys.readouterr().err
  assert not picture.exists()
  assert main.main([*command, '--samples=b.png']) == 2
  assert '--samples needs the runs' in capsys.readouterr().err
  readme.write_text('')
  assert main.main(command) == 2
  assert 'lacks the lines <!-- study:digits -->' in capsys.readouterr().err
  path.unlink()
  assert main.main([*command[:3], f'--figure={picture}']) == 2
  assert 'holds no results of a study' in capsys.readouterr().err


def test_sample_files_are_those_of_the_first_row_of_each_method(folder, monkeypatch):
  rows = [
    f"name='{name}', seed={seed}, columns={{'group': '{group}', 'method': '{method}'}}"
    for name, seed, group, method in (
      ('a0', 0, 'methods', 'A'), ('a1', 1, 'methods', 'A'), ('b', 2, 'methods', 'B'),
      ('c', 3, 'solvers', 'C'), ('d', 4, 'methods', 'D'),
    )
  ]  # fmt: skip
  command = folder.define(*rows)
  picture = folder.path / 'samples.png'
  monkeypatch.setattr(table, 'write_study_report', lambda path, *_: path)
  monkeypatch.setattr(table, 'compare_samples', lambda paths: repr(paths).encode())
  assert main.main([*command, f'--samples={picture}', '--only=^(a|b|c)']) == 0
  assert not picture.exists()
  files = {}
  for name in ('a0', 'a1', 'c', 'd'):
    path = files[name] = folder.work / name / 'samples' / 'given_first_1.npz'
    path.parent.mkdir(parents=True)
    path.touch()
  assert table.sample_files(folder.study()) == {'A': files['a0']}
  assert main.main([*command, f'--samples={picture}', '--mode=table']) == 0
  assert picture.read_text() == repr({'A': files['a0']})


@pytest.mark.skipif(not RESULTS, reason='no results are committed')
@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_markdown_of_the_committed_results_is_what_pages_show(path):
  lines = results.read_lines(path)
  pages = (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))
  shown = [table.read_table(page, path.stem) for page in pages]
  assert [text for text in shown if text] == [tables.markdown(lines)]
  for line in lines:
    assert not any(os.path.isabs(v) for v in line.values() if isinstance(v, str))
    assert '=/' not in line['command'] and '=~' not in line['command']
