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

from configs import common

PRESETS = ('default', 'cpu', 'paper')
NUM_TRAIN = 50_000


def get_config(arg=None):
  arg = common.parse_arg(
    arg, method='sbm_vae', modalities=10, preset='default', refine=False, smoke=False
  )
  common.choose('method', arg.method, common.METHODS)
  common.choose('preset', arg.preset, PRESETS)
  common.choose('modalities', arg.modalities, range(2, 11))
  c = common.base()
  c.method, c.preset = arg.method, arg.preset
  c.data = dict(
    name='polymnist',
    cache_dir=common.cache_dir(),
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
  {'default': default, 'cpu': cpu, 'paper': paper}[arg.preset](c, arg)
  if arg.smoke:
    shrink(c)
  return c


def modality_specs(arg, **spec):
  return common.ordered(
    {
      f'm{i}': dict(kind='image', shape=(28, 28, 3), judge='digit', **spec)
      for i in range(arg.modalities)
    }
  )


def default(c, arg):
  """The `cpu` recipe with larger networks; not measured yet."""
  cpu(c, arg)
  if 'unimodal' in c:
    c.unimodal.num_steps, c.unimodal.batch_size = 40_000, 256
    latent_dim = 32
  else:
    c.joint.num_steps, c.joint.batch_size = 80_000, 256
    latent_dim = 256
    c.joint.private_dim = latent_dim // 2 if c.joint.private_dim else 0
  c.modalities = modality_specs(
    arg,
    latent_dim=latent_dim,
    encoder=dict(name='resnet', pad=2),
    decoder=dict(name='resnet', pad=2),
    likelihood=dict(name='normal', scale=0.35),
  )
  decoder = common.unet_decoder(28)
  if arg.method == 'diff_mvae':
    for spec in c.modalities.values():
      spec.decoder = decoder
  if arg.refine:
    common.refiner(c, decoder['network'])
  c.classifier.network = dict(name='conv', dropout=0.2)
  c.classifier.num_steps = 10_000
  c.score.network = dict(name='mlp', width=1024, num_blocks=6, expansion=2)
  c.score.num_steps, c.score.batch_size = 100_000, 512
  c.score.optimizer.learning_rate = 5e-4
  c.evaluate.num_examples, c.evaluate.chunk_size = 10_000, 2_000
  c.loop.checkpoint_every_steps = 10_000


def cpu(c, arg):
  """Networks of matrix products, small latents, many cheap score steps."""
  c.modalities = modality_specs(
    arg,
    latent_dim=20,
    # At this size a plain MLP reconstructs better than patch networks of the same
    # cost; XLA's convolutions are far slower on a CPU.
    encoder=dict(name='mlp', widths=(512, 256)),
    decoder=dict(name='mlp', widths=(256, 512)),
    likelihood=dict(name='normal', scale=0.35),
  )
  c.classifier = dict(
    network=dict(name='patch', patch=7, width=64, dropout=0.2),
    num_steps=3_000,
    batch_size=256,
    ema_decay=0.999,
    optimizer=dict(learning_rate=2e-3, warmup_steps=100, weight_decay=0.05),
  )
  training = dict(
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=200),
  )
  common.generative_model(
    c,
    arg.method,
    refine=arg.refine,
    unimodal=dict(num_steps=6_000, **training),
    joint=dict(
      latent_dim=100,
      num_steps=6_000,
      # Fewer tokens than with patches of 4, which took longer; quality not compared.
      denoiser=dict(name='mixer', patch=7, width=96, num_layers=3),
      **training,
    ),
    score=dict(
      network=dict(name='mlp', width=384, num_blocks=3, expansion=2),
      num_steps=16_000,
    ),
  )
  if arg.method == 'hoelder':
    # As many draws as MVAE decodes, where all pairs are twice as many.
    c.joint.objective.max_pairs = 2
  c.evaluate.num_examples, c.evaluate.max_subsets = 2_000, 10
  if arg.method in common.SCORE_METHODS and c.guidance:
    c.compare = {'unguided': dict(guidance=dict())}


def paper(c, arg):
  """As published, as far as it is known; the README lists what still differs."""
  common.choose('method', arg.method, ('sbm_vae', 'sbm_rae'))
  common.choose('refine', arg.refine, (False,))
  c.modalities = modality_specs(
    arg,
    latent_dim=64,
    # 28 x 28 pictures are padded with black to 32 x 32.
    encoder=dict(name='resnet', pad=2),
    decoder=dict(name='resnet', pad=2),
    # Sum of squared errors, without 1/2: the variance is 1/2.
    likelihood=dict(name='normal', scale=0.5**0.5),
  )
  epoch = -(-NUM_TRAIN // 256)
  # How the published classifier was trained is not known; its network is.
  c.classifier = dict(
    network=dict(name='conv'),
    num_steps=20 * epoch,
    batch_size=256,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3),
  )
  c.unimodal = dict(
    autoencoder=common.autoencoder(
      arg.method, vae=dict(beta=0.5), rae=dict(beta=1e-5, latent_noise=0.01)
    ),
    num_steps={'sbm_vae': 200, 'sbm_rae': 100}[arg.method] * epoch,
    batch_size=256,
    ema_decay=0.0,
    # optax acts on the 6th window without progress, as PyTorch does with patience 5.
    optimizer=dict(
      learning_rate=1e-3, schedule='constant', plateau_patience=6, plateau_steps=epoch
    ),
  )
  c.score = dict(
    network=dict(name='unet', width=128 if arg.modalities > 5 else 64),
    sde=dict(name='vp', beta_min=1.0, beta_max=5.0),
    parametrization=dict(name='score'),
    times=dict(name='uniform', time_min=1e-5),
    weighting='uniform',
    condition_probability=0.0,
    drop_probability=0.0,
    loss_scaling=True,
    paired_fraction=1.0,
    use_unpaired=True,
    standardise=False,
    num_steps=500 * epoch,
    batch_size=256,
    ema_decay=0.0,
    optimizer=dict(learning_rate=5e-4, schedule='constant'),
  )
  c.conditioning = dict(name='paper')
  c.sampler = dict(
    name='predictor_corrector',
    num_steps=100,
    order='predictor_corrector',
    batch_norms=True,
    reimpose=False,
    dt='uniform',
    final='mean_of_last_operation',
    snr=0.16,
    time_min=1e-3,
  )
  c.evaluate.num_examples = 10_000
  # The step sizes of this sampler depend on the batch: 256, as published.
  c.evaluate.chunk_size = 256
  c.loop.checkpoint_every_steps = 10 * 250


def shrink(c):
  """A run of seconds: real readers and the same networks, made small."""
  c.data.standin = True
  c.data.mnist_dir = ''
  c.data.verify_checksums = False
  c.data.num_train, c.data.num_val, c.data.num_test = 256, 64, 64
  common.shrink(c, num_steps=4, batch_size=8, sampler_steps=2)
  c.evaluate.num_examples, c.evaluate.max_subsets, c.evaluate.chunk_size = 16, 1, 16
  c.sample.num_examples, c.sample.num_samples = 2, 1
  if c.preset == 'default':
    c.score.network.width, c.score.network.num_blocks = 32, 2
  if c.preset == 'paper':
    c.score.network.width = 16
  if c.preset in ('default', 'paper'):
    blocks = ((8, 8, 8, 2), (8, 8, 8, 2), (8, 8, 8, 2))
    for spec in c.modalities.values():
      spec.encoder.update(stem=8, blocks=blocks)
      if spec.decoder.name != 'diffusion':
        spec.decoder.update(blocks=blocks)
    decoders = [spec.decoder for spec in c.modalities.values()]
    decoders += c.refiner.decoders.values() if 'refiner' in c else ()
    for decoder in decoders:
      if decoder.name == 'diffusion':
        decoder.network.update(width=8, num_blocks=1, num_heads=2)
