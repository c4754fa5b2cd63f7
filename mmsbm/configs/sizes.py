"""How large networks and how long trainings are: what a data set knows of a method."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """What a recipe asks of a data set. Every recipe uses its part of it.

  A training is dict(num_steps, batch_size, ema_decay, optimizer).

  Attributes:
    codecs: networks by modality: dict(latent_dim, encoder, decoder, likelihood).
    unimodal: training of autoencoders, and of their refiners.
    joint: training of joint VAEs.
    joint_latent_dim: size of the one latent of joint VAEs.
    denoiser: network of diffusion decoders and refiners.
    score: arguments of `score_based.score`: network, num_steps, batch_size,
      learning_rate.
    joint_score: the same for the latent of a joint VAE.
    energy: arguments of `score_based.energy`: num_steps, batch_size.
    max_pairs: see objectives.Hoelder; 0: its default.
    samplers: further samplers that score models are measured with, by the name of the
      way of sampling; without guidance.
    unguided: whether guided methods are also measured without guidance.
  """

  codecs: Mapping[str, Spec]
  unimodal: Spec
  joint: Spec
  joint_latent_dim: int
  denoiser: Spec
  score: Spec
  joint_score: Spec
  energy: Spec
  max_pairs: int = 0
  samplers: Mapping[str, Spec] = dataclasses.field(default_factory=dict)
  unguided: bool = False
