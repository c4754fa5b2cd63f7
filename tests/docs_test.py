"""The pages: every command, every block of Python, every link, what tables say."""

import copy
import functools
import json
import pathlib
import re
import shlex
import sys
import warnings

import numpy as np
import pytest
from absl import flags

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
  ROOT / 'README.md',
  ROOT / 'CONTRIBUTING.md',
  *sorted((ROOT / 'docs').glob('*.md')),
  ROOT / 'launch' / 'results' / 'README.md',
)
OUTSIDE = ROOT / 'tests' / 'outside_parts'
# What stands for a place on the user's machine.
PLACEHOLDERS = ('DIR', 'FILE.npz')
# Resolved configs that were gone through.
_CHECKED = set()
CONFIGS = ('configs/arrays.py', 'configs/digits.py', 'configs/polymnist.py')


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  """Commands of the pages are given there."""
  monkeypatch.chdir(ROOT)
  monkeypatch.syspath_prepend(str(OUTSIDE))


def blocks(page, language):
  """Fenced blocks of a page."""
  pattern = rf'^```{language}\n(.*?)^```'
  return re.findall(pattern, page.read_text(), flags=re.M | re.S)


def commands():
  """(page, command) of all blocks of Bash, continued lines joined."""
  out = []
  for page in PAGES:
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    for line in lines:
      words = shlex.split(line, comments=True)
      if words:
        out.append(pytest.param(words, id=f'{page.stem}: {" ".join(words)}'[:120]))
  return out


def split_command(words):
  """The program, as a module or a file, and its arguments."""
  while re.fullmatch(r'[A-Z_]+=\S*', words[0]):
    words = words[1:]
  if words[:2] == ['python', '-m']:
    return words[2], words[3:]
  if words[0] == 'sbatch':
    options = [word for word in words[1:] if word.endswith('.sh')]
    at = words.index(options[0])
    assert all(re.fullmatch(r'--array=[\d-]+', word) for word in words[1:at])
    return words[at], words[at + 1 :]
  assert words[0] == 'bash', words
  return words[1], words[2:]


PROGRAMS = {
  'launch/local.sh': 'mmsbm.main',
  'launch/study.sh': 'mmsbm.studies',
  'launch/slurm_study.sh': 'mmsbm.studies',
}


@pytest.mark.parametrize('words', commands())
def test_command_of_a_page_can_be_given(words, tmp_path, cache):
  del cache
  program, arguments = split_command(list(words))
  if program.endswith('.sh'):
    assert (ROOT / program).is_file()
  program = PROGRAMS.get(program, program)
  check = {
    'mmsbm.main': _check_run,
    'mmsbm.tools.benchmark': _check_run,
    'mmsbm.studies': _check_study,
    'launch/test.sh': _check_pytest,
  }.get(program, functools.partial(_check_tool, program))
  check(arguments, tmp_path, *([program] if check is _check_run else []))


def _check_run(arguments, tmp_path, program):
  """Parses all flags, and builds all objects at the size of a smoke run."""
  own = {'config', 'workdir', 'mode'}
  if program == 'mmsbm.tools.benchmark':
    import mmsbm.tools.benchmark  # noqa: F401, it has flags of its own

    own |= {'what', 'format', 'networks', 'num_modalities', 'blocks'}
  names = [word.lstrip('-').partition('=')[0] for word in arguments]
  assert all(name in own or name.startswith('config.') for name in names)
  config = _parsed(tuple(arguments), own)
  _resolve(config, tmp_path)


def _parsed(arguments, own):
  """The config of a command, as a smoke run has it."""
  from mmsbm.command_line import CONFIG, parse_flags

  def smoke(word):
    path, _, given = word.removeprefix('--config=').partition(':')
    if not word.startswith('--config=') or path not in CONFIGS or 'smoke' in given:
      return word
    small = ('smoke', '' if 'modalities' in given else 'modalities=2')
    return f'--config={path}:{",".join(filter(None, (given, *small)))}'

  argv = ['main.py', *map(smoke, arguments)]
  argv += [] if any(word.startswith('--workdir=') for word in argv) else ['--workdir=x']
  for name in own:
    flags.FLAGS[name].unparse()
  for name in [n for n in flags.FLAGS if n.startswith('config.')]:
    delattr(flags.FLAGS, name)
  with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    # ml_collections reads config files by a function that Python will drop, and
    # overrides from sys.argv.
    warnings.filterwarnings('ignore', 'the load_module', DeprecationWarning)
    patch.setattr(sys, 'argv', argv)
    parse_flags(argv)
  config = CONFIG.value.to_dict()
  for name in own:
    flags.FLAGS[name].unparse()
  return config


def _without_places(value):
  """A config without folders and files of the user."""
  if isinstance(value, dict):
    return {k: _without_places(v) for k, v in value.items()}
  return '' if value in PLACEHOLDERS else value


def _resolve(config, workdir):
  from mmsbm.experiment import make_experiment

  config = _without_places(copy.deepcopy(config))
  if config['data'].get('source'):
    config['data']['source'] = 'idx'
  if config['readers'].get('inception'):
    config['readers']['inception']['weights'] = ''
  config['borrow'] = {}
  text = json.dumps(config, sort_keys=True)
  if text not in _CHECKED:
    # Goes through all that a run does, by shapes alone.
    assert make_experiment(config, workdir).check()
    _CHECKED.add(text)


def _check_study(arguments, tmp_path):
  from mmsbm.studies.definition import load_study, select
  from mmsbm.studies.main import _parse

  del tmp_path
  options = _parse(arguments)
  if options.study:
    rows = load_study(options.study)
    assert select(rows, options.only, options.task, options.num_tasks)
  else:
    assert options.results.is_file()


def _check_pytest(arguments, tmp_path):
  del tmp_path
  for word in arguments:
    assert word in ('-m', 'pipeline', 'slow', '-x') or (ROOT / word).exists()


def _check_tool(program, arguments, tmp_path):
  """Other programs read their arguments by argparse."""
  del tmp_path
  assert program.startswith(('mmsbm.tools.convert_', 'mmsbm.tools.small_')), program
  source = (ROOT / program.replace('.', '/')).with_suffix('.py').read_text()
  for word in arguments:
    name = word.partition('=')[0] if word.startswith('--') else 'run'
    assert f"add_argument('{name}'" in re.sub(r'\(\s+', '(', source), word


def test_command_that_does_not_exist_would_be_seen(tmp_path, cache):
  del cache
  from mmsbm.infra.errors import UserError

  with pytest.raises(UserError, match='score'):
    _check_run(
      ['--config=configs/digits.py', '--config.scor.num_steps=3'],
      tmp_path,
      'mmsbm.main',
    )
  with pytest.raises(UserError, match='unknown component'):
    _check_run(
      ['--config=configs/digits.py', '--config.score.network.name=mpl'],
      tmp_path,
      'mmsbm.main',
    )
  with pytest.raises(AssertionError):
    _check_run(['--config=configs/digits.py', '--blocks=3'], tmp_path, 'mmsbm.main')
  with pytest.raises(UserError):
    _check_study(['--study=configs/studies/methods.py', '--workdir=x', '--om=y'], None)


# --- Python -------------------------------------------------------------------


def python_blocks():
  return [
    pytest.param(page, text, id=f'{page.stem}-{number}')
    for page in PAGES
    for number, text in enumerate(blocks(page, 'python'))
  ]


@pytest.mark.parametrize('page, text', python_blocks())
def test_python_of_a_page_runs(page, text, smoke_run, tmp_path, monkeypatch):
  code = compile(text.replace("'runs/digits'", repr(str(smoke_run))), str(page), 'exec')
  names = {}
  if text.startswith('c.'):
    names['c'] = _config_of_parts()
  if 'np.savez' in text:
    monkeypatch.chdir(tmp_path)
  exec(code, names)
  if 'c' in names:
    _resolve(names['c'].to_dict(), tmp_path)
  if 'np.savez' in text:
    _check_own_data(tmp_path)
  if 'get_study' in names:
    _check_rows(names['get_study'](), tmp_path)
  if 'joint' in names:
    assert names['rest']['m1'].shape == (16, 16, 16, 3)
    assert names['x']['m0'].dtype == np.uint8


def _config_of_parts():
  """A config with a modality 'heading', whose parts the README replaces."""
  from my_parts import config

  c = config.get_config()
  c.modalities.heading = dict(kind='vector', shape=())
  c.unimodal.networks.heading.encoder = dict(name='mlp', widths=(8,))
  del c.evaluate.metrics['angular_error']
  c.samplings.default.guidance = {}
  return c


def _check_own_data(folder):
  """The file of the page is what configs/arrays.py expects."""
  from configs import arrays
  from mmsbm.experiment import make_experiment

  config = arrays.get_config('smoke').to_dict()
  config['data'] |= {'standin': False, 'files': 'mine.npz', 'cache_dir': str(folder)}
  dataset = make_experiment(config, folder).problem.dataset
  assert dataset.num_classes == {'class': 10}
  assert len(dataset.splits['train']) == 80


def _check_rows(rows, folder):
  """Every row's config has what the row overrides."""
  from mmsbm.studies.definition import Study

  study = Study('x', folder, (), tuple(rows))
  assert len({study.fingerprint(row) for row in rows}) == len(rows)


# --- links, names, words ------------------------------------------------------


def anchor(heading):
  """What GitHub makes of a heading."""
  words = re.sub(r'[^\w\s-]', '', heading.lower())
  return re.sub(r'\s', '-', words.strip())


def test_links_of_pages_lead_somewhere():
  for page in PAGES:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
      if link.startswith('http'):
        continue
      path, _, fragment = link.partition('#')
      target = (page.parent / path).resolve() if path else page
      assert target.exists(), f'{page.name}: {link}'
      if fragment:
        headings = re.findall(r'^#+ (.*)$', target.read_text(), flags=re.M)
        assert fragment in map(anchor, headings), f'{page.name}: {link}'


def test_readme_is_short_and_has_the_two_commands():
  text = (ROOT / 'README.md').read_text()
  assert len(text.splitlines()) <= 150
  first = 'bash launch/local.sh --config=configs/digits.py --workdir=runs/digits'
  assert first in text and 'bash launch/test.sh' in text
  for page in (ROOT / 'docs').glob('*.md'):
    assert f'docs/{page.name}' in text, f'the README does not name {page.name}'


def test_no_sentence_begins_with_of():
  for page in PAGES:
    for line in page.read_text().splitlines():
      assert not re.search(r'(^|[.:!?] |\| |^- |\*\* )Of ', line), (
        f'{page.name}: {line}'
      )


def tables():
  """By the label of the page: the names of the table."""
  from mmsbm import guidance, modalities, objectives, samplers
  from mmsbm.data import DATASETS
  from mmsbm.diffusion import PARAMETRIZATIONS, SDES, TIME_SAMPLING, WEIGHTINGS
  from mmsbm.diffusion.guided_levels import DECODER_GUIDANCE
  from mmsbm.distributions import LIKELIHOODS, POSTERIORS
  from mmsbm.evaluators import EVALUATORS
  from mmsbm.evaluators.readers import READERS
  from mmsbm.infra.optim import OPTIMIZERS
  from mmsbm.learners.autoencoder import AUTOENCODERS
  from mmsbm.metrics import METRICS
  from mmsbm.models.priors import PRIORS
  from mmsbm.nn import (
    classifiers,
    decoders,
    denoisers,
    encoders,
    energy_nets,
    score_nets,
  )

  return {
    '`encoder`': encoders.ENCODERS,
    '`decoder`': (*decoders.DECODERS, 'diffusion'),
    "network of `decoder=dict(name='diffusion')` and of refiners": denoisers.DENOISERS,
    '`score.network`': score_nets.SCORE_NETS,
    '`energy.network`': energy_nets.ENERGY_NETS,
    'network of a reader': classifiers.CLASSIFIERS,
    '`likelihood`': LIKELIHOODS,
    '`joint.family`, a word': POSTERIORS,
    '`unimodal.autoencoder`': AUTOENCODERS,
    '`joint.objective`': objectives.OBJECTIVES,
    '`sde`': SDES,
    '`parametrization`': PARAMETRIZATIONS,
    '`times`': TIME_SAMPLING,
    '`weighting`, a word': WEIGHTINGS,
    '`optimizer`': OPTIMIZERS,
    '`sampler`, `decoder_sampler`': samplers.SAMPLERS,
    '`conditioning`': samplers.CONDITIONING,
    '`guidance`': guidance.GUIDANCE,
    '`decoder_guidance`': DECODER_GUIDANCE,
    '`prior` of joint VAEs': PRIORS,
    '`kind` of a modality, a word': modalities.KINDS,
    'a reader': READERS,
    'a metric': METRICS,
    'an evaluator': EVALUATORS,
    '`data`': DATASETS,
  }


def test_parts_of_the_page_on_configs_are_those_of_the_tables():
  text = (ROOT / 'docs' / 'configs.md').read_text()
  lines = text.partition('## Parts')[2].partition('## ')[0].splitlines()
  rows = [line.strip('| ').split(' | ') for line in lines if line.startswith('| ')]
  listed = {row[0]: set(re.findall(r'`([^`]+)`', row[1])) for row in rows[1:]}
  listed.pop('`method`, a word')
  assert listed == {label: set(names) for label, names in tables().items()}


def test_methods_of_the_page_on_configs_are_those_that_there_are():
  from mmsbm.methods import METHODS

  text = (ROOT / 'docs' / 'configs.md').read_text()
  (line,) = (x for x in text.splitlines() if x.startswith('| `method` | a latent'))
  assert set(re.findall(r'`([^`]+)`', line)) - {'method'} == set(METHODS)


@pytest.mark.parametrize('page', ['architecture', 'adding', 'CONTRIBUTING', 'running'])
def test_names_of_code_on_a_page_exist(page):
  """What looks like a file, a class or a function of the package is one."""
  path = ROOT / 'docs' / f'{page}.md'
  text = (path if path.exists() else ROOT / f'{page}.md').read_text()
  text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  sources = '\n'.join(p.read_text() for p in (ROOT / 'mmsbm').rglob('*.py'))
  for name in re.findall(r'`([^`\s]+)`', text):
    if '/' in name and re.fullmatch(r'[\w./]+', name) and 'NAME' not in name:
      folders = (ROOT, ROOT / 'mmsbm')
      made = ('samples/', 'tensorboard/', 'evaluation/', 'unimodal/', 'classifier/',
              'report/', 'checkpoints/', 'docs/', 'steps/', 'replaced/')  # fmt: skip
      assert name.startswith(made) or any((f / name).exists() for f in folders), name
    elif re.fullmatch(r'[A-Z]\w*[a-z]\w*(\.\w+)?|[a-z_]+\.[a-z_]+', name):
      last = name.split('.')[-1]
      if last in ('py', 'jsonl', 'json', 'npz', 'npy', 'md'):
        continue
      assert re.search(rf'\b{last}\b', sources), f'{page}: {name}'
