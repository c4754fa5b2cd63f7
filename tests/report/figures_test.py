import html.parser
import io

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from mmsbm.report import figures
from mmsbm.report.results import ADDED, MEAN, Number


def is_well_formed(text):
  open_tags = []

  class Parser(html.parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
      open_tags.append(tag)

    def handle_startendtag(self, tag, attrs):
      pass

    def handle_endtag(self, tag):
      assert open_tags.pop() == tag

  Parser().feed(text)
  return not open_tags


@pytest.fixture
def lines():
  return {
    MEAN: {1: Number(0.5, 0.1), 2: Number(0.6, None)},
    'm<0>': {1: Number(0.4), 2: Number(None)},
    ADDED: {1: Number(0.3, 0.1)},
  }


def test_smooth_is_unbiased_from_the_start():
  np.testing.assert_allclose(figures.smooth(pd.Series([3.0] * 400)), 3.0, rtol=1e-12)
  # Time constant 8 of 400 values: the weights of 0, 1 are (1 - 1/8) : 1.
  out = figures.smooth(pd.Series(np.r_[0.0, np.ones(399)]))
  np.testing.assert_allclose(out[:2], [0.0, 8 / 15])


def test_pareto_front_leaves_out_what_is_beaten():
  points = [(0.9, 5.0), (0.8, 4.0), (0.8, 6.0), (0.7, 4.5), (0.9, 5.0), (0.1, 1.0)]
  assert figures.pareto_front(points) == [(0.9, 5.0), (0.8, 4.0), (0.1, 1.0)]


def test_curves_is_an_element_in_the_colours_of_the_page(lines):
  svg = figures.curves({'': lines}, xlabel='given', ylabel='a < b')
  assert svg.startswith('<svg role="img"') and is_well_formed(svg)
  assert 'm&lt;0&gt;' in svg and 'var(--ink)' in svg
  assert 'http' not in svg and figures.INK not in svg and '<style' not in svg


def test_names_inside_figures_do_not_meet(lines):
  first = figures.curves({'': lines}, xlabel='given', ylabel='a')
  second = figures.curves({'': lines}, xlabel='given', ylabel='b')
  ids = [
    {part.split('"')[0] for part in svg.split(' id="')[1:]} for svg in (first, second)
  ]
  assert ids[0] and not ids[0] & ids[1]
  for name in ids[0]:
    assert f'#{name}' in first


def test_figures_are_the_same_every_time(lines):
  make = lambda: figures.curves({'': lines}, xlabel='given', ylabel='a')  # noqa: E731
  assert make() == make()


@pytest.mark.parametrize('count', [1, 16, 40])
def test_colours_are_all_different(count):
  assert len(set(figures.colours(count))) == count


def test_training_survives_values_that_are_not_finite():
  series = {'m0': pd.Series([np.nan] * 3), 'm1': pd.Series([1.0, np.inf, 9.0])}
  assert 'step' in figures.training('score: loss', series)
  assert 'step' in figures.training('score: loss', {'m0': series['m0']})


def test_training_draws_few_points_of_a_long_curve():
  values = np.random.default_rng(0).normal(size=20_000)
  assert len(figures.training('loss', {'m0': pd.Series(values)})) < 60_000


def test_curves_may_have_a_logarithmic_axis_with_plain_ticks():
  line = {x: Number(0.1 * x, 0.01) for x in (10, 11, 100)}
  svg = figures.curves(
    {'title': {'a': line, 'b': line}}, xlabel='evaluations', is_log=True
  )
  assert '>10<' in svg and '>20<' in svg and '>100<' in svg


def test_trade_offs_names_methods_and_ways():
  points = {
    ('A', 'plain'): (Number(0.5, 0.1), Number(20.0)),
    ('B', 'guided'): (Number(0.6), Number(10.0, 1.0)),
  }
  figure = figures.trade_offs({'given one': points})
  svg = figures.svg(figure, 'trade-off')
  for text in ('A', 'B', 'plain', 'guided', 'given one'):
    assert f'>{text}<' in svg
  assert PIL.Image.open(io.BytesIO(figures.png(figure))).format == 'PNG'
