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

  def run(self, *without: str) -> str:
    """What the columns say of the run, but for its group and those in `without`."""
    return ', '.join(
      value if key == 'method' else f'{key} {value}'
      for key, value in self.columns.items()
      if key not in ('group', *SETUP, *without)
    )

  def sampling(self, *without: str) -> str:
    """How samples were drawn, but for the columns in `without`."""
    keys = (key for key in SETUP if key not in without)
    return ', '.join(filter(None, (self.columns.get(key) for key in keys)))

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
  if len(set(values)) == 1 and 'stderr' not in rows[0]:
    # A count, of parameters for instance, of which nothing is uncertain.
    return rows[0] | {'seeds': len(rows)}
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
    columns = dict(columns)
    for column in SETUP if generated else ():
      # The study may have a shorter name for it.
      if first.get(column):
        columns.setdefault(column, numbers.short(first[column]))
    found.append(
      Entry(
        columns=columns,
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
    measured: (caption, measure) of the columns of numbers.
    entries: lines.
    generated: whether the lines are of generated examples.
  """

  measured: tuple[tuple[str, Measure], ...]
  entries: tuple[Entry, ...]
  generated: bool

  @property
  def shared(self) -> dict[str, str]:
    """Columns that say the same in all of several lines, and need not be shown."""
    first = self.entries[0].columns if len(self.entries) > 1 else {}
    return {
      key: value
      for key, value in first.items()
      if all(entry.columns.get(key) == value for entry in self.entries)
    }

  @property
  def seeds(self) -> dict[int, int]:
    """Index of a line -> how many seeds it is over."""
    return {
      i: max(cell['seeds'] for cell in entry.cells.values())
      for i, entry in enumerate(self.entries)
    }

  def words(self) -> tuple[list[str], list[list[str]]]:
    """Captions and lines of the columns of words."""
    shared, seeds = self.shared, self.seeds
    columns = {
      'group': [entry.columns.get('group', '') for entry in self.entries],
      'run': [entry.run(*shared) for entry in self.entries],
    }
    if self.generated:
      columns['sampled with'] = [entry.sampling(*shared) for entry in self.entries]
      columns['NFE'] = [f'{entry.nfe:,}' for entry in self.entries]
    if len(set(seeds.values())) > 1:
      columns['seeds'] = [str(count) for count in seeds.values()]
    shown = {key: words for key, words in columns.items() if any(words)}
    if len(set(columns['group'])) == 1:
      shown.pop('group', None)
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]

  def is_best(self, entry: Entry, measure: Measure) -> bool:
    """Whether no other entry of the same group generates better."""
    group = [
      e for e in self.entries if e.columns.get('group') == entry.columns.get('group')
    ]
    cells = [e.cell(measure) for e in group]
    values = [c['value'] for c in cells if c and numbers.is_finite(c['value'])]
    cell = entry.cell(measure)
    if (
      not self.generated
      or len(values) < 2
      or not cell
      or not numbers.is_finite(cell['value'])
    ):
      return False
    return cell['value'] == (min(values) if measure[0] in LOW else max(values))


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
  return _table(found, measured, generated=True)


def network_table(lines: Sequence[Row]) -> Table:
  """Every run: the judge, the autoencoders, the latents, and what it costs."""
  measured = [
    ('classifier accuracy', ('classifier_accuracy', None, None)),
    ('reconstruction', ('reconstruction', None, None)),
    ('log density of the latents', ('latent_log_likelihood', 0, None)),
    ('bound on the log-likelihood', ('joint_log_likelihood_bound', None, None)),
    ('linear probe of one modality', ('latent_accuracy', 1, None)),
    ('linear probe of all', ('latent_accuracy', 'all', None)),
    ('parameters: autoencoders', ('autoencoder_parameters', None, None)),
    ('parameters: models of latents', ('latent_model_parameters', None, None)),
    ('seconds to train: autoencoders', ('autoencoder_seconds', None, None)),
    ('seconds to train: models of latents', ('latent_model_seconds', None, None)),
    ('seconds per sample', ('seconds_per_sample', None, None)),
  ]
  return _table(entries(lines, generated=False), measured, generated=False)


def _table(found, measured, generated) -> Table:
  """Leaves out columns of numbers that nobody measured."""
  shown = [(text, m) for text, m in measured if any(e.cell(m) for e in found)]
  return Table(tuple(shown), tuple(found), generated)


def note(table: Table) -> str:
  """What the numbers of a table are."""
  cells = [entry.cell(m) for entry in table.entries for _, m in table.measured]
  sizes = sorted({c['n'] for c in cells if c and numbers.is_finite(c.get('n'))})
  seeds = set(table.seeds.values())
  if seeds == {1}:
    error = 'over test examples, for one trained model'
  elif len(seeds) == 1:
    error = f'over {seeds.pop()} seeds of the training'
  else:
    error = 'over seeds of the training, where there is one over test examples'
  shared = [f'{key} {value}' for key, value in table.shared.items() if key != 'group']
  parts = [f'In all lines: {", ".join(shared)}'] if shared else []
  parts.append(f'± is one standard error {error}')
  if len(sizes) == 1:
    parts.append(f'n = {sizes[0]:,} test examples')
  elif sizes:
    parts.append(f'Between {sizes[0]:,} and {sizes[-1]:,} test examples')
  cells = [cell for entry in table.entries for cell in entry.cells.values()]
  machines = {f'{cell["device"]}, jax {cell["jax"]}': 0 for cell in cells}
  parts.append(f'Made on {"; ".join(machines)}')
  return '. '.join(parts) + '.'


def markdown(lines: Sequence[Row]) -> str:
  """What pages show: the main table, with its note; bold is the best of its group.

  Where all lines are of one group, which compares methods, that of the networks too.
  """
  table = generation_table(lines)
  out = f'{_markdown(table)}\n{note(table)}\n'
  groups = {entry.columns.get('group') for entry in table.entries}
  if None not in groups and len(groups) == 1:
    own = [line for line in lines if line['columns'].get('group') in groups]
    networks = network_table(own)
    out += '\n' + _markdown(networks) if networks.entries else ''
  return out


def _markdown(table: Table) -> str:
  said, words = table.words()
  head = [*said, *(caption for caption, _ in table.measured)]
  out = [head, ['---'] * len(head)]
  for entry, line in zip(table.entries, words, strict=True):
    cells = []
    for _, measure in table.measured:
      cell = entry.cell(measure)
      text = '–'
      if cell is not None:
        text = numbers.format_number(cell['value'], cell.get('stderr'))
      cells.append(f'**{text}**' if table.is_best(entry, measure) else text)
    out.append([*line, *cells])
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in out) + '\n'
