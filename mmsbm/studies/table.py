"""What is made of the numbers of a study: a page, a table in Markdown, two pictures."""

import pathlib
import re
from collections.abc import Mapping, Sequence

from mmsbm.infra.files import write_atomic
from mmsbm.report import compare_samples, tables, trade_off_figure, write_study_report
from mmsbm.studies.definition import Study
from mmsbm.studies.results import Line
from mmsbm.studies.runner import log


def write_tables(
  name: str,
  lines: Sequence[Line],
  *,
  page: pathlib.Path | None = None,
  readme: pathlib.Path | None = None,
  figure: pathlib.Path | None = None,
  samples_figure: pathlib.Path | None = None,
  samples: Mapping[str, pathlib.Path] | None = None,
) -> None:
  """Writes what has a path, of the study `name` with the results `lines`.

  The page is HTML with all tables and curves; `readme` has the marks of the study;
  `figure` is coherence against quality; `samples_figure` is what the methods make of
  the same examples, from `samples`, see `sample_files`.
  """
  if page:
    log(f'Report: {write_study_report(page, name, lines, samples)}')
  if samples_figure:
    if samples:
      write_atomic(samples_figure, compare_samples(samples))
    else:
      log('no --samples: no method has samples yet')
  if readme:
    insert_table(readme, name, tables.markdown(lines))
  if figure:
    if picture := trade_off_figure(lines):
      write_atomic(figure, picture)
    else:
      log('no --figure: there are no two methods yet to set against each other')


def sample_files(study: Study) -> dict[str, pathlib.Path]:
  """{method: samples given the first modality} of the first finished row of each."""
  out: dict[str, pathlib.Path] = {}
  for row in study.rows:
    path = study.folder(row) / 'samples' / 'given_first_1.npz'
    if row.columns.get('group') == 'methods' and study.finished(row) and path.exists():
      out.setdefault(row.columns['method'], path)
  return out


def _marked(name: str) -> re.Pattern:
  begin, end = f'<!-- study:{re.escape(name)} -->\n', '<!-- /study -->'
  return re.compile(f'(?<=^{begin})(.*?)(?=^{end})', flags=re.M | re.S)


def read_table(readme: pathlib.Path, name: str) -> str | None:
  """What stands between the marks of study `name`; None if there are none."""
  match = _marked(name).search(readme.read_text('utf-8'))
  return match and match.group()


def insert_table(readme: pathlib.Path, name: str, table: str) -> None:
  """Replaces what stands between the marks of study `name`, which must be there."""
  text, count = _marked(name).subn(lambda _: table, readme.read_text('utf-8'), count=1)
  if not count:
    raise ValueError(f'{readme} lacks the marks of study {name}')
  write_atomic(readme, text)
