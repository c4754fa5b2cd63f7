"""Joint VAEs, Diff-MVAE among them: one latent for all modalities.

Steps: joint [-> latents [-> score] [-> mixtures]].
"""

import functools

import jax.numpy as jnp
import numpy as np

from mmsbm.config import Section, find, name_of, nearest
from mmsbm.diffusion.guided_levels import DECODER_GUIDANCE, DecoderGuidance
from mmsbm.distributions import POSTERIORS
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name, row_keys
from mmsbm.latents import LatentLayout
from mmsbm.learners.codec import Codec, make_codecs
from mmsbm.learners.joint_vae import JointVAE, dimension_weights
from mmsbm.methods.base import (
  TRAINING,
  Derived,
  Inputs,
  Method,
  Stage,
  make_training,
  moments,
  own_section,
  samplings,
)
from mmsbm.methods.latent_diffusion import (
  SCORE,
  check_finite,
  is_gaussian,
  score_stage,
  standardised,
)
from mmsbm.methods.problem import Problem
from mmsbm.methods.score_based import decoder_sampler
from mmsbm.models.gaussian_mixture import fit_gaussian_mixture
from mmsbm.models.joint_vae import JointModel
from mmsbm.models.priors import PRIORS, LatentPrior
from mmsbm.objectives import OBJECTIVES, Objective

# Enough examples to fit a mixture.
_MIXTURE_EXAMPLES = 10_000


_JOINT = (
  'objective',
  'family',
  'private_dim',
  'scale_likelihoods',
  'likelihood_weights',
  'networks',
)


def make(c: Section, problem: Problem) -> Method:
  """Makes the method from config.joint, score and samplings."""
  section = own_section(c, 'joint')
  for name in ('energy', 'refiner'):
    if c.get(name):
      raise UserError(
        f'config.{name}: a joint VAE has no such step; its decoders may be diffusion '
        'models themselves. Leave the section out.'
      )
  section.known((*TRAINING, *_JOINT))
  learner = _learner(section, problem)
  layout = LatentLayout((learner.shared_dim,))
  joint = Stage(
    name='joint',
    trainings=(make_training(section, learner, problem.key),),
    example=problem.blank,
    source=problem.examples,
    held_out=problem.held_out,
  )
  score = None
  if c.get('score'):
    section = c.section('score')
    section.known((*TRAINING, *SCORE))
    if section['paired_fraction'] != 1:
      raise UserError(
        'config.score.paired_fraction: the score model of a joint VAE sees one latent '
        'for all modalities, and no pairs; set it to 1.'
      )
    if is_gaussian(section):
      raise UserError(
        f'{section.place("preconditioning")}: a joint VAE has one latent for all '
        "modalities, none of which is given: set it to 'unit'."
      )
    score = score_stage(
      section, layout, problem.key, arrays=('spread',), family=learner.family,
      held_out=functools.partial(standardised, split='val'),
    )  # fmt: skip
  score_model = score.trainings[0].learner if score else None
  priors = {name: _prior(spec, score_model) for name, spec in samplings(c).items()}
  has_diffusion = any(codec.diffusion for codec in learner.codecs)
  model = JointModel(
    learner=learner,
    samplings=priors,
    decoder_sampler=decoder_sampler(c) if has_diffusion else None,
    decoder_guidance=_decoder_guidance(c, learner.codecs),
  )
  mixtures = _mixtures(priors, learner, problem)
  steps: list[Stage | Derived] = [joint]
  if score or mixtures or any('latents' in prior.needs for prior in priors.values()):
    steps.append(_latents(model, layout, problem))
  steps += [step for step in (score, mixtures) if step]
  return Method(steps=tuple(steps), model=model, main='joint')


def _learner(section: Section, problem: Problem) -> JointVAE:
  codecs = make_codecs(section, problem.modalities)
  objective = section.build('objective', OBJECTIVES)
  inside = getattr(objective, 'estimator', 'elbo') != 'elbo'
  if inside and objective.num_samples > 1 and any(codec.diffusion for codec in codecs):
    raise UserError(
      f'{section.place("objective")}: estimator={objective.estimator!r} averages '
      f'num_samples={objective.num_samples} draws inside the logarithm, where the '
      "noise of a diffusion decoder's bound makes it no bound: use 'elbo', or one draw."
    )
  weights = section.section('likelihood_weights')
  for name in weights:
    if name not in problem.names:
      raise UserError(
        f'{weights.place(name)}: {name!r} is no modality; they are {problem.names}.'
        + nearest(name, problem.names)
      )
    weights.at_least(0, name)
  factors = (1.0,) * len(codecs)
  if section['scale_likelihoods']:
    factors = dimension_weights(codecs)
  return JointVAE(
    codecs=codecs,
    objective=objective,
    family=_family(section, objective),
    private_dim=_private_dim(section, objective, codecs),
    weights=tuple(
      factor * weights.get(name, 1.0)
      for name, factor in zip(problem.names, factors, strict=True)
    ),
  )


def _family(section: Section, objective: Objective) -> str:
  """Returns the name of the posteriors, which the objective must be defined for."""
  if objective.families is not None:
    return section.choice('family', objective.families)
  section.find('family', POSTERIORS)
  return section['family']


def _private_dim(
  section: Section, objective: Objective, codecs: tuple[Codec, ...]
) -> int:
  """Returns the size of private latents after a look at all sizes."""
  private, sizes = section['private_dim'], {codec.latent_dim for codec in codecs}
  if len(sizes) > 1:
    raise UserError(
      f'{section.place("networks")}: a joint VAE has one latent for all modalities: '
      f'their latent_dim must be the same, not {sorted(sizes)}.'
    )
  if (private > 0) != objective.has_private or not 0 <= private < min(sizes):
    name = name_of(OBJECTIVES, objective)
    raise UserError(
      f'{section.place("private_dim")}={private}: '
      + (
        f'{name!r} needs a part of latent_dim={min(sizes)}.'
        if objective.has_private
        else f'{name!r} has no private part, only mmvaeplus has one; set it to 0.'
      )
    )
  return private


def _decoder_guidance(c: Section, codecs: tuple[Codec, ...]) -> DecoderGuidance | None:
  """Returns the guidance of diffusion decoders, if any."""
  if not c.get('decoder_guidance'):
    return None
  for codec in codecs:
    if codec.diffusion and not codec.diffusion.drop_probability:
      raise UserError(
        'config.decoder_guidance needs decoders that were trained without latents too: '
        f'config.joint.networks.{codec.name}.decoder.drop_probability must be positive.'
      )
  return c.build('decoder_guidance', DECODER_GUIDANCE)


def _prior(section: Section, score) -> LatentPrior:
  section.known(('prior',))
  return section.build('prior', PRIORS, score=score)


def _latents(model: JointModel, layout: LatentLayout, problem: Problem) -> Derived:
  """Returns the step that encodes the training split to moments of q(z | example).

  Where the posterior is a mixture they are those of one component, drawn once for each
  example. 'spread' is the standard deviation, which 'std' counts in; 'present' [N, 1]
  says whether an example has any modality.
  """

  def posterior(variables, key, rows, x, present):
    variables = {'joint': variables}
    encoded = model.encode(variables, x)
    q = model.posterior(variables, row_keys(key, rows), encoded, present)
    return q.mean, jnp.exp(0.5 * q.log_var)

  def compute(inputs: Inputs):
    key = fold_in_name(problem.key, 'latents')
    out = {}
    for split, prefix in (('train', ''), ('val', 'val_')):
      z, spread = problem.map_split(posterior, inputs['joint'], key, split=split)
      present = problem.dataset.splits[split].present.any(1)[:, None]
      z = check_finite(np.where(present, z, 0.0).astype(np.float32))
      out |= {f'{prefix}spread': spread, f'{prefix}present': present}
      out['z' if split == 'train' else split] = z
    mean, std = moments(out['z'], out['present'], out['spread'])
    return out | {'mean': mean, 'std': std}

  zeros = np.zeros(layout.total, np.float32)
  return Derived(
    name='latents',
    needs=('joint',),
    compute=compute,
    example={'mean': zeros, 'std': zeros},
    spec={'splits': ['train', 'val']},
  )


def _mixtures(priors, learner: JointVAE, problem: Problem) -> Derived | None:
  """Returns the step that fits mixtures to draws of z, if a sampling needs one."""
  sizes = {p.key: p.num_components for p in priors.values() if 'mixtures' in p.needs}
  if not sizes:
    return None

  def check():
    usable = min(int(problem.present.any(1).sum()), _MIXTURE_EXAMPLES)
    if max(sizes.values()) > usable:
      raise UserError(
        f'config.samplings: num_components={max(sizes.values())} cannot be fitted to '
        f'{usable} examples.'
      )

  def compute(inputs: Inputs):
    stored = inputs['latents']
    rng = np.random.default_rng(problem.seed)
    rows = rng.permutation(np.flatnonzero(stored['present']))[:_MIXTURE_EXAMPLES]
    log_var = 2 * np.log(stored['spread'][rows])
    q = find(POSTERIORS, learner.family)(stored['z'][rows], log_var)
    z = np.asarray(q.sample(fold_in_name(problem.key, 'mixture')))
    return {
      key: fit_gaussian_mixture(z, number, problem.seed)
      for key, number in sizes.items()
    }

  d = learner.shared_dim
  return Derived(
    name='mixtures',
    needs=('latents',),
    compute=compute,
    example={key: _blank_mixture(number, d) for key, number in sizes.items()},
    spec={'num_components': sorted(sizes.values())},
    check=check,
  )


def _blank_mixture(k: int, d: int) -> dict[str, np.ndarray]:
  shapes = {'log_weights': (k,), 'mean': (k, d), 'scale': (k, d, d)}
  return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
