"""A part of every other sort: those of mmsbm under names of their own."""

import dataclasses

import jax.numpy as jnp
import optax
from flax import struct

from mmsbm.diffusion.guided_levels import DecoderGuidance
from mmsbm.diffusion.losses import LognormalTimes
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.sde import VE
from mmsbm.distributions import DiagLaplace, Normal
from mmsbm.learners.autoencoder import VAE
from mmsbm.nn.classifiers import PatchClassifier
from mmsbm.nn.decoders import MLPDecoder
from mmsbm.nn.denoisers import PatchDenoiser
from mmsbm.nn.energy_nets import Tower
from mmsbm.objectives.mixtures import MMVAEPlus
from mmsbm.samplers.conditioning import TimeZero


class Decoder(MLPDecoder):
  """A decoder."""


class Denoiser(PatchDenoiser):
  """A network of diffusion decoders."""


class EnergyNet(Tower):
  """A network of energies."""


class ClassifierNet(PatchClassifier):
  """A network that reads examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Normal):
  """A likelihood."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(VAE):
  """An autoencoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(MMVAEPlus):
  """An objective with private latents, for any family of posteriors."""


@struct.dataclass
class Posterior(DiagLaplace):
  """A family of posteriors."""


@dataclasses.dataclass(frozen=True)
class Process(VE):
  """A stochastic differential equation."""


@dataclasses.dataclass(frozen=True)
class Parametrization(EDM):
  """What a score network predicts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times(LognormalTimes):
  """Draws training times."""


def weighting(sde, t):
  """Weights of the denoising loss."""
  return 1 + jnp.square(sde.noise_level(t))


@dataclasses.dataclass(frozen=True)
class Conditioning(TimeZero):
  """How observed latents are shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfDecoders(DecoderGuidance):
  """A guidance of diffusion decoders."""


def lion(*, num_steps, learning_rate):
  """An optimiser."""
  return optax.lion(optax.cosine_decay_schedule(learning_rate, num_steps))
