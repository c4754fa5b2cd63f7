"""Curves of the report, as PNG bytes.

Figures are made without pyplot: no global state, no window system.
"""

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mmsbm.report import numbers

INK = '#262a33'
MUTED = '#747a86'
RULE = '#e3e5ea'
MAIN = '#2f6fba'
SECOND = '#c95c2e'
SERIES = (
  '#2f6fba', '#c95c2e', '#3f8f5b', '#8a5fb0', '#b8860b',
  '#2a9aa5', '#c04a7b', '#6b7785', '#8c6a4f', '#7fa32b',
  '#1c2340', '#f08fb3', '#7fc4f5', '#f2a65a',
  '#b8c400', '#a32020',
)  # fmt: skip
DASHES = ('-', '--', ':')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '<')

STYLE = {
  'font.size': 9.5,
  'font.family': 'DejaVu Sans',
  'axes.edgecolor': '#b4b9c3',
  'axes.labelcolor': INK,
  'axes.titlecolor': INK,
  'axes.titlesize': 10,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'axes.grid': True,
  'grid.color': RULE,
  'grid.linewidth': 0.7,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'xtick.labelcolor': INK,
  'ytick.labelcolor': INK,
  'legend.frameon': False,
  'legend.fontsize': 8.5,
  'lines.solid_capstyle': 'round',
}

# (number observed -> row) for one line of a figure.
Curve = Mapping[int, numbers.Row]


def colours(count: int) -> list:
  """As many distinguishable colours as there are modalities."""
  if count <= len(SERIES):
    return list(SERIES[:count])
  return list(matplotlib.colormaps['viridis'](np.linspace(0, 0.92, count)))


def against_observed(
  mean: Curve,
  per_target: Mapping[str, Curve],
  incremental: Curve,
  *,
  ylabel: str,
) -> bytes:
  """Mean with error bars, each target faintly, the incremental curve dashed."""
  with matplotlib.rc_context(STYLE):
    figure, (axes,) = _axes(1, width=6.6, height=3.7)
    for name, colour in zip(per_target, colours(len(per_target)), strict=True):
      x, y, _ = _points(per_target[name])
      axes.plot(
        x, y, color=colour, alpha=0.5, linewidth=1.1, marker='.', label=name, zorder=2
      )
    x, y, error = _points(mean)
    if len(x):
      axes.errorbar(
        x, y, yerr=error, color=INK, linewidth=2.2, marker='o', markersize=5,
        capsize=3, label='mean over targets', zorder=4,
      )  # fmt: skip
    x, y, error = _points(incremental)
    if len(x):
      axes.errorbar(
        x, y, yerr=error, color=SECOND, linewidth=1.6, linestyle='--', marker='s',
        markersize=4, capsize=3, label='adding one by one', zorder=3,
      )  # fmt: skip
    axes.set_xlabel('number of observed modalities')
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.04, y=0.08)
    _legend_outside(axes)
    return _png(figure)


def panels_of_curves(
  panels: Mapping[str, Mapping[str, Mapping[float, numbers.Row]]], *, xlabel: str
) -> bytes:
  """Frames side by side with curves over one logarithmic axis and one legend.

  Args:
    panels: title -> name of the line -> {x: row}; see `numbers.quality_curves`.
    xlabel: of all frames.
  """
  names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
  look = {
    name: {'color': SERIES[i % len(SERIES)], 'linestyle': DASHES[i // len(SERIES) % 3]}
    for i, name in enumerate(names)
  }
  with matplotlib.rc_context(STYLE):
    # Below the frames there is room for long names, one line each.
    height = 3.1 + 0.19 * len(names)
    figure, frames = _axes(
      len(panels), columns=len(panels), width=3.7 * len(panels), height=height
    )
    handles = {}
    for axes, (title, lines) in zip(frames, panels.items(), strict=True):
      for name, line in lines.items():
        x, y, error = _points(line)
        handles[name] = axes.errorbar(
          x, y, yerr=error, linewidth=1.5, marker='o', markersize=3.5, capsize=2,
          **look[name],
        )  # fmt: skip
      ticks = _apart([x for line in lines.values() for x in line])
      axes.set_xscale('log')
      axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
      axes.xaxis.set_minor_formatter(NullFormatter())
      axes.set_title(title)
      axes.set_xlabel(xlabel)
    figure.legend(
      [handles[name] for name in names], names, loc='outside lower left', ncols=1
    )
    return _png(figure)


def trade_offs(
  panels: Mapping[str, Mapping[tuple[str, str], tuple[numbers.Row, numbers.Row]]],
) -> bytes:
  """Coherence against Fréchet distance, with the line of what nothing else beats.

  Args:
    panels: title -> (method, way of sampling) -> (row of the coherence, row of the
      distance). A method has one colour, a way of sampling one marker.
  """
  methods = list(dict.fromkeys(m for points in panels.values() for m, _ in points))
  ways = list(dict.fromkeys(w for points in panels.values() for _, w in points))
  colour = dict(zip(methods, colours(len(methods)), strict=True))
  marker = {way: MARKERS[i % len(MARKERS)] for i, way in enumerate(ways)}
  with matplotlib.rc_context(STYLE):
    columns = 1 if len(methods) <= 6 else 2
    height = 3.4 + 0.19 * max(math.ceil(len(methods) / columns), len(ways))
    figure, frames = _axes(
      len(panels), columns=len(panels), width=3.7 * len(panels), height=height
    )
    for axes, (title, points) in zip(frames, panels.items(), strict=True):
      for (method, way), (x, y) in points.items():
        axes.errorbar(
          x['value'], y['value'],
          xerr=np.nan_to_num(_number(x.get('stderr'))),
          yerr=np.nan_to_num(_number(y.get('stderr'))),
          marker=marker[way], color=colour[method], markersize=6, capsize=2,
          linewidth=1,
        )  # fmt: skip
      front = numbers.pareto_front(
        [(x['value'], y['value']) for x, y in points.values()]
      )
      axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=0.9, zorder=1)
      _logarithmic_if_wide(axes, np.array([y['value'] for _, y in points.values()]))
      axes.set_title(title)
      axes.set_xlabel('coherence')
    frames[0].set_ylabel('Fréchet distance')
    handles = [Line2D([], [], color=colour[m], linewidth=4) for m in methods]
    figure.legend(handles, methods, loc='outside lower left', ncols=columns)
    if len(ways) > 1:
      handles = [
        Line2D([], [], color=INK, marker=marker[w], linestyle='') for w in ways
      ]
      figure.legend(handles, ways, loc='outside lower right', ncols=1)
    return _png(figure)


def _apart(values: Sequence[float], share: float = 0.09) -> list[float]:
  """Positive values that are apart on a logarithmic axis; frequent ones first."""
  kept = []
  for value in sorted(set(values), key=lambda v: (-values.count(v), v)):
    gap = share * np.log(max(values) / min(values))
    if all(abs(np.log(value / other)) >= gap for other in kept):
      kept.append(value)
  return sorted(kept)


def bars(labels: Sequence[str], rows: Sequence[numbers.Row], ylabel: str) -> bytes:
  """One bar per row, with its standard error."""
  with matplotlib.rc_context(STYLE):
    figure, (axes,) = _axes(1, width=max(3.2, 0.75 * len(rows) + 1.6), height=3.0)
    values = [_number(row.get('value')) for row in rows]
    errors = np.nan_to_num([_number(row.get('stderr')) for row in rows])
    positions = np.arange(len(rows))
    axes.bar(positions, values, width=0.62, color=MAIN)
    axes.errorbar(positions, values, yerr=errors, fmt='none', ecolor=INK, capsize=3)
    axes.set_xticks(positions, labels)
    axes.set_ylim(0, 1)
    axes.set_ylabel(ylabel)
    axes.grid(visible=False, axis='x')
    return _png(figure)


def matrix(names: Sequence[str], values: np.ndarray) -> bytes:
  """Coherence of each target given each single source; NaN cells stay blank."""
  with matplotlib.rc_context(STYLE):
    side = max(2.6, 0.46 * len(names) + 1.6)
    figure, (axes,) = _axes(1, width=side + 0.6, height=side)
    picture = axes.imshow(values, vmin=0, vmax=1, cmap='Blues')
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel('generated')
    axes.set_ylabel('given')
    axes.grid(visible=False)
    for (i, j), value in np.ndenumerate(values):
      if np.isfinite(value):
        axes.text(
          j, i, f'{value:.2f}', ha='center', va='center', fontsize=8,
          color='white' if value > 0.6 else INK,
        )  # fmt: skip
    figure.colorbar(picture, ax=axes, shrink=0.85)
    return _png(figure)


def training(
  panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> bytes:
  """Small frames of curves over steps.

  Args:
    panels: title -> name of the learner -> (steps, values).

  Returns:
    PNG. The raw curve is faint, its moving average strong. An axis whose values are
    positive and span more than a factor of three is logarithmic.
  """
  with matplotlib.rc_context(STYLE):
    columns = min(3, len(panels))
    num_rows = -(-len(panels) // columns)
    figure, frames = _axes(
      len(panels), columns=columns, width=3.7 * columns, height=2.6 * num_rows
    )
    for axes, (title, series) in zip(frames, panels.items(), strict=True):
      shown = []
      for (name, (steps, values)), colour in zip(
        series.items(), colours(len(series)), strict=True
      ):
        finite = np.isfinite(values)
        steps, values = steps[finite], values[finite]
        if not len(values):
          continue
        shown.append(values)
        axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(
          steps, smooth(values), color=colour, linewidth=1.6, label=name,
          marker='.' if len(values) == 1 else None,
        )  # fmt: skip
      values = np.concatenate(shown) if shown else np.ones(1)
      _logarithmic_if_wide(axes, values)
      axes.set_title(title)
      axes.set_xlabel('step')
      axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
      if 1 < len(shown) <= 10:
        axes.legend(fontsize=7, ncols=2 if len(shown) > 4 else 1)
    return _png(figure)


def smooth(values: np.ndarray, span: float = 0.02) -> np.ndarray:
  """Exponential moving average, corrected for its start from zero.

  Args:
    values: [T].
    span: time constant as a share of T; short curves stay as they are.

  Returns:
    [T] averages; a constant curve is its own average.
  """
  decay = 1 - 1 / max(1.0, span * len(values))
  total, weight, out = 0.0, 0.0, []
  for value in values:
    total = decay * total + (1 - decay) * value
    weight = decay * weight + (1 - decay)
    out.append(total / weight)
  return np.asarray(out)


def _axes(count, *, width, height, columns=1):
  figure = Figure(figsize=(width, height))
  figure.set_layout_engine('constrained', w_pad=0.09, h_pad=0.09)
  FigureCanvasAgg(figure)
  rows = -(-count // columns)
  return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _logarithmic_if_wide(axes, values: np.ndarray) -> None:
  """Makes the y axis logarithmic if positive values span more than a factor of 3."""
  if values.min() <= 0 or values.max() <= 3 * values.min():
    return
  axes.set_yscale('log')
  axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
  axes.yaxis.set_minor_formatter(NullFormatter())


def _number(value) -> float:
  return float(value) if numbers.is_finite(value) else np.nan


def _points(curve: Curve):
  """x, y and error bars [K]; rows without a finite value are left out."""
  rows = [(x, row) for x, row in curve.items() if numbers.is_finite(row.get('value'))]
  x = np.asarray([x for x, _ in rows], float)
  y = np.asarray([row['value'] for _, row in rows], float)
  error = np.nan_to_num([_number(row.get('stderr')) for _, row in rows])
  return x, y, error


def _legend_outside(axes):
  handles, labels = axes.get_legend_handles_labels()
  if labels:
    # The most important line was drawn last among equals: list it first.
    order = sorted(range(len(labels)), key=lambda i: -_drawing_order(handles[i]))
    axes.legend(
      [handles[i] for i in order], [labels[i] for i in order],
      loc='center left', bbox_to_anchor=(1.01, 0.5),
    )  # fmt: skip


def _drawing_order(handle) -> float:
  """The drawing order of a legend entry, of which error bars have none."""
  return handle.lines[0].get_zorder() if hasattr(handle, 'lines') else 0


def _png(figure: Figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=180, facecolor='white')
  return buffer.getvalue()
