"""Your own data, without code: copy this file, or set its fields on the command line.

  python -m mmsbm.main --config=configs/arrays.py --workdir=runs/mine \
    --config.data.files=FILE.npz

FILE.npz has one array with a row per example for every modality, and may have
`labels` [N] (integers, -1 where unknown) and `present` [N, M] (False where an example
lacks a modality; columns in the order of the modalities below). A dict
{modality: "FILE.npy"} in place of one file reads arrays that do not fit in memory. See
mmsbm/data/arrays.py for all that a location can be.

The modalities below are those of the stand-in that `smoke` writes; each shows
another kind. What a kind expects, and which likelihoods fit:

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

An empty section means that there is no such thing:
  --config.readers.digit={}          data without labels: no classifier is trained
  --config.energy={} --config.samplings.guided={}
                                     no energies, and no draws guided by them

Code of your own needs no change of the program. Wherever a part has a `name` (data,
kinds, networks, likelihoods, samplers, metrics, ...), 'package.module:Class' is taken
too, and so it is as the method:
  --config.method=package.module:make
`make` is a recipe like those of mmsbm/methods. It reads the sections of the config that
it likes: choose the argument `method` whose sections are nearest to them, or, in a copy
of this file, set other ones in place of the line with RECIPES.
"""

from mmsbm.configs import base, methods
from mmsbm.configs.sizes import Sizes

# What the examples are: the kind of each modality, and what the kind must know. The
# order is that of the columns of `present`.
MODALITIES = dict(
  image=dict(kind='image', shape=(16, 16, 1)),
  attributes=dict(kind='attributes', shape=(4,)),
  # Its columns are brought to zero mean and unit variance; see `offset` and `scale`.
  profile=dict(kind='vector', shape=(16,)),
  number=dict(kind='label', num_classes=10),
)

# Networks of each modality, where they shall not be those that mmsbm/automatic.py has
# for its kind, its shape and the number of examples. Any of latent_dim, encoder,
# decoder, likelihood and beta, e.g.
#   profile=dict(latent_dim=8, encoder=dict(name='mlp', widths=(128, 128)))
CODECS = dict()

# Networks that read examples. What is generated is coherent if they read the same class
# off it as off what was given, and Fréchet distances compare their features. The
# modalities of one classifier have one shape. Without labels: leave `digit` out.
READERS = dict(
  digit=dict(
    name='classifier',
    annotation='class',
    modalities=('image',),
    network=dict(name='patch', patch=4, width=64, num_layers=2, dropout=0.2),
    num_steps=2_000,
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=100, weight_decay=0.05),
  ),
  random_conv=base.RANDOM_CONV,
  inception=base.INCEPTION,
)


def get_config(arg=None):
  arg = base.parse_arg(
    arg,
    method='sbm_vae',
    modalities=len(MODALITIES),
    preset='default',
    refine=False,
    smoke=False,
  )
  base.choose('method', arg.method, methods.METHODS)
  base.choose('preset', arg.preset, ('default',))
  base.choose('modalities', arg.modalities, range(2, len(MODALITIES) + 1))
  c = base.base()
  c.method, c.preset = arg.method, arg.preset
  c.data = dict(
    name='arrays',
    cache_dir=base.cache_dir(),
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
  names = list(MODALITIES)[: arg.modalities]
  c.modalities = base.ordered({name: MODALITIES[name] for name in names})
  c.readers = base.ordered(READERS)
  sizes = sizes_of(names)
  methods.RECIPES[arg.method](c, sizes)
  if arg.refine:
    methods.refine(c, sizes_of(names))
  leave_open(c)
  if arg.smoke:
    base.shrink(
      c,
      num_steps=20,
      batch_size=32,
      sampler_steps=4,
      num_examples=64,
      max_subsets=2,
      num_shown=4,
      num_samples=2,
    )
  return c


def leave_open(c):
  """Leaves to the number of examples what depends on it."""
  for name in ('unimodal', 'joint', 'score', 'energy', 'refiner'):
    if name in c:
      # The best step by the loss on the validation split is kept.
      c[name].patience = base.auto(int)
      c[name].optimizer.weight_decay = base.auto(float)
  if 'unimodal' in c:
    if c.score.parametrization.name == 'edm':
      c.score.preconditioning = 'gaussian'
    for codec in c.unimodal.networks.values():
      codec.beta = codec.get('beta', base.auto(float))
  else:
    for name in c.modalities:
      c.joint.likelihood_weights[name] = base.auto(float)
  if 'guidance' in c.samplings.default and c.samplings.default.guidance:
    # Unguided draws have the spread of the data; guided ones fit together better.
    guided = c.samplings.default.to_dict()
    c.samplings.default.guidance = {}
    c.samplings.guided = base.ordered(guided)


def sizes_of(names):
  """How large and how long; each method uses its part of it."""
  training = dict(
    num_steps=base.auto(int),
    batch_size=128,
    ema_decay=0.999,
    optimizer=dict(learning_rate=1e-3, warmup_steps=200, clip_norm=1e4),
  )
  score = dict(batch_size=128, learning_rate=1e-3)
  open_parts = ('encoder', 'decoder', 'likelihood')
  return Sizes(
    codecs={
      name: dict(latent_dim=base.auto(int))
      | {part: {} for part in open_parts}
      | CODECS.get(name, {})
      for name in names
    },
    unimodal=training,
    joint=training | dict(num_steps=base.auto(int)),
    joint_latent_dim=32,
    # Network of diffusion decoders, and of refiners.
    denoiser=dict(name='mixer', patch=4, width=96, num_layers=3),
    score=dict(network={}, num_steps=base.auto(int), **score),
    joint_score=dict(network={}, num_steps=base.auto(int), **score),
    energy=dict(num_steps=base.auto(int), batch_size=128),
  )
