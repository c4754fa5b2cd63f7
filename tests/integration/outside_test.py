"""Parts of a user's own, named 'module:Class' in a config: nothing here is edited.

The parts are in tests/outside_parts/my_parts, beside a config that names them all.
"""

import copy
import importlib
import json
import pathlib

import numpy as np
import pytest

from mmsbm.infra.errors import UserError

FOLDER = pathlib.Path(__file__).parents[1] / 'outside_parts'
CONFIG = FOLDER / 'my_parts' / 'config.py'
# Parts of the score-based method, of joint VAEs and of the readers, by their places.
TWINS = 'my_parts.twins:'


@pytest.fixture(scope='module', autouse=True)
def outside():
  """The folder is where Python looks for modules, as the current folder is."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FOLDER))
    yield


def get_config(method='sbm_vae', config='my_parts.config'):
  arguments = {'my_parts.config': f'method={method}'}
  arguments = arguments.get(config, f'smoke,modalities=2,method={method}')
  return importlib.import_module(config).get_config(arguments).to_dict()


def changed(config, changes):
  """A config with other values: {dotted key: value}."""
  config = copy.deepcopy(config)
  for key, value in changes.items():
    *path, last = key.split('.')
    node = config
    for part in path:
      node = node[part]
    node[last] = value
  return config


def experiment_of(config, workdir):
  from mmsbm.experiment import make_experiment

  return make_experiment(config, workdir)


@pytest.fixture(scope='module')
def run(program, tmp_path_factory):
  """Makes a run of a method, once: its folder."""
  made = {}

  def make(method, *options):
    if method not in made:
      workdir = tmp_path_factory.mktemp(method)
      config = f'--config={CONFIG}:method={method}'
      assert program(config, f'--workdir={workdir}', *options) == 0
      made[method] = workdir
    return made[method]

  return make


def rows_of(workdir):
  lines = (workdir / 'results.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def card_of(workdir, step):
  """What the folder says that a step is."""
  return json.loads((workdir / 'steps' / f'{step}.json').read_text())


def report_of(workdir):
  return (workdir / 'report' / 'index.html').read_text()


# --- one part of each sort, used by a run -------------------------------------


def test_encoder_from_outside_is_trained_and_named(run):
  learner = card_of(run('sbm_vae'), 'unimodal')['spec']['unimodal/heading']['learner']
  encoder = {'is': 'my_parts.networks:SmallEncoder', 'latent_dim': 2, 'width': 8}
  assert learner['codec']['encoder'] == encoder


def test_score_network_from_outside_is_trained_and_named(run):
  network = card_of(run('sbm_vae'), 'score')['spec']['score']['learner']['network']
  assert network == {
    'is': 'my_parts.networks:SmallScoreNet',
    'dims': [2, 2],
    'width': 16,
  }


def test_kind_from_outside_is_read_measured_and_shown(run):
  workdir = run('sbm_vae')
  modality = card_of(workdir, 'unimodal')['spec']['unimodal/heading']['learner'][
    'codec'
  ]['modality']
  assert modality['kind'] == {'is': 'my_parts.kinds:Angle', 'radius': 2.0}
  with np.load(workdir / 'samples' / 'unconditional.npz') as stored:
    drawn = stored['generated/heading']
  assert drawn.dtype == np.float32 and np.abs(drawn).max() <= 180
  # The hands of clocks, drawn by the kind.
  assert report_of(workdir).count('degrees</title>') > 4


def test_data_set_from_outside_is_the_run_s(run):
  workdir = run('sbm_vae')
  record = json.loads((workdir / 'run.json').read_text())
  assert record['data_source'] == 'a boat on a lake: 64 training examples'
  assert record['num_classes'] == {'class': 4}
  assert card_of(workdir, 'score')['data'] == record['data_hash']


def test_metric_from_outside_has_rows_and_a_panel(run):
  workdir = run('sbm_vae')
  rows = [row for row in rows_of(workdir) if row['metric'] == 'angular_error']
  # Not of the place, which is no angle.
  assert {row['target'] for row in rows} == {'heading', 'mean'}
  assert all(0 <= row['value'] <= 170 and row['stderr'] > 0 for row in rows)
  about = json.loads((workdir / 'evaluation' / 'metrics.json').read_text())
  assert about['angular_error']['better'] == 'low'
  report = report_of(workdir)
  assert 'data-metric="angular_error"' in report
  assert about['angular_error']['about'] in report


def test_evaluator_from_outside_has_rows_and_a_panel(run):
  workdir = run('sbm_vae')
  (row,) = (row for row in rows_of(workdir) if row['metric'] == 'spread')
  assert row['target'] == 'place' and row['value'] > 0 and row['stderr'] is None
  assert 'data-metric="spread"' in report_of(workdir)
  assert list((workdir / 'evaluation').glob('spread-*.json'))


def test_sampler_and_guidance_from_outside_are_named_in_rows(run):
  for row in rows_of(run('sbm_vae')):
    if 'sampling' in row:
      assert row['sampler'] == 'my_parts.samplers:Euler(num_steps=3)'
      assert row['guidance'] == 'my_parts.guidance:TowardsMean(scale=0.1)'
      # Three steps, all of them guided.
      assert row['nfe'] == 6


def test_reader_from_outside_reads_real_and_generated_examples(run):
  rows = rows_of(run('sbm_vae'))
  (accuracy,) = (r for r in rows if r.get('reader') == 'quadrant')
  assert accuracy['metric'] == 'classifier_accuracy' and accuracy['value'] == 1.0
  targets = {r['target'] for r in rows if r['metric'] == 'coherence'}
  assert targets == {'heading', 'mean'}


def test_prior_from_outside_draws_from_nothing(run):
  workdir = run('mopoe', '--config.evaluate.evaluators.linear_probe.num_train=0')
  described = json.loads((workdir / 'run.json').read_text())['config']['samplings']
  assert described['narrow']['prior']['name'] == 'my_parts.priors:Narrow'
  import mmsbm

  trained = mmsbm.load(workdir)
  own, narrow = (
    trained.sample(num=64, sampling=name)['place'] for name in ('default', 'narrow')
  )
  assert 0 < np.std(narrow) < np.std(own)
  assert trained._model.describe('narrow')['sampler'] == (
    'my_parts.priors:Narrow(factor=0.8)'
  )


def test_method_from_outside_goes_from_training_to_the_report(run):
  import mmsbm

  workdir = run('native')
  assert {path.stem for path in (workdir / 'steps').iterdir()} == {'score'}
  rows = rows_of(workdir)
  assert {row['model'] for row in rows} == {'my_parts.native_diffusion:make'}
  measured = {row['metric'] for row in rows}
  # It has no reconstructions: all else is measured.
  assert measured == {
    'angular_error', 'r2', 'coherence', 'spread', 'classifier_accuracy',
  }  # fmt: skip
  assert all(f'data-metric="{metric}"' in report_of(workdir) for metric in measured)
  trained = mmsbm.load(workdir)
  place = np.float32([[1.0, 0.0]])
  drawn = trained.sample(given={'place': place}, num=3)
  assert drawn['heading'].shape == (3,) and (drawn['place'] == place).all()
  with pytest.raises(UserError, match='has no latents'):
    trained.encode({'place': place})


def test_method_from_outside_resumes_without_training_again(run, program, capsys):
  workdir = run('native')
  before = (workdir / 'results.jsonl').read_bytes()
  assert program(f'--config={CONFIG}:method=native', f'--workdir={workdir}') == 0
  assert 'train score' not in capsys.readouterr().err
  assert (workdir / 'results.jsonl').read_bytes() == before


# --- every other sort ---------------------------------------------------------

DIGITS = 'configs.digits'


# By method: where a part is named, the part, and the step that it is a part of.
SORTS = {
  'sbm_vae': (
    ('unimodal.networks.m0.decoder.name', 'Decoder', 'unimodal'),
    ('unimodal.networks.m0.likelihood.name', 'Likelihood', 'unimodal'),
    ('unimodal.autoencoder.name', 'Autoencoder', 'unimodal'),
    ('score.sde.name', 'Process', 'score'),
    ('score.parametrization.name', 'Parametrization', 'score'),
    ('score.times.name', 'Times', 'score'),
    ('score.weighting', 'weighting', 'score'),
    ('score.optimizer.name', 'lion', 'score'),
    ('energy.network.name', 'EnergyNet', 'energy'),
    ('readers.digit.network.name', 'ClassifierNet', 'classifier'),
    ('samplings.default.conditioning.name', 'Conditioning', None),
  ),
  'mmvaeplus': (
    ('joint.objective.name', 'Objective', 'joint'),
    ('joint.family', 'Posterior', 'joint'),
  ),
  'diff_mvae': (
    ('joint.networks.m0.decoder.network.name', 'Denoiser', 'joint'),
    ('decoder_guidance.name', 'OfDecoders', None),
  ),
}


@pytest.mark.parametrize('method', SORTS)
def test_parts_from_outside_are_used_and_change_what_their_step_is(
  tmp_path, cache, method
):
  del cache
  from mmsbm.evaluators.evaluation import describe_decoding
  from mmsbm.identity import spec_of

  config = get_config(method, DIGITS)
  if method == 'sbm_vae':
    config['score']['optimizer'] = {'learning_rate': 1e-3}
  ledger = experiment_of(config, tmp_path).workspace.ledger
  for key, name, step in SORTS[method]:
    other = changed(config, {key: TWINS + name})
    experiment = experiment_of(other, tmp_path)
    new = experiment.workspace.ledger
    if step:
      assert new.fingerprints[step] != ledger.fingerprints[step], key
      (made,) = (s for s in new.steps if s.name == step)
      assert TWINS + name in json.dumps(spec_of(made))
    else:
      model = experiment.method.model
      ways = {**model.describe('default'), **describe_decoding(model)}
      assert any(f'{name}(' in text for text in ways.values())
  everything = {key: TWINS + name for key, name, _ in SORTS[method]}
  assert experiment_of(changed(config, everything), tmp_path).check()


def test_conditioning_from_outside_has_the_needs_of_its_base(tmp_path, cache):
  del cache
  config = changed(
    get_config('sbm_vae', DIGITS),
    {
      'samplings.default.conditioning.name': TWINS + 'Conditioning',
      'score.condition_probability': 0.0,
    },
  )
  with pytest.raises(UserError, match="'my_parts.twins:Conditioning' needs a network"):
    experiment_of(config, tmp_path)


# --- mistakes -----------------------------------------------------------------

# Where the config names each part, with a misspelt name and a wrong argument.
PLACES = {
  'kind': ('sbm_vae', 'modalities.heading', 'my_parts.kinds:Angel', 'Angle'),
  'data': ('sbm_vae', 'data', 'my_parts.data:bild', 'build'),
  'encoder': (
    'sbm_vae', 'unimodal.networks.place.encoder', 'my_parts.networks:SmalEncoder',
    'SmallEncoder',
  ),
  'score': ('sbm_vae', 'score.network', 'my_parts.networks:ScoreNet', 'SmallScoreNet'),
  'metric': (
    'sbm_vae', 'evaluate.metrics.angular_error', 'my_parts.metrics:AngularEror',
    'AngularError',
  ),
  'evaluator': (
    'sbm_vae', 'evaluate.evaluators.spread', 'my_parts.evaluators:Spred', 'Spread',
  ),
  'reader': ('sbm_vae', 'readers.quadrant', 'my_parts.readers:Quadrat', 'Quadrant'),
  'sampler': (
    'sbm_vae', 'samplings.default.sampler', 'my_parts.samplers:Euller', 'Euler',
  ),
  'guidance': (
    'sbm_vae', 'samplings.default.guidance', 'my_parts.guidance:TowardMean',
    'TowardsMean',
  ),
  'prior': ('mopoe', 'samplings.narrow.prior', 'my_parts.priors:Narow', 'Narrow'),
}  # fmt: skip


def refusal(config, workdir):
  """The one line that a config is refused with."""
  with pytest.raises(UserError) as caught:
    experiment_of(config, workdir).check()
  text = str(caught.value)
  assert '\n' not in text
  return text


@pytest.mark.parametrize('part', PLACES)
def test_misspelt_part_is_refused_with_one_line(tmp_path, part):
  method, place, wrong, right = PLACES[part]
  key = f'{place}.kind' if part == 'kind' else f'{place}.name'
  text = refusal(changed(get_config(method), {key: wrong}), tmp_path)
  assert text.startswith(f'config.{place}') and f'Did you mean {right!r}?' in text


@pytest.mark.parametrize('part', PLACES)
def test_module_that_does_not_exist_is_refused_with_one_line(tmp_path, part):
  method, place, _, right = PLACES[part]
  key = f'{place}.kind' if part == 'kind' else f'{place}.name'
  text = refusal(changed(get_config(method), {key: f'my_part.x:{right}'}), tmp_path)
  assert text.startswith(f'config.{place}') and "No module named 'my_part'" in text


@pytest.mark.parametrize('part', PLACES)
def test_wrong_argument_is_refused_with_one_line(tmp_path, part):
  method, place, _, _ = PLACES[part]
  config = changed(get_config(method), {f'{place}.colour': 'red'})
  text = refusal(config, tmp_path)
  assert place in text and "has no argument 'colour'" in text


def test_misspelt_method_is_refused_with_one_line(tmp_path):
  config = get_config('native')
  config['method'] = 'my_parts.native_diffusion:mak'
  text = refusal(config, tmp_path)
  assert text.startswith('config.method: ') and "Did you mean 'make'?" in text


def test_evaluator_from_outside_is_checked_before_training(tmp_path):
  config = changed(get_config(), {'evaluate.evaluators.spread.modality': 'palce'})
  text = refusal(config, tmp_path)
  assert text.startswith("config.evaluate.evaluators.spread: modality='palce' is not")


def test_part_without_readable_arguments_is_refused_with_one_line(tmp_path):
  config = changed(
    get_config(),
    {'samplings.default.sampler': {'name': 'my_parts.careless:Sampler'}},
  )
  assert 'must be a frozen dataclass' in refusal(config, tmp_path)
  likelihood = {'name': 'my_parts.careless:Likelihood'}
  config = changed(get_config(), {'unimodal.networks.place.likelihood': likelihood})
  assert 'make it a frozen dataclass' in refusal(config, tmp_path)


def test_prior_that_needs_a_step_that_is_not_there_is_refused(tmp_path):
  config = get_config('mopoe')
  config['samplings']['narrow']['prior'] = {'name': 'my_parts.careless:Needy'}
  text = refusal(config, tmp_path)
  assert text.startswith("config.samplings.narrow needs the step 'moments', which")


def test_mistake_on_the_command_line_gives_one_line(program, tmp_path, capsys):
  options = '--config.samplings.default.sampler.name=my_parts.samplers:Euller'
  assert program(f'--config={CONFIG}', f'--workdir={tmp_path / "run"}', options) == 2
  errors = capsys.readouterr().err.strip().splitlines()
  assert len(errors) == 1 and errors[0].startswith('error: config.samplings.default')
