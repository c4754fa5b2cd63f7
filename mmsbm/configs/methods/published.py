"""SBM-VAE and SBM-RAE as published: losses, schedules and sampler of arXiv 2305.15708.

They hold as far as they are known; docs/limits.md lists what still differs.
"""

import functools
from collections.abc import Mapping

from mmsbm.configs import base


def sbm(
  c,
  codecs: Mapping,
  epoch: int,
  *,
  autoencoder: dict,
  num_epochs: int,
) -> None:
  """Sets autoencoders and a score model with one time for all modalities.

  Args:
    c: a config with modalities.
    codecs: networks of the autoencoders by modality.
    epoch: steps in which every training example is seen once.
    autoencoder: one of AUTOENCODERS.
    num_epochs: of the autoencoders.
  """
  c.unimodal = dict(
    autoencoder=autoencoder,
    networks=base.ordered(codecs),
    num_steps=num_epochs * epoch,
    batch_size=256,
    ema_decay=0.0,
    # optax acts on the 6th window without progress, as PyTorch does with patience 5.
    optimizer=dict(
      learning_rate=1e-3, schedule='constant', plateau_patience=6, plateau_steps=epoch
    ),
  )
  c.score = dict(
    network=dict(name='unet', width=128 if len(codecs) > 5 else 64),
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
  c.borrow.unimodal = c.borrow.score = ''
  c.samplings = base.ordered(
    dict(
      default=dict(
        sampler=sampler(),
        conditioning=dict(name='paper'),
        guidance={},
      )
    )
  )


def sampler() -> dict:
  """The predictor-corrector of the published code."""
  return dict(
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


PUBLISHED = {
  'sbm_vae': functools.partial(
    sbm, autoencoder=dict(name='vae', beta=0.5), num_epochs=200
  ),
  'sbm_rae': functools.partial(
    sbm,
    autoencoder=dict(name='rae', beta=1e-5, latent_noise=0.01),
    num_epochs=100,
  ),
}
