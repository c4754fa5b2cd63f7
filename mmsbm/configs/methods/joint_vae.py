"""Joint VAEs: one latent for all modalities; Diff-MVAE is one of them."""

import functools

from mmsbm.configs import base
from mmsbm.configs.methods import score_based
from mmsbm.configs.methods.refiner import decoder_sampler, diffusion_decoder
from mmsbm.configs.sizes import Sizes

# Objectives with their weights of the divergence.
OBJECTIVES = {
  'mvae': dict(name='mvae', beta=1.0),
  'mmvae': dict(name='mmvae', beta=1.0, num_samples=1, estimator='elbo'),
  'mopoe': dict(name='mopoe', beta=1.0),
  'mmjsd': dict(name='mmjsd', beta=1.0),
  'mvtcae': dict(name='mvtcae', beta=2.5, alpha=0.9),
  'hoelder': dict(name='hoelder', beta=1.0),
  'mmvaeplus': dict(name='mmvaeplus', beta=1.0, num_samples=1, estimator='elbo'),
  'diff_mvae': dict(name='mopoe', beta=1.0),
}

# Training examples of the linear classifiers of latents that methods are compared by.
PROBE_EXAMPLES = 1_000


def joint_vae(
  c, sizes: Sizes, *, objective: dict, family: str = 'normal', private: bool = False
) -> None:
  """Sets a joint VAE, with a score model on its latent.

  Samples from nothing are drawn from the prior, as the methods have it; those of a
  mixture of Gaussians and of the score model stand beside them.

  Args:
    c: a config with modalities.
    sizes: of its networks; `joint_latent_dim` in place of the codecs' latent sizes.
    objective: one of OBJECTIVES.
    family: of posteriors and priors.
    private: whether half of the latent belongs to each modality alone.
  """
  size = sizes.joint_latent_dim
  c.joint = dict(
    objective=objective,
    family=family,
    private_dim=size // 2 if private else 0,
    # Factors of the log-likelihoods: whether those of modalities with few entries are
    # raised to that of the largest one, and further factors by name of the modality.
    scale_likelihoods=False,
    likelihood_weights=dict(),
    networks=base.ordered(
      {name: {**codec, 'latent_dim': size} for name, codec in sizes.codecs.items()}
    ),
    **sizes.joint,
  )
  score_based.score(c, **sizes.joint_score)
  # There is one latent, and no part of it is observed.
  c.score.condition_probability = c.score.drop_probability = 0.0
  c.borrow.joint = ''
  c.samplings = base.ordered(
    {'default': standard(), 'mixture': mixture(), 'score': score()}
  )
  c.evaluate.evaluators.linear_probe.num_train = PROBE_EXAMPLES


def hoelder(c, sizes: Sizes) -> None:
  """Sets Hölder pooling, with as many pairs as the data set says."""
  pairs = dict(max_pairs=sizes.max_pairs) if sizes.max_pairs else {}
  joint_vae(c, sizes, objective=OBJECTIVES['hoelder'] | pairs)


def diff_mvae(c, sizes: Sizes) -> None:
  """Sets Diff-MVAE: images have diffusion decoders, latents come from the score model.

  arXiv 2408.16883.
  """
  joint_vae(c, sizes, objective=OBJECTIVES['diff_mvae'])
  # The score model is part of the method.
  c.samplings = base.ordered(
    {'default': score(), 'mixture': mixture(), 'prior': standard()}
  )
  images = [name for name, spec in c.modalities.items() if spec.kind == 'image']
  for name in images:
    c.joint.networks[name].decoder = diffusion_decoder(sizes.denoiser)
    # Much of the loss of a denoiser is about noise that says nothing of z: with weight
    # 1 the posteriors of `digits` kept 9 nats, those of Gaussian decoders 77. On its
    # validation split, seed 0, given one and three others, coherence was 0.82 and 0.93
    # with weight 10, 0.78 and 0.92 with 3; Fréchet distances were 2 lower with 3.
    c.joint.likelihood_weights[name] = 10.0
  if images:
    c.decoder_sampler = decoder_sampler()
    # On the same split, with weight 3 and without guidance, coherence was 0.59 and
    # 0.72. Scale 1 was less coherent.
    c.decoder_guidance = dict(
      name='classifier_free', scale=2.0, noise_min=0.55, noise_max=6.0
    )


def standard() -> dict:
  """Draws the latent from the prior that the objective is trained with."""
  return dict(prior=dict(name='standard'))


def mixture() -> dict:
  """Draws it from a mixture of Gaussians, fitted to latents of the training split."""
  return dict(prior=dict(name='mixture', num_components=50))


def score() -> dict:
  """Draws it from the score model."""
  return dict(prior=dict(name='score', sampler=score_based.sampler()))


RECIPES = {
  'mvae': functools.partial(joint_vae, objective=OBJECTIVES['mvae']),
  'mmvae': functools.partial(
    joint_vae, objective=OBJECTIVES['mmvae'], family='laplace'
  ),
  'mopoe': functools.partial(joint_vae, objective=OBJECTIVES['mopoe']),
  'mmjsd': functools.partial(joint_vae, objective=OBJECTIVES['mmjsd']),
  'mvtcae': functools.partial(joint_vae, objective=OBJECTIVES['mvtcae']),
  'mmvaeplus': functools.partial(
    joint_vae, objective=OBJECTIVES['mmvaeplus'], family='laplace', private=True
  ),
  'hoelder': hoelder,
  'diff_mvae': diff_mvae,
}
