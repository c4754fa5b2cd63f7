"""Handwritten digits on photographs: no download, minutes on two CPU cores.

  python -m mmsbm.main --config=configs/digits.py --workdir=runs/digits

Arguments, e.g. --config=configs/digits.py:method=sbm_rae,modalities=3,smoke:
  method: sbm_vae, sbm_rae, mld (multi-modal latent diffusion), or a joint VAE: mvae,
    mmvae, mopoe, mmjsd, mvtcae, mmvaeplus, hoelder, diff_mvae.
  modalities: 2 to 50; from 11 on the photographs return in other colours.
  preset: default.
  refine: with autoencoders, diffusion models that sharpen what they decode.
  smoke: the whole pipeline in under a minute; its numbers mean nothing.
"""

from mmsbm.configs import base, methods
from mmsbm.configs.sizes import Sizes


def get_config(arg=None):
  arg = base.parse_arg(
    arg, method='sbm_vae', modalities=4, preset='default', refine=False, smoke=False
  )
  base.choose('method', arg.method, methods.METHODS)
  base.choose('preset', arg.preset, ('default',))
  base.choose('modalities', arg.modalities, range(2, 51))
  c = base.base()
  c.method, c.preset = arg.method, arg.preset
  shape = (16, 16, 3)
  c.data = dict(
    name='digits',
    cache_dir=base.cache_dir(),
    image_size=shape[0],
    photos=(
      'leaves',
      'hubble',
      'retina',
      'sky',
      'cell',
      'flower',
      'coffee',
      'camera',
      'china',
      'astronaut',
    ),
    num_train=30_000,
    num_val=300,
    num_test=450,
    augment=1.0,
    seed=0,
  )
  # Not in alphabetical order: modality i is drawn on photograph i.
  c.modalities = base.ordered(
    {f'm{i}': dict(kind='image', shape=shape) for i in range(arg.modalities)}
  )
  digit = dict(
    name='classifier',
    annotation='class',
    modalities=tuple(c.modalities),
    network=dict(name='patch', patch=4, width=64, num_layers=2, dropout=0.2),
    num_steps=1_000,
    batch_size=256,
    ema_decay=0.999,
    optimizer=dict(learning_rate=2e-3, warmup_steps=100, weight_decay=0.05),
  )
  conv = dict(name='conv', widths=(16, 32), feature_dim=64, dropout=0.2)
  c.readers = base.ordered(
    dict(
      digit=digit,
      second=base.second_judge(digit, conv, batch_size=128),
      random_conv=base.RANDOM_CONV,
      inception=base.INCEPTION,
    )
  )
  c.evaluate.num_examples = 450
  sizes = sizes_of(c.modalities)
  methods.RECIPES[arg.method](c, sizes)
  if arg.refine:
    methods.refine(c, sizes)
  if arg.smoke:
    c.data.num_train, c.data.num_val, c.data.num_test = 512, 64, 64
    base.shrink(
      c,
      num_steps=20,
      batch_size=32,
      sampler_steps=4,
      num_examples=64,
      max_subsets=3,
      num_shown=4,
      num_samples=2,
    )
  return c


def sizes_of(modalities):
  training = dict(
    num_steps=3_000,
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=200),
  )
  codec = dict(
    latent_dim=16,
    # At this size a plain MLP reconstructs better than patch networks do, and trains
    # three times faster on a CPU.
    encoder=dict(name='mlp', widths=(512, 256)),
    decoder=dict(name='mlp', widths=(256, 512)),
    likelihood=dict(name='normal', scale=0.35),
  )
  network = dict(name='mlp', width=320, num_blocks=3, expansion=2)
  return Sizes(
    codecs=dict.fromkeys(modalities, codec),
    unimodal=training,
    joint=training,
    joint_latent_dim=64,
    denoiser=dict(name='mixer', patch=4, width=64, num_layers=3),
    score=dict(network=network, num_steps=10_000),
    # Half the steps, since there is no conditional to learn. More were not tried.
    joint_score=dict(network=network, num_steps=5_000),
    energy=dict(num_steps=5_000),
    samplers={'pc200': dict(name='predictor_corrector', num_steps=100, grid='log_snr')},
    unguided=True,
  )
