"""The stage that both families share: a score model of standardised latents."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mmsbm.config import Section, name_of
from mmsbm.diffusion.parametrization import EDM
from mmsbm.diffusion.process import FIELDS, make_diffusion
from mmsbm.infra.errors import UserError
from mmsbm.latents import LatentLayout
from mmsbm.learners.latent_score import LatentScore
from mmsbm.methods.base import Inputs, Stage, make_training, no_check, no_inputs
from mmsbm.nn.score_nets import SCORE_NETS

# The fields of config.score, but for those of its training.
SCORE = (
  *FIELDS,
  'network',
  'condition_probability',
  'drop_probability',
  'loss_scaling',
  'paired_fraction',
  'use_unpaired',
  'standardise',
  'preconditioning',
)


def score_stage(
  section: Section,
  layout: LatentLayout,
  key: jax.Array,
  *,
  arrays: tuple[str, ...] = (),
  family: str = 'normal',
  source: Callable[[Inputs], Any] | None = None,
  spec: Mapping[str, Any] | None = None,
  check: Callable[[LatentScore], None] | None = None,
  held_out: Callable[[Inputs], Any] = no_inputs,
) -> Stage:
  """Returns the stage 'score', which learns what the step 'latents' holds.

  Args:
    section: config.score.
    layout: where the modalities lie in a latent.
    key: of the run.
    arrays: names of what a batch has beside z and present.
    family: of latents that are distributions, see `LatentScore`.
    source: see `Stage`; `standardised` by default.
    spec: see `Stage`.
    check: see `Stage`; it is given the learner.
    held_out: see `Stage`.
  """
  gaussian = is_gaussian(section)
  learner = LatentScore(
    network=section.build('network', SCORE_NETS, dims=layout.dims),
    layout=layout,
    diffusion=make_diffusion(section),
    condition_probability=section.share('condition_probability'),
    drop_probability=section.share('drop_probability'),
    loss_scaling=section['loss_scaling'],
    family=family,
    gaussian=gaussian,
  )
  if gaussian and not isinstance(learner.diffusion.parametrization, EDM):
    raise UserError(
      f"{section.place('preconditioning')}='gaussian' needs the parametrization 'edm'."
    )
  if knows_one_time(learner) and learner.condition_probability > 0:
    raise UserError(
      f'the score network {name_of(SCORE_NETS, learner.network)!r} knows one time for '
      'all modalities: set '
      f'{section.place("condition_probability")}=0 and another conditioning, e.g. '
      "'noised'."
    )
  return Stage(
    name='score',
    trainings=(make_training(section, learner, key),),
    example=latent_example(layout, *arrays),
    needs=('latents',),
    source=source or standardised,
    spec=spec or {},
    check=functools.partial(check, learner) if check else no_check,
    frozen=_covariance if gaussian else no_inputs,
    held_out=held_out,
  )


def is_gaussian(section: Section) -> bool:
  """Returns whether config.score has the preconditioning of Gaussian latents."""
  if 'preconditioning' not in section:
    return False
  return section.choice('preconditioning', ('unit', 'gaussian')) == 'gaussian'


def _covariance(inputs: Inputs) -> Any:
  return inputs['latents']['covariance']


def shrunk_covariance(z: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Returns the covariance [D, D] of centred latents, well conditioned for any N.

  It is shrunk towards a multiple of the identity by the share of Ledoit & Wolf (2004).

  Args:
    z: latents [N, D].
    known: [N, D] bool; each entry is the mean over the examples that have both.
  """
  from sklearn.covariance import ledoit_wolf_shrinkage

  z, known = np.where(known, z, 0.0).astype(np.float64), known.astype(np.float64)
  together = known.T @ known
  empirical = z.T @ z / np.maximum(together, 1)
  share = ledoit_wolf_shrinkage(z, assume_centered=True)
  target = np.trace(empirical) / len(empirical) * np.eye(len(empirical))
  covariance = (1 - share) * empirical + share * target
  # Entries from different examples need not make a covariance together.
  values, vectors = np.linalg.eigh(covariance)
  return ((vectors * np.maximum(values, 1e-4)) @ vectors.T).astype(np.float32)


def knows_one_time(score: LatentScore) -> bool:
  """Returns whether the score network is told one time for all modalities."""
  return getattr(score.network, 'knows_one_time', False)


def latent_example(layout: LatentLayout, *arrays: str) -> dict[str, np.ndarray]:
  """Returns a blank batch of one row, with further arrays of the shape of z."""
  z = np.zeros((1, layout.total), np.float32)
  out = {'z': z, 'present': np.ones((1, layout.num_modalities), bool)}
  return out | dict.fromkeys(arrays, z)


def standardised(inputs: Inputs, split: str = 'train') -> Any:
  """Returns latents of a split, with zero mean and unit variance in training.

  What a step 'latents' stores beside them, 'spread' and 'present', is kept.
  """
  stored, prefix = inputs['latents'], '' if split == 'train' else f'{split}_'
  if prefix and split not in stored:
    return None  # A converted run has those of the training split alone.
  z = stored['z' if split == 'train' else split]
  out = {'z': (z - stored['mean']) / stored['std']}
  if 'spread' in stored:
    out['spread'] = stored[f'{prefix}spread'] / stored['std']
  if 'present' in stored:
    out['present'] = stored[f'{prefix}present']
  return out


def check_finite(z: np.ndarray) -> np.ndarray:
  """Returns the latents, or raises UserError if one of them is not finite."""
  if not np.isfinite(z).all():
    raise UserError(
      'the encoders give latents that are not finite: train them with a lower learning '
      'rate, or look for extreme values in the data.'
    )
  return z
