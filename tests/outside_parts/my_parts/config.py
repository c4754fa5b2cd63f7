"""A config whose parts are of this package, as far as a config names parts.

Arguments:
  method: sbm_vae, mopoe, or native: diffusion of the examples themselves.
"""

from mmsbm.configs import base, methods
from mmsbm.configs.sizes import Sizes


def get_config(arg=None):
  arg = base.parse_arg(arg, method='sbm_vae')
  base.choose('method', arg.method, ('sbm_vae', 'mopoe', 'native'))
  c = base.base()
  c.method, c.preset = arg.method, 'default'
  c.data = dict(name='my_parts.data:build', num_train=64)
  c.modalities = base.ordered(
    dict(
      heading=dict(kind='my_parts.kinds:Angle', radius=2.0),
      place=dict(kind='vector', shape=(2,)),
    )
  )
  c.readers = base.ordered(
    dict(quadrant=dict(name='my_parts.readers:Quadrant', modalities=('heading',)))
  )
  c.evaluate.metrics = base.ordered(
    dict(
      angular_error=dict(name='my_parts.metrics:AngularError', largest=170.0),
      r2=dict(),
      coherence=dict(),
    )
  )
  evaluators = c.evaluate.evaluators.to_dict()
  spread = dict(name='my_parts.evaluators:Spread', modality='place')
  c.evaluate.evaluators = base.ordered(evaluators | dict(spread=spread))
  recipe = 'sbm_vae' if arg.method == 'native' else arg.method
  methods.RECIPES[recipe](c, sizes())
  if arg.method == 'native':
    native(c)
  elif arg.method == 'mopoe':
    c.samplings.narrow = dict(prior=dict(name='my_parts.priors:Narrow', factor=0.8))
    del c.samplings['mixture'], c.samplings['score'], c['score']
  else:
    euler(c)
    del c['energy']
    c.samplings.default.guidance = dict(name='my_parts.guidance:TowardsMean', scale=0.1)
  base.shrink(
    c,
    num_steps=4,
    batch_size=8,
    sampler_steps=3,
    num_examples=16,
    max_subsets=1,
    num_shown=2,
    num_samples=1,
  )
  return c


def euler(c):
  c.samplings.default.sampler = dict(name='my_parts.samplers:Euler', num_steps=3)


def native(c):
  """Leaves out what the method does not have."""
  c.method = 'my_parts.native_diffusion:make'
  del c['unimodal'], c['energy']
  euler(c)
  del c.samplings.default['guidance']


def sizes():
  training = dict(
    num_steps=4, batch_size=8, ema_decay=0.9, optimizer=dict(learning_rate=1e-3)
  )
  codec = dict(
    latent_dim=2,
    encoder=dict(name='my_parts.networks:SmallEncoder', width=8),
    decoder=dict(name='mlp', widths=(8,)),
    likelihood=dict(name='normal', scale=0.3),
  )
  score = dict(
    network=dict(name='my_parts.networks:SmallScoreNet', width=16), num_steps=4
  )
  return Sizes(
    codecs=dict(heading=codec, place=codec),
    unimodal=training,
    joint=training,
    joint_latent_dim=2,
    denoiser={},
    score=score,
    joint_score=score,
    energy=dict(num_steps=4),
  )
