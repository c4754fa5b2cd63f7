"""What makes any-to-any generation good: the table of README.md.

  python -m mmsbm.study --study=configs/studies/any_to_any.py:data=digits \
    --workdir=runs/studies/digits --results=launch/results/digits.jsonl

Arguments:
  data: digits (4 modalities), or polymnist (5, preset=cpu).
  seeds: of the training; 3 for digits and 1 for polymnist by default.
  smoke: every row in seconds; its numbers mean nothing.
"""

from configs import common, polymnist
from configs.studies import Row

CONFIGS = {
  'digits': ('configs/digits.py', dict(modalities=4), 3),
  'polymnist': ('configs/polymnist.py', dict(preset='cpu', modalities=5), 1),
}
EVALUATIONS = (5, 10, 20, 50, 100, 200)
# Percent of the training tuples whose pairing is known, and numbers of modalities. 4
# modalities are those of the row `vae`.
PAIRED = (50, 20, 5, 1)
MODALITIES = (2, 3, 6, 10, 20, 30, 40, 50)

OURS = dict(name='ancestral', grid='edm', time_min=0.3)
# Solver of at most n network evaluations.
SOLVERS = {
  'ancestral': lambda n: dict(OURS, num_steps=n),
  'ddim': lambda n: dict(name='ancestral', eta=0.0, grid='edm', num_steps=n),
  'dpm': lambda n: dict(name='dpm_solver', grid='edm', num_steps=n),
  'sde_dpm': lambda n: dict(
    name='dpm_solver', stochastic=True, grid='edm', num_steps=n
  ),
  'heun': lambda n: dict(name='heun', grid='edm', num_steps=(n + 1) // 2),
  'pc': lambda n: dict(
    name='predictor_corrector', grid='log_snr', num_steps=(n - 1) // 2
  ),
}
GUIDANCE = {
  f'{name}_{scale * 100:.0f}': dict(name=name, scale=scale)
  for name in ('classifier_free', 'energy')
  for scale in (0.5, 1.0, 2.0)
}
AS_PUBLISHED = {'sampler': 'predictor_corrector(as published)'}
CONDITIONING = ('paper', 'clean', 'noised', 'repaint')


def get_study(arg=None):
  arg = common.parse_arg(arg, data='digits', seeds=0, smoke=False)
  common.choose('data', arg.data, CONFIGS)
  seeds = arg.seeds or CONFIGS[arg.data][2]
  return [row for seed in range(seeds) for row in rows_of_seed(arg, seed)]


def rows_of_seed(arg, seed):
  path, arguments, _ = CONFIGS[arg.data]

  def row(
    name, group, *, overrides=None, compare=None, setup_columns=None, columns=None, **kw
  ):
    """A row, most of whose columns and arguments are those of all rows."""
    config_arguments = arguments | kw.pop('arguments', {})
    text = ','.join(f'{key}={value}' for key, value in config_arguments.items())
    return Row(
      name=f'{name}_s{seed}',
      seed=seed,
      config=f'{path}:{text}' + ',smoke' * arg.smoke,
      columns={'group': group} | (columns or {}),
      overrides={'compare': compare or {}} | (overrides or {}),
      setup_columns=setup_columns or {},
      **kw,
    )

  def autoencoders(method):
    return row(
      f'ae_{method}', 'autoencoders', arguments=dict(method=f'sbm_{method}'),
      overrides=dict(stages=('classifier', 'unimodal')), mode='train',
    )  # fmt: skip

  def vae(name, group, method='SBM-VAE', columns=None, **kw):
    return row(
      name, group, columns={'method': method} | (columns or {}),
      pretrained=f'ae_vae_s{seed}', **kw,
    )  # fmt: skip

  solvers, guided = solver_setups(arg.smoke), guidance_setups(arg.smoke)
  published, conditioned = conditioning_setups(arg.smoke)
  yield autoencoders('vae')
  yield autoencoders('rae')
  yield vae(
    'vae', 'methods', arguments=dict(energy=True), compare=solvers | guided,
    setup_columns=in_group('solvers', solvers) | in_group('guidance', guided),
  )  # fmt: skip
  yield row(
    'rae', 'methods', columns={'method': 'SBM-RAE'}, arguments=dict(method='sbm_rae'),
    pretrained=f'ae_rae_s{seed}',
  )  # fmt: skip
  yield row('mld', 'methods', columns={'method': 'MLD'}, arguments=dict(method='mld'))
  yield vae(
    'published', 'methods', 'SBM-VAE, one time',
    overrides={
      'score.condition_probability': 0.0,
      'score.drop_probability': 0.0,
      'conditioning': dict(name='paper'),
      'sampler': published,
    },
    compare=conditioned,
    setup_columns={'default': AS_PUBLISHED} | {
      setup: columns | (AS_PUBLISHED if setup.endswith('published') else {})
      for setup, columns in in_group('conditioning', conditioned).items()
    },
  )  # fmt: skip
  for percent in PAIRED:
    for used, suffix in ((True, ''), (False, '_only')):
      yield vae(
        f'paired_{percent}{suffix}', 'paired tuples',
        columns={'paired': f'{percent} %', 'unpaired': 'used' if used else 'left out'},
        overrides={'score.paired_fraction': percent / 100, 'score.use_unpaired': used},
      )  # fmt: skip
  for number in MODALITIES if arg.data == 'digits' else ():
    yield row(
      f'm{number}', 'modalities',
      columns={'method': 'SBM-VAE', 'modalities': str(number)},
      arguments=dict(modalities=number),
    )  # fmt: skip


def in_group(group, setups):
  return {name: {'group': group} for name in setups}


def solver_setups(smoke):
  return {
    f'{name}_{n}': dict(sampler=solver(n))
    for name, solver in SOLVERS.items()
    for n in EVALUATIONS
    if not smoke or (name == 'dpm' and n < 20)
  }


def guidance_setups(smoke):
  """Guidance with the default sampler, and with half of its steps."""
  return {
    f'{name}_{steps}': dict(guidance=guidance, sampler=dict(OURS, num_steps=steps))
    for name, guidance in GUIDANCE.items()
    for steps in ((2,) if smoke else (10, 20))
    if not smoke or name.endswith('_100')
  }


def conditioning_setups(smoke):
  """The published sampler, and all rules of conditioning with three samplers."""
  published = polymnist.get_config('preset=paper').sampler.to_dict()
  published['num_steps'] = 2 if smoke else 100
  samplers = {
    'published': published,
    'ancestral': SOLVERS['ancestral'](4 if smoke else 20),
    'dpm': SOLVERS['dpm'](4 if smoke else 20),
  }
  setups = {
    f'{rule}_{name}': dict(conditioning=dict(name=rule), sampler=sampler)
    for rule in CONDITIONING
    for name, sampler in samplers.items()
  }
  # The run's own setup.
  del setups['paper_published']
  return published, setups
