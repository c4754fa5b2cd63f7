"""SBM-VAE, SBM-RAE and MLD: autoencoders, and a score model of all their latents."""

import functools

from mmsbm.configs import base
from mmsbm.configs.sizes import Sizes

AUTOENCODERS = {
  'sbm_vae': dict(name='vae', beta=1.0),
  'sbm_rae': dict(name='rae', beta=0.5, latent_noise=0.2),
  # A plain autoencoder.
  'mld': dict(name='rae', beta=0.0, latent_noise=0.0),
}

# The levels at which the modalities agree on a class.
LEVELS = dict(noise_min=0.55, noise_max=6.0)
# The first makes the most of few observed modalities, the second makes all generated
# ones agree.
GUIDANCE = dict(
  classifier_free=dict(
    name='classifier_free', scale=3.0, joint_scale=1.0, per_observed=True, **LEVELS
  ),
  energy=dict(name='energy', scale=0.5, **LEVELS),
)


def sbm(c, sizes: Sizes, *, autoencoder: dict) -> None:
  """Sets autoencoders, a score model, and energies that guide it."""
  unimodal(c, sizes, autoencoder)
  score(c, **sizes.score)
  energy(c, **sizes.energy)
  samplings(c, sizes, sampler(), GUIDANCE)


def mld(c, sizes: Sizes) -> None:
  """Sets multi-modal latent diffusion.

  Process, loss, share of conditional rows, loss scaling and sampler are those of arXiv
  2306.04445 and its code, which resamples; `euler` is the same without. Network,
  optimiser and number of steps are those of the other methods: a small part of the
  published training.
  """
  unimodal(c, sizes, AUTOENCODERS['mld'])
  score(c, **sizes.score)
  c.score.sde = dict(name='vp', beta_min=0.1, beta_max=20.0)
  c.score.parametrization = dict(name='noise')
  c.score.times = dict(name='uniform', time_min=1e-5)
  c.score.weighting = 'uniform'
  c.score.condition_probability = 0.2
  c.score.drop_probability = 0.0
  # Euler-Maruyama.
  euler = dict(name='predictor_corrector', num_steps=250, corrector_steps=0)
  samplings(c, sizes, euler, {})
  ways = c.samplings.to_dict()
  ways['euler'] = ways['default']
  resampled = dict(name='time_zero', jump_length=10, num_resamples=10)
  ways['default'] = dict(ways['default'], conditioning=resampled)
  c.samplings = base.ordered(ways)


def unimodal(c, sizes: Sizes, autoencoder: dict) -> None:
  """Sets an autoencoder for each modality."""
  c.unimodal = dict(
    autoencoder=autoencoder, networks=base.ordered(sizes.codecs), **sizes.unimodal
  )
  c.borrow.unimodal = ''


def score(
  c,
  *,
  network: dict,
  num_steps: int,
  batch_size: int = 256,
  learning_rate: float = 2e-3,
) -> None:
  """Sets the score model that was best on the digit data sets.

  Half of the training rows show some modalities clean, at a time of their own.
  """
  c.score = dict(
    network=network,
    sde=dict(name='ve', sigma_min=0.02, sigma_max=10.0),
    parametrization=dict(name='edm'),
    # Higher than for pictures: it is at the noise level of the latents themselves
    # that the modalities agree on a class.
    times=dict(name='lognormal', mean=0.5, std=1.2),
    weighting='edm',
    condition_probability=0.5,
    drop_probability=0.2,
    loss_scaling=True,
    # Share of the training tuples that are known to belong together. The pairing of
    # the remaining ones is hidden from training.
    paired_fraction=1.0,
    use_unpaired=True,
    standardise=True,
    num_steps=num_steps,
    batch_size=batch_size,
    ema_decay=0.999,
    optimizer=dict(learning_rate=learning_rate, warmup_steps=200, clip_norm=1.0),
  )
  c.borrow.score = ''


def sampler() -> dict:
  """Ten levels from noise 10 to 0.07, of which five are guided, each by both.

  This takes 20 evaluations. To end lower costs coherence; to end higher costs Fréchet
  distance.
  """
  return dict(
    name='dpm_solver', stochastic=True, num_steps=10, grid='edm', time_min=0.2
  )


def energy(
  c, *, num_steps: int, batch_size: int = 256, learning_rate: float = 2e-3
) -> None:
  """Sets the energies of pairs of latents, which one kind of guidance needs."""
  c.energy = dict(
    network=dict(name='tower', width=128, num_blocks=2, features=64),
    times=c.score.times.to_dict(),
    # Probability that a modality is shown clean, as an observed one is; rows that share
    # a noise level, of which batch_size is a multiple.
    clean_probability=0.3,
    group_size=8,
    # Share of the negatives to be taken out again, e.g. 0.1 for pairs of one class of
    # ten; 0 gives the energies that the guidance is defined with.
    false_negative_rate=0.0,
    num_steps=num_steps,
    batch_size=batch_size,
    ema_decay=0.999,
    optimizer=dict(learning_rate=learning_rate, warmup_steps=200, clip_norm=1.0),
  )
  c.borrow.energy = ''


def samplings(c, sizes: Sizes, own: dict, guidance: dict) -> None:
  """Sets the way of sampling, and the others that it is compared with."""
  conditioning = dict(name='time_zero')
  ways = {'default': dict(sampler=own, conditioning=conditioning, guidance=guidance)}
  for name, other in sizes.samplers.items():
    ways[name] = dict(sampler=other, conditioning=conditioning, guidance={})
  if sizes.unguided and guidance:
    ways['unguided'] = dict(sampler=own, conditioning=conditioning, guidance={})
  c.samplings = base.ordered(ways)


RECIPES = {
  'sbm_vae': functools.partial(sbm, autoencoder=AUTOENCODERS['sbm_vae']),
  'sbm_rae': functools.partial(sbm, autoencoder=AUTOENCODERS['sbm_rae']),
  'mld': mld,
}
