"""Which measured numbers the report shows, and how it writes them."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]

# Numbers that agree in these fields may stand in one curve.
SETTING = (
  'model',
  'checkpoint',
  'setup',
  'sampler',
  'conditioning',
  'guidance',
  'nfe',
  'split',
  'seed',
  'step',
)

# Metrics of generated examples: they depend on the sampler.
GENERATIVE = ('coherence', 'joint_coherence', 'frechet', 'precision', 'recall', 'f1')


def format_number(value: float | None, stderr: float | None = None) -> str:
  """Writes a value with the digits that it deserves.

  With a standard error, the last digit is the first digit of the error (the second
  if the first is 1). Without one, the number of decimals depends on the size only
  roughly, so that the numbers of a table line up.

  >>> format_number(0.95123, 0.0021), format_number(12.3456), format_number(120345)
  ('0.951 ± 0.002', '12.35', '120,345')
  """
  if not is_finite(value):
    return 'not finite'
  if isinstance(value, int) and stderr is None:
    return f'{value:,}'
  if is_finite(stderr) and stderr > 0:
    decimals = -math.floor(math.log10(stderr))
    if stderr * 10**decimals < 1.95:
      decimals += 1
    if 0 <= decimals <= 7:
      return f'{value:,.{decimals}f} ± {stderr:.{decimals}f}'
    if decimals < 0:
      return f'{value:,.0f} ± {stderr:,.0f}'
    return f'{value:.4g} ± {stderr:.1g}'
  size = abs(value)
  if size == 0 or 0.1 <= size < 1e7:
    decimals = 3 if size < 1 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f'{value:,.{decimals}f}'
  elif 1e-6 <= size < 0.1:
    text = f'{value:.{2 - math.floor(math.log10(size))}f}'
  else:
    text = f'{value:.3g}'
  if is_finite(stderr):
    text += ' ± 0'
  return text


def format_seconds(seconds: float | None) -> str:
  """Writes a duration: 0.42 s, 12.3 s, 4 min 05 s, 2 h 03 min."""
  if not is_finite(seconds):
    return '–'
  if seconds < 60:
    return f'{seconds:.2f} s' if seconds < 9.995 else f'{seconds:.1f} s'
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {rest:02d} s'
  return f'{minutes // 60} h {minutes % 60:02d} min'


def describe(value: Any) -> str | None:
  """One line for a setting: {'name': 'heun', 'num_steps': 9} -> heun(num_steps=9)."""
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, Mapping):
    rest = ', '.join(
      f'{key}={describe(child)}' for key, child in value.items() if key != 'name'
    )
    if 'name' in value:
      return f'{value["name"]}({rest})' if rest else str(value['name'])
    return rest.replace('=', ' ')
  if isinstance(value, (list, tuple)):
    return ', '.join(str(describe(child)) for child in value)
  return str(value)


def is_finite(value: Any) -> bool:
  """Whether this is a number, rather than null or a word."""
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def setting_of(row: Row) -> tuple:
  """What a row has to share with its neighbours in a curve."""
  return tuple(row.get(field) for field in SETTING)


def distinct_settings(rows: Sequence[Row]) -> list[tuple]:
  """Settings in which generated examples were judged, in the order of the file."""
  generative = [row for row in rows if row.get('metric') in GENERATIVE]
  return list(dict.fromkeys(setting_of(row) for row in generative))


@dataclasses.dataclass(frozen=True)
class Results:
  """Rows of results.jsonl, with the questions that the page asks.

  Attributes:
    rows: as read; of rows that measure the same thing the last one counts.
    modalities: names in the order of the config.
  """

  rows: Sequence[Row]
  modalities: tuple[str, ...]

  def of(self, metric: str, **fields: Any) -> list[Row]:
    """Rows of one metric in its main setting; `fields` must agree too."""
    rows = [row for row in self.rows if row.get('metric') == metric]
    rows = [row for row in rows if all(row.get(k) == v for k, v in fields.items())]
    if not rows:
      return []
    main = self.main_setting(rows)
    return [row for row in rows if setting_of(row) == main]

  def main_setting(self, rows: Sequence[Row] | None = None) -> tuple | None:
    """The setting to show: test split, the run's own, latest step, most rows."""
    if rows is None:
      rows = [row for row in self.rows if row.get('metric') in GENERATIVE]
    # Where a metric was measured in few settings, the page's main one still wins
    # if it is among them: the number of rows is counted over all metrics.
    counts, last = {}, {}
    for index, row in enumerate(self.rows):
      counts[setting_of(row)] = counts.get(setting_of(row), 0) + 1
      last[setting_of(row)] = index
    candidates = {setting_of(row): row for row in rows}

    def rank(setting):
      row = candidates[setting]
      step = row.get('step')
      return (
        {'test': 2, 'val': 1}.get(row.get('split'), 0),
        row.get('setup') == 'default',
        step if is_finite(step) else -1,
        counts[setting],
        last[setting],
      )

    return max(candidates, key=rank, default=None)

  def in_setting(self, setting: tuple) -> 'Results':
    """The same questions, about one setting only."""
    rows = [row for row in self.rows if setting_of(row) == setting]
    return dataclasses.replace(self, rows=rows)

  def targets(self, rows: Sequence[Row]) -> list[str]:
    """Targets among `rows`: modalities in order, without 'mean'."""
    found = dict.fromkeys(row.get('target') for row in rows)
    known = [name for name in self.modalities if name in found]
    others = [t for t in found if t not in known and t not in (None, 'mean')]
    return known + others


def curve(rows: Sequence[Row], target: str) -> dict[int, Row]:
  """Number of observed modalities -> the row for `target`.

  A measured mean over subsets wins. Where only single subsets, or single targets,
  were measured, their plain average is returned: without a standard error, since
  they share test examples, and with `averaged` = how many.
  """
  rows = [row for row in rows if row.get('given') != 'incremental']
  own = [row for row in rows if row.get('target') == target]
  out = {}
  for count in sorted({r['num_given'] for r in own if is_finite(r.get('num_given'))}):
    here = [row for row in own if row['num_given'] == count]
    means = [row for row in here if not isinstance(row.get('given'), (list, tuple))]
    out[count] = means[-1] if means else _average(_last_of_each(here))
  if target == 'mean':
    names = dict.fromkeys(row.get('target') for row in rows)
    singles = [curve(rows, name) for name in names if name not in (None, 'mean')]
    for count in sorted({count for single in singles for count in single}):
      if count not in out:
        out[count] = _average([single[count] for single in singles if count in single])
  return dict(sorted(out.items()))


def incremental(rows: Sequence[Row], target: str) -> dict[int, Row]:
  """The curve in which modalities are added one by one, in order."""
  rows = [row for row in rows if row.get('given') == 'incremental']
  own = {row['num_given']: row for row in rows if row.get('target') == target}
  return dict(sorted(own.items()))


def latest(rows: Sequence[Row], **fields: Any) -> Row | None:
  """The last row that agrees with `fields`."""
  found = [row for row in rows if all(row.get(k) == v for k, v in fields.items())]
  return found[-1] if found else None


def mean_row(rows: Sequence[Row]) -> Row | None:
  """The measured mean over targets, else the average of single targets."""
  found = latest(rows, target='mean')
  if found or not rows:
    return found
  return _average(list({row.get('target'): row for row in rows}.values()))


def _last_of_each(rows):
  return list({tuple(row.get('given') or ()): row for row in rows}.values())


def _average(rows: Sequence[Row]) -> Row:
  """Plain average; of a single row, the row."""
  if len(rows) == 1:
    return rows[0]
  values = [row['value'] for row in rows]
  finite = all(is_finite(value) for value in values)
  sizes = {row.get('n') for row in rows}
  return {
    **rows[0],
    'value': sum(values) / len(values) if finite else None,
    'stderr': None,
    'n': sizes.pop() if len(sizes) == 1 else None,
    'target': 'mean',
    'given': 'mean',
    'averaged': len(rows),
  }


# --- averages, and quality against cost ---------------------------------------


def is_average(row: Row, total: int) -> bool:
  """Whether a row is no single target or subset; of joint coherence, all `total`."""
  return (
    row.get('metric') != 'joint_coherence_with_first'
    and row.get('target') in (None, 'mean', 'all')
    and row.get('given') in (None, [], 'mean')
    and row.get('at_least') in (None, total)
  )


def measure(row: Row, total: int) -> tuple[str, int | str | None, str | None]:
  """What an average is of: metric, number of observed modalities, features.

  Args:
    row: for which `is_average`.
    total: number of modalities M; M - 1 observed ones are called 'rest', M 'all'.
  """
  count = row.get('num_given')
  count = {total - 1: 'rest', total: 'all'}.get(count, count)
  return row['metric'], count, row.get('features')


def short(described: str) -> str:
  """Without empty brackets."""
  return described.replace('()', '')


def family(row: Row) -> str:
  """A sampler without its number of steps, with conditioning and guidance."""
  sampler = re.sub(r'\b(num_steps|num_levels)=\d+(, )?', '', str(row.get('sampler')))
  parts = sampler.replace(', )', ')'), row.get('conditioning'), row.get('guidance')
  return ', '.join(short(part) for part in parts if part)


# Panels of the curves: title -> what `measure` gives, but for the features.
QUALITY = {
  'joint coherence': ('joint_coherence', 0),
  'coherence given the rest': ('coherence', 'rest'),
  'Fréchet distance, unconditional': ('frechet', 0),
}


def quality_curves(
  points: Sequence[tuple[str, float, Row, int]],
) -> dict[str, dict[str, dict[float, Row]]]:
  """Curves of the main averages.

  Args:
    points: name of the line, x, row and M of each average; others are left out.

  Returns:
    Title of the panel -> name of the line -> {x: row}; lines of a single x, and
    panels without a line, are left out. Of several features the first count.
  """
  panels: dict[str, dict[str, dict[float, Row]]] = {}
  for title, wanted in QUALITY.items():
    features, lines = None, {}
    for name, x, row, total in points:
      metric, count, kind = measure(row, total)
      if (metric, count) != wanted or not is_average(row, total):
        continue
      features = features or kind
      if kind == features:
        lines.setdefault(name, {})[x] = row
    lines = {name: dict(sorted(c.items())) for name, c in lines.items() if len(c) > 1}
    if lines:
      panels[title] = lines
  return panels


# Panels of the trade-off: title -> what `measure` gives of coherence and of quality,
# but for the features.
TRADE_OFFS = {
  'given one modality': (('coherence', 1), ('frechet', 1)),
  'given the rest': (('coherence', 'rest'), ('frechet', 'rest')),
  'given nothing': (('joint_coherence', 0), ('frechet', 0)),
}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points (x, y) that no other one equals in both and beats in one.

  A large x and a small y are good.

  Returns:
    In the order of falling x, and so of falling y; equal points once.
  """
  front: list[tuple[float, float]] = []
  for x, y in sorted(set(points), key=lambda p: (-p[0], p[1])):
    if not front or y < front[-1][1]:
      front.append((x, y))
  return front
