"""A method: diffusion of the examples themselves, without autoencoders.

Steps: latents -> score. A 'latent' is an example as networks see it, flat and
standardised: discrete modalities as real vectors of their one-hot or 0/1 form (analog
bits, arXiv 2208.04202).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.config import Section, describe
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import START, STEPS, row_normal, substream
from mmsbm.latents import NOISY, OBSERVED, LatentLayout
from mmsbm.learners.latent_score import LatentScore
from mmsbm.methods.base import Derived, Method, moments, samplings
from mmsbm.methods.latent_diffusion import score_stage
from mmsbm.methods.problem import Problem
from mmsbm.modalities import Modality
from mmsbm.samplers import CONDITIONING, SAMPLERS


@dataclasses.dataclass(frozen=True)
class Sampling:
  """A solver, and how observed modalities are shown to the network."""

  sampler: Any
  conditioning: Any


@dataclasses.dataclass(frozen=True)
class NativeDiffusion:
  """Examples in, examples out; see `mmsbm.models.base.MultimodalModel`.

  Attributes:
    modalities: the records.
    score: the network, over the examples of all modalities, flat.
    samplings: ways of drawing samples by name; the first is the run's own.
  """

  modalities: tuple[Modality, ...]
  score: LatentScore
  samplings: Mapping[str, Sampling]

  def encode(self, variables, x):
    """Returns examples as the network sees them, [B, D]."""
    stats = variables['latents']
    return (flatten(self.modalities, x) - stats['mean']) / stats['std']

  def sample(self, variables, keys, encoded, observed, sampling):
    """Draws all modalities given those that are observed [B, M]."""
    chosen, sde, layout = self.samplings[sampling], self.score.sde, self.score.layout
    conditioning, observed_dims = chosen.conditioning, layout.expand(observed)

    def score_fn(z, t):
      times = conditioning.times(t, observed)
      role = jnp.where(conditioning.flags(observed), OBSERVED, NOISY)
      return self.score.score(variables['score'], z, layout.expand(times), times, role)

    z = chosen.sampler(
      substream(keys.latents, STEPS),
      score_fn,
      sde.prior_std * row_normal(keys.latents, START, encoded.shape[1:]),
      sde=sde,
      hold=functools.partial(
        conditioning.hold, sde=sde, z_observed=encoded, observed_dims=observed_dims
      ),
      resampling=conditioning.resampling,
    )
    stats = variables['latents']
    z = jnp.where(observed_dims, encoded, z) * stats['std'] + stats['mean']
    return tuple(
      part.reshape(-1, *modality.model_shape)
      for part, modality in zip(layout.split(z), self.modalities, strict=True)
    )

  def num_evaluations(self, sampling, num_given):
    """Returns how often the network runs for a sample."""
    del num_given
    chosen = self.samplings[sampling]
    resampling = chosen.conditioning.resampling
    return len(chosen.sampler.evaluation_times(self.score.sde, resampling))

  def uses(self, sampling, decodes=True):
    """Returns the names of the steps that a result depends on."""
    del decodes
    return frozenset(('latents', 'score') if sampling else ('latents',))

  def describe(self, sampling):
    """Returns what rows of results say of a way of sampling."""
    chosen = self.samplings[sampling]
    return {
      'sampler': describe(SAMPLERS, chosen.sampler),
      'conditioning': describe(CONDITIONING, chosen.conditioning),
      'guidance': '',
    }

  def couples_rows(self, sampling):
    """Returns False: every row is drawn alone."""
    del sampling
    return False


def make(c: Section, problem: Problem) -> Method:
  """Makes the method from config.score and config.samplings."""
  layout = LatentLayout(tuple(math.prod(m.model_shape) for m in problem.modalities))
  zeros = np.zeros(layout.total, np.float32)
  latents = Derived(
    name='latents',
    compute=functools.partial(_compute, layout, problem),
    example={'mean': zeros, 'std': zeros},
  )
  stage = score_stage(c.section('score'), layout, problem.key)
  ways = {name: _sampling(section) for name, section in samplings(c).items()}
  model = NativeDiffusion(problem.modalities, stage.trainings[0].learner, ways)
  return Method(steps=(latents, stage), model=model, main='score')


def _sampling(section: Section) -> Sampling:
  section.known(('sampler', 'conditioning', 'guidance'))
  if section.get('guidance'):
    raise UserError(f'{section.place("guidance")}: nothing is guided; set it to {{}}.')
  return Sampling(
    section.build('sampler', SAMPLERS), section.build('conditioning', CONDITIONING)
  )


def flatten(modalities: tuple[Modality, ...], x: tuple[jax.Array, ...]) -> jax.Array:
  """Returns raw examples as networks see them, joined, [B, D]."""
  parts = (m.kind.to_model(a) for m, a in zip(modalities, x, strict=True))
  return jnp.concatenate([p.reshape(p.shape[0], -1) for p in parts], axis=-1)


def _compute(layout: LatentLayout, problem: Problem, inputs: Mapping) -> dict:
  """Returns the training split as the network sees it, and its moments."""
  del inputs
  z = problem.map_split(lambda rows, x, present: flatten(problem.modalities, x))
  known = problem.present[:, layout.modality_of_dim]
  z = np.where(known, z, 0.0).astype(np.float32)
  mean, std = moments(z, known)
  return {'z': z, 'mean': mean, 'std': std, 'present': problem.present}
