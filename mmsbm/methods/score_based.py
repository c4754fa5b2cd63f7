"""SBM-VAE, SBM-RAE, MLD: autoencoders of single modalities, a score model of latents.

Steps: unimodal -> latents -> score [-> energy] [-> refiner].

arXiv 2305.15708; multi-modal latent diffusion, arXiv 2306.04445, is the same with
plain autoencoders and the training and the sampler of its own config.
"""

import functools
from typing import Any

import numpy as np

from mmsbm.config import Section, name_of, nearest
from mmsbm.diffusion.losses import TIME_SAMPLING
from mmsbm.guidance import GUIDANCE, Guidance
from mmsbm.infra.errors import UserError
from mmsbm.latents import LatentLayout
from mmsbm.learners.autoencoder import AUTOENCODERS, UnimodalAutoencoder
from mmsbm.learners.codec import make_codecs
from mmsbm.learners.energy import LatentEnergy
from mmsbm.learners.latent_score import LatentScore
from mmsbm.learners.refiner import Refiner, make_refiner
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
  knows_one_time,
  latent_example,
  score_stage,
  shrunk_covariance,
  standardised,
)
from mmsbm.methods.problem import Problem
from mmsbm.models.score_based import ScoreBasedModel, ScoreSampling, encode_means
from mmsbm.nn.energy_nets import ENERGY_NETS
from mmsbm.nn.score_nets import SCORE_NETS
from mmsbm.samplers import CONDITIONING, SAMPLERS


def make(c: Section, problem: Problem) -> Method:
  """Makes the method from config.unimodal, score, energy, refiner and samplings."""
  unimodal = _unimodal(own_section(c, 'unimodal'), problem)
  autoencoders = tuple(t.learner for t in unimodal.trainings)
  layout = LatentLayout(tuple(a.codec.latent_dim for a in autoencoders))
  section = own_section(c, 'score')
  section.known((*TRAINING, *SCORE))
  section.at_least(0, 'paired_fraction')
  latents = _latents(section, autoencoders, layout, problem)
  score = score_stage(
    section,
    layout,
    problem.key,
    source=functools.partial(_pairs, section, problem),
    spec=_pairs_spec(section),
    check=functools.partial(_check_pairs, section, problem),
    held_out=functools.partial(_held_out, problem),
  )
  score_model, steps = score.trainings[0].learner, [unimodal, latents, score]
  energy, refiners = None, ()
  if c.get('energy'):
    steps.append(_energy(c.section('energy'), score_model, section, problem))
    energy = steps[-1].trainings[0].learner
  if c.get('refiner'):
    steps.append(_refiner(c, autoencoders, problem))
    refiners = tuple(t.learner for t in steps[-1].trainings)
  model = ScoreBasedModel(
    autoencoders=autoencoders,
    score=score_model,
    samplings={
      name: _sampling(spec, score_model, energy) for name, spec in samplings(c).items()
    },
    energy=energy,
    refiners=refiners,
    refiner_sampler=decoder_sampler(c) if refiners else None,
  )
  return Method(steps=tuple(steps), model=model, main='score')


def decoder_sampler(c: Section):
  """Returns the sampler of diffusion decoders and refiners."""
  sampler = c.build('decoder_sampler', SAMPLERS)
  if getattr(sampler, 'batch_norms', False):
    raise UserError(
      'config.decoder_sampler.batch_norms: decoded examples would depend on each '
      'other; set it to False.'
    )
  return sampler


def _unimodal(section: Section, problem: Problem) -> Stage:
  section.known((*TRAINING, 'autoencoder', 'networks'))
  codecs = make_codecs(section, problem.modalities)
  for codec in codecs:
    if codec.diffusion:
      raise UserError(
        f'{section.place("networks")}.{codec.name}.decoder: an autoencoder of one '
        "modality has no 'diffusion' decoder; a joint VAE may have."
      )
  learners = [
    _with_own_beta(section, codec.name).build(
      'autoencoder', AUTOENCODERS, codec=codec, index=i
    )
    for i, codec in enumerate(codecs)
  ]
  return Stage(
    name='unimodal',
    trainings=tuple(make_training(section, a, problem.key) for a in learners),
    example=problem.blank,
    source=problem.examples,
    held_out=problem.held_out,
  )


def _with_own_beta(section: Section, name: str) -> Section:
  """Returns config.unimodal with the `beta` that the networks of a modality have."""
  spec = section.section('networks').section(name)
  if 'beta' not in spec:
    return section
  own = {**section.section('autoencoder'), 'beta': spec.at_least(0, 'beta')}
  return Section({**section, 'autoencoder': own}, section.path)


def _latents(
  section: Section,
  autoencoders: tuple[UnimodalAutoencoder, ...],
  layout: LatentLayout,
  problem: Problem,
) -> Derived:
  """Returns the step that encodes examples to posterior means.

  `z` are those of the training split, `val` those of the validation split, `covariance`
  is that of the standardised latents.
  """
  gaussian = is_gaussian(section)

  def encode(variables, rows, x, present):
    del rows, present
    return layout.join(encode_means(autoencoders, variables, x))

  def compute(inputs: Inputs):
    def encoded(split):
      z = problem.map_split(encode, inputs['unimodal'], split=split)
      known = problem.dataset.splits[split].present[:, layout.modality_of_dim]
      return check_finite(np.where(known, z, 0.0).astype(np.float32)), known

    z, known = encoded('train')
    mean, std = moments(z, known)
    if not section['standardise']:
      mean, std = np.zeros_like(mean), np.ones_like(std)
    out = {'z': z, 'mean': mean, 'std': std, 'val': encoded('val')[0]}
    if gaussian:
      out['covariance'] = shrunk_covariance((z - mean) / std, known)
    return out

  zeros = np.zeros(layout.total, np.float32)
  square = {'covariance': np.diag(zeros)} if gaussian else {}
  return Derived(
    name='latents',
    needs=('unimodal',),
    compute=compute,
    example={'mean': zeros, 'std': zeros, **square},
    spec={'splits': ['train', 'val']}
    | ({} if section['standardise'] else {'standardise': False})
    | ({'covariance': 'shrunk'} if gaussian else {}),
  )


def _check_pairs(section: Section, problem: Problem, score: LatentScore) -> None:
  """Refuses a share of paired tuples, or a network, that the data do not allow."""
  present, fraction = problem.present, section['paired_fraction']
  if not (fraction <= 1 and round(fraction * len(present)) > 0):
    raise UserError(
      f'{section.place("paired_fraction")}={fraction} must leave some of '
      f'{len(present)} tuples paired, and be at most 1.'
    )
  holes = not present.all() or (fraction < 1 and section['use_unpaired'])
  if knows_one_time(score) and holes:
    name = name_of(SCORE_NETS, score.network)
    raise UserError(f'the score network {name!r} cannot learn from missing modalities.')


def _pairs_spec(section: Section) -> dict[str, Any]:
  """Returns what tells the training examples of a score model from all latents."""
  if section['paired_fraction'] == 1:
    return {}
  return {name: section[name] for name in ('paired_fraction', 'use_unpaired')}


def _pairs(section: Section, problem: Problem, inputs: Inputs) -> dict[str, np.ndarray]:
  """Returns standardised latents, and which of them are known to belong together.

  With config.score.paired_fraction below 1 the pairing of the other tuples is hidden.
  Tuples whose pairing is known are repeated until they are half of all, or the little
  that they say would drown in examples of single modalities.
  """
  z, present = standardised(inputs)['z'], problem.present
  fraction = section['paired_fraction']
  if fraction == 1:
    return {'z': z, 'present': present}
  order = np.random.default_rng(problem.seed).permutation(len(z))
  paired, unpaired = np.split(order, [round(fraction * len(z))])
  if section['use_unpaired']:
    paired = np.resize(paired, max(len(paired), len(unpaired)))
  else:
    unpaired = unpaired[:0]
  rows = np.concatenate([paired, unpaired])
  return {
    'z': z[rows],
    'present': present[rows],
    'paired': np.arange(len(rows)) < len(paired),
  }


def _held_out(problem: Problem, inputs: Inputs) -> dict[str, np.ndarray] | None:
  """Returns standardised latents of the validation split."""
  z = standardised(inputs, 'val') if problem.can_hold_out else None
  if z is None:
    return None
  present = np.asarray(problem.dataset.splits['val'].present)
  return {'z': z['z'], 'present': present}


def _energy(
  section: Section, score: LatentScore, pairs: Section, problem: Problem
) -> Stage:
  numbers = ('clean_probability', 'group_size', 'false_negative_rate')
  section.known((*TRAINING, 'network', 'times', *numbers))
  try:
    energy = LatentEnergy(
      network=section.build('network', ENERGY_NETS, dims=score.layout.dims),
      layout=score.layout,
      sde=score.sde,
      times=section.build('times', TIME_SAMPLING),
      **{name: section[name] for name in numbers},
    )
    energy.num_groups(section['batch_size'])  # refuses a size that cannot be cut
  except UserError as e:
    raise section.error(e) from e
  return Stage(
    name='energy',
    trainings=(make_training(section, energy, problem.key),),
    example=latent_example(score.layout),
    needs=('latents',),
    source=functools.partial(_pairs, pairs, problem),
    spec=_pairs_spec(pairs),
    held_out=functools.partial(_held_out, problem),
  )


def _refiner(
  c: Section, autoencoders: tuple[UnimodalAutoencoder, ...], problem: Problem
) -> Stage:
  section, decoders = c.section('refiner'), c.section('refiner').section('decoders')
  section.known((*TRAINING, 'decoders'))
  if not decoders:
    raise UserError(f'{decoders.place("")} is empty: it names what is to be refined.')
  if c.get('decoder_guidance'):
    raise UserError('config.decoder_guidance: refiners are not guided; leave it empty.')
  for name in decoders:
    if name not in problem.names:
      raise UserError(
        f'{decoders.place(name)}: {name!r} is no modality; they are {problem.names}.'
        + nearest(name, problem.names)
      )
  refiners: list[Refiner] = [
    make_refiner(decoders.section(a.codec.name), a)
    for a in autoencoders
    if a.codec.name in decoders
  ]
  return Stage(
    name='refiner',
    trainings=tuple(make_training(section, r, problem.key) for r in refiners),
    example=problem.blank,
    needs=('unimodal',),
    source=problem.examples,
    frozen=lambda inputs: inputs['unimodal'],
    held_out=problem.held_out,
  )


def _sampling(
  section: Section, score: LatentScore, energy: LatentEnergy | None
) -> ScoreSampling:
  section.known(('sampler', 'conditioning', 'guidance'))
  spec = section.section('guidance')
  guidance: tuple[Guidance, ...]
  # One of a `name`, or several under names of their own, where {} leaves one out.
  if 'name' in spec:
    guidance = (spec.make(GUIDANCE),)
  else:
    guidance = tuple(part.make(GUIDANCE) for _, part in spec.sections() if part)
  conditioning = section.build('conditioning', CONDITIONING)
  sees_observed = score.condition_probability > 0
  if conditioning.needs_observed and not sees_observed:
    raise UserError(
      f'{section.place("conditioning")}: {name_of(CONDITIONING, conditioning)!r} needs '
      'a network that has seen observed modalities: '
      'config.score.condition_probability must be positive.'
    )
  for term in guidance:
    # Only rows that would show something drop it.
    if term.needs == 'dropped' and not (sees_observed and score.drop_probability > 0):
      raise UserError(
        f'{section.place("guidance")}: {name_of(GUIDANCE, term)!r} needs a network '
        'that has seen modalities left out: config.score.drop_probability and '
        'condition_probability must be positive.'
      )
    if term.needs == 'energy' and energy is None:
      raise UserError(
        f'{section.place("guidance")}: {name_of(GUIDANCE, term)!r} needs a trained '
        'energy: a section config.energy, see `energy` in mmsbm/configs.'
      )
  return ScoreSampling(
    sampler=section.build('sampler', SAMPLERS),
    conditioning=conditioning,
    guidance=guidance,
  )
