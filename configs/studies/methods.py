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

  python -m mmsbm.study --study=configs/studies/methods.py:data=digits \
    --workdir=runs/studies/methods_digits --results=launch/results/methods_digits.jsonl

Arguments:
  data: digits (4 modalities), or polymnist (5, preset=cpu).
  seeds: of the training; 3 for digits and 1 for polymnist by default.
  smoke: every row in seconds; its numbers mean nothing.
"""

from configs import common
from configs.studies import Row

# File, its arguments, and seeds.
CONFIGS = {
  'digits': ('configs/digits.py', dict(modalities=4), 3),
  'polymnist': ('configs/polymnist.py', dict(preset='cpu', modalities=5), 1),
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
OF_MLD = {'default': {'conditioning': '', 'sampler': 'predictor'}}


def get_study(arg=None):
  arg = common.parse_arg(arg, data='digits', seeds=0, smoke=False)
  common.choose('data', arg.data, CONFIGS)
  seeds = arg.seeds or CONFIGS[arg.data][2]
  return [row for seed in range(seeds) for row in rows_of_seed(arg, seed)]


def rows_of_seed(arg, seed):
  path, arguments, _ = CONFIGS[arg.data]

  def row(name, method, columns=None, **kw):
    config_arguments = arguments | dict(method=method) | kw.pop('arguments', {})
    text = ','.join(f'{key}={value}' for key, value in config_arguments.items())
    return Row(
      name=f'{name}_s{seed}',
      seed=seed,
      config=f'{path}:{text}' + ',smoke' * arg.smoke,
      columns={'group': 'methods', **(columns or {'method': NAMES[method]})},
      **kw,
    )

  yield row(
    'ae', 'sbm_vae', {'group': 'autoencoders'}, mode='train',
    overrides=dict(stages=('classifier', 'unimodal')),
  )  # fmt: skip
  # The classifier of all; of SBM-VAE also the autoencoders.
  judged = dict(pretrained=f'ae_s{seed}')
  own = dict(pretrained_stages=('classifier',))
  probe = {'evaluate.linear_probe': common.PROBE_EXAMPLES}
  for method in common.SCORE_METHODS:
    # Only SBM-VAE and SBM-RAE are guided, so what guidance is worth is measured; given
    # every number of modalities. Multi-modal latent diffusion has a sampler of its own.
    guided = method != 'mld'
    unguided = {
      'compare': {'unguided': dict(guidance={})}, 'evaluate.compare_all_given': True,
    }  # fmt: skip
    kw = dict(**judged, setup_columns=GUIDED if guided else OF_MLD)
    overrides = probe | (unguided if guided else dict(compare={}))
    overrides |= own if method != 'sbm_vae' else {}
    yield row(method, method, overrides=overrides, **kw)
    if method == 'sbm_vae':
      # A copy of the finished folder of `sbm_vae` saves the training of the rest.
      yield row(
        'sbm_vae_refined', method, {'method': 'SBM-VAE, refined'},
        overrides=overrides, arguments=dict(refine=True), **kw,
      )  # fmt: skip
  for method in common.JOINT_METHODS:
    # Diff-MVAE draws latents from its score model, the others from their prior.
    default = 'score' if method == 'diff_mvae' else 'prior'
    sampled = {
      'default' if setup == default else setup: {'sampler': name}
      for setup, name in SAMPLERS.items()
    }
    kw = dict(**judged, setup_columns=sampled)
    yield row(method, method, overrides=own, **kw)
    if method in ('mvae', 'diff_mvae'):
      # With diffusion decoders as in the first version of arXiv 2408.16883.
      product = dict(name='mvae', beta=1.0, single_terms=False)
      yield row(
        f'{method}_product', method, {'method': f'{NAMES[method]}, product, two terms'},
        overrides=own | {'joint.objective': product}, **kw,
      )  # fmt: skip
    if method == 'diff_mvae':
      yield row(
        'diff_mvae_mvtcae', method, {'method': f'{NAMES[method]}, product, MVTCAE'},
        overrides=own | {'joint.objective': common.OBJECTIVES['mvtcae']}, **kw,
      )  # fmt: skip
