"""What makes any-to-any generation good: the tables of docs/any_to_any.md.

  python -m mmsbm.studies --study=configs/studies/any_to_any.py:data=digits \
    --workdir=runs/studies/digits --results=launch/results/digits.csv

Arguments:
  data: digits (4 modalities), or polymnist (5, preset=cpu).
  seeds: of the training; 3 for digits and 1 for polymnist by default.
  smoke: every row in seconds; its numbers mean nothing.
"""

from configs import digits, polymnist
from mmsbm.configs import base
from mmsbm.configs.methods import published, score_based
from mmsbm.studies import Row

# Module, its arguments, seeds, network evaluations of the solvers, and steps of the
# score models of the rows on pairing, all of them shorter than the others.
CONFIGS = {
  'digits': (
    digits, dict(modalities=4), 3, (5, 10, 20, 50, 100, 200), 3_000,
  ),
  'polymnist': (
    polymnist, dict(preset='cpu', modalities=5), 1, (5, 10, 20, 50), 4_000,
  ),
}  # fmt: skip
# Percent of the training tuples whose pairing is known, and numbers of modalities.
PAIRED = (100, 50, 20, 5, 1)
MODALITIES = (2, 4, 10, 20, 50)

# Solver of at most n network evaluations.
SOLVERS = {
  'ancestral': lambda n: dict(name='ancestral', grid='edm', num_steps=n),
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
# Where they are compared, the solvers go down to the noise level at which the default
# sampling ends, 0.07 of the standard deviation of the latents, and are not guided.
TIME_MIN = score_based.sampler()['time_min']
GUIDANCE = {
  'none': {},
  **{
    f'classifier_free_{scale * 100:.0f}': dict(
      name='classifier_free', scale=scale, joint_scale=scale, **score_based.LEVELS
    )
    for scale in (0.5, 1.0, 2.0, 4.0, 8.0)
  },
  **{
    f'energy_{scale * 100:.0f}': dict(name='energy', scale=scale, **score_based.LEVELS)
    for scale in (0.5, 1.0, 2.0)
  },
}
# What the table calls them.
SOLVER_NAMES = {
  'ancestral': 'ancestral',
  'ddim': 'DDIM',
  'dpm': 'DPM-Solver++(2M)',
  'sde_dpm': 'DPM-Solver++(2M) SDE',
  'heun': 'Heun',
  'pc': 'predictor-corrector',
  'sde_dpm_down': 'DPM-Solver++(2M) SDE, to noise 0.02',
  'sde_dpm_log_snr': 'DPM-Solver++(2M) SDE, levels even in log noise',
}
DEFAULT = {'sampler': 'default', 'guidance': 'default'}
PUBLISHED = {'sampler': 'as published'}
ARGUMENT = {'rae': 'sbm_rae', 'mld': 'mld'}


def get_study(arg=None):
  arg = base.parse_arg(arg, data='digits', seeds=0, smoke=False)
  base.choose('data', arg.data, CONFIGS)
  seeds = arg.seeds or CONFIGS[arg.data][2]
  return [row for seed in range(seeds) for row in rows_of_seed(arg, seed)]


def rows_of_seed(arg, seed):
  module, arguments, _, evaluations, paired_steps = CONFIGS[arg.data]
  lender = f'ae_s{seed}'
  # One judge for all seeds: distances are of its features.
  judged = {'classifier': 'ae_s0'}
  shared = judged | {'unimodal': lender}

  def row(name, group, *, overrides=None, ways=None, columns=None, **kw):
    """A row, most of whose columns and arguments are those of all rows.

    `ways` are the ways of sampling, as they differ from that of the config.
    """
    config_arguments = arguments | kw.pop('arguments', {})
    text = ','.join(f'{key}={value}' for key, value in config_arguments.items())
    text += ',smoke' * arg.smoke
    default = module.get_config(text).samplings.default.to_dict()
    ways = {'default': {}} | (ways or {})
    samplings = {name: default | changes for name, changes in ways.items()}
    return Row(
      name=f'{name}_s{seed}',
      seed=seed,
      config=f'configs/{arg.data}.py:{text}',
      columns={'group': group} | (columns or {}),
      overrides={'samplings': samplings} | (overrides or {}),
      **kw,
    )

  def vae(name, group, method='SBM-VAE', columns=None, **kw):
    columns = {'method': method} | (columns or {})
    return row(name, group, columns=columns, borrow=shared, **kw)

  def other(name, method, ways=None):
    """Another method: its own autoencoders, judged by the same classifier."""
    return row(
      name, 'methods', columns={'method': method}, borrow=judged,
      arguments=dict(method=ARGUMENT[name]), ways=ways,
      sampling_columns=in_guidance(ways) | {'default': DEFAULT} if ways else {},
    )  # fmt: skip

  yield row(
    'ae', 'autoencoders', mode='train',
    overrides=dict(train_only=('unimodal',) if seed else ('classifier', 'unimodal')),
  )  # fmt: skip
  solvers, guided = solver_ways(evaluations, arg.smoke), guidance_ways(arg.smoke)
  conditioned = conditioning_ways(arg.smoke)
  yield vae(
    'vae', 'methods', ways=solvers | guided,
    overrides={
      'evaluate.evaluators.likelihood.num_examples': 8 if arg.smoke else 100,
      'evaluate.evaluators.likelihood.num_probes': 8,
    },
    sampling_columns={'default': DEFAULT}
    | {
      name: {'group': 'solvers', 'sampler': SOLVER_NAMES[name.rpartition('_')[0]]}
      for name in solvers
    }
    | in_guidance(guided),
  )  # fmt: skip
  yield other('rae', 'SBM-RAE', {'none': dict(guidance={})})
  yield other('mld', 'MLD')
  yield vae(
    'published', 'methods', 'SBM-VAE, one time', ways=conditioned,
    overrides={
      'energy': {},
      'score.condition_probability': 0.0,
      'score.drop_probability': 0.0,
    },
    sampling_columns={
      name: {'group': 'conditioning', 'sampler': SOLVER_NAMES['sde_dpm']}
      | (PUBLISHED if name.endswith('published') else {})
      for name in conditioned
    } | {'default': PUBLISHED},
  )  # fmt: skip
  for percent in PAIRED:
    for used, suffix in ((True, ''), (False, '_only')):
      if percent >= 50 and not used:
        continue
      unpaired = '-' if percent == 100 else 'used' if used else 'left out'
      yield vae(
        f'paired_{percent}{suffix}', 'paired tuples',
        columns={'paired': f'{percent} %', 'unpaired': unpaired},
        sampling_columns={'default': DEFAULT},
        overrides={
          'score.paired_fraction': percent / 100,
          'score.use_unpaired': used,
          'score.num_steps': 20 if arg.smoke else paired_steps,
          'energy.num_steps': 20 if arg.smoke else paired_steps // 2,
        },
      )  # fmt: skip
  if arg.data == 'digits' and not seed:
    yield from rows_of_many(row, (2, 3) if arg.smoke else MODALITIES, arg.smoke)


def rows_of_many(row, numbers, smoke):
  """Numbers of modalities, with one seed and all trained for less: 50 are many."""
  autoencoders = {} if smoke else {'unimodal.num_steps': 2_000}
  shorter = {} if smoke else {
    'score.num_steps': 3_000,
    'energy.num_steps': 1_500,
    'evaluate.evaluators.conditional.max_subsets': 4,
    'evaluate.num_examples': 500,
  }  # fmt: skip
  largest = max(numbers)
  lender = dict.fromkeys(('classifier', 'unimodal'), 'ae_many_s0')
  yield row(
    'ae_many', 'autoencoders', mode='train', arguments=dict(modalities=largest),
    columns={'modalities': str(largest)},
    overrides=dict(train_only=('classifier', 'unimodal')) | autoencoders,
  )  # fmt: skip
  for number in numbers:
    yield row(
      f'm{number}', 'modalities', arguments=dict(modalities=number),
      columns={'method': 'SBM-VAE, hub', 'modalities': str(number)},
      overrides={
        **autoencoders, **shorter,
        'score.network': dict(name='hub'),
        'evaluate.evaluators.conditional.num_given': tuple(
          sorted({1, number // 2, number - 1})
        ),
      },
      borrow=lender,
      sampling_columns={'default': DEFAULT},
    )  # fmt: skip


def in_guidance(ways):
  """Columns of ways with the default sampler and the guidance that they name."""
  words = {
    name: name.replace('classifier_free', 'classifier-free').split('_') for name in ways
  }
  return {
    name: {
      'group': 'guidance',
      'sampler': 'default',
      'guidance': f'{kind} {int(scale[0]) / 100:g}' if scale else kind,
    }
    for name, (kind, *scale) in words.items()
  }


def solver_ways(evaluations, smoke):
  samplers = {
    f'{name}_{n}': solver(n) | {'time_min': TIME_MIN}
    for name, solver in SOLVERS.items()
    for n in evaluations
    if not smoke or (name == 'dpm' and n < 20)
  }
  # Down to noise 0.02, and another spacing of the levels.
  for n in () if smoke else (20, 50):
    samplers[f'sde_dpm_down_{n}'] = SOLVERS['sde_dpm'](n) | {'time_min': 1e-3}
  few = 4 if smoke else 20
  samplers[f'sde_dpm_log_snr_{few}'] = SOLVERS['sde_dpm'](few) | {
    'time_min': TIME_MIN, 'grid': 'log_snr',
  }  # fmt: skip
  return {
    name: dict(sampler=sampler, guidance={}) for name, sampler in samplers.items()
  }


def guidance_ways(smoke):
  """Every guidance with the default sampler and conditioning."""
  return {
    name: dict(guidance=guidance)
    for name, guidance in GUIDANCE.items()
    if not smoke or name.endswith('_100')
  }


def conditioning_ways(smoke):
  """The published way, as default, and all rules of conditioning with two samplers."""
  samplers = {
    'published': published.sampler() | {'num_steps': 2 if smoke else 100},
    'sde_dpm': SOLVERS['sde_dpm'](4 if smoke else 20) | {'time_min': TIME_MIN},
  }
  ways = {
    f'{rule}_{name}': dict(conditioning=dict(name=rule), sampler=sampler, guidance={})
    for rule in ('paper', 'clean', 'noised')
    for name, sampler in samplers.items()
  }
  # Five visits of every level but the first: about 100 evaluations.
  ways['repaint_sde_dpm'] = ways['paper_sde_dpm'] | dict(
    conditioning=dict(name='repaint', jump_length=2, num_resamples=5)
  )
  return {'default': ways.pop('paper_published')} | ways
