"""The table of a study: lines of its results file, averaged over seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mmsbm.infra.errors import UserError
from mmsbm.report import formats, results
from mmsbm.report.results import Number

# Columns of words that the measurements give.
SETUP = ('conditioning', 'sampler', 'guidance')
# What is averaged: metric, number of given modalities, features. Of M modalities,
# M - 1 given ones are called 'rest' and M are called 'all'.
Measure = tuple[str, int | str | None, str | None]
# Columns of the table of trained networks.
NETWORKS = {
  'classifier accuracy': ('classifier_accuracy', None, None),
  'reconstruction': ('reconstruction', None, None),
  'log density of the latents': ('latent_log_likelihood', 0, None),
  'bound on the log-likelihood': ('joint_log_likelihood_bound', None, None),
  'linear probe of one modality': ('latent_accuracy', 1, None),
  'linear probe of all': ('latent_accuracy', 'all', None),
  'parameters: autoencoders': ('autoencoder_parameters', None, None),
  'parameters: models of latents': ('latent_model_parameters', None, None),
  'seconds to train: autoencoders': ('autoencoder_seconds', None, None),
  'seconds to train: models of latents': ('latent_model_seconds', None, None),
  'seconds per sample': ('seconds_per_sample', None, None),
}
# Metrics whose columns of the main table are chosen in `generation_table`; the last
# two say almost what coherence says.
CHOSEN = (
  'coherence', 'joint_coherence', 'frechet', 'precision', 'recall', 'mean_agreement',
  'coherence_macro',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of the table: a run with one way of sampling, over all its seeds.

  Attributes:
    columns: what is said of it.
    modalities: M.
    nfe: network evaluations per sample; None where nothing was generated.
    cells: averages over seeds; `averaged` counts them.
    first: the first of the lines that it is made of.
  """

  columns: Mapping[str, str]
  modalities: int
  nfe: int | None
  cells: Mapping[Measure, Number]
  first: Mapping[str, Any]

  @property
  def group(self) -> str | None:
    return self.columns.get('group')

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

  def cell(self, measure: Measure) -> Number | None:
    """The average `measure`; with M = k + 1, given k is given the rest."""
    metric, count, features = measure
    return self.cells.get(
      (metric, 'rest' if count == self.modalities - 1 else count, features)
    )


def over_seeds(lines: pd.DataFrame) -> Number:
  """The mean over lines that differ by their seed.

  Its standard error is that of the mean over seeds, or, of one seed, the line's own.
  Counts, of parameters for instance, that are the same in all are left as they are.
  """
  first = results.number(lines.iloc[0])
  values, seeds = list(lines.value), len(lines)
  is_count = len(set(values)) == 1 and lines.stderr.isna().all()
  if seeds == 1 or is_count:
    return dataclasses.replace(first, averaged=seeds)
  n = first.n if lines.n.nunique(dropna=False) == 1 else None
  if not all(map(formats.is_finite, values)):
    return Number(None, None, n, seeds)
  mean = sum(values) / seeds
  square = sum((value - mean) ** 2 for value in values) / (seeds - 1)
  return Number(mean, math.sqrt(square / seeds), n, seeds)


def entries(lines: Sequence[Mapping], generated: bool = True) -> list[Entry]:
  """Entries of the table, in its order.

  Args:
    lines: of a results file.
    generated: whether to take what was generated with a way of sampling, or what was
      measured of the trained networks.

  Raises:
    UserError: two rows have the same columns and the same seed.
  """
  frame = _frame(lines)
  frame = frame[frame.sampling.notna() == generated]
  found = []
  for _, part in frame.groupby(['key', 'sampling'], sort=False, dropna=False):
    rows = part.groupby('seed', sort=False).row.unique()
    for names in rows:
      if len(names) > 1:
        raise UserError(
          f'rows {names[0]} and {names[1]} have the same columns and seed.'
        )
    first = part.iloc[0]
    columns = dict(first['columns'])
    for column in SETUP if generated else ():
      # The study may have a shorter name for it.
      if first[column]:
        columns.setdefault(column, formats.short(first[column]))
    cells = {
      measure: over_seeds(same) for measure, same in part.groupby('measure', sort=False)
    }
    found.append(
      Entry(columns, first['modalities'], first['nfe'], cells, first.to_dict())
    )
  return _sorted(found)


def _frame(lines: Sequence[Mapping]) -> pd.DataFrame:
  """Lines with the columns `sampling`, `key` (of an entry) and `measure`."""
  rows = []
  for line in lines:
    count, total = line.get('num_given'), line['modalities']
    count = {total - 1: 'rest', total: 'all'}.get(count, count)
    # Older files say `setup`.
    sampling = line.get('sampling', line.get('setup'))
    measure = (line['metric'], count, line.get('features'))
    key = repr(list(line['columns'].items()))
    rows.append({**line, 'sampling': sampling, 'key': key, 'measure': measure})
  known = (*results.FIELDS, 'seed', 'row', 'columns', 'modalities', 'key', 'measure')
  columns = dict.fromkeys([*known, *(name for row in rows for name in row)])
  frame = pd.DataFrame(rows, columns=list(columns), dtype=object)
  return frame.where(frame.notna(), None)


def _sorted(found: Sequence[Entry]) -> list[Entry]:
  """As they come, but with the entries of one group, and of one family, together."""
  order: dict[tuple, int] = {}

  def rank(entry):
    columns = {k: v for k, v in entry.columns.items() if k not in SETUP}
    keys = (
      ('group', entry.group),
      ('columns', *columns.items()),
      ('family', *columns.items(), results.family(entry.first)),
    )
    return (*(order.setdefault(key, len(order)) for key in keys), entry.nfe or 0)

  return sorted(found, key=rank)


@dataclasses.dataclass(frozen=True)
class Table:
  """What both the Markdown and the HTML table are written from.

  Attributes:
    measured: caption -> measure, the columns of numbers.
    entries: lines.
    generated: whether the lines are of generated examples.
  """

  measured: Mapping[str, Measure]
  entries: Sequence[Entry]
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
  def seeds(self) -> list[int]:
    """How many seeds each line is over."""
    return [max(cell.averaged for cell in e.cells.values()) for e in self.entries]

  @property
  def words(self) -> pd.DataFrame:
    """The columns of words."""
    shared, groups = self.shared, [entry.group or '' for entry in self.entries]
    columns = {'group': groups, 'run': [entry.run(*shared) for entry in self.entries]}
    if self.generated:
      columns['sampled with'] = [entry.sampling(*shared) for entry in self.entries]
      columns['NFE'] = [f'{entry.nfe:,}' for entry in self.entries]
    if len(set(self.seeds)) > 1:
      columns['seeds'] = [str(count) for count in self.seeds]
    shown = {key: words for key, words in columns.items() if any(words)}
    if len(set(groups)) == 1:
      shown.pop('group', None)
    return pd.DataFrame(shown)

  @property
  def numbers(self) -> list[list[Number | None]]:
    """The cells, line by line; the best of each group are marked."""
    columns = []
    for metric, *rest in self.measured.values():
      cells = [entry.cell((metric, *rest)) for entry in self.entries]
      for group in {entry.group for entry in self.entries} if self.generated else ():
        rivals = {i: cells[i] for i, e in enumerate(self.entries) if e.group == group}
        for i, cell in results.mark_best(rivals, self._better(metric)).items():
          cells[i] = cell
      columns.append(cells)
    return [list(line) for line in zip(*columns, strict=True)]

  def _better(self, metric: str) -> str:
    stated = (entry.first.get('better') for entry in self.entries)
    stated = next(
      (better[metric] for better in stated if metric in (better or ())), None
    )
    return stated or ('low' if metric in results.LOW else 'high')


def _table(found, measured, generated) -> Table:
  """Leaves out columns of numbers that nobody measured."""
  shown = {c: m for c, m in measured.items() if any(e.cell(m) for e in found)}
  return Table(shown, found, generated)


def generation_table(lines: Sequence[Mapping]) -> Table:
  """The main table of a study: all runs with all their ways of sampling."""
  found = entries(lines)
  sizes = [entry.modalities for entry in found]
  usual = max(sizes, key=sizes.count, default=2)
  captions = {'rest': 'given the rest', 1: 'coherence given 1'}
  measured: dict[str, Measure] = {
    captions.get(k, f'given {k}'): ('coherence', k, None)
    for k in (*range(1, usual - 1), 'rest')
  }
  measured['joint'] = ('joint_coherence', 0, None)
  measures = dict.fromkeys(m for entry in found for m in entry.cells)
  for metric, count, kind in sorted(measures, key=lambda m: (m[0], str(m[1]))):
    if metric not in CHOSEN and count in (0, 1, 'rest', 'all', None):
      given = {0: ', unconditional', 'rest': ', given the rest', None: ''}
      name = results.title(metric, kind) + given.get(count, f', given {count}')
      measured[name] = (metric, count, kind)
  kinds = list(dict.fromkeys(m[2] for m in measures if m[0] == 'frechet'))
  for kind in kinds:
    name = 'FID' if kind == 'inception' else 'Fréchet'
    measured[f'{name}, unconditional'] = ('frechet', 0, kind)
    measured[f'{name}, given the rest'] = ('frechet', 'rest', kind)
  for metric in ('precision', 'recall') if kinds else ():
    measured[metric] = (metric, 0, kinds[0])
  return _table(found, measured, generated=True)


def network_table(lines: Sequence[Mapping]) -> Table:
  """The classifier, the autoencoders, the latents, and what they cost."""
  return _table(entries(lines, generated=False), NETWORKS, generated=False)


def note(table: Table) -> str:
  """Says what the numbers of a table are."""
  cells = [entry.cell(m) for entry in table.entries for m in table.measured.values()]
  sizes = sorted({cell.n for cell in cells if cell and cell.n is not None})
  seeds = set(table.seeds)
  if seeds == {1}:
    error = 'over test examples, for one trained model'
  elif len(seeds) == 1:
    error = f'over {seeds.pop()} seeds of the training'
  else:
    error = 'over seeds of the training, where there is one over test examples'
  shared = [f'{key} {value}' for key, value in table.shared.items() if key != 'group']
  size = ''
  if len(sizes) == 1:
    size = f'n = {sizes[0]:,} test examples'
  elif sizes:
    size = f'Between {sizes[0]:,} and {sizes[-1]:,} test examples'
  machines = dict.fromkeys(
    f'{entry.first["device"]}, jax {entry.first["jax"]}' for entry in table.entries
  )
  return formats.sentence(
    f'In all lines: {", ".join(shared)}' if shared else '',
    f'± is one standard error {error}',
    size,
    f'Made on {"; ".join(machines)}',
  )


def markdown(lines: Sequence[Mapping]) -> str:
  """The main table of a study, with its note, as documents show it.

  Bold is the best of its group. Where all lines are of one group, which compares
  methods, the table of the networks follows.
  """
  table = generation_table(lines)
  out = f'{_markdown(table)}\n{note(table)}\n'
  groups = {entry.group for entry in table.entries}
  if None not in groups and len(groups) == 1:
    own = [line for line in lines if line['columns'].get('group') in groups]
    networks = network_table(own)
    out += '\n' + _markdown(networks) if networks.entries else ''
  return out


def _markdown(table: Table) -> str:
  """Writes pipes without padding, so that one new number changes one line."""
  frame = table.words
  head = [*frame, *table.measured]
  out = [head, ['---'] * len(head)]
  for words, numbers in zip(frame.itertuples(index=False), table.numbers, strict=True):
    out.append([*words, *map(_markdown_cell, numbers)])
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in out) + '\n'


def _markdown_cell(cell: Number | None) -> str:
  if cell is None:
    return '–'
  text = formats.format_number(cell.value, cell.stderr)
  return f'**{text}**' if cell.best else text
