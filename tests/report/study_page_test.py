import io

import numpy as np
import PIL.Image
import pytest

from mmsbm import report
from mmsbm.infra.errors import UserError


def area(png, grey):
  picture = np.asarray(PIL.Image.open(io.BytesIO(png)).convert('RGB'))
  return int((picture == grey).all(-1).sum())


def test_write_study_report_has_tables_figures_and_commands(make_study, page_class):
  page = page_class(make_study().read_text())
  for text in (
    'digits', '4 finished runs', 'heun(num_steps=20)', '0.675 ± 0.010',
    'Trained networks', 'python run A 0', 'Quality against network evaluations',
    'given one modality',
    'Coherence against quality', 'and 2 seeds', 'Bold is what lies',
  ):  # fmt: skip
    assert text in page.text
  best = [a for tag, a in page.elements if tag == 'td' and 'best' in a.get('class', '')]
  # Both samplings of B are level in three coherences, A is best in two distances.
  assert len(best) == 8
  for link in page.links:
    assert link.startswith(('data:image/png;base64,', '#'))
  assert not page.tags & {'script', 'link', 'iframe', 'object'}
  assert len(page.ids) == len(set(page.ids))


def test_write_study_report_without_rows(tmp_path, page_class):
  path = report.write_study_report(tmp_path / 'index.html', 'empty', [])
  assert 'No row is finished yet.' in page_class(path.read_text()).text


def test_write_study_report_gives_each_group_a_table(make_study, page_class, lines):
  for line in lines:
    group = 'methods' if line['columns']['method'] == 'A' else 'steps'
    line['columns'] = line['columns'] | {'group': group}
  text = page_class(make_study(lines).read_text()).text
  assert 'steps sampled with' in text and 'In all lines: method B' in text


def test_write_study_report_states_a_damaged_file_of_samples(
  tmp_path, lines, make_npz, page_class
):
  (tmp_path / 'torn.npz').write_bytes(b'PK\x03\x04torn')
  samples = {'A': make_npz(tmp_path / 'a.npz', 100), 'B': tmp_path / 'torn.npz'}
  path = report.write_study_report(tmp_path / 'index.html', 'digits', lines, samples)
  assert 'torn.npz is not a file of samples' in page_class(path.read_text()).text


def test_trade_off_figure_needs_two_methods(lines):
  assert report.trade_off_figure(lines).startswith(b'\x89PNG')
  alone = [x for x in lines if x['columns']['method'] == 'A']
  assert report.trade_off_figure(alone) == b''


def test_compare_samples_shows_first_samples_below_what_is_given(tmp_path, make_npz):
  paths = {name: tmp_path / f'{name}.npz' for name in ('a', 'b', 'c')}
  make_npz(paths['a'], 100), make_npz(paths['b'], 200)
  # These are samples of other examples.
  make_npz(paths['c'], 150, given=11)
  png = report.compare_samples(paths)
  one = area(png, 100)
  assert one > 3 * 3000 and area(png, 200) == pytest.approx(one, rel=0.01)
  assert area(png, 10) == pytest.approx(2 * one, rel=0.02)
  assert area(png, 150) < one / 20
  assert area(report.compare_samples(paths, max_examples=1), 100) < one / 2


def test_compare_samples_draws_pictures_only(tmp_path, make_npz):
  path = make_npz(tmp_path / 'a.npz', 1, shape=(5,))
  assert report.compare_samples({'a': path}) == b''


def test_compare_samples_refuses_a_damaged_file(tmp_path):
  (tmp_path / 'torn.npz').write_bytes(b'PK\x03\x04torn')
  with pytest.raises(UserError, match='not a file of samples .*; delete it'):
    report.compare_samples({'a': tmp_path / 'torn.npz'})
