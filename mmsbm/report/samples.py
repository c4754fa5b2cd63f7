"""Panels of generated examples, from the files that the sampling driver leaves.

A file holds kind ('conditional', 'unconditional' or 'reconstruction') and title as
0-d strings, modalities [M], observed [N, M] bool, label [N] (-1 = unknown), and for
a modality m `generated/m` [N, S, *shape], `given/m` [N, *shape] (the true example)
and `nearest/m` [N, *shape] (closest training example to the first sample). It may
say how to draw a modality: `draw/m` (a key of `images.KINDS`) and `names/m` [A].
"""

import dataclasses
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from mmsbm.infra import errors, images

# A panel is about as wide as the page.
MAX_WIDTH = 1120
# Sides of a tile in pixels; the smaller ones where more then fits on a line.
TILE, SMALL_TILE, SMALLEST_TILE = 64, 48, 32


@dataclasses.dataclass(frozen=True)
class SampleFile:
  """What one samples/*.npz holds."""

  kind: str
  title: str
  modalities: tuple[str, ...]
  observed: np.ndarray
  label: np.ndarray
  arrays: Mapping[str, np.ndarray]

  def tile(
    self, part: str, name: str, index: int | tuple, side: int = TILE
  ) -> np.ndarray | None:
    """Draws one example, or returns None where the file has none."""
    array = self.arrays.get(f'{part}/{name}')
    if array is None:
      return None
    example = array[index]
    draw = self.arrays.get(f'draw/{name}')
    kind = _guess_kind(example) if draw is None else str(draw)
    names = self.arrays.get(f'names/{name}')
    names = None if names is None else [str(entry) for entry in names]
    size = _tile_size(kind, example, names, side)
    return images.draw_example(kind, example, size, names)


def load_samples(path: str | os.PathLike) -> SampleFile:
  """Reads a file of samples."""
  try:
    # NumPy leaves a file open that turns out to be no archive.
    with open(path, 'rb') as f, np.load(f, allow_pickle=False) as archive:
      arrays = dict(archive)
    observed = np.asarray(arrays['observed'], bool)
    return SampleFile(
      kind=str(arrays['kind']),
      title=str(arrays['title']),
      modalities=tuple(str(name) for name in arrays['modalities']),
      observed=observed,
      label=np.asarray(arrays.get('label', np.full(len(observed), -1))),
      arrays=arrays,
    )
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'{path} is not a file of samples ({error}); delete it and sample again.'
    ) from error


def render_samples(npz_path: str | os.PathLike, max_rows: int = 12) -> np.ndarray:
  """Draws a file of samples as one captioned panel.

  Args:
    npz_path: a file as described above.
    max_rows: examples shown of a conditional file; a panel of samples or
      reconstructions shows at most four times as many.

  Returns:
    RGB uint8 [height, width, 3].
  """
  samples = load_samples(npz_path)
  if samples.kind not in _PANELS:
    raise errors.UserError(
      f'{npz_path} has samples of unknown kind {samples.kind!r}; '
      f'choose from {sorted(_PANELS)}.'
    )
  return _PANELS[samples.kind](samples, max_rows)


def compare_samples(
  paths: Mapping[str, str | os.PathLike], max_examples: int = 10
) -> np.ndarray:
  """Draws what several runs make of the same examples: a line for each run.

  The line of a run holds the first sample of every example, for one modality after
  another, as many of them as the page is wide. Above stand what was given and the true
  examples.

  Args:
    paths: {caption of the line: conditional file}. Files of other examples than the
      first one, or of other modalities, are left out.
    max_examples: shown of each file.

  Returns:
    RGB uint8 [height, width, 3].
  """
  files = {caption: load_samples(path) for caption, path in paths.items()}
  first = next(iter(files.values()))
  files = {c: each for c, each in files.items() if _same_examples(each, first)}
  count = min(max_examples, len(first.observed))
  observed = dict(zip(first.modalities, first.observed[:count].all(0), strict=True))
  targets = [m for m in first.modalities if f'generated/{m}' in first.arrays]
  targets = [m for m in targets if not observed[m]]

  def tiles(part, name, side, samples=first):
    at = range(count) if part == 'given' else [(i, 0) for i in range(count)]
    return [samples.tile(part, name, index, side) for index in at]

  for side in (SMALL_TILE, SMALLEST_TILE):
    widths = [
      22 + sum(3 + tile.shape[1] for tile in tiles('given', m, side)) for m in targets
    ]
    shown = max(1, int((np.cumsum(widths) <= MAX_WIDTH - 110).sum()))
    if shown >= min(2, len(targets)):
      break
  targets = targets[:shown]
  lines = {
    f'given {m}': tiles('given', m, side) * shown for m in observed if observed[m]
  }
  lines['test examples'] = [t for m in targets for t in tiles('given', m, side)]
  above = len(lines)
  for caption, samples in files.items():
    lines[caption] = [t for m in targets for t in tiles('generated', m, side, samples)]
  return images.labelled_panel(
    list(lines.values()),
    row_captions=list(lines),
    groups=[(m, count) for m in targets],
    breaks=(above,),
    gap=14,
  )


def _same_examples(one: SampleFile, other: SampleFile) -> bool:
  return one.modalities == other.modalities and all(
    np.array_equal(array, other.arrays.get(name))
    for name, array in one.arrays.items()
    if name == 'observed' or name.startswith('given/')
  )


def _guess_kind(example: np.ndarray) -> str:
  if example.dtype.kind in 'US':
    return 'text'
  if example.ndim == 0:
    return 'label'
  if example.ndim == 3:
    return 'image'
  return 'attributes' if example.dtype.kind in 'bu' else 'vector'


def _tile_size(kind, example, names, side):
  """Height and width: whole factors for small images, a line's room for text."""
  if kind in ('image', 'mask'):
    longest = max(example.shape[:2])
    scale = min(max(1, side // longest), 1.5 * side / longest)
    return tuple(max(1, round(length * scale)) for length in example.shape[:2])
  if kind == 'text' or (kind == 'attributes' and names is not None):
    return side, 2 * side
  return side, side


def _caption(label: int) -> str:
  return f'class {label}' if label >= 0 else ''


def _conditional(samples: SampleFile, max_rows: int) -> np.ndarray:
  """One row per example: given | sample 1 | sample 2 ... | nearest in training set."""
  count = min(max_rows, len(samples.observed))
  observed = samples.observed[:count]
  sources = [m for i, m in enumerate(samples.modalities) if observed[:, i].any()]
  targets = [m for i, m in enumerate(samples.modalities) if not observed[:, i].all()]
  is_given = {m: observed[:, i] for i, m in enumerate(samples.modalities)}
  num_samples = max(
    [1] + [samples.arrays[f'generated/{m}'].shape[1] for m in targets
           if f'generated/{m}' in samples.arrays]
  )  # fmt: skip
  nearest = [m for m in targets if f'nearest/{m}' in samples.arrays]

  side = TILE
  across = _samples_across(samples, sources, targets, nearest, num_samples, TILE)
  if across < num_samples:
    small = _samples_across(samples, sources, targets, nearest, num_samples, SMALL_TILE)
    if small == num_samples or across == 0:
      side, across = SMALL_TILE, max(small, 1)
  bands = -(-num_samples // across)

  def part(row, part_name, names, index, shown):
    return [
      samples.tile(part_name, m, index, side)
      if shown(is_given[m][row])
      else images.HATCHED
      for m in names
    ]

  rows, captions = [], []
  for row in range(count):
    for band in range(bands):
      # Observed, generated and nearest stand on the first line of an example.
      line = part(row, 'given', sources, row, bool) if band == 0 else None
      cells = line or [None] * len(sources)
      for sample in range(band * across, (band + 1) * across):
        if sample < num_samples:
          cells += part(row, 'generated', targets, (row, sample), lambda g: not g)
        else:
          cells += [None] * len(targets)
      line = part(row, 'nearest', nearest, row, lambda g: not g) if band == 0 else None
      cells += line or [None] * len(nearest)
      rows.append(cells)
      captions.append(_caption(int(samples.label[row])) if band == 0 else '')

  groups = [('given', len(sources))] if sources else []
  if bands > 1 or len(targets) == 1:
    label = f'{num_samples} samples' if num_samples > 1 else 'generated'
    blocks = 1 if len(targets) == 1 else across
    width = len(targets) * across // blocks
    groups += [(label if i == 0 else '', width) for i in range(blocks)]
  else:
    groups += [(f'sample {i + 1}', len(targets)) for i in range(across)]
  groups += [('nearest in training set', len(nearest))] if nearest else []
  return images.labelled_panel(
    rows,
    row_captions=captions,
    column_captions=sources + targets * across + nearest,
    groups=groups,
    breaks=range(bands, len(rows), bands) if bands > 1 else (),
  )


def _samples_across(samples, sources, targets, nearest, num_samples, side) -> int:
  """How many samples stand side by side, the others below; 0 if not even one."""

  def width(part, names, index):
    tiles = [samples.tile(part, m, index, side) for m in names]
    return sum(3 + (side if t is None else t.shape[1]) for t in tiles)

  # A rule stands between samples of several modalities only.
  rule = 22
  room = MAX_WIDTH - 90 - 2 * rule - width('given', sources, 0)
  room -= width('nearest', nearest, 0)
  block = width('generated', targets, (0, 0)) + (rule if len(targets) > 1 else 0)
  most = min(room // max(block, 1), num_samples)
  if most < 1:
    return 0
  # Full lines look better than one more sample in the first.
  full = max(k for k in range(1, most + 1) if num_samples % k == 0)
  return full if 2 * full >= most else -(-num_samples // -(-num_samples // most))


def _stacked(samples, examples, lines, pitch=None):
  """Columns are examples, lines go down; wrapped when the page is full.

  Args:
    samples: the file.
    examples: [(caption, index into the first axes of an array)].
    lines: [(caption, part, modality, function of the index)].
    pitch: lines that belong together; None for all of them.
  """
  example = [samples.tile(part, m, at(examples[0][1])) for _, part, m, at in lines]
  widest = max([16] + [tile.shape[1] for tile in example if tile is not None])
  per_band = max(1, (MAX_WIDTH - 120) // (widest + 3))
  rows, captions, breaks = [], [], []
  for start in range(0, len(examples), per_band):
    here = examples[start : start + per_band]
    padding = [None] * (min(per_band, len(examples)) - len(here))
    for number, (caption, part, m, at) in enumerate(lines):
      if number % (pitch or len(lines)) == 0:
        breaks.append(len(rows))
      rows.append([samples.tile(part, m, at(index)) for _, index in here] + padding)
      captions.append(caption)
  # Captions of columns only where one line of them describes the whole panel.
  is_single = len(rows) == len(lines)
  return images.labelled_panel(
    rows,
    row_captions=captions,
    column_captions=[caption for caption, _ in examples] if is_single else None,
    breaks=breaks[1:],
    gap=22 if pitch is None else 12,
  )


def _unconditional(samples: SampleFile, max_rows: int) -> np.ndarray:
  """Columns are joint samples, one line per modality."""
  count = len(samples.observed)
  names = [m for m in samples.modalities if f'generated/{m}' in samples.arrays]
  per_row = max(samples.arrays[f'generated/{m}'].shape[1] for m in names)
  examples = [
    (str(label) if (label := int(samples.label[i])) >= 0 else '', (i, s))
    for i in range(count)
    for s in range(per_row)
  ]
  lines = [(m, 'generated', m, lambda index: index) for m in names]
  return _stacked(samples, examples[: 4 * max_rows], lines)


def _reconstruction(samples: SampleFile, max_rows: int) -> np.ndarray:
  """For each modality a line of examples and a line of their reconstructions."""
  examples = [
    (str(label) if (label := int(samples.label[i])) >= 0 else '', i)
    for i in range(len(samples.observed))
  ]
  lines = []
  for m in samples.modalities:
    lines.append((m, 'given', m, lambda index: index))
    lines.append(('decoded', 'generated', m, lambda index: (index, 0)))
  return _stacked(samples, examples[: 4 * max_rows], lines, pitch=2)


_PANELS = {
  'conditional': _conditional,
  'unconditional': _unconditional,
  'reconstruction': _reconstruction,
}
