"""Pages in a real browser: what a reader sees, and that nothing is asked for."""

import json
import shutil

import pytest

from mmsbm import report

webdriver = pytest.importorskip('selenium.webdriver')

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
  not (CHROMIUM and DRIVER), reason='there is no chromium with chromedriver'
)
WIDTHS = (1300, 400)


@pytest.fixture(scope='module')
def browser():
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for argument in (
    'headless=new',
    'no-sandbox',
    'disable-dev-shm-usage',
    'hide-scrollbars',
  ):
    options.add_argument(f'--{argument}')
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
  yield driver
  driver.quit()


@pytest.fixture(scope='module')
def pages(labelled_run, unlabelled_run, make_study):
  return {
    'labelled': report.write_report(labelled_run),
    'unlabelled': report.write_report(unlabelled_run),
    'study': make_study(),
  }


def open_page(browser, path, width):
  """Opens a page of a width in CSS pixels; returns its size and visible elements."""
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
  )
  browser.get_log('browser'), browser.get_log('performance')
  browser.get(path.as_uri())


def sizes(browser, selector):
  """{id or text: [left, right, height]} of elements, in CSS pixels."""
  return browser.execute_script(
    """return [...document.querySelectorAll(arguments[0])].map(element => {
      const box = element.getBoundingClientRect();
      const name = element.id || element.textContent.trim();
      return [name, box.left, box.right, box.height];
    });""",
    selector,
  )


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('name', ['labelled', 'unlabelled', 'study'])
def test_page_fits_its_window_and_shows_every_section(browser, pages, name, width):
  open_page(browser, pages[name], width)
  root = 'document.documentElement.'
  assert browser.execute_script(f'return {root}clientWidth') == width
  assert browser.execute_script(f'return {root}scrollWidth') <= width
  shown = sizes(browser, 'section, .card, header, footer')
  assert len(shown) > 5
  for text, left, right, height in shown:
    assert height > 10 and right - left > 100, text
    assert left >= 0 and right <= width, text


@pytest.mark.parametrize('name', ['labelled', 'unlabelled', 'study'])
def test_page_asks_for_nothing_and_reports_no_error(browser, pages, name):
  open_page(browser, pages[name], WIDTHS[0])
  assert browser.get_log('browser') == []
  events = [json.loads(e['message'])['message'] for e in browser.get_log('performance')]
  asked = [
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  ]
  assert pages[name].as_uri() in asked
  assert all(url.startswith(('file://', 'data:image/png')) for url in asked)
  assert len([url for url in asked if url.startswith('file://')]) == 1


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('run', ['labelled_run', 'unlabelled_run'])
def test_each_metric_has_a_visible_panel(browser, request, run, width):
  folder = request.getfixturevalue(run)
  open_page(browser, report.write_report(folder), width)
  rows = (folder / 'results.jsonl').read_text().splitlines()
  metrics = {json.loads(row)['metric'] for row in rows}
  for metric in metrics:
    (panel,) = sizes(browser, f'section[data-metric="{metric}"]')
    assert panel[-1] > 60, metric
    assert sizes(browser, f'section[data-metric="{metric}"] td.num')[0][-1] > 10


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('run', ['labelled_run', 'unlabelled_run'])
def test_tiles_are_legible_and_roles_differ(browser, request, run, width):
  open_page(browser, report.write_report(request.getfixturevalue(run)), width)
  tiles = sizes(browser, '.tile')
  assert len(tiles) >= 8
  for text, left, right, height in tiles:
    assert right - left >= 48 and height >= 14, text
    assert right <= width
  looks = browser.execute_script(
    """return ['given', 'generated', 'nearest'].map(role => {
      const style = getComputedStyle(document.querySelector('.box.' + role));
      return style.borderStyle + style.borderColor;
    });"""
  )
  assert len(set(looks)) == 3


def test_colours_follow_the_scheme(browser, pages):
  def background():
    return browser.execute_script(
      'return getComputedStyle(document.body).backgroundColor + '
      'getComputedStyle(document.querySelector(".figure text")).fill'
    )

  open_page(browser, pages['labelled'], WIDTHS[0])
  bright = background()
  scheme = {'features': [{'name': 'prefers-color-scheme', 'value': 'dark'}]}
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', scheme)
  assert background() != bright
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})
