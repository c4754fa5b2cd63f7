"""What all configs share: their arguments and the defaults of the loop."""

import copy
import difflib
import os

import ml_collections


def parse_arg(arg: str | None, **defaults):
  """Parses 'smoke,modalities=3' into values of the types of `defaults`.

  Args:
    arg: what stands after the colon in --config=file.py:arg. A bare name means
      True.
    **defaults: every argument that exists, with its default.

  Returns:
    A ConfigDict with an entry for each default.

  Raises:
    ValueError: unknown argument, or a value of the wrong type.
  """
  values = ml_collections.ConfigDict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, _, text = item.partition('=')
    if name not in defaults:
      close = difflib.get_close_matches(name, defaults, n=1)
      hint = f' Did you mean {close[0]!r}?' if close else ''
      raise ValueError(
        f'unknown config argument {name!r}; there are {sorted(defaults)}.{hint}'
      )
    default = defaults[name]
    if isinstance(default, bool):
      if text not in ('', 'True', 'true', '1', 'False', 'false', '0'):
        raise ValueError(f'config argument {name} is True or False, not {text!r}.')
      values[name] = text not in ('False', 'false', '0')
    else:
      try:
        values[name] = type(default)(text)
      except ValueError as e:
        kind = type(default).__name__
        raise ValueError(f'config argument {name} is of type {kind}: {text!r}.') from e
  return values


def choose(name: str, value: str, choices) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f'{name}={value} is not one of {list(choices)}.')


def ordered(specs: dict) -> ml_collections.ConfigDict:
  """A section that keeps its order; others are in alphabetical order."""
  return ml_collections.ConfigDict(specs, sort_keys=False)


def base() -> ml_collections.ConfigDict:
  """Sections and values that no data set changes."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.stages = ('classifier', 'unimodal', 'score')
  # Train the autoencoder of this modality alone, e.g. one per task of a cluster.
  c.only = ''
  # Folder of a run whose classifier and autoencoders are used in place of own ones; it
  # may have more modalities. A relative path begins here or, if there is nothing, in
  # the workdir.
  c.pretrained = ''
  # Which of the two: ('classifier',) for autoencoders of its own.
  c.pretrained_stages = ('classifier', 'unimodal')
  c.loop = dict(
    block_steps=250,
    checkpoint_every_steps=1000,
    keep_checkpoints=2,
    # Training sets up to this size are copied to the devices.
    device_memory_gb=4.0,
  )
  c.evaluate = dict(
    split='test',
    num_examples=1000,
    # Observed sets of each size: all of them while there are at most so many.
    max_subsets=10,
    chunk_size=500,
    # Setups of config.compare given every number of modalities, not only the rest
    # and nothing.
    compare_all_given=False,
    # Numbers of observed modalities; empty: all.
    num_given=(),
    precision_recall=True,
    # Training examples of linear classifiers of the latents; 0: none.
    linear_probe=0,
    # Output of `python -m mmsbm.convert_inception`; empty: no FID.
    inception_weights='',
    # Of so many test examples; 0: none. On two CPU cores 200 take minutes with
    # num_probes=8, and as many times longer as there are 8 latent dimensions without.
    likelihood=dict(
      num_examples=0,
      # Draws from the posterior of each VAE.
      num_importance_samples=1000,
      # Of the probability flow, and random directions of its divergence, at least
      # 2; 0: exact.
      num_steps=25,
      num_probes=0,
      time_min=1e-5,
    ),
    seed=0,
  )
  c.sample = dict(split='test', num_examples=10, num_samples=3, seed=0)
  # What is added to the score at sampling: dict(name=...), or several of them under
  # names of their own; empty: nothing.
  c.guidance = dict()
  # Other setups that are measured: name -> dict(sampler=..., conditioning=...,
  # guidance=...), each as above where it is not given.
  c.compare = dict()
  return c


def cache_dir() -> str:
  """Where prepared data sets are kept."""
  return os.environ.get('MMSBM_CACHE', os.path.join('~', '.cache', 'mmsbm'))


# A latent for each modality under one score model, or one latent for all.
SCORE_METHODS = ('sbm_vae', 'sbm_rae', 'mld')
JOINT_METHODS = (
  'mvae', 'mmvae', 'mopoe', 'mmjsd', 'mvtcae', 'mmvaeplus', 'hoelder', 'diff_mvae',
)  # fmt: skip
METHODS = (*SCORE_METHODS, *JOINT_METHODS)

# Of joint VAEs, with their weights of the divergence.
OBJECTIVES = {
  'mvae': dict(name='mvae', beta=1.0),
  'mmvae': dict(name='mmvae', beta=1.0, num_samples=1, estimator='elbo'),
  'mopoe': dict(name='mopoe', beta=1.0),
  'diff_mvae': dict(name='mopoe', beta=1.0),
  'mmjsd': dict(name='mmjsd', beta=1.0),
  'mvtcae': dict(name='mvtcae', beta=2.5, alpha=0.9),
  'hoelder': dict(name='hoelder', beta=1.0),
  'mmvaeplus': dict(name='mmvaeplus', beta=1.0, num_samples=1, estimator='elbo'),
}

# Training examples of the linear classifiers of latents that methods are compared by.
PROBE_EXAMPLES = 1_000


def autoencoder(method: str, *, vae: dict, rae: dict) -> dict:
  """The autoencoder of a method; that of multi-modal latent diffusion is plain."""
  return {
    'sbm_vae': dict(name='vae', **vae),
    'sbm_rae': dict(name='rae', **rae),
    'mld': dict(name='rae', beta=0.0, latent_noise=0.0),
  }[method]


def generative_model(
  c, method: str, *, unimodal: dict, joint: dict, score: dict, refine: bool = False
) -> None:
  """Sets all that is trained but the classifier.

  Args:
    c: a config with modalities.
    method: one of METHODS.
    unimodal: section of autoencoders, see `autoencoder` for the missing field.
    joint: arguments of `joint_vae`, for methods with one latent.
    score: arguments of `multi_time_score`.
    refine: whether what autoencoders decode is refined, by the `denoiser` of `joint`.

  Raises:
    ValueError: a joint VAE is to be refined.
  """
  if method in JOINT_METHODS:
    if refine:
      raise ValueError(
        f'refine is for what autoencoders decode, method={"|".join(SCORE_METHODS)}; a '
        'joint VAE may have diffusion decoders: method=diff_mvae.'
      )
    joint_vae(c, method, score=score, **joint)
    return
  c.unimodal = dict(
    autoencoder=autoencoder(
      method, vae=dict(beta=1.0), rae=dict(beta=0.5, latent_noise=0.2)
    ),
    **unimodal,
  )
  multi_time_score(c, **score)
  if method == 'mld':
    mld_score(c)
  else:
    energy(c)
  if refine:
    refiner(c, joint['denoiser'])


def multi_time_score(
  c,
  *,
  network: dict,
  num_steps: int,
  batch_size: int = 256,
  learning_rate: float = 2e-3,
) -> None:
  """Sets score model, conditioning and sampler: what was best on the digit data sets.

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
    # Of the other training tuples it is not known what belongs together.
    paired_fraction=1.0,
    use_unpaired=True,
    standardise=True,
    num_steps=num_steps,
    batch_size=batch_size,
    ema_decay=0.999,
    optimizer=dict(learning_rate=learning_rate, warmup_steps=200, clip_norm=1.0),
  )
  c.conditioning = dict(name='time_zero')
  # Ten levels from noise 10 to 0.07, of which five are guided, each by both: 20
  # evaluations. To end lower costs coherence; to end higher costs Fréchet distance.
  c.sampler = dict(
    name='dpm_solver', stochastic=True, num_steps=10, grid='edm', time_min=0.2
  )
  # At the levels at which the modalities agree on a class. The first makes the most of
  # few observed modalities, the second makes all generated ones agree.
  levels = dict(noise_min=0.55, noise_max=6.0)
  c.guidance = dict(
    classifier_free=dict(
      name='classifier_free', scale=3.0, joint_scale=1.0, per_observed=True, **levels
    ),
    energy=dict(name='energy', scale=0.5, **levels),
  )


def mld_score(c) -> None:
  """Turns a `multi_time_score` into that of multi-modal latent diffusion.

  Process, loss, share of conditional rows, loss scaling and sampler of arXiv
  2306.04445 and its code; network, optimiser and number of steps stay as they are, so
  that methods are compared at equal cost.
  """
  c.score.sde = dict(name='vp', beta_min=0.1, beta_max=20.0)
  c.score.parametrization = dict(name='noise')
  c.score.times = dict(name='uniform', time_min=1e-5)
  c.score.weighting = 'uniform'
  c.score.condition_probability = 0.2
  c.score.drop_probability = 0.0
  # Euler-Maruyama.
  c.sampler = dict(name='predictor_corrector', num_steps=250, corrector_steps=0)
  c.guidance = dict()


def joint_vae(
  c,
  method: str,
  *,
  latent_dim: int,
  denoiser: dict,
  score: dict,
  **training,
) -> None:
  """Sets a joint VAE in place of autoencoders, with a score model on its latent.

  Samples from nothing are drawn from the prior, as the methods have it; those of a
  mixture of Gaussians and of the score model stand beside them.

  Args:
    c: a config with modalities.
    method: one of JOINT_METHODS.
    latent_dim: of the one latent; half of it is private with mmvaeplus.
    denoiser: network of the diffusion decoders of images, with diff_mvae.
    score: arguments of `multi_time_score`.
    **training: how the joint VAE is trained: num_steps, batch_size, ...
  """
  for spec in c.modalities.values():
    spec.latent_dim = latent_dim
  c.stages = ('classifier', 'joint', 'score')
  c.pretrained_stages = ('classifier', 'joint')
  c.joint = dict(
    objective=OBJECTIVES[method],
    family='laplace' if method in ('mmvae', 'mmvaeplus') else 'normal',
    private_dim=latent_dim // 2 if method == 'mmvaeplus' else 0,
    # Factors of the log-likelihoods: those of modalities with few entries are raised to
    # that of the largest one, or what stands here under the name of a modality.
    scale_likelihoods=False,
    likelihood_weights=dict(),
    **training,
  )
  # Half the steps: it learns one latent and no conditional. Not compared with more.
  multi_time_score(c, **{**score, 'num_steps': score['num_steps'] // 2})
  # One latent, of which nothing is observed.
  c.score.condition_probability = c.score.drop_probability = 0.0
  c.conditioning, c.guidance = dict(), dict()
  c.compare = {
    'mixture': dict(sampler=dict(name='gaussian_mixture', num_components=50)),
    'score': dict(sampler=c.sampler.to_dict()),
  }
  c.sampler = dict(name='prior')
  c.decoder_sampler = decoder_sampler()
  # Of diffusion decoders by their latent; empty: none.
  c.decoder_guidance = dict()
  c.evaluate.linear_probe = PROBE_EXAMPLES
  if method == 'diff_mvae':
    for name, spec in c.modalities.items():
      if spec.kind == 'image':
        spec.decoder = diffusion_decoder(denoiser)
        # Much of the loss of a denoiser is about noise that says nothing of z: with
        # weight 1 the posteriors of `digits` kept 9 nats, of Gaussian decoders 77. On
        # its validation split, seed 0, given one and three others, coherence was 0.82
        # and 0.93 with weight 10, 0.78 and 0.92 with 3; Fréchet distances were 2 lower
        # with 3.
        c.joint.likelihood_weights[name] = 10.0
    # There, with weight 3 and without guidance, coherence was 0.59 and 0.72. Scale 1
    # was less coherent.
    c.decoder_guidance = dict(
      name='classifier_free', scale=2.0, noise_min=0.55, noise_max=6.0
    )
    # The score model is part of the method.
    c.compare.prior = dict(sampler=c.sampler.to_dict())
    c.sampler = c.compare.score.sampler
    del c.compare.score


def diffusion_decoder(network: dict) -> dict:
  """A decoder of images that is a diffusion model; `network` is one of DENOISERS."""
  return dict(
    name='diffusion',
    network=network,
    sde=dict(name='ve', sigma_min=0.005, sigma_max=20.0),
    parametrization=dict(name='edm'),
    # Wide enough for the first levels of the sampler, which hold no detail.
    times=dict(name='lognormal', mean=0.2, std=1.4),
    weighting='edm',
    # Mean and standard deviation of pixels in [0, 1], about.
    offset=0.5,
    scale=0.35,
    drop_probability=0.1,
  )


def decoder_sampler() -> dict:
  """Levels from 20 to 0.09; samples are the denoised pictures of the last one."""
  return dict(
    name='dpm_solver', stochastic=True, num_steps=10, grid='edm', time_min=0.35
  )


def refiner(c, network: dict) -> None:
  """Adds the stage that draws images from what their autoencoders decode.

  It is trained as the autoencoders are. A finished run without it can still get it.

  Args:
    c: a config with autoencoders.
    network: one of DENOISERS.
  """
  c.stages = tuple(dict.fromkeys((*c.stages, 'refiner')))
  # Copies, so that an override of one changes no other.
  training = c.unimodal.to_dict()
  del training['autoencoder']
  decoder = diffusion_decoder(network) | dict(drop_probability=0.0)
  c.refiner = dict(
    decoders={
      name: copy.deepcopy(decoder)
      for name, modality in c.modalities.items()
      if modality.kind == 'image'
    },
    **training,
  )
  c.decoder_sampler = decoder_sampler()


def unet_decoder(side: int, **options) -> dict:
  """`diffusion_decoder` for images `side` pixels high and wide, 28 to 128.

  Above 32 pixels it computes in bfloat16, and blocks again in the backward pass, for an
  accelerator. `options` are other arguments of the U-Net.
  """
  if side <= 32:
    network = dict(pad=(32 - side) // 2)
  else:
    patch = 1 if side <= 96 else 2
    network = dict(
      multipliers=(1, 2, 3, 4),
      attention=(side // patch // 4, side // patch // 8),
      patch=patch,
      dtype='bfloat16',
      remat=True,
    )
  return diffusion_decoder(dict(name='unet', **network | options))


def energy(
  c,
  *,
  network: dict | None = None,
  num_steps: int = 0,
  batch_size: int = 0,
  learning_rate: float = 2e-3,
) -> None:
  """Adds the stage that energy guidance needs, after the score model's.

  Args:
    c: a config with a score model.
    network: of the energies.
    num_steps: half of those of the score model if 0.
    batch_size: a multiple of `group_size`; that of the score model if 0.
    learning_rate: at its highest.
  """
  c.stages = (*c.stages, 'energy')
  c.energy = dict(
    network=network or dict(name='tower', width=128, num_blocks=2, features=64),
    times=c.score.times.to_dict(),
    # A modality is shown clean, as an observed one; rows that share a noise level.
    clean_probability=0.3,
    group_size=8,
    # Share of the negatives to be taken out again, e.g. 0.1 for pairs of one class of
    # ten; 0 gives the energies that the guidance is defined with.
    false_negative_rate=0.0,
    num_steps=num_steps or c.score.num_steps // 2,
    batch_size=batch_size or c.score.batch_size,
    ema_decay=0.999,
    optimizer=dict(learning_rate=learning_rate, warmup_steps=200, clip_norm=1.0),
  )


def shrink(c, *, num_steps: int, batch_size: int, sampler_steps: int) -> None:
  """Makes training, the blocks of the loop and sampling short: numbers mean nothing."""
  for spec in (c, *c.compare.values()):
    for key in ('num_steps', 'num_components'):
      if key in spec.get('sampler', {}):
        spec.sampler[key] = sampler_steps
  for stage in c.stages:
    c[stage].num_steps, c[stage].batch_size = num_steps, batch_size
  c.loop.block_steps = c.loop.checkpoint_every_steps = num_steps // 2
