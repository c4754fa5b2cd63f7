"""Your own data, without code: copy this file, or set the fields below.

  python -m mmsbm.main --config=configs/arrays.py --workdir=runs/mine \
    --config.data.files=FILE.npz

FILE.npz has one array with a row per example for every modality, and may have
`labels` [N] (integers, -1 where unknown) and `present` [N, M] (False where an example
lacks a modality; columns in the order of the modalities below). A dict
{modality: "FILE.npy"} in place of one file reads arrays that do not fit in memory. See
mmsbm/data/arrays.py for all that a location can be.

The modalities below are those of the stand-in that `smoke` writes; each shows
another kind. What a kind expects:

  image       uint8 [N, height, width, channels]    normal or laplace
  mask        0/1, any shape                        bernoulli
  attributes  0/1 [N, A]                            bernoulli
  label       integers [N], below num_classes       categorical
  vector      floats, any shape                     normal or laplace

Arguments, e.g. --config=configs/arrays.py:method=sbm_rae,modalities=2:
  method: sbm_vae, sbm_rae, mld (multi-modal latent diffusion), or a joint VAE: mvae,
    mmvae, mopoe, mmjsd, mvtcae, mmvaeplus, hoelder, diff_mvae.
  modalities: 2 to 4, how many of those below.
  preset: default.
  refine: with autoencoders, diffusion models that sharpen the images they decode.
  smoke: the whole pipeline on the stand-in in under a minute.
"""

from configs import common

# The classifier that judges generated images. Without labels: JUDGE = '', or
# --config.modalities.image.judge=''.
JUDGE = 'digit'


def modality_specs():
  """One entry per modality; latent sizes may differ."""
  patch = dict(name='patch', patch=4, width=64, num_layers=2)
  mlp = dict(name='mlp', widths=(128, 128))
  return dict(
    image=dict(
      kind='image',
      shape=(16, 16, 1),
      latent_dim=16,
      encoder=patch,
      decoder=patch,
      likelihood=dict(name='normal', scale=0.35),
      judge=JUDGE,
    ),
    attributes=dict(
      kind='attributes',
      shape=(4,),
      latent_dim=4,
      encoder=mlp,
      decoder=mlp,
      likelihood=dict(name='bernoulli'),
      judge='',
    ),
    profile=dict(
      # The networks see (x - offset) / scale: about zero mean and unit variance.
      kind=dict(name='vector', offset=0.6, scale=0.4),
      shape=(16,),
      latent_dim=8,
      encoder=mlp,
      decoder=mlp,
      likelihood=dict(name='normal', scale=0.3),
      judge='',
    ),
    number=dict(
      kind=dict(name='label', num_classes=10),
      shape=(),
      latent_dim=3,
      encoder=mlp,
      decoder=mlp,
      likelihood=dict(name='categorical'),
      judge='',
    ),
  )


def get_config(arg=None):
  specs = modality_specs()
  arg = common.parse_arg(
    arg,
    method='sbm_vae',
    modalities=len(specs),
    preset='default',
    refine=False,
    smoke=False,
  )
  common.choose('method', arg.method, common.METHODS)
  common.choose('preset', arg.preset, ('default',))
  common.choose('modalities', arg.modalities, range(2, len(specs) + 1))
  c = common.base()
  c.method, c.preset = arg.method, arg.preset
  c.data = dict(
    name='arrays',
    cache_dir=common.cache_dir(),
    files='',
    # Members or files of their own; empty: see above.
    labels='',
    present='',
    # Shares drawn at random, or a file of 0 (train), 1 (val) and 2 (test).
    split=(0.8, 0.1, 0.1),
    split_file='',
    standin=arg.smoke,
    seed=0,
  )
  c.modalities = common.ordered(dict(list(specs.items())[: arg.modalities]))
  c.classifier = dict(
    network=dict(name='patch', patch=4, width=64, num_layers=2, dropout=0.2),
    num_steps=2_000,
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=100, weight_decay=0.05),
  )
  training = dict(
    num_steps=4_000,
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=200, clip_norm=1e4),
  )
  # A token per modality: latent sizes may differ.
  network = dict(name='transformer', width=128, num_layers=3, num_heads=4)
  if arg.method in common.JOINT_METHODS:
    network = dict(name='mlp', width=256, num_blocks=3, expansion=2)
  common.generative_model(
    c,
    arg.method,
    refine=arg.refine,
    unimodal=training,
    joint=dict(
      latent_dim=32,
      denoiser=dict(name='mixer', patch=4, width=96, num_layers=3),
      **training,
    ),
    score=dict(network=network, num_steps=8_000, batch_size=128, learning_rate=1e-3),
  )
  if arg.smoke:
    common.shrink(c, num_steps=20, batch_size=32, sampler_steps=4)
    c.evaluate.num_examples, c.evaluate.max_subsets, c.evaluate.chunk_size = 64, 2, 64
    c.sample.num_examples, c.sample.num_samples = 4, 2
  return c
