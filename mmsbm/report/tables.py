"""The table of a study: lines of its results file, averaged over seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mmsbm.infra.errors import UserError
from mmsbm.report import numbers
from mmsbm.report.numbers import Row

# Columns of the table that the measurements give.
SETUP = ('conditioning', 'sampler', 'guidance')
# Of these, low numbers are the good ones.
LOW = ('frechet',)

# What `numbers.measure` gives.
Measure = tuple[str, int | str | None, str | None]


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of the table: a run with a setup, over all its seeds.

  Attributes:
    columns: what is said of it.
    modalities: M.
    nfe: network evaluations per sample; None where nothing was generated.
    cells: averages over seeds, rows with `value`, `stderr`, `n` and `seeds`.
    first: the first of the lines that it is made of.
  """

  columns: Mapping[str, str]
  modalities: int
  nfe: int | None
  cells: Mapping[Measure, Row]
  first: Row

  def cell(self, measure: Measure) -> Row | None:
    """The average `measure`; with M = k + 1, given k is given the rest."""
    metric, count, features = measure
    if count == self.modalities - 1:
      count = 'rest'
    return self.cells.get((metric, count, features))


def over_seeds(rows: Sequence[Row]) -> Row:
  """The mean over rows that differ by their seed.

  Its standard error is that of the mean over seeds, or, of one seed, the row's own.
  """
  if len(rows) == 1:
    return rows[0] | {'seeds': 1}
  values = [row['value'] for row in rows]
  sizes = {row.get('n') for row in rows}
  out = rows[0] | {'seeds': len(rows), 'value': None, 'stderr': None}
  out['n'] = sizes.pop() if len(sizes) == 1 else None
  if all(numbers.is_finite(value) for value in values):
    mean = sum(values) / len(values)
    square = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    out |= {'value': mean, 'stderr': math.sqrt(square / len(values))}
  return out


def entries(lines: Sequence[Row], generated: bool = True) -> list[Entry]:
  """Entries of the table, in its order.

  Args:
    lines: of a results file.
    generated: whether to take what was generated with a setup, or what was measured
      of the trained networks.

  Raises:
    UserError: two rows have the same columns and the same seed.
  """
  groups: dict[tuple, dict[Measure, dict[int, Row]]] = {}
  for line in lines:
    if ('setup' in line) != generated:
      continue
    key = (tuple(line['columns'].items()), line.get('setup'))
    measure = numbers.measure(line, line['modalities'])
    seeds = groups.setdefault(key, {}).setdefault(measure, {})
    other = seeds.setdefault(line['seed'], line)
    if other['row'] != line['row']:
      raise UserError(
        f'rows {other["row"]} and {line["row"]} have the same columns and seed.'
      )
  found = []
  for (columns, _), measured in groups.items():
    first = next(iter(next(iter(measured.values())).values()))
    said = {key: numbers.describe(first.get(key)) for key in SETUP if generated}
    found.append(
      Entry(
        columns=dict(columns) | {k: v for k, v in said.items() if v},
        modalities=first['modalities'],
        nfe=first.get('nfe'),
        cells={m: over_seeds(list(rows.values())) for m, rows in measured.items()},
        first=first,
      )
    )
  return _sorted(found)


def _sorted(found: Sequence[Entry]) -> list[Entry]:
  """As they come, but with the entries of one group, and of one family, together."""
  order: dict[tuple, int] = {}

  def rank(entry):
    columns = {k: v for k, v in entry.columns.items() if k not in SETUP}
    keys = (
      ('group', entry.columns.get('group')),
      ('columns', *columns.items()),
      ('family', *columns.items(), numbers.family(entry.first)),
    )
    return (*(order.setdefault(key, len(order)) for key in keys), entry.nfe or 0)

  return sorted(found, key=rank)


@dataclasses.dataclass(frozen=True)
class Table:
  """What both the Markdown and the HTML table are written from.

  Attributes:
    said: captions of the columns of words.
    measured: (caption, measure) of the columns of numbers.
    entries: lines.
    note: what the numbers are.
  """

  said: tuple[str, ...]
  measured: tuple[tuple[str, Measure], ...]
  entries: tuple[Entry, ...]
  note: str

  def words(self, entry: Entry) -> list[str]:
    return [_word(entry, column) for column in self.said]

  def is_best(self, entry: Entry, measure: Measure) -> bool:
    """Whether no other entry of the same group has a better number."""
    group = [
      e for e in self.entries if e.columns.get('group') == entry.columns.get('group')
    ]
    cells = [e.cell(measure) for e in group]
    values = [c['value'] for c in cells if c and numbers.is_finite(c['value'])]
    cell = entry.cell(measure)
    if len(values) < 2 or not cell or not numbers.is_finite(cell['value']):
      return False
    return cell['value'] == (min(values) if measure[0] in LOW else max(values))


def _word(entry: Entry, column: str) -> str:
  if column == 'NFE':
    return '–' if entry.nfe is None else f'{entry.nfe:,}'
  if column == 'seeds':
    return str(max(cell['seeds'] for cell in entry.cells.values()))
  return entry.columns.get(column, '–')


def _coherence_columns(found: Sequence[Entry]) -> list[tuple[str, Measure]]:
  """Given 1, 2, ... of the most frequent number of modalities, and the rest."""
  sizes = [entry.modalities for entry in found]
  usual = max(sizes, key=sizes.count)
  counts = [*range(1, usual - 1), 'rest']
  captions = {'rest': 'given the rest', 1: 'coherence given 1'}
  return [(captions.get(k, f'given {k}'), ('coherence', k, None)) for k in counts]


def generation_table(lines: Sequence[Row]) -> Table:
  """Every run with every setup: the main table of a study."""
  found = entries(lines)
  measured = [
    *_coherence_columns(found),
    ('joint', ('joint_coherence', 0, None)),
  ]
  kinds = dict.fromkeys(m[2] for e in found for m in e.cells if m[0] == 'frechet')
  for kind in kinds:
    name = 'FID' if kind == 'inception' else 'Fréchet'
    measured += [
      (f'{name}, unconditional', ('frechet', 0, kind)),
      (f'{name}, given the rest', ('frechet', 'rest', kind)),
    ]
  for metric in ('precision', 'recall'):
    measured += [(metric, (metric, 0, kind)) for kind in list(kinds)[:1]]
  return _table(found, measured, [*SETUP, 'NFE'])


def network_table(lines: Sequence[Row]) -> Table:
  """Every run: the judge, the autoencoders, and the cost of the score model."""
  measured = [
    ('classifier accuracy', ('classifier_accuracy', None, None)),
    ('reconstruction', ('reconstruction', None, None)),
    ('parameters of the score model', ('parameters', None, None)),
    ('seconds to train it', ('train_seconds', None, None)),
  ]
  return _table(entries(lines, generated=False), measured, [])


def _table(found, measured, last) -> Table:
  """Leaves out columns that are empty or the same in all lines."""
  measured = [
    (caption, m) for caption, m in measured if any(e.cell(m) is not None for e in found)
  ]
  said = dict.fromkeys(key for entry in found for key in entry.columns)
  said = [key for key in said if key not in last] + last
  seeds = {_word(entry, 'seeds') for entry in found}
  if len(seeds) > 1:
    said.append('seeds')
  same = {}
  for column in said:
    values = {_word(entry, column) for entry in found}
    if len(values) == 1 and len(found) > 1 and column != 'NFE':
      same[column] = values.pop()
  said = [column for column in said if column not in same]
  said = [c for c in said if any(_word(entry, c) != '–' for entry in found)]
  shared = ', '.join(f'{key}: {value}' for key, value in same.items() if value != '–')
  return Table(
    tuple(said), tuple(measured), tuple(found), _note(found, measured, seeds, shared)
  )


def _note(found, measured, seeds, shared) -> str:
  cells = [entry.cell(m) for entry in found for _, m in measured]
  sizes = sorted({c['n'] for c in cells if c and numbers.is_finite(c.get('n'))})
  if seeds == {'1'}:
    error = 'over test examples, for one trained model'
  elif len(seeds) == 1:
    error = f'over the {seeds.pop()} seeds of the training'
  else:
    error = 'over the seeds of the training, where there is one over test examples'
  parts = [f'In all lines {shared}'] if shared else []
  parts.append(f'± is one standard error {error}')
  if len(sizes) == 1:
    parts.append(f'n = {sizes[0]:,} test examples')
  elif sizes:
    parts.append(f'Between {sizes[0]:,} and {sizes[-1]:,} test examples')
  machines = dict.fromkeys(
    f'{e.first["device"]}, jax {e.first["jax"]}' for e in found if 'jax' in e.first
  )
  if machines:
    parts.append(f'Made on {"; ".join(machines)}')
  return '. '.join(parts) + '.'


def markdown(lines: Sequence[Row]) -> str:
  """The main table for README.md, with its note; bold is the best of its group."""
  table = generation_table(lines)
  head = [*table.said, *(caption for caption, _ in table.measured)]
  out = [head, ['---'] * len(head)]
  for entry in table.entries:
    words = [
      f'`{word}`' if column == 'sampler' and word != '–' else word
      for column, word in zip(table.said, table.words(entry), strict=True)
    ]
    for _, measure in table.measured:
      cell = entry.cell(measure)
      text = '–'
      if cell is not None:
        text = numbers.format_number(cell['value'], cell.get('stderr'))
      words.append(f'**{text}**' if table.is_best(entry, measure) else text)
    out.append(words)
  body = '\n'.join(f'| {" | ".join(words)} |' for words in out)
  return f'{body}\n\n{table.note}\n'
