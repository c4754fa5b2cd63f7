"""Diffusion models of images: as decoders of a latent, and as refiners."""

from collections.abc import Mapping

from mmsbm.configs.sizes import Sizes


def diffusion_decoder(network: Mapping, *, drop_probability: float = 0.1) -> dict:
  """A decoder of images that is a diffusion model; `network` is one of DENOISERS."""
  return dict(
    name='diffusion',
    network=dict(network),
    sde=dict(name='ve', sigma_min=0.005, sigma_max=20.0),
    parametrization=dict(name='edm'),
    # Wide enough for the first levels of the sampler, which hold no detail.
    times=dict(name='lognormal', mean=0.2, std=1.4),
    weighting='edm',
    # Mean and standard deviation of pixels in [0, 1], about.
    offset=0.5,
    scale=0.35,
    drop_probability=drop_probability,
  )


def unet(side: int, **options) -> dict:
  """The U-Net of a diffusion decoder for images `side` pixels high and wide, 28 to 128.

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
  return dict(name='unet', **network | options)


def decoder_sampler() -> dict:
  """Levels from 20 to 0.09; samples are the denoised pictures of the last one."""
  return dict(
    name='dpm_solver', stochastic=True, num_steps=10, grid='edm', time_min=0.35
  )


def refine(c, sizes: Sizes) -> None:
  """Adds the step that draws images from what their autoencoders decode.

  Refiners are trained as the autoencoders are. A finished run without them can still
  get them.

  Args:
    c: a config with autoencoders.
    sizes: those of its recipe.

  Raises:
    ValueError: the method has no autoencoders.
  """
  if 'unimodal' not in c:
    raise ValueError(
      'refine is for what autoencoders decode, method=sbm_vae|sbm_rae|mld; a joint VAE '
      'may have diffusion decoders: method=diff_mvae.'
    )
  c.refiner = dict(
    decoders={
      name: diffusion_decoder(sizes.denoiser, drop_probability=0.0)
      for name, modality in c.modalities.items()
      if modality.kind == 'image'
    },
    **sizes.unimodal,
  )
  c.decoder_sampler = decoder_sampler()
  c.borrow.refiner = ''
