"""Figures of the pages, as SVG that follows the colours of the page, or as PNG.

Figures are made without pyplot: no global state, no window system. Sizes are those of
a narrow screen; pages set several of them side by side.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence

import markupsafe
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mmsbm.report.results import ADDED, MEAN, Number

INK, MUTED, RULE, EDGE = '#262a33', '#747a86', '#e3e5ea', '#b4b9c3'
# In a page these colours are those of its scheme, light or dark.
THEME = dict(
  zip((INK, MUTED, RULE, EDGE), ('ink', 'muted', 'rule', 'edge'), strict=True)
)
# Bright enough for dark pages and dark enough for bright ones.
SERIES = (
  '#2f6fba', '#c95c2e', '#3f8f5b', '#8a5fb0', '#b8860b', '#2a9aa5', '#c04a7b',
  '#6b7785', '#8c6a4f', '#7fa32b', '#5561a8', '#e07ba4', '#5aa9e0', '#e0913f',
  '#a3ad10', '#b53a3a',
)  # fmt: skip
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '<')
STYLE = {
  'font.size': 9, 'font.family': ['DejaVu Sans', 'sans-serif'], 'svg.fonttype': 'none',
  'text.color': INK, 'axes.edgecolor': EDGE, 'axes.labelcolor': INK,
  'axes.titlecolor': INK, 'axes.titlesize': 9.5, 'axes.titleweight': 'bold',
  'axes.titlelocation': 'left', 'axes.spines.top': False, 'axes.spines.right': False,
  'axes.axisbelow': True, 'axes.grid': True, 'grid.color': RULE, 'grid.linewidth': 0.7,
  'xtick.color': MUTED, 'ytick.color': MUTED, 'xtick.labelcolor': INK,
  'ytick.labelcolor': INK, 'legend.frameon': False, 'legend.fontsize': 8,
  'lines.solid_capstyle': 'round',
}  # fmt: skip
# A line of a figure: x -> number.
Line = Mapping[float, Number]


def colours(count: int) -> list:
  """As many distinguishable colours as there are lines."""
  spread = matplotlib.colormaps['turbo'](np.linspace(0.1, 0.9, count))
  many = map(matplotlib.colors.to_hex, spread)
  return list(SERIES[:count] if count <= len(SERIES) else many)


@matplotlib.rc_context(STYLE)
def curves(
  frames: Mapping[str, Mapping[str, Line]], *, xlabel: str, ylabel='', is_log=False
) -> markupsafe.Markup:
  """Lines in frames side by side, with one legend; the mean strong, targets faint.

  Args:
    frames: title of the frame -> name of the line -> x -> number.
    xlabel: what x is: whole numbers, or what needs a logarithmic axis (`is_log`).
    ylabel: what the numbers are, if the titles do not say it.
    is_log: see `xlabel`.
  """
  names = list(dict.fromkeys(name for lines in frames.values() for name in lines))
  plain = dict(linewidth=1.6, marker='o', markersize=3.5, capsize=3)
  faint = dict(linewidth=1.2, marker='.', alpha=0.55) if MEAN in names else plain
  targets = [name for name in names if name not in (MEAN, ADDED)]
  look = {
    name: faint | {'color': colour}
    for name, colour in zip(targets, colours(len(targets)), strict=True)
  }
  look[MEAN] = plain | dict(color=INK, linewidth=2.2, markersize=5, zorder=4)
  look[ADDED] = plain | dict(color=SERIES[1], marker='s', zorder=3, linestyle='--')
  columns = 1 if max(map(len, names)) > 20 else 2
  is_named = is_log or 1 < len(names) <= 12
  rows = math.ceil(len(names) / columns) if is_named else 0
  figure, axes = _frames(frames, width=3.7 if is_log else 4.1, height=2.6 + 0.19 * rows)
  handles = {}
  for frame, lines in zip(axes, frames.values(), strict=True):
    for name, line in lines.items():
      points = [(x, y.value, y.stderr or 0) for x, y in sorted(line.items())]
      points = [point for point in points if point[1] is not None]
      x, y, error = np.array(points, float).reshape(-1, 3).T
      error = error if 'capsize' in look[name] else None
      handles[name] = frame.errorbar(x, y, yerr=error, **look[name])
    if is_log:
      _logarithmic_if_wide(frame, frame.xaxis, 1)
    else:
      frame.xaxis.set_major_locator(MaxNLocator(integer=True))
    frame.set(xlabel=xlabel, ylabel=ylabel)
  if is_named:
    order = [handles[name] for name in names]
    figure.legend(order, names, loc='outside lower left', ncols=columns)
  return svg(figure, f'{", ".join(filter(None, [*frames, ylabel]))} against {xlabel}')


@matplotlib.rc_context(STYLE)
def trade_offs(
  panels: Mapping[str, Mapping[tuple[str, str], tuple[Number, Number]]],
) -> Figure:
  """Coherence against Fréchet distance, with the line of what nothing else beats.

  Args:
    panels: title -> (method, way of sampling) -> (coherence, distance). A method has
      one colour, a way of sampling one marker.
  """
  methods, ways = (
    list(dict.fromkeys(key[i] for points in panels.values() for key in points))
    for i in (0, 1)
  )
  colour = dict(zip(methods, colours(len(methods)), strict=True))
  marker = {way: MARKERS[i % len(MARKERS)] for i, way in enumerate(ways)}
  columns = 1 if len(methods) <= 6 else 2
  height = 3.4 + 0.19 * max(math.ceil(len(methods) / columns), len(ways))
  figure, frames = _frames(panels, width=3.7, height=height)
  for axes, points in zip(frames, panels.values(), strict=True):
    for (method, way), (x, y) in points.items():
      axes.errorbar(
        x.value, y.value, xerr=x.stderr or 0, yerr=y.stderr or 0, marker=marker[way],
        color=colour[method], markersize=6, capsize=2, linewidth=1,
      )  # fmt: skip
    front = pareto_front([(x.value, y.value) for x, y in points.values()])
    axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=0.9, zorder=1)
    _logarithmic_if_wide(axes, axes.yaxis)
    axes.set_xlabel('coherence')
  frames[0].set_ylabel('Fréchet distance')
  handles = [Line2D([], [], color=colour[m], linewidth=4) for m in methods]
  figure.legend(handles, methods, loc='outside lower left', ncols=columns)
  if len(ways) > 1:
    handles = [Line2D([], [], color=INK, marker=marker[w], linestyle='') for w in ways]
    figure.legend(handles, ways, loc='outside lower right')
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


@matplotlib.rc_context(STYLE)
def training(title: str, series: Mapping[str, pd.Series]) -> markupsafe.Markup:
  """One quantity over steps: the raw curve faint, its moving average strong.

  Args:
    title: above the frame.
    series: name of the learner -> values by step; those not finite are left out.
  """
  has_legend = 1 < len(series) <= 12
  height = 2.3 + 0.18 * math.ceil(len(series) / 4) * has_legend
  figure, (axes,) = _frames([title], width=3.9, height=height)
  palette = colours(len(series))
  for (name, values), colour in zip(series.items(), palette, strict=True):
    values = values.replace([np.inf, -np.inf], np.nan).dropna()
    # As many points as a screen can show.
    thin = slice(None, None, max(1, len(values) // 400))
    axes.plot(values[thin], color=colour, alpha=0.25, linewidth=0.8)
    marker = '.' if len(values) == 1 else None
    axes.plot(
      smooth(values)[thin], color=colour, linewidth=1.6, label=name, marker=marker
    )
  _logarithmic_if_wide(axes, axes.yaxis)
  axes.set_xlabel('step')
  axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
  if has_legend:
    figure.legend(loc='outside lower left', ncols=4)
  return svg(figure, f'{title} over training steps')


def smooth(values: pd.Series, span: float = 0.02) -> pd.Series:
  """Exponential moving average, corrected for its start from zero.

  Args:
    values: of T steps.
    span: time constant as a share of T; short curves stay as they are.
  """
  return values.ewm(alpha=1 / max(1.0, span * len(values))).mean()


def png(figure: Figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, dpi=180, facecolor='white')
  return buffer.getvalue()


def svg(figure: Figure, label: str) -> markupsafe.Markup:
  """The figure as an element of a page, in the colours of its scheme."""
  buffer = io.StringIO()
  # The label makes the names inside differ from those of other figures.
  with matplotlib.rc_context(STYLE | {'svg.hashsalt': label}):
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  text = buffer.getvalue()
  # Metadata names hosts, and the style sheet would be that of the whole page.
  text = re.sub(r'<(metadata|style)\b.*?</\1>', '', text, flags=re.S)
  text = re.sub(r'<g id="[^"]*"', '<g', text)
  for colour, name in THEME.items():
    text = text.replace(colour, f'var(--{name})')
  width, height = figure.get_size_inches() * 96
  head = f'role="img" aria-label="{html.escape(label)}" width="{width:.0f}"'
  _, box, inside = re.split(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', text, maxsplit=1)
  return markupsafe.Markup(f'<svg {head} height="{height:.0f}" {box}>{inside}')


def _frames(titles: Sequence[str], *, width: float, height: float):
  figure = Figure(figsize=(width * len(titles), height))
  figure.set_layout_engine('constrained', w_pad=0.05, h_pad=0.05)
  axes = figure.subplots(1, len(titles), squeeze=False)[0]
  for frame, title in zip(axes, titles, strict=True):
    frame.set_title(title)
  return figure, axes


def _logarithmic_if_wide(axes, axis, factor: float = 3) -> None:
  """Makes an axis logarithmic if positive values span more than a factor."""
  low, high = getattr(axes.dataLim, f'interval{axis.axis_name}')
  if low > 0 and factor * low < high < math.inf:
    axes.set(**{f'{axis.axis_name}scale': 'log'})
    # Labels 1, 2, 5, 10 ... as such.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter('{x:g}')
    axis.set_minor_formatter(NullFormatter())
