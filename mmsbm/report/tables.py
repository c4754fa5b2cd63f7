"""Tables for pages and documents; those of a study are averaged over seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmsbm.infra.errors import UserError
from mmsbm.report import formats, results
from mmsbm.report import references as beside
from mmsbm.report.references import REAL
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
  'all reconstructions agree': ('reconstruction_joint_coherence', None, None),
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
  'coherence', 'joint_coherence', 'frechet', 'precision', 'recall', 'variance_ratio',
  'mean_agreement', 'coherence_macro',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
  """Captions of columns, lines of words and numbers (None: absent), and a note."""

  head: Sequence[str]
  lines: Sequence[Sequence[str | Number | None]]
  note: str = ''

  @property
  def numbers(self) -> list[Number]:
    return [cell for line in self.lines for cell in line if isinstance(cell, Number)]

  @property
  def n(self) -> int | None:
    """The number of examples behind every number, or None if it varies."""
    sizes = {number.n for number in self.numbers}
    return sizes.pop() if len(sizes) == 1 else None

  @property
  def error_width(self) -> int:
    """Letters of the longest error, so that values stand below each other."""
    return max((len(x.parts[1]) for x in self.numbers if x.parts[1:]), default=0)

  @property
  def is_numeric(self) -> list[bool]:
    """Whether a column holds numbers, or words that begin with digits."""
    columns = [list(filter(None, column)) for column in zip(*self.lines, strict=True)]
    return [
      all(isinstance(cell, Number) or cell[0].isdigit() for cell in column)
      for column in columns
    ]

  def markdown(self) -> str:
    """Writes pipes without padding, so that one new number changes one line."""
    out = [self.head, ['---'] * len(self.head)]
    for line in self.lines:
      best = ['**' if isinstance(x, Number) and x.best else '' for x in line]
      cells = ['–' if x is None else str(x) for x in line]
      out.append([f'{b}{x}{b}' for b, x in zip(best, cells, strict=True)])
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in out)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of a table: a run with one way of sampling, over all its seeds.

  `columns` say what it is, `cells` are averages over seeds, `first` is its first line.
  """

  columns: Mapping[str, str]
  cells: Mapping[Measure, Number]
  first: Mapping[str, Any]

  @property
  def group(self) -> str:
    return self.columns.get('group', '')

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


def entries(lines: Sequence[Mapping], generated: bool = True) -> list[Entry]:
  """Entries of a table; those of one group, and of one family, stand together.

  Args:
    lines: of a results file.
    generated: whether to take what was generated with a way of sampling, or what was
      measured of the trained networks.

  Raises:
    UserError: two rows have the same columns and the same seed.
  """
  listed, order = [], {}
  chosen = [line for line in lines if ('sampling' in line) == generated]
  keys = [{'key': repr(x['columns']), 'measure': _measure(x)} for x in chosen]
  frame = results.to_frame([x | key for x, key in zip(chosen, keys, strict=True)])
  if not chosen:
    return []
  for _, part in frame.groupby(['key', 'sampling'], sort=False, dropna=False):
    for names in part.groupby('seed').row.unique():
      if len(names) > 1:
        twins = f'rows {names[0]} and {names[1]}'
        raise UserError(f'{twins} have the same columns and seed.')
    first = part.iloc[0].to_dict()
    # The study may have a shorter name for a setting.
    keys = [key for key in SETTINGS if first[key] and key not in first['columns']]
    columns = {key: formats.short(first[key]) for key in keys}
    cells = {
      measure: results.average(same, over_seeds=True)
      for measure, same in part.groupby('measure', sort=False)
    }
    listed.append(Entry(first['columns'] | columns, cells, first))

  def rank(entry):
    words = [item for item in entry.columns.items() if item[0] not in SETTINGS]
    keys = entry.group, (*words,), (*words, results.family(entry.first))
    return *(order.setdefault(k, len(order)) for k in keys), entry.first['nfe'] or 0

  return sorted(listed, key=rank)


def _measure(line: Mapping[str, Any]) -> Measure:
  count, total = line.get('num_given'), line['modalities']
  count = {total - 1: 'rest', total: 'all'}.get(count, count)
  return line['metric'], count, line.get('features')


def references(lines: Sequence[Mapping]) -> dict[str, dict[Measure, Number]]:
  """What lines of real data hold: {caption: {measure: number}}, of any count."""
  plain = {}
  for entry in entries(lines, generated=False):
    for (metric, _, features), cell in entry.cells.items():
      plain.setdefault((metric, features), cell)
  out: dict[str, dict[Measure, Number]] = {}
  for measure in dict.fromkeys(_measure(x) for x in lines if 'sampling' in x):
    metric, _, features = measure
    for caption, names in beside.reference_metrics(metric).items():
      for name in names if caption != beside.RECONSTRUCTED else ():
        key = name, features
        if name == 'classifier_accuracy':
          known = [f for m, f in plain if m == name]
          key = name, beside.reference_features(metric, known)
        if key in plain:
          out.setdefault(caption, {}).setdefault(measure, plain[key])
  return out


def make_table(
  listed: Sequence[Entry],
  measured: Mapping[str, Measure],
  generated: bool,
  real: Mapping[str, Mapping[Measure, Number]] | None = None,
) -> Table:
  """Arranges entries and those columns of numbers that any of them has.

  Below them stand the lines of `real`, from `references`.
  """
  # What all of several lines say is said in the note.
  shared = dict(listed[0].columns) if len(listed) > 1 else {}
  for entry in listed:
    shared = {k: v for k, v in shared.items() if entry.columns.get(k) == v}
  seeds = [max(cell.averaged for cell in entry.cells.values()) for entry in listed]
  groups = [entry.group for entry in listed]
  columns: dict[str, list] = {
    'group': groups if len(set(groups)) > 1 else [],
    'run': [entry.run(*shared) for entry in listed],
    'sampled with': [entry.sampling(*shared) for entry in listed if generated],
    'NFE': [f'{entry.first["nfe"]:,}' for entry in listed if generated],
    'seeds': [*map(str, seeds)] if len(set(seeds)) > 1 else [],
  }
  for caption, measure in measured.items():
    cells = dict(enumerate(entry.cell(*measure) for entry in listed))
    for group in set(groups) if generated else ():
      rivals = {i: cell for i, cell in cells.items() if groups[i] == group}
      limit = (real or {}).get(REAL, {}).get(measure)
      cells |= results.mark_best(rivals, results.direction(measure[0]), limit)
    columns[caption] = list(cells.values())
  columns = {name: column for name, column in columns.items() if any(column)}
  for name, cells in (real or {}).items():
    shown = {c: cells.get(measured[c]) for c in columns if c in measured}
    if any(shown.values()):
      for caption, column in columns.items():
        column.append(shown.get(caption) if caption in measured else '')
      words = [c for c in columns if c not in measured]
      columns['run' if 'run' in columns else words[0]][-1] = name
  table = Table(list(columns), list(zip(*columns.values(), strict=True)))
  shared.pop('group', None)
  note = _note(listed, shared, set(seeds), table.numbers)
  if any(number.best for number in table.numbers):
    note += ' Bold is what lies within two errors of the best of its group.'
  if any(REAL in line for line in table.lines):
    note += ' What is better than real data counts as equal to them.'
  return dataclasses.replace(table, note=note)


def _note(listed, shared, seeds, cells) -> str:
  sizes = sorted({cell.n for cell in cells if cell.n is not None})
  error = 'over test examples and, where there are several, seeds of the training'
  if seeds == {1}:
    error = 'over test examples, for one trained model'
  elif len(seeds) == 1:
    error = f'over test examples and {min(seeds)} seeds of the training'
  size = [f'n = {size:,} test examples' for size in sizes]
  if len(sizes) > 1:
    size = [f'Between {sizes[0]:,} and {sizes[-1]:,} test examples']
  machines = dict.fromkeys(f'{e.first["device"]}, jax {e.first["jax"]}' for e in listed)
  words = ', '.join(f'{key} {value}' for key, value in shared.items())
  return '. '.join([
    *([f'In all lines: {words}'] if words else []),
    f'± is one standard error {error}', *size, f'Made on {"; ".join(machines)}.',
  ])  # fmt: skip


def generation_table(lines: Sequence[Mapping]) -> Table:
  """The main table of a study: all runs with all their ways of sampling."""
  listed = entries(lines)
  sizes = [entry.first['modalities'] for entry in listed]
  usual = max(sizes, key=sizes.count, default=2)
  captions = {'rest': 'given the rest', 1: 'coherence given 1'}
  counts = (*range(1, usual - 1), 'rest')
  measured = {captions.get(k, f'given {k}'): ('coherence', k, None) for k in counts}
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
    if len(kinds) > 1 and kind != 'inception':
      name += f' ({kind})'
    measured[f'{name}, unconditional'] = ('frechet', 0, kind)
    measured[f'{name}, given the rest'] = ('frechet', 'rest', kind)
  for kind in kinds[:1]:
    measured['recall, given 1'] = ('recall', 1, kind)
    measured['recall, given the rest'] = ('recall', 'rest', kind)
    measured['precision, given the rest'] = ('precision', 'rest', kind)
  for kind in kinds:
    name = results.title('variance_ratio', kind if len(kinds) > 1 else None)
    measured[f'{name}, given the rest'] = ('variance_ratio', 'rest', kind)
  return make_table(listed, measured, generated=True, real=references(lines))


def network_table(lines: Sequence[Mapping]) -> Table:
  """The classifier, the autoencoders, the latents, and what they cost."""
  return make_table(entries(lines, generated=False), NETWORKS, generated=False)


def markdown(lines: Sequence[Mapping]) -> str:
  """The main table of a study, with its note, as documents show it.

  Where all lines are of one group, which compares methods, the table of the networks
  follows.
  """
  table = generation_table(lines)
  out = f'{table.markdown()}\n{table.note}\n'
  groups = {line['columns'].get('group') for line in lines}
  if None not in groups and len(groups) == 1:
    networks = network_table(lines)
    out += '\n' + networks.markdown() if networks.lines else ''
  return out
