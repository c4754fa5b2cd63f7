"""Extended PolyMNIST: digits of MNIST on photographs, 5 or 10 modalities.

  python -m mmsbm.main --config=configs/polymnist.py --workdir=runs/polymnist \
    --config.data.mnist_dir=DIR        # the four *-ubyte.gz files, or:
    --config.data.source=tfds          # download them with TensorFlow Datasets

Arguments, e.g. --config=configs/polymnist.py:preset=cpu,modalities=5:
  method: sbm_vae, sbm_rae, mld (multi-modal latent diffusion), or a joint VAE: mvae,
    mmvae, mopoe, mmjsd, mvtcae, mmvaeplus, hoelder, diff_mvae.
  modalities: 5 or 10; other numbers up to 10 work too.
  preset: 'default' for an accelerator, 'cpu' for half an hour on two cores, 'paper'
    for the networks, losses, schedules and sampler of arXiv 2305.15708 as published.
  refine: with autoencoders, diffusion models that sharpen what they decode.
  smoke: the whole pipeline on a stand-in for MNIST in under a minute.
"""

from mmsbm.configs import base, methods
from mmsbm.configs.methods.refiner import unet
from mmsbm.configs.sizes import Sizes

PRESETS = ('default', 'cpu', 'paper')
NUM_TRAIN = 50_000


def get_config(arg=None):
  arg = base.parse_arg(
    arg, method='sbm_vae', modalities=10, preset='default', refine=False, smoke=False
  )
  base.choose('method', arg.method, methods.METHODS)
  base.choose('preset', arg.preset, PRESETS)
  base.choose('modalities', arg.modalities, range(2, 11))
  c = base.base()
  c.method, c.preset = arg.method, arg.preset
  c.data = dict(
    name='polymnist',
    cache_dir=base.cache_dir(),
    # 'idx': the four files in mnist_dir; 'tfds': download; 'png': the published
    # folders in png_dir.
    source='idx',
    mnist_dir='',
    tfds_dir='',
    png_dir='',
    # Empty: photographs that scikit-image and scikit-learn carry.
    background_dir='',
    verify_checksums=True,
    standin=False,
    num_train=NUM_TRAIN,
    num_val=10_000,
    num_test=10_000,
    seed=0,
  )
  c.modalities = base.ordered(
    {f'm{i}': dict(kind='image', shape=(28, 28, 3)) for i in range(arg.modalities)}
  )
  {'default': default, 'cpu': cpu, 'paper': paper}[arg.preset](c, arg)
  if arg.smoke:
    shrink(c)
  return c


def default(c, arg):
  """The `cpu` recipe with larger networks; not measured yet."""
  c.readers = readers(
    c,
    network=dict(name='conv', dropout=0.2),
    num_steps=10_000,
    optimizer=dict(learning_rate=2e-3, warmup_steps=100, weight_decay=0.05),
  )
  training = dict(
    batch_size=256,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=200),
  )
  codec = dict(
    latent_dim=32,
    encoder=dict(name='resnet', pad=2),
    decoder=dict(name='resnet', pad=2),
    likelihood=dict(name='normal', scale=0.35),
  )
  score = dict(
    network=dict(name='mlp', width=1024, num_blocks=6, expansion=2),
    num_steps=100_000,
    batch_size=512,
    learning_rate=5e-4,
  )
  generative_model(
    c,
    arg,
    Sizes(
      codecs=dict.fromkeys(c.modalities, codec),
      unimodal=dict(num_steps=40_000, **training),
      joint=dict(num_steps=80_000, **training),
      joint_latent_dim=256,
      denoiser=unet(28),
      score=score,
      joint_score=score,
      energy=dict(num_steps=8_000),
      # Decodes as many draws as MVAE; all pairs would be twice as many.
      max_pairs=2,
      unguided=True,
    ),
  )
  c.evaluate.num_examples, c.evaluate.chunk_size = 10_000, 2_000
  c.loop.checkpoint_every_steps = 10_000


def cpu(c, arg):
  """Networks of matrix products, small latents, many cheap score steps."""
  c.readers = readers(
    c,
    network=dict(name='patch', patch=7, width=64, dropout=0.2),
    num_steps=3_000,
    optimizer=dict(learning_rate=2e-3, warmup_steps=100, weight_decay=0.05),
  )
  training = dict(
    num_steps=6_000,
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=200),
  )
  codec = dict(
    latent_dim=20,
    # At this size a plain MLP reconstructs better than patch networks of the same
    # cost; XLA's convolutions are far slower on a CPU.
    encoder=dict(name='mlp', widths=(512, 256)),
    decoder=dict(name='mlp', widths=(256, 512)),
    likelihood=dict(name='normal', scale=0.35),
  )
  network = dict(name='mlp', width=384, num_blocks=3, expansion=2)
  generative_model(
    c,
    arg,
    Sizes(
      codecs=dict.fromkeys(c.modalities, codec),
      unimodal=training,
      joint=training,
      joint_latent_dim=100,
      # Fewer tokens than with patches of 4, which took longer; quality not compared.
      denoiser=dict(name='mixer', patch=7, width=96, num_layers=3),
      score=dict(network=network, num_steps=16_000),
      # Half the steps, since there is no conditional to learn. More were not tried.
      joint_score=dict(network=network, num_steps=8_000),
      energy=dict(num_steps=8_000),
      # Decodes as many draws as MVAE; all pairs would be twice as many.
      max_pairs=2,
      unguided=True,
    ),
  )
  c.evaluate.num_examples = 2_000


def paper(c, arg):
  """As published, as far as it is known; docs/limits.md lists what still differs."""
  base.choose('method', arg.method, methods.PUBLISHED)
  base.choose('refine', arg.refine, (False,))
  epoch = -(-NUM_TRAIN // 256)
  # How the published classifier was trained is not known; its network is.
  c.readers = readers(
    c,
    network=dict(name='conv'),
    num_steps=20 * epoch,
    optimizer=dict(learning_rate=1e-3),
  )
  codec = dict(
    latent_dim=64,
    # 28 x 28 pictures are padded with black to 32 x 32.
    encoder=dict(name='resnet', pad=2),
    decoder=dict(name='resnet', pad=2),
    # Sum of squared errors, without 1/2: the variance is 1/2.
    likelihood=dict(name='normal', scale=0.5**0.5),
  )
  methods.PUBLISHED[arg.method](c, dict.fromkeys(c.modalities, codec), epoch)
  c.evaluate.num_examples = 10_000
  # The step sizes of this sampler depend on the batch: 256, as published.
  c.evaluate.chunk_size = 256
  c.loop.checkpoint_every_steps = 10 * 250


def readers(c, *, network, num_steps, optimizer):
  """Two classifiers of digits for all modalities, and features that are not theirs."""
  digit = dict(
    name='classifier',
    annotation='class',
    modalities=tuple(c.modalities),
    network=network,
    num_steps=num_steps,
    batch_size=256,
    ema_decay=0.999,
    optimizer=optimizer,
  )
  if network['name'] == 'conv':
    other = dict(name='patch', patch=7, width=64, dropout=0.2)
  else:
    other = dict(name='conv', widths=(16, 32, 64), feature_dim=64, dropout=0.2)
  return base.ordered(
    dict(
      digit=digit,
      second=base.second_judge(digit, other, num_steps=min(num_steps, 3_000)),
      random_conv=base.RANDOM_CONV,
      inception=base.INCEPTION,
    )
  )


def generative_model(c, arg, sizes):
  methods.RECIPES[arg.method](c, sizes)
  if arg.refine:
    methods.refine(c, sizes)


def shrink(c):
  """A run of seconds: real readers and the same networks, made small."""
  c.data.standin = True
  c.data.mnist_dir = ''
  c.data.verify_checksums = False
  c.data.num_train, c.data.num_val, c.data.num_test = 256, 64, 64
  base.shrink(
    c,
    num_steps=4,
    batch_size=8,
    sampler_steps=2,
    num_examples=16,
    max_subsets=1,
    num_shown=2,
    num_samples=1,
  )
  if c.preset == 'default':
    c.score.network.width, c.score.network.num_blocks = 32, 2
  if c.preset == 'paper':
    c.score.network.width = 16
  blocks = ((8, 8, 8, 2), (8, 8, 8, 2), (8, 8, 8, 2))
  codecs = [codec for s in ('unimodal', 'joint') if s in c for codec in
            c[s].networks.values()]  # fmt: skip
  decoders = [codec.decoder for codec in codecs]
  decoders += c.refiner.decoders.values() if 'refiner' in c else ()
  for encoder in (codec.encoder for codec in codecs):
    if encoder.name == 'resnet':
      encoder.update(stem=8, blocks=blocks)
  for decoder in decoders:
    if decoder.name == 'resnet':
      decoder.update(blocks=blocks)
    elif decoder.name == 'diffusion' and decoder.network.name == 'unet':
      decoder.network.update(width=8, num_blocks=1, num_heads=2)
