"""All methods with one protocol: same data, networks, optimiser, seeds and judge.

Joint VAEs have one latent, as large as those of all modalities together; what they
decode for one training example differs: one latent (MoPoE, mmJSD, MVTCAE), one for each
modality (MMVAE, MMVAE+), or more (MVAE, Hölder).

The ablation of Diff-MVAE is of its fusion, MoPoE or a product of experts; of decoders,
diffusion models or not; and of how latents are drawn from nothing. Products are trained
by two of the terms of MVAE, that of all modalities and that of a random subset: with
all of them diffusion decoders would be three times slower. They are also trained as in
MVTCAE, whose posteriors of some modalities are drawn to that of all. With diffusion
decoders come the weight of their likelihood and their guidance.

  python -m mmsbm.studies --study=configs/studies/methods.py:data=digits \
    --workdir=runs/studies/methods_digits --results=launch/results/methods_digits.csv

Arguments:
  data: digits (4 modalities), or polymnist (5, preset=cpu).
  seeds: of the training; 3 for digits and 1 for polymnist by default.
  smoke: every row in seconds; its numbers mean nothing.
"""

from configs import digits, polymnist
from mmsbm.configs import base, methods
from mmsbm.studies import Row

# Module, its arguments, and seeds.
CONFIGS = {
  'digits': (digits, dict(modalities=4), 3),
  'polymnist': (polymnist, dict(preset='cpu', modalities=5), 1),
}
NAMES = {
  'sbm_vae': 'SBM-VAE',
  'sbm_rae': 'SBM-RAE',
  'mld': 'MLD',
  'mvae': 'MVAE',
  'mmvae': 'MMVAE',
  'mopoe': 'MoPoE',
  'mmjsd': 'mmJSD',
  'mvtcae': 'MVTCAE',
  'mmvaeplus': 'MMVAE+',
  'hoelder': 'Hölder',
  'diff_mvae': 'Diff-MVAE',
}
# What the table calls the ways to draw a latent from nothing.
SAMPLERS = {'prior': 'prior', 'mixture': 'Gaussian mixture', 'score': 'score model'}
# All show observed latents at time zero, which the table need not say.
GUIDED = {
  'default': {'conditioning': '', 'sampler': 'default', 'guidance': 'guided'},
  'unguided': {'conditioning': '', 'sampler': 'default', 'guidance': 'not guided'},
}
# A predictor-corrector without corrector.
OF_MLD = {
  'default': {'conditioning': '', 'sampler': 'predictor'},
  'resampled': {'conditioning': '', 'sampler': 'predictor, resampled'},
}


def get_study(arg=None):
  arg = base.parse_arg(arg, data='digits', seeds=0, smoke=False)
  base.choose('data', arg.data, CONFIGS)
  seeds = arg.seeds or CONFIGS[arg.data][2]
  return [row for seed in range(seeds) for row in rows_of_seed(arg, seed)]


def rows_of_seed(arg, seed):
  module, arguments, _ = CONFIGS[arg.data]

  def config_arguments(method, **more):
    pairs = (arguments | dict(method=method) | more).items()
    return ','.join(f'{key}={value}' for key, value in pairs) + ',smoke' * arg.smoke

  def row(name, method, columns=None, more=None, **kw):
    return Row(
      name=f'{name}_s{seed}',
      seed=seed,
      config=f'configs/{arg.data}.py:{config_arguments(method, **(more or {}))}',
      columns={'group': 'methods', **(columns or {'method': NAMES[method]})},
      **kw,
    )

  # One judge for all rows and seeds: distances are of its features. SBM-VAE has the
  # autoencoders of its seed, too.
  lender, judged = f'ae_s{seed}', {'classifier': 'ae_s0'}
  trained = ('unimodal',) if seed else ('classifier', 'unimodal')
  yield row(
    'ae', 'sbm_vae', {'group': 'autoencoders'}, mode='train',
    overrides=dict(train_only=trained),
  )  # fmt: skip
  for method in methods.SCORE_METHODS:
    # Only SBM-VAE and SBM-RAE are guided, so what guidance is worth is measured; given
    # every number of modalities. Multi-modal latent diffusion has a sampler of its own.
    guided = method != 'mld'
    ways = module.get_config(config_arguments(method)).samplings.to_dict()
    default = ways['default' if guided else 'euler']
    unguided = {'unguided': default | dict(guidance={})}
    other = unguided if guided else {'resampled': ways['default']}
    kw = dict(
      borrow=judged | ({'unimodal': lender} if method == 'sbm_vae' else {}),
      sampling_columns=GUIDED if guided else OF_MLD,
      overrides={
        'evaluate.evaluators.linear_probe.num_train': methods.PROBE_EXAMPLES,
        'samplings': {'default': default} | other,
        'evaluate.evaluators.conditional.all_samplings': guided,
      },
    )
    yield row(method, method, **kw)
    if method == 'sbm_vae':
      # A copy of the finished folder of `sbm_vae` saves the training of the rest.
      columns = {'method': 'SBM-VAE, refined'}
      yield row('sbm_vae_refined', method, columns, dict(refine=True), **kw)
  for method in methods.JOINT_METHODS:
    # Diff-MVAE draws latents from its score model, the others from their prior.
    default = 'score' if method == 'diff_mvae' else 'prior'
    sampled = {
      'default' if way == default else way: {'sampler': name}
      for way, name in SAMPLERS.items()
    }
    kw = dict(borrow=judged, sampling_columns=sampled)
    yield row(method, method, **kw)
    if method in ('mvae', 'diff_mvae'):
      # With diffusion decoders as in the first version of arXiv 2408.16883.
      product = dict(name='mvae', beta=1.0, single_terms=False)
      yield row(
        f'{method}_product', method, {'method': f'{NAMES[method]}, product, two terms'},
        overrides={'joint.objective': product}, **kw,
      )  # fmt: skip
    if method == 'diff_mvae':
      yield row(
        'diff_mvae_mvtcae', method, {'method': f'{NAMES[method]}, product, MVTCAE'},
        overrides={'joint.objective': methods.OBJECTIVES['mvtcae']}, **kw,
      )  # fmt: skip
