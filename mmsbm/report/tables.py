"""The tables of a study: lines of its results file, averaged over seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mmsbm.infra.errors import UserError
from mmsbm.report import formats, results
from mmsbm.report.results import Number

# Columns of words that the measurements give.
SETTINGS = ('conditioning', 'sampler', 'guidance')
# What is averaged: metric, number of given modalities, features. Of M modalities,
# M - 1 given ones are called 'rest' and M are called 'all'.
Measure = tuple[str, int | str | None, str | None]
# Columns of the table of trained networks.
NETWORKS: dict[str, Measure] = {
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
# Metrics whose columns `generation_table` chooses; the last two say almost what
# coherence says. All others have columns of their own.
CHOSEN = (
  'coherence', 'joint_coherence', 'frechet', 'precision', 'recall', 'mean_agreement',
  'coherence_macro',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of a table: a run with one way of sampling, over all its seeds.

  Attributes:
    columns: what is said of it.
    cells: averages over seeds; `averaged` counts them.
    first: the first of the lines that it is made of.
  """

  columns: Mapping[str, str]
  cells: Mapping[Measure, Number]
  first: Mapping[str, Any]

  def run(self, *without: str) -> str:
    """What the columns say of the run, but for its group and those in `without`."""
    return ', '.join(
      value if key == 'method' else f'{key} {value}'
      for key, value in self.columns.items()
      if key not in ('group', *SETTINGS, *without)
    )

  def sampling(self, *without: str) -> str:
    """How samples were drawn, but for the columns in `without`."""
    words = (self.columns.get(key) for key in SETTINGS if key not in without)
    return ', '.join(filter(None, words))

  def cell(self, metric: str, count=None, features=None) -> Number | None:
    """The average of a measure; with M = k + 1, given k is given the rest."""
    count = 'rest' if count == self.first['modalities'] - 1 else count
    return self.cells.get((metric, count, features))


def over_seeds(lines: pd.DataFrame) -> Number:
  """The mean over lines that differ by their seed.

  Its standard error is that of the mean over seeds, or, of one seed, the line's own.
  Counts, of parameters for instance, that are the same in all are left as they are.
  """
  first = results.number(lines.iloc[0])
  values = pd.to_numeric(lines.value, errors='coerce')
  is_count = values.nunique() == 1 and lines.stderr.isna().all()
  if len(lines) == 1 or is_count:
    return dataclasses.replace(first, averaged=len(lines))
  mean, error = values.mean(skipna=False), values.sem(skipna=False)
  n = first.n if lines.n.nunique(dropna=False) == 1 else None
  is_finite = formats.is_finite(mean)
  return Number(
    *(map(float, (mean, error)) if is_finite else (None, None)), n, len(lines)
  )


def entries(lines: Sequence[Mapping], generated: bool = True) -> list[Entry]:
  """Entries of a table; those of one group, and of one family, stand together.

  Args:
    lines: of a results file.
    generated: whether to take what was generated with a way of sampling, or what was
      measured of the trained networks.

  Raises:
    UserError: two rows have the same columns and the same seed.
  """
  if not lines:
    return []
  frame = results.to_frame(
    [
      {**line, 'key': repr(line['columns']), 'measure': _measure(line)}
      for line in lines
    ]
  )
  listed = []
  frame = frame[frame.sampling.notna() == generated]
  for _, part in frame.groupby(['key', 'sampling'], sort=False, dropna=False):
    for names in part.groupby('seed').row.unique():
      if len(names) > 1:
        raise UserError(
          f'rows {names[0]} and {names[1]} have the same columns and seed.'
        )
    first = part.iloc[0].to_dict()
    # The study may have a shorter name for a setting.
    columns = {
      key: formats.short(first[key]) for key in SETTINGS if generated and first[key]
    }
    columns = first['columns'] | {
      key: word for key, word in columns.items() if key not in first['columns']
    }
    cells = {
      name: over_seeds(same) for name, same in part.groupby('measure', sort=False)
    }
    listed.append(Entry(columns, cells, first))
  order: dict[tuple, int] = {}

  def rank(entry):
    words = [item for item in entry.columns.items() if item[0] not in SETTINGS]
    keys = (
      (entry.columns.get('group'),),
      (*words,),
      (*words, results.family(entry.first)),
    )
    return *(order.setdefault(k, len(order)) for k in keys), entry.first['nfe'] or 0

  return sorted(listed, key=rank)


def _measure(line: Mapping[str, Any]) -> Measure:
  count, total = line.get('num_given'), line['modalities']
  count = {total - 1: 'rest', total: 'all'}.get(count, count)
  return line['metric'], count, line.get('features')


@dataclasses.dataclass(frozen=True)
class Table:
  """What both the Markdown and the HTML table are written from.

  Attributes:
    words: columns of words, a row for each line.
    numbers: caption -> column of numbers; the best of each group are marked.
    note: what the numbers are.
    generated: whether the lines are of generated examples.
  """

  words: pd.DataFrame
  numbers: Mapping[str, Sequence[Number | None]]
  note: str
  generated: bool

  @property
  def lines(self) -> list[tuple[list[str], list[Number | None]]]:
    """Words and numbers, line by line."""
    words = self.words.to_numpy().tolist()
    cells = zip(*self.numbers.values(), strict=True)
    return list(zip(words, map(list, cells), strict=True))


def make_table(
  listed: Sequence[Entry], measured: Mapping[str, Measure], generated: bool
) -> Table:
  """Arranges entries and those columns of numbers that any of them has."""
  numbers = {
    caption: _column(listed, measure, generated)
    for caption, measure in measured.items()
    if any(entry.cell(*measure) for entry in listed)
  }
  # What all of several lines say is said in the note.
  shared = dict(listed[0].columns) if len(listed) > 1 else {}
  for entry in listed:
    shared = {k: v for k, v in shared.items() if entry.columns.get(k) == v}
  seeds = [max(cell.averaged for cell in entry.cells.values()) for entry in listed]
  groups = [entry.columns.get('group', '') for entry in listed]
  columns = {'group': groups if len(set(groups)) > 1 else []}
  columns['run'] = [entry.run(*shared) for entry in listed]
  if generated:
    columns['sampled with'] = [entry.sampling(*shared) for entry in listed]
    columns['NFE'] = [f'{entry.first["nfe"]:,}' for entry in listed]
  columns['seeds'] = [*map(str, seeds)] if len(set(seeds)) > 1 else []
  words = pd.DataFrame(
    {name: column for name, column in columns.items() if any(column)}
  )
  shared.pop('group', None)
  note = _note(
    listed, shared, set(seeds), [x for c in numbers.values() for x in c if x]
  )
  return Table(words, numbers, note, generated)


def _column(listed, measure, generated) -> list[Number | None]:
  cells = {i: entry.cell(*measure) for i, entry in enumerate(listed)}
  groups = [entry.columns.get('group') for entry in listed]
  better = 'low' if measure[0] in results.LOW else 'high'
  for entry in listed:
    better = (entry.first.get('better') or {}).get(measure[0], better)
  for group in set(groups) if generated else ():
    rivals = {i: cell for i, cell in cells.items() if groups[i] == group}
    cells |= results.mark_best(rivals, better)
  return list(cells.values())


def _note(listed, shared, seeds, cells) -> str:
  sizes = sorted({cell.n for cell in cells if cell.n is not None})
  error = 'over seeds of the training, where there is one over test examples'
  if seeds == {1}:
    error = 'over test examples, for one trained model'
  elif len(seeds) == 1:
    error = f'over {min(seeds)} seeds of the training'
  size = ''
  if sizes:
    several = f'Between {sizes[0]:,} and {sizes[-1]:,} test examples'
    size = several if len(sizes) > 1 else f'n = {sizes[0]:,} test examples'
  machines = dict.fromkeys(f'{e.first["device"]}, jax {e.first["jax"]}' for e in listed)
  words = ', '.join(f'{key} {value}' for key, value in shared.items())
  return formats.sentence(
    f'In all lines: {words}' if words else '',
    f'± is one standard error {error}',
    size,
    f'Made on {"; ".join(machines)}',
  )


def generation_table(lines: Sequence[Mapping]) -> Table:
  """The main table of a study: all runs with all their ways of sampling."""
  listed = entries(lines)
  sizes = [entry.first['modalities'] for entry in listed]
  usual = max(sizes, key=sizes.count, default=2)
  captions = {'rest': 'given the rest', 1: 'coherence given 1'}
  measured: dict[str, Measure] = {
    captions.get(k, f'given {k}'): ('coherence', k, None)
    for k in (*range(1, usual - 1), 'rest')
  }
  measured['joint'] = ('joint_coherence', 0, None)
  measures = dict.fromkeys(m for entry in listed for m in entry.cells)
  given = {0: ', unconditional', 1: ', given 1', 'rest': ', given the rest', None: ''}
  for metric, count, features in sorted(measures, key=lambda m: (m[0], str(m[1]))):
    if metric not in CHOSEN and count in given:
      name = results.title(metric, features) + given[count]
      measured[name] = (metric, count, features)
  kinds = list(dict.fromkeys(m[2] for m in measures if m[0] == 'frechet'))
  for kind in kinds:
    name = 'FID' if kind == 'inception' else 'Fréchet'
    measured[f'{name}, unconditional'] = ('frechet', 0, kind)
    measured[f'{name}, given the rest'] = ('frechet', 'rest', kind)
  for metric in ('precision', 'recall') if kinds else ():
    measured[metric] = (metric, 0, kinds[0])
  return make_table(listed, measured, generated=True)


def network_table(lines: Sequence[Mapping]) -> Table:
  """The classifier, the autoencoders, the latents, and what they cost."""
  return make_table(entries(lines, generated=False), NETWORKS, generated=False)


def markdown(lines: Sequence[Mapping]) -> str:
  """The main table of a study, with its note, as documents show it.

  Bold is the best of its group. Where all lines are of one group, which compares
  methods, the table of the networks follows.
  """
  table = generation_table(lines)
  out = f'{_markdown(table)}\n{table.note}\n'
  groups = {line['columns'].get('group') for line in lines}
  if None not in groups and len(groups) == 1:
    networks = network_table(lines)
    out += '\n' + _markdown(networks) if len(networks.words) else ''
  return out


def _markdown(table: Table) -> str:
  """Writes pipes without padding, so that one new number changes one line."""
  head = [*table.words, *table.numbers]
  out = [head, ['---'] * len(head)]
  out += [[*words, *map(_markdown_cell, numbers)] for words, numbers in table.lines]
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in out) + '\n'


def _markdown_cell(cell: Number | None) -> str:
  if cell is None:
    return '–'
  text = formats.format_number(cell.value, cell.stderr)
  return f'**{text}**' if cell.best else text
