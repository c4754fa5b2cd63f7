"""Figures of the pages, as SVG that follows the colours of the page, or as PNG.

Figures are made without pyplot: no global state, no window system. Sizes are those of
a narrow screen; pages set several of them side by side.
"""

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mmsbm.report.results import ADDED, MEAN, Number

INK, MUTED, RULE, EDGE = '#262a33', '#747a86', '#e3e5ea', '#b4b9c3'
# In a page these colours are those of its scheme, light or dark.
THEME = {
  INK: 'var(--ink)', MUTED: 'var(--muted)', RULE: 'var(--rule)', EDGE: 'var(--edge)'
}  # fmt: skip
# Bright enough for dark pages and dark enough for bright ones.
SERIES = (
  '#2f6fba', '#c95c2e', '#3f8f5b', '#8a5fb0', '#b8860b', '#2a9aa5', '#c04a7b',
  '#6b7785', '#8c6a4f', '#7fa32b', '#5561a8', '#e07ba4', '#5aa9e0', '#e0913f',
  '#a3ad10', '#b53a3a',
)  # fmt: skip
DASHES = ('-', '--', ':')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '<')
STYLE = {
  'font.size': 9,
  'font.family': ['DejaVu Sans', 'sans-serif'],
  'svg.fonttype': 'none',
  'svg.hashsalt': 'mmsbm',
  'text.color': INK,
  'axes.edgecolor': EDGE,
  'axes.labelcolor': INK,
  'axes.titlecolor': INK,
  'axes.titlesize': 9.5,
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
  'legend.fontsize': 8,
  'lines.solid_capstyle': 'round',
}
# A line of a figure: x -> number.
Line = Mapping[float, Number]


def colours(count: int) -> list:
  """As many distinguishable colours as there are lines."""
  if count <= len(SERIES):
    return list(SERIES[:count])
  return [
    matplotlib.colors.to_hex(colour)
    for colour in matplotlib.colormaps['turbo'](np.linspace(0.1, 0.9, count))
  ]


def curves(lines: Mapping[str, Line], *, xlabel: str, ylabel: str) -> str:
  """Lines over whole numbers; the mean strong, single targets faint, as SVG."""
  targets = [name for name in lines if name not in (MEAN, ADDED)]
  palette = dict(zip(targets, colours(len(targets)), strict=True))
  is_alone = MEAN not in lines
  with matplotlib.rc_context(STYLE):
    legend_rows = math.ceil(len(lines) / 2) if len(lines) <= 12 else 0
    figure, (axes,) = _axes(1, width=4.1, height=2.5 + 0.19 * legend_rows)
    for name, line in lines.items():
      look = dict(color=palette.get(name), linewidth=1.2, marker='.', alpha=0.55)
      if name == MEAN:
        look = dict(color=INK, linewidth=2.2, marker='o', markersize=5, zorder=4)
      elif name == ADDED:
        look = dict(
          color=SERIES[1], linewidth=1.6, marker='s', markersize=4, zorder=3, ls='--'
        )
      elif is_alone:
        look |= dict(linewidth=1.8, marker='o', markersize=4, alpha=1)
      x, y, error = _points(line)
      has_error = name in (MEAN, ADDED) or is_alone
      axes.errorbar(
        x, y, yerr=error if has_error else None, capsize=3, label=name, **look
      )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.04, y=0.08)
    if legend_rows and len(lines) > 1:
      figure.legend(loc='outside lower left', ncols=2)
    return _svg(figure, f'{ylabel} against {xlabel}')


def against_cost(panels: Mapping[str, Mapping[str, Line]], *, xlabel: str) -> str:
  """Frames side by side over one logarithmic axis, with one legend, as SVG."""
  names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
  look = {
    name: {'color': SERIES[i % len(SERIES)], 'linestyle': DASHES[i // len(SERIES) % 3]}
    for i, name in enumerate(names)
  }
  with matplotlib.rc_context(STYLE):
    # Below the frames there is room for long names, one line each.
    figure, frames = _axes(
      len(panels), width=3.7 * len(panels), height=2.9 + 0.19 * len(names)
    )
    handles = {}
    for axes, (title, lines) in zip(frames, panels.items(), strict=True):
      for name, line in lines.items():
        x, y, error = _points(line)
        handles[name] = axes.errorbar(
          x, y, yerr=error, linewidth=1.5, marker='o', markersize=3.5, capsize=2,
          **look[name],
        )  # fmt: skip
      if min(x for line in lines.values() for x in line) > 0:
        axes.set_xscale('log')
        _plain_ticks(axes.xaxis)
      axes.set_title(title)
      axes.set_xlabel(xlabel)
    figure.legend(
      [handles[name] for name in names], names, loc='outside lower left', ncols=1
    )
    return _svg(figure, f'{", ".join(panels)} against {xlabel}')


def trade_offs(
  panels: Mapping[str, Mapping[tuple[str, str], tuple[Number, Number]]],
) -> Figure:
  """Coherence against Fréchet distance, with the line of what nothing else beats.

  Args:
    panels: title -> (method, way of sampling) -> (coherence, distance). A method has
      one colour, a way of sampling one marker.
  """
  methods = list(dict.fromkeys(m for points in panels.values() for m, _ in points))
  ways = list(dict.fromkeys(w for points in panels.values() for _, w in points))
  colour = dict(zip(methods, colours(len(methods)), strict=True))
  marker = {way: MARKERS[i % len(MARKERS)] for i, way in enumerate(ways)}
  with matplotlib.rc_context(STYLE):
    columns = 1 if len(methods) <= 6 else 2
    height = 3.4 + 0.19 * max(math.ceil(len(methods) / columns), len(ways))
    figure, frames = _axes(len(panels), width=3.7 * len(panels), height=height)
    for axes, (title, points) in zip(frames, panels.items(), strict=True):
      for (method, way), (x, y) in points.items():
        axes.errorbar(
          x.value, y.value, xerr=x.stderr or 0, yerr=y.stderr or 0,
          marker=marker[way], color=colour[method], markersize=6, capsize=2,
          linewidth=1,
        )  # fmt: skip
      front = pareto_front([(x.value, y.value) for x, y in points.values()])
      axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=0.9, zorder=1)
      _logarithmic_if_wide(axes, np.array([y.value for _, y in points.values()]))
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
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points (x, y) that no other one equals in both and beats in one.

  A large x and a small y are good.

  Returns:
    Points in the order of falling x, and so of falling y; equal ones once.
  """
  front: list[tuple[float, float]] = []
  for x, y in sorted(set(points), key=lambda point: (-point[0], point[1])):
    if not front or y < front[-1][1]:
      front.append((x, y))
  return front


def training(title: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
  """One quantity over steps, as SVG.

  Args:
    title: above the frame.
    series: name of the learner -> (steps, values).

  Returns:
    The raw curve is faint, its moving average strong. An axis whose values are
    positive and span more than a factor of three is logarithmic.
  """
  with matplotlib.rc_context(STYLE):
    has_legend = 1 < len(series) <= 12
    rows = math.ceil(len(series) / 4) if has_legend else 0
    figure, (axes,) = _axes(1, width=3.9, height=2.3 + 0.18 * rows)
    shown = []
    for (name, (steps, values)), colour in zip(
      series.items(), colours(len(series)), strict=True
    ):
      finite = np.isfinite(values)
      steps, values = steps[finite], values[finite]
      if not len(values):
        continue
      # As many points as a screen can show.
      thin = slice(None, None, max(1, len(values) // 400))
      shown.append(values)
      axes.plot(steps[thin], values[thin], color=colour, alpha=0.25, linewidth=0.8)
      axes.plot(
        steps[thin], smooth(values)[thin], color=colour, linewidth=1.6, label=name,
        marker='.' if len(values) == 1 else None,
      )  # fmt: skip
    if shown:
      _logarithmic_if_wide(axes, np.concatenate(shown))
    axes.set_title(title)
    axes.set_xlabel('step')
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if has_legend:
      figure.legend(loc='outside lower left', ncols=4)
    return _svg(figure, f'{title} over training steps')


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


def png(figure: Figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=180, facecolor='white')
  return buffer.getvalue()


def data_uri(picture: bytes) -> str:
  """A PNG as the address of an image in a page."""
  return f'data:image/png;base64,{base64.b64encode(picture).decode()}'


def svg(figure: Figure, label: str) -> str:
  """The figure as an element of a page, in the colours of its scheme."""
  with matplotlib.rc_context(STYLE):
    return _svg(figure, label)


def _svg(figure: Figure, label: str) -> str:
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  # Metadata names hosts, the style sheet would be that of the whole page, and names
  # would repeat from figure to figure.
  text = re.sub(r'<(metadata|style)\b.*?</\1>', '', text, flags=re.S)
  text = re.sub(r'<g id="[^"]*"', '<g', text)
  prefix = 'f' + hashlib.sha1(text.encode()).hexdigest()[:8]
  text = re.sub(r'( id="|url\(#|href="#)', rf'\g<1>{prefix}', text)
  for colour, name in THEME.items():
    text = text.replace(colour, name)
  width, height = figure.get_size_inches() * 96
  return re.sub(
    r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
    f'<svg role="img" aria-label="{html.escape(label)}" \\1 width="{width:.0f}" '
    f'height="{height:.0f}">',
    text,
    count=1,
  )


def _axes(count: int, *, width: float, height: float) -> tuple[Figure, list[Any]]:
  figure = Figure(figsize=(width, height))
  figure.set_layout_engine('constrained', w_pad=0.05, h_pad=0.05)
  FigureCanvasAgg(figure)
  return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def _logarithmic_if_wide(axes, values: np.ndarray) -> None:
  """Makes the y axis logarithmic if positive values span more than a factor of 3."""
  if values.min() > 0 and values.max() > 3 * values.min():
    axes.set_yscale('log')
    _plain_ticks(axes.yaxis)


def _plain_ticks(axis) -> None:
  """Labels 1, 2, 5, 10 ... of a logarithmic axis as such."""
  axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
  axis.set_minor_formatter(NullFormatter())


def _points(line: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """x, y and error bars [K]; numbers that are not finite are left out."""
  points = {x: number for x, number in line.items() if number.value is not None}
  values = [(x, number.value, number.stderr or 0.0) for x, number in points.items()]
  x, y, error = np.asarray(values, float).reshape(-1, 3).T
  return x, y, error
