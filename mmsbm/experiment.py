"""From a config to objects; the only reader of configs."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from mmsbm import train
from mmsbm.build import build, check_arguments, nearest
from mmsbm.data import DATASETS
from mmsbm.data.dataset import MultimodalDataset, Split
from mmsbm.data.loader import padded_chunks
from mmsbm.diffusion.guided_levels import DECODER_GUIDANCE, DecoderGuidance
from mmsbm.diffusion.losses import TIME_SAMPLING, WEIGHTINGS
from mmsbm.diffusion.parametrization import PARAMETRIZATIONS
from mmsbm.diffusion.sde import SDES
from mmsbm.distributions import POSTERIORS
from mmsbm.evaluators.probability_flow import ProbabilityFlow
from mmsbm.guidance import GUIDANCE, Guidance
from mmsbm.infra import checkpoints, sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import atomic_path
from mmsbm.infra.optim import make_optimizer
from mmsbm.infra.rng import fold_in_name, row_keys, step_rngs
from mmsbm.latents import LatentLayout
from mmsbm.learners.autoencoder import AUTOENCODERS
from mmsbm.learners.base import STREAMS, Training
from mmsbm.learners.classifier import Classifier
from mmsbm.learners.energy import LatentEnergy
from mmsbm.learners.joint_vae import JointVAE, dimension_weights
from mmsbm.learners.latent_score import LatentScore
from mmsbm.learners.refiner import Refiner, make_refiner
from mmsbm.modalities import Modality, make_diffusion_decoder, make_modality
from mmsbm.models.base import MultimodalModel, Setup
from mmsbm.models.gaussian_mixture import fit_gaussian_mixture
from mmsbm.models.joint_vae import PRIORS, GaussianMixture, JointModel
from mmsbm.models.score_based import ScoreBasedModel, encode_means
from mmsbm.nn.classifiers import CLASSIFIERS
from mmsbm.nn.energy_nets import ENERGY_NETS
from mmsbm.nn.score_nets import SCORE_NETS
from mmsbm.objectives import OBJECTIVES
from mmsbm.samplers import CONDITIONING, SAMPLERS

PyTree = Any

# Sections that decide what is trained. The others may change between two calls
# with the same workdir: they only change what is measured or drawn.
TRAINING_SECTIONS = (
  'seed',
  'method',
  'preset',
  'stages',
  'data',
  'modalities',
  'classifier',
  'unimodal',
  'joint',
  'score',
  'energy',
  'refiner',
)
# Those that a finished run can still get: nothing before them depends on them.
ADDED_STAGES = ('energy', 'refiner')

# Stages that a run can take over from another one, and what they depend on.
PRETRAINED_STAGES = ('classifier', 'unimodal', 'joint')

# Not an option: the latents that the score model learns must not depend on one.
_ENCODE_CHUNK = 500
# So many are enough for a mixture of Gaussians.
_MIXTURE_EXAMPLES = 10_000

# What NumPy raises for an .npz that is absent, torn or something else.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def plain(value: Any) -> Any:
  """Config values as hashable, plain Python: tuples for lists, dicts copied."""
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return tuple(plain(v) for v in value)
  return value


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a.b': value} of nested dicts, values as JSON would give them back."""
  out = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      out |= flatten(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = json.loads(json.dumps(value))
  return out


def read_record(workdir: str | os.PathLike) -> dict[str, Any]:
  """The contents of run.json."""
  path = os.path.join(workdir, 'run.json')
  try:
    with open(path) as f:
      record = json.load(f)
  except FileNotFoundError as e:
    raise UserError(f'{path} does not exist: {workdir!r} is not a run.') from e
  except (OSError, ValueError) as e:
    raise UserError(f'{path} cannot be read: {e}.') from e
  if not isinstance(record, dict) or not isinstance(record.get('config'), dict):
    raise UserError(f'{path} is not the record of a run: it has no config.')
  return record


def without_stage(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
  """A config without one of ADDED_STAGES and its section."""
  stages = [name for name in config['stages'] if name != stage]
  return {k: v for k, v in config.items() if k != stage} | {'stages': stages}


def training_differences(
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  sections: Sequence[str] = TRAINING_SECTIONS,
) -> list[str]:
  """'key: old -> new' for each value on which what was trained depends."""
  for added in ADDED_STAGES:
    if added not in old:
      new = without_stage(new, added)
  # Where files lie and how they are read does not matter: what they hold is
  # compared by its content hash.
  skip = tuple(
    f'data.{key}'
    for key in (
      'cache_dir',
      'memory_limit_gb',
      'verify_checksums',
      'mnist_dir',
      'background_dir',
      'png_dir',
      'tfds_dir',
      'files',
      'labels',
      'present',
      'split_file',
    )
  )
  flat = [
    {
      k: v
      for k, v in flatten(config).items()
      if k.split('.')[0] in sections and not k.startswith(skip)
    }
    for config in (old, new)
  ]
  missing = '(absent)'
  return [
    f'{key}: {flat[0].get(key, missing)!r} -> {flat[1].get(key, missing)!r}'
    for key in sorted(flat[0].keys() | flat[1].keys())
    if flat[0].get(key, missing) != flat[1].get(key, missing)
  ]


class Experiment:
  """Everything that a config describes, built on first use.

  Attributes:
    config: the resolved config, plain values.
    workdir: the run's folder.
    mesh: all devices.
  """

  def __init__(self, config: Mapping[str, Any], workdir: str | os.PathLike):
    self.config = plain(config)
    for key, value in flatten(self.config).items():
      if any(isinstance(v, float) and math.isnan(v) for v in jax.tree.leaves(value)):
        raise UserError(f'config.{key}={value} is not a number.')
    self.workdir = os.path.abspath(workdir)
    self.mesh = sharding.make_mesh()
    self._key = jax.random.key(self.config['seed'])

  # --- another run's autoencoders -------------------------------------------

  @functools.cached_property
  def pretrained(self) -> str:
    """Folder of config.pretrained; empty if this run trains everything itself."""
    path = os.path.expanduser(self.config.get('pretrained', ''))
    if path and not os.path.exists(path):
      # So that a folder of runs that share autoencoders can be moved.
      path = os.path.normpath(os.path.join(self.workdir, path))
    if path and os.path.realpath(path) == os.path.realpath(self.workdir):
      raise UserError('config.pretrained is the workdir itself; name another run.')
    return path and os.path.abspath(path)

  def stage_dir(self, stage: str) -> str:
    """Folder under which the checkpoints of a stage lie."""
    return (stage in self.pretrained_stages and self.pretrained) or self.workdir

  @property
  def pretrained_stages(self) -> tuple[str, ...]:
    """Stages that config.pretrained, if there is one, stands in for."""
    stages = self.config['pretrained_stages']
    for stage in stages:
      if stage not in PRETRAINED_STAGES:
        raise UserError(
          f'config.pretrained_stages: {stage!r} is not one of {PRETRAINED_STAGES}.'
        )
    return stages

  @functools.cached_property
  def pretrained_seed(self) -> int:
    """Seed of the run that trained the autoencoders of this one."""
    if not self.pretrained or self.encoding_stage not in self.pretrained_stages:
      return self.config['seed']
    return read_record(self.pretrained)['config']['seed']

  @functools.cached_property
  def judged_by(self) -> dict[str, Any]:
    """Whose classifiers judge: the seed and the modalities they were trained with."""
    config = self.config
    if self.pretrained and 'classifier' in self.pretrained_stages:
      config = read_record(self.pretrained)['config']
    return {'seed': config['seed'], 'modalities': sorted(config['modalities'])}

  def check_pretrained(self) -> None:
    """Compares this run with the one of config.pretrained; reads only.

    Raises:
      UserError: that run is missing, not finished, or of another config or data.
    """
    where = f'config.pretrained={self.config["pretrained"]}'
    record = read_record(self.pretrained)
    if self.config['only'] and self.encoding_stage in self.pretrained_stages:
      raise UserError(f'{where} leaves config.only nothing to train: drop one of them.')
    if record['config'].get('pretrained'):
      raise UserError(
        f'{where} has no autoencoders of its own: give the run that it uses, '
        f'{record["config"]["pretrained"]}.'
      )
    theirs = record['config']['modalities']
    if 'joint' in self.pretrained_stages and tuple(theirs) != self.names:
      raise UserError(
        f'{where}: a joint VAE of {list(theirs)} is none of {list(self.names)}.'
      )
    # It may have more modalities; then the data as a whole are others.
    used = {name: theirs[name] for name in theirs if name in self.names}
    own = self.config['modalities']
    if self.pretrained_stages == ('classifier',):
      # Networks and latents are of no concern to who judges.
      keys = ('kind', 'shape', 'judge')
      used, own = (
        {name: {key: spec.get(key) for key in keys} for name, spec in each.items()}
        for each in (used, own)
      )
    differences = training_differences(
      record['config'] | {'modalities': used},
      self.config | {'modalities': own},
      ('data', 'modalities', *self.pretrained_stages),
    )
    samples = record.get('data_samples', self.data_samples)
    if len(used) == len(theirs):
      same = record['data_hash'] == self.dataset.content_hash
    else:
      same = all(samples.get(name) == each for name, each in self.data_samples.items())
    if not differences and not same:
      differences = ['other data, or modalities in another order']
    if differences:
      raise UserError(f'{where} was trained with another config: {differences[0]}.')
    for stage in self.pretrained_stages:
      for training in self.trainings(stage):
        if not train.finished(self.pretrained, training):
          raise UserError(f'{where}: {training.name} is not fully trained there.')

  def _positive(self, section: str, *keys: str) -> Mapping[str, Any]:
    """A section of the config, after a look at its counts."""
    spec = self.config[section]
    for key in keys:
      if spec[key] < 1:
        raise UserError(f'config.{section}.{key} is {spec[key]}; it must be positive.')
    return spec

  # --- data -----------------------------------------------------------------

  @functools.cached_property
  def modalities(self) -> tuple[Modality, ...]:
    specs = self.config['modalities']
    for name, spec in specs.items():
      check_arguments(make_modality, f'modalities.{name}', spec, {'name': name})
    return tuple(make_modality(name, **spec) for name, spec in specs.items())

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.modalities)

  @functools.cached_property
  def dataset(self) -> MultimodalDataset:
    spec = dict(self.config['data'])
    spec['cache_dir'] = os.path.expanduser(spec['cache_dir'])
    dataset = build(DATASETS, spec, modalities=self.names)
    for name, split in dataset.splits.items():
      for modality in self.modalities:
        array = split.arrays[modality.name]
        if array.shape[1:] != modality.shape:
          raise UserError(
            f'modality {modality.name!r}: the {name} examples have shape '
            f'{array.shape[1:]}, config.modalities.{modality.name}.shape is '
            f'{modality.shape}.'
          )
        # The range of all labels and attributes; of pictures, which may exceed
        # memory and have no wrong values, only the type.
        modality.check(array[:1024] if modality.kind_name == 'image' else array)
    return dataset

  @functools.cached_property
  def data_samples(self) -> dict[str, str]:
    """Digests of the first training examples of every modality.

    They tell whether runs of different modalities mean the same by one name.
    """
    arrays = self.dataset.splits['train'].arrays
    first = {name: np.ascontiguousarray(arrays[name][:64]) for name in self.names}
    return {n: hashlib.sha1(a.tobytes()).hexdigest()[:16] for n, a in first.items()}

  def split(self, section: str) -> Split:
    """The split that config.`section`.split names."""
    name = self.config[section]['split']
    if name not in self.dataset.splits:
      raise UserError(
        f'config.{section}.split={name!r} is not one of {list(self.dataset.splits)}.'
      )
    return self.dataset.splits[name]

  def batch_arrays(self, split: str) -> dict[str, Any]:
    """A split as the tree that learners take batches of."""
    part = self.dataset.splits[split]
    labels = part.labels
    if labels is None:
      labels = np.full(len(part), -1, np.int32)
    return {'x': dict(part.arrays), 'present': part.present, 'label': labels}

  @property
  def is_joint(self) -> bool:
    """Whether the method is a joint VAE; others have a latent for each modality."""
    return 'joint' in self.config['stages']

  @property
  def encoding_stage(self) -> str:
    return 'joint' if self.is_joint else 'unimodal'

  @property
  def main_stage(self) -> str:
    """The stage whose step stands beside every number."""
    return 'joint' if self.is_joint else 'score'

  @property
  def blank_example(self) -> dict[str, Any]:
    """One blank example: enough to give shapes to networks."""
    return {
      'x': {m.name: np.zeros((1, *m.shape), m.kind.dtype) for m in self.modalities},
      'present': np.ones((1, len(self.modalities)), bool),
      'label': np.zeros(1, np.int32),
      'z': np.zeros((1, self.layout.total), np.float32),
    }

  # --- learners -------------------------------------------------------------

  @functools.cached_property
  def layout(self) -> LatentLayout:
    """Where the latents that a score model learns lie: one block if they are shared."""
    if self.is_joint:
      return LatentLayout((self.joint.shared_dim,))
    return LatentLayout(tuple(m.latent_dim for m in self.modalities))

  def _training(self, learner, section: str) -> Training:
    spec = self._positive(section, 'num_steps', 'batch_size')
    check_arguments(
      make_optimizer, f'{section}.optimizer', spec['optimizer'], {'num_steps': None}
    )
    return Training(
      learner=learner,
      optimizer=make_optimizer(num_steps=spec['num_steps'], **spec['optimizer']),
      ema_decay=spec['ema_decay'],
      num_steps=spec['num_steps'],
      batch_size=spec['batch_size'],
      key=fold_in_name(self._key, learner.name),
    )

  @functools.cached_property
  def autoencoders(self):
    for modality in self.modalities:
      if modality.diffusion:
        raise UserError(
          f'config.modalities.{modality.name}.decoder: an autoencoder of one modality '
          "has no 'diffusion' decoder; a joint VAE may have."
        )
    spec = self.config['unimodal']['autoencoder']
    return tuple(
      build(AUTOENCODERS, spec, modality=m, index=i)
      for i, m in enumerate(self.modalities)
    )

  @functools.cached_property
  def joint(self) -> JointVAE:
    spec = self.config['joint']
    objective = build(OBJECTIVES, spec['objective'])
    name, family = spec['objective']['name'], spec['family']
    if family not in objective.families:
      raise UserError(
        f'config.joint.family={family!r}: {name} takes one of {objective.families}.'
        + nearest(family, POSTERIORS)
      )
    inside = getattr(objective, 'estimator', 'elbo') != 'elbo'
    if (
      inside and objective.num_samples > 1 and any(m.diffusion for m in self.modalities)
    ):
      raise UserError(
        f'estimator={objective.estimator!r} averages num_samples='
        f'{objective.num_samples} draws inside the logarithm, where the noise of a '
        "diffusion decoder's bound makes it no bound: use 'elbo', or one draw."
      )
    private, sizes = spec['private_dim'], {m.latent_dim for m in self.modalities}
    if len(sizes) > 1:
      raise UserError(
        'a joint VAE has one latent for all modalities: their latent_dim must be the '
        f'same, not {sorted(sizes)}.'
      )
    if (private > 0) != (name == 'mmvaeplus') or not 0 <= private < min(sizes):
      raise UserError(
        f'config.joint.private_dim={private}: mmvaeplus needs a part of latent_dim='
        f'{min(sizes)}, and only mmvaeplus has one.'
      )
    weights = (1.0,) * len(self.modalities)
    if spec['scale_likelihoods']:
      weights = dimension_weights(self.modalities)
    for name in spec['likelihood_weights']:
      if name not in self.names:
        raise UserError(
          f'config.joint.likelihood_weights: {name!r} is no modality; they are '
          f'{self.names}.' + nearest(name, self.names)
        )
    return JointVAE(
      modalities=self.modalities,
      objective=objective,
      family=family,
      private_dim=private,
      weights=tuple(
        weight * spec['likelihood_weights'].get(name, 1.0)
        for name, weight in zip(self.names, weights, strict=True)
      ),
    )

  @functools.cached_property
  def score(self) -> LatentScore | None:
    """The score model of the latents; None in a run without that stage."""
    if self.is_joint and 'score' not in self.config['stages']:
      return None
    spec = self.config['score']
    return LatentScore(
      network=build(SCORE_NETS, spec['network'], dims=self.layout.dims),
      layout=self.layout,
      sde=build(SDES, spec['sde']),
      parametrization=build(PARAMETRIZATIONS, spec['parametrization']),
      times=build(TIME_SAMPLING, spec['times']),
      weighting=spec['weighting'],
      condition_probability=spec['condition_probability'],
      drop_probability=spec['drop_probability'],
      loss_scaling=spec['loss_scaling'],
      family=self.joint.family if self.is_joint else 'normal',
    )

  @functools.cached_property
  def energy(self) -> LatentEnergy | None:
    """Energies of pairs of latents; None in a run without that stage."""
    if 'energy' not in self.config['stages']:
      return None
    spec = self.config.get('energy')
    if spec is None:
      raise UserError("the stage 'energy' needs a section config.energy.")
    energy = LatentEnergy(
      network=build(ENERGY_NETS, spec['network'], dims=self.layout.dims),
      layout=self.layout,
      sde=self.score.sde,
      times=build(TIME_SAMPLING, spec['times']),
      clean_probability=spec['clean_probability'],
      group_size=spec['group_size'],
      false_negative_rate=spec['false_negative_rate'],
    )
    energy.num_groups(spec['batch_size'])  # refuses a size that cannot be cut
    return energy

  @functools.cached_property
  def refiners(self) -> tuple[Refiner, ...]:
    """Diffusion models that sharpen what autoencoders decode; none in most runs."""
    if 'refiner' not in self.config['stages']:
      return ()
    if self.is_joint:
      raise UserError(
        "config.stages: a joint VAE has no stage 'refiner'; its decoders may be "
        'diffusion models themselves.'
      )
    spec = self.config.get('refiner') or {}
    decoders = spec.get('decoders')
    if not (isinstance(decoders, Mapping) and decoders and self.decoding):
      raise UserError(
        "the stage 'refiner' needs config.refiner.decoders and config.decoder_sampler: "
        'see `refiner` in configs/common.py.'
      )
    if self.config.get('decoder_guidance'):
      raise UserError(
        'config.decoder_guidance: refiners are not guided; leave it empty.'
      )
    for name, options in decoders.items():
      if name not in self.names:
        raise UserError(
          f'config.refiner.decoders: {name!r} is no modality; they are {self.names}.'
          + nearest(name, self.names)
        )
      where = f'config.refiner.decoders.{name}'
      if not isinstance(options, Mapping) or options.get('name') != 'diffusion':
        raise UserError(f'{where} is not a dict of a diffusion decoder: {options!r}.')
      if options.get('drop_probability'):
        raise UserError(
          f'{where}.drop_probability: refiners are not guided; set it to 0.'
        )
    out = []
    for autoencoder in self.autoencoders:
      name, shape = autoencoder.modality.name, autoencoder.modality.model_shape
      if name in decoders:
        where = f'refiner.decoders.{name}'
        if not shape:
          raise UserError(f'config.{where}: a single number cannot be refined.')
        options = {k: v for k, v in decoders[name].items() if k != 'name'}
        check_arguments(make_diffusion_decoder, where, options, {'shape': None})
        out.append(make_refiner(autoencoder, **options))
    return tuple(out)

  @functools.cached_property
  def classifiers(self) -> tuple[Classifier, ...]:
    """One per name in `judge`; none when the data have no labels."""
    judges = dict.fromkeys(m.judge for m in self.modalities if m.judge)
    if judges and self.dataset.num_classes is None:
      raise UserError(
        'the data have no labels, so no classifier can judge the samples: set '
        "judge='' for every modality."
      )
    out = []
    for judge in judges:
      indices = tuple(i for i, m in enumerate(self.modalities) if m.judge == judge)
      judged = tuple(self.modalities[i] for i in indices)
      if len({m.model_shape for m in judged}) > 1:
        raise UserError(f'modalities judged by {judge!r} must have one shape.')
      network = build(
        CLASSIFIERS,
        self.config['classifier']['network'],
        num_classes=self.dataset.num_classes,
      )
      out.append(Classifier(judge, network, judged, indices))
    return tuple(out)

  def trainings(self, stage: str) -> tuple[Training, ...]:
    """The learners of a stage; those of one stage train side by side."""
    if stage == 'classifier':
      return tuple(self._training(c, 'classifier') for c in self.classifiers)
    if stage == 'unimodal':
      trainings = tuple(self._training(a, 'unimodal') for a in self.autoencoders)
      only = self.config['only']
      if only and only not in self.names:
        raise UserError(
          f'config.only={only!r} is no modality; they are {self.names}.'
          + nearest(only, self.names)
        )
      return tuple(t for t in trainings if only in ('', t.learner.modality.name))
    if stage == 'joint':
      return (self._training(self.joint, 'joint'),)
    if stage == 'score':
      return (self._training(self.score, 'score'),)
    if stage == 'energy':
      return (self._training(self.energy, 'energy'),)
    if stage == 'refiner':
      return tuple(self._training(r, 'refiner') for r in self.refiners)
    raise UserError(f'unknown stage {stage!r} in config.stages.')

  def source(self, stage: str) -> train.Source:
    """What a stage is trained on; order and residence of the examples."""
    if stage in ('score', 'energy'):
      arrays = self._latent_arrays()
    else:
      arrays = self.batch_arrays('train')
    size = sum(a.nbytes for a in jax.tree.leaves(arrays))
    limit = self.config['loop']['device_memory_gb'] * 2**30
    digest = hashlib.sha1(stage.encode()).digest()
    return train.Source(
      arrays=arrays,
      size=len(jax.tree.leaves(arrays)[0]),
      seed=(self.config['seed'] << 32) + int.from_bytes(digest[:4], 'big'),
      resident=size <= limit,
      block_bytes=limit / 4,
    )

  def frozen(self, stage: str) -> PyTree:
    """Variables of earlier stages that the losses of this one use."""
    return self.unimodal_variables()[0] if stage == 'refiner' else None

  def _latent_arrays(self) -> dict[str, np.ndarray]:
    """Latents of the training split; which of them belong together.

    With config.score.paired_fraction below 1 the pairing of the other tuples is not
    used. Tuples whose pairing is known are repeated until they are half of all, or
    the little that they say would drown in examples of single modalities.
    """
    spec = self.config['score']
    if self.is_joint:
      stored = self.latents()
      return {
        'z': self.standardised_latents(),
        'spread': stored['spread'] / stored['std'],
        'present': stored['present'],
      }
    z, present = self.standardised_latents(), self.dataset.splits['train'].present
    fraction = spec['paired_fraction']
    if fraction == 1:
      return {'z': z, 'present': np.asarray(present)}
    order = np.random.default_rng(self.config['seed']).permutation(len(z))
    paired, unpaired = np.split(order, [round(fraction * len(z))])
    if spec['use_unpaired']:
      paired = np.resize(paired, max(len(paired), len(unpaired)))
    else:
      unpaired = unpaired[:0]
    rows = np.concatenate([paired, unpaired])
    return {
      'z': z[rows],
      'present': np.asarray(present)[rows],
      'paired': np.arange(len(rows)) < len(paired),
    }

  @property
  def loop_options(self) -> train.LoopOptions:
    spec = self._positive('loop', 'block_steps', 'keep_checkpoints')
    return train.LoopOptions(
      block_steps=spec['block_steps'],
      checkpoint_every_steps=spec['checkpoint_every_steps'],
      keep_checkpoints=spec['keep_checkpoints'],
    )

  # --- latents --------------------------------------------------------------

  def unimodal_variables(self) -> tuple[dict[str, PyTree], dict[str, int]]:
    """EMA variables of the autoencoders by modality, and their steps."""
    variables, steps = {}, {}
    for autoencoder in self.autoencoders:
      name = autoencoder.modality.name
      training = self._training(autoencoder, 'unimodal')
      variables[name], steps[name] = train.load_variables(
        self.stage_dir('unimodal'), training, self.blank_example, self.mesh
      )
    return variables, steps

  def joint_variables(self) -> tuple[PyTree, dict[str, int]]:
    """EMA variables of the joint VAE, and their step."""
    (training,) = self.trainings('joint')
    variables, step = train.load_variables(
      self.stage_dir('joint'), training, self.blank_example, self.mesh
    )
    return variables, {'joint': step}

  def encoder_variables(self) -> tuple[PyTree, dict[str, int]]:
    """Variables of what makes latents, and their steps."""
    return self.joint_variables() if self.is_joint else self.unimodal_variables()

  def _latents_path(self) -> str:
    return os.path.join(self.workdir, 'latents.npz')

  def latents(self) -> dict[str, np.ndarray]:
    """Posterior means of the training split, and their moments.

    Computed once from the finished autoencoders and kept in the workdir.

    Returns:
      'z' [N, D], 0 where absent; 'mean' and 'std' [D] over present examples. Of joint
      VAEs also 'spread' [N, D], the standard deviation of the posterior, which 'std'
      counts in, and 'present' [N, 1], whether an example has any modality.
    """
    stage = self.encoding_stage
    variables, steps = self.encoder_variables()
    for training in self.trainings(stage):
      if not train.finished(self.stage_dir(stage), training):
        raise UserError(f'{training.name} is not fully trained yet.')
    stamp = {
      'data': self.dataset.content_hash,
      'steps': steps,
      'seed': self.pretrained_seed,
    }
    stored = self._stored_latents()
    if stored.get('stamp') == stamp:
      return stored
    present, extra = self.dataset.splits['train'].present, {}
    if self.is_joint:
      z, extra['spread'] = self._joint_latents(variables)
      present = np.asarray(present).any(1)[:, None]
      extra['present'] = present
    else:
      z = self.encode_split(variables, 'train')
      present = np.asarray(present[:, self.layout.modality_of_dim])
    z = np.where(present, z, 0.0).astype(np.float32)
    if not np.isfinite(z).all():
      raise UserError('the autoencoders give latents that are not finite.')
    count = np.maximum(present.sum(0), 1)
    mean = z.sum(0, dtype=np.float64) / count
    square = (z - mean) ** 2 + np.square(extra.get('spread', 0.0))
    square = np.where(present, square, 0.0)
    std = np.sqrt(square.sum(0) / count)
    # A dimension that the encoder ignores is a constant; leave it near 0.
    std = np.maximum(std, 1e-6 * max(std.max(), 1e-6))
    if not self.is_joint and not self.config['score']['standardise']:
      mean, std = np.zeros_like(mean), np.ones_like(std)
    out = {
      'z': z,
      **extra,
      'mean': mean.astype(np.float32),
      'std': std.astype(np.float32),
    }
    with atomic_path(self._latents_path()) as path, open(path, 'wb') as f:
      np.savez(f, stamp=np.array(json.dumps(stamp)), **out)
    return out

  def _stored_latents(self) -> dict[str, Any]:
    """What latents.npz holds; empty if it is absent or torn."""
    try:
      # NumPy leaves a file open that turns out to be no archive.
      with open(self._latents_path(), 'rb') as f, np.load(f) as stored:
        out = {k: stored[k] for k in stored.files}
        return out | {'stamp': json.loads(str(stored['stamp']))}
    except UNREADABLE:
      return {}

  def encode_split(self, variables: dict[str, PyTree], split: str) -> np.ndarray:
    """Posterior means [N, D] of a split, not standardised."""
    part = self.dataset.splits[split]

    @jax.jit
    def encode(variables, x):
      return self.layout.join(encode_means(self.autoencoders, variables, x))

    out = np.zeros((len(part), self.layout.total), np.float32)
    for indices, mask in padded_chunks(len(part), _ENCODE_CHUNK):
      x = tuple(np.asarray(part.arrays[name][indices]) for name in self.names)
      z = np.asarray(encode(variables, x))
      out[indices[mask]] = z[mask]
    return out

  def _joint_latents(self, variables: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [N, d] of q(z | all that an example has).

    Where that is a mixture, those of one component, drawn once for each example.
    """
    part, model = self.dataset.splits['train'], self.model
    key = fold_in_name(self._key, 'latents')

    @jax.jit
    def posterior(variables, key, rows, x, present):
      variables = {'joint': variables}
      codes = model.encode(variables, x)
      q = model.posterior(variables, row_keys(key, rows), codes, present)
      return q.mean, jnp.exp(0.5 * q.log_var)

    out = np.zeros((2, len(part), self.joint.shared_dim), np.float32)
    for indices, mask in padded_chunks(len(part), _ENCODE_CHUNK):
      x = tuple(np.asarray(part.arrays[name][indices]) for name in self.names)
      present = np.asarray(part.present[indices])
      moments = posterior(variables, key, indices, x, present)
      out[:, indices[mask]] = np.asarray(jnp.stack(moments))[:, mask]
    return out[0], out[1]

  def standardised_latents(self) -> np.ndarray:
    stored = self.latents()
    return (stored['z'] - stored['mean']) / stored['std']

  # --- the trained model ----------------------------------------------------

  def setup_spec(self, name: str) -> dict[str, Any]:
    """What the config says of the setup `name`: sampler, conditioning, guidance."""
    own = {key: self.config[key] for key in ('sampler', 'conditioning', 'guidance')}
    if name == 'default':
      return own
    changed = self.config['compare'][name]
    if not isinstance(changed, Mapping):
      raise UserError(
        f'config.compare.{name} is {changed!r}, not a dict of {set(own)}.'
      )
    for key in changed:
      if key not in own:
        raise UserError(
          f'config.compare.{name} has no field {key!r}; it has {sorted(own)}.'
          + nearest(key, own)
        )
    return own | changed

  def _guidance(self, spec: Mapping[str, Any]) -> tuple[Guidance, ...]:
    """One of a `name`, several of a name each, or none."""
    specs = (spec,) if 'name' in spec else spec.values()
    for each in specs:
      if not isinstance(each, Mapping):
        raise UserError(f'guidance {spec} needs a `name`: one of {sorted(GUIDANCE)}.')
    return tuple(build(GUIDANCE, each) for each in specs)

  @functools.cached_property
  def setups(self) -> dict[str, Setup]:
    """'default' and those of config.compare."""
    if 'default' in self.config['compare']:
      raise UserError("config.compare: 'default' is the setup of the run itself.")
    specs = {n: self.setup_spec(n) for n in ('default', *self.config['compare'])}
    if self.is_joint:
      return {
        name: Setup(build(SAMPLERS | PRIORS, spec['sampler']))
        for name, spec in specs.items()
      }
    return {
      name: Setup(
        sampler=build(SAMPLERS, spec['sampler']),
        conditioning=build(CONDITIONING, spec['conditioning']),
        guidance=self._guidance(spec['guidance']),
      )
      for name, spec in specs.items()
    }

  @property
  def decoding(self) -> dict[str, Any]:
    """What the config says of sampling by diffusion decoders."""
    keys = ('decoder_sampler', 'decoder_guidance')
    return {key: self.config[key] for key in keys if self.config.get(key)}

  @functools.cached_property
  def decoder_sampler(self) -> Any:
    """Of diffusion decoders."""
    sampler = build(SAMPLERS, self.config['decoder_sampler'])
    if getattr(sampler, 'batch_norms', False):
      raise UserError(
        'config.decoder_sampler.batch_norms: decoded examples would depend on each '
        'other; set it to False.'
      )
    return sampler

  @functools.cached_property
  def decoder_guidance(self) -> DecoderGuidance | None:
    """Of diffusion decoders; None for none."""
    if not self.config.get('decoder_guidance'):
      return None
    guidance = build(DECODER_GUIDANCE, self.config['decoder_guidance'])
    for modality in self.modalities:
      if modality.diffusion and not modality.diffusion.drop_probability:
        raise UserError(
          'config.decoder_guidance needs decoders that were trained without latents '
          f'too: config.modalities.{modality.name}.decoder.drop_probability must be '
          'positive.'
        )
    return guidance

  @functools.cached_property
  def model(self) -> MultimodalModel:
    if self.is_joint:
      return JointModel(
        learner=self.joint,
        setups=self.setups,
        score=self.score,
        decoder_sampler=self.decoder_sampler,
        decoder_guidance=self.decoder_guidance,
      )
    return ScoreBasedModel(
      autoencoders=self.autoencoders,
      score=self.score,
      setups=self.setups,
      energy=self.energy,
      refiners=self.refiners,
      refiner_sampler=self.decoder_sampler if self.refiners else None,
    )

  def probability_flow(self) -> ProbabilityFlow:
    """How log p(z) is integrated."""
    spec = self.config['evaluate']['likelihood']
    names = [field.name for field in dataclasses.fields(ProbabilityFlow)]
    return ProbabilityFlow(**{name: spec[name] for name in names})

  def restore(self) -> tuple[PyTree, dict[str, int]]:
    """Variables of the trained model, and the checkpoint step of each learner."""
    encoders, steps = self.encoder_variables()
    variables = {self.encoding_stage: encoders}
    if self.needs_latents:
      stored = self._stored_latents()
      if not stored or stored['stamp']['steps'] != steps:
        raise UserError(
          f'{self._latents_path()} is missing or damaged, or from other '
          'checkpoints: run --mode=train once more.'
        )
      variables['latents'] = {k: jnp.asarray(stored[k]) for k in ('mean', 'std')}
      variables |= self._fitted_mixtures(stored)
    if not self.is_joint:
      steps = {f'unimodal/{name}': step for name, step in steps.items()}
    for stage, learner in (('score', self.score), ('energy', self.energy)):
      if learner is not None:
        (training,) = self.trainings(stage)
        variables[stage], steps[stage] = train.load_variables(
          self.workdir, training, self.blank_example, self.mesh
        )
    if self.refiners:
      variables['refiner'] = {}
      for training in self.trainings('refiner'):
        name = training.learner.autoencoder.modality.name
        variables['refiner'][name], steps[training.name] = train.load_variables(
          self.workdir, training, self.blank_example, self.mesh
        )
    return variables, steps

  @property
  def needs_latents(self) -> bool:
    """Whether anything is fitted to the latents of the training split."""
    samplers = [setup.sampler for setup in self.setups.values()]
    mixtures = any(isinstance(sampler, GaussianMixture) for sampler in samplers)
    return self.score is not None or mixtures

  def _fitted_mixtures(self, stored: Mapping[str, Any]) -> dict[str, PyTree]:
    """Mixtures of Gaussians of the setups that draw from one, fitted to draws of z."""
    wanted = {
      name: setup.sampler.num_components
      for name, setup in self.setups.items()
      if isinstance(setup.sampler, GaussianMixture)
    }
    if not wanted:
      return {}
    fitted = {number: self._mixture(number, stored) for number in set(wanted.values())}
    return {'mixtures': {name: fitted[number] for name, number in wanted.items()}}

  def _mixture(self, number: int, stored: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read from the workdir, or fitted and kept there."""
    path = os.path.join(self.workdir, f'mixture_{number}.npz')
    stamp = json.dumps(stored['stamp'])
    try:
      with open(path, 'rb') as f, np.load(f) as found:
        if str(found['stamp']) == stamp:
          return {key: found[key] for key in found.files if key != 'stamp'}
    except UNREADABLE:
      pass  # Not made yet, or damaged.
    rng = np.random.default_rng(self.config['seed'])
    rows = rng.permutation(np.flatnonzero(stored['present']))[:_MIXTURE_EXAMPLES]
    log_var = 2 * np.log(stored['spread'][rows])
    q = POSTERIORS[self.joint.family](stored['z'][rows], log_var)
    z = np.asarray(q.sample(fold_in_name(self._key, 'mixture')))
    fitted = fit_gaussian_mixture(z, number, self.config['seed'])
    # A run that cannot be written can be loaded all the same.
    with (
      contextlib.suppress(OSError),
      atomic_path(path) as temporary,
      open(temporary, 'wb') as f,
    ):
      np.savez(f, stamp=np.array(stamp), **fitted)
    return fitted

  def restore_classifiers(self) -> tuple[dict[str, PyTree], dict[str, int]]:
    """Variables of the judges by name, and their steps."""
    variables, steps = {}, {}
    for training in self.trainings('classifier'):
      variables[training.learner.judge], steps[training.name] = train.load_variables(
        self.stage_dir('classifier'), training, self.blank_example, self.mesh
      )
    return variables, steps

  def check(self) -> None:
    """Builds all that the config describes, so that mistakes show before training.

    Raises:
      UserError: anything that would end the run later.
    """
    for stage in (*self.config['stages'], *self.pretrained_stages):
      if stage in ('unimodal', 'joint') and stage not in self.config:
        raise UserError(
          f'config.stages: method {self.config["method"]!r} has no stage {stage!r}.'
        )
    if self.is_joint and self.config['only']:
      raise UserError(
        'config.only trains the autoencoder of one modality; a joint VAE is trained as '
        'a whole: drop it.'
      )
    if self.pretrained:
      self.check_pretrained()
    model = self.model
    # Autoencoders alone draw nothing.
    drawn = self.setups if self.main_stage in self.config['stages'] else ()
    for name in drawn:
      self._check_setup(name)
    if self.score is not None:
      self._check_score()
    if self.is_joint:
      self._check_joint()
    if self.refiners:
      self._check_refiners()
    for section in ('evaluate', 'sample'):
      self.split(section)
    spec = self._positive('evaluate', 'num_examples', 'chunk_size', 'max_subsets')
    if spec['linear_probe'] < 0:
      raise UserError(
        f'config.evaluate.linear_probe is {spec["linear_probe"]}; it must not be '
        'negative.'
      )
    num = len(self.modalities)
    for count in self.config['evaluate']['num_given']:
      if not 0 < count < num:
        raise UserError(
          f'config.evaluate.num_given: of {num} modalities, 1 to {num - 1} can be '
          f'given, not {count}.'
        )
    self._positive('sample', 'num_examples', 'num_samples')
    for key in ('num_examples', 'num_importance_samples'):
      value = self.config['evaluate']['likelihood'][key]
      if value < (key != 'num_examples'):
        raise UserError(f'config.evaluate.likelihood.{key} is {value}: too small.')
    self.probability_flow()
    weights = self.config['evaluate']['inception_weights']
    if weights and not os.path.isfile(weights):
      raise UserError(f'config.evaluate.inception_weights: there is no file {weights}.')
    for stage in self.config['stages']:
      for training in self.trainings(stage):
        if training.batch_size % jax.device_count():
          raise UserError(
            f'config.{stage}.batch_size={training.batch_size} cannot be split over '
            f'{jax.device_count()} devices.'
          )
        parameter_count(training, self.blank_example)
    # One evaluation of everything that sampling runs, without computing it.
    z = jax.ShapeDtypeStruct((2, model.code_dim), jnp.float32)
    learners = {'score': self.score, 'energy': self.energy}
    if self.is_joint:
      learners['joint'] = self.joint
    variables = jax.eval_shape(
      lambda: {
        k: v.init(self._key, self.blank_example) for k, v in learners.items() if v
      }
    )
    # What is fitted later.
    variables['latents'] = dict.fromkeys(('mean', 'std'), jnp.zeros(self.layout.total))
    drawn = [
      name
      for name in drawn
      if not isinstance(self.setups[name].sampler, GaussianMixture)
    ]
    observed = jax.ShapeDtypeStruct((2, len(self.modalities)), bool)
    for name in drawn:
      jax.eval_shape(
        lambda variables, keys, z, observed, name=name: model.sample_latents(
          variables, keys, z, observed, name
        ),
        variables,
        jax.eval_shape(lambda: jax.random.split(self._key, 2)),
        z,
        observed,
      )

  def check_added_stages(self) -> None:
    """Whether stages that a finished run can get later are trained.

    Raises:
      UserError: one of them is not.
    """
    for stage in ADDED_STAGES:
      for training in self.trainings(stage) if stage in self.config['stages'] else ():
        if (
          checkpoints.latest_step(train.directory(self.workdir, training.name)) is None
        ):
          raise UserError(
            f'there is no checkpoint of {training.name} in {self.workdir}: '
            f'--mode=train makes it; or leave out the stage {stage!r}.'
          )

  def _check_score(self) -> None:
    """Whether the score model can be trained as its section says."""
    spec = self.config['score']
    one_time = spec['network']['name'] == 'unet'
    if one_time and spec['condition_probability'] > 0:
      raise UserError(
        "the score network 'unet' knows one time for all modalities: set "
        "config.score.condition_probability=0 and another conditioning, e.g. 'noised'."
      )
    for key in ('condition_probability', 'drop_probability'):
      if not 0 <= spec[key] < 1:
        raise UserError(f'config.score.{key} must be at least 0 and below 1.')
    present = self.dataset.splits['train'].present
    fraction = spec['paired_fraction']
    if not (fraction <= 1 and round(fraction * len(present)) > 0):
      raise UserError(
        f'config.score.paired_fraction={fraction} must leave some of {len(present)} '
        'tuples paired, and be at most 1.'
      )
    if spec['weighting'] not in WEIGHTINGS:
      raise UserError(
        f'config.score.weighting={spec["weighting"]!r} is not one of '
        f'{sorted(WEIGHTINGS)}.' + nearest(spec['weighting'], WEIGHTINGS)
      )
    holes = not present.all() or (fraction < 1 and spec['use_unpaired'])
    if spec['network']['name'] == 'unet' and holes:
      raise UserError("the score network 'unet' cannot learn from missing modalities.")

  def _check_joint(self) -> None:
    """One step and one decoding of a joint VAE, without computing them."""
    learner, example = self.joint, self.blank_example
    variables = jax.eval_shape(lambda: learner.init(self._key, example))
    rngs = step_rngs(self._key, 0, STREAMS)
    jax.eval_shape(
      lambda variables: learner.loss(variables, None, example, rngs, train=True)[0],
      variables,
    )
    jax.eval_shape(
      lambda variables, latents: self.model.decode(
        {'joint': variables}, jax.random.split(self._key, 1), latents
      ),
      variables,
      jax.ShapeDtypeStruct((1, sum(self.model.latent_dims.values())), jnp.float32),
    )
    if self.score is not None and self.config['score']['paired_fraction'] != 1:
      raise UserError(
        'config.score.paired_fraction: the score model of a joint VAE sees one latent '
        'for all modalities, and no pairs; set it to 1.'
      )

  def _check_refiners(self) -> None:
    """One step and one decoding with refiners, without computing them."""
    example, rngs = self.blank_example, step_rngs(self._key, 0, STREAMS)

    def run(latents):
      frozen = {a.modality.name: a.init(self._key, example) for a in self.autoencoders}
      refiner = {
        r.autoencoder.modality.name: r.init(self._key, example) for r in self.refiners
      }
      losses = [
        r.loss(variables, frozen, example, rngs, train=True)[0]
        for r, variables in zip(self.refiners, refiner.values(), strict=True)
      ]
      moments = dict.fromkeys(('mean', 'std'), jnp.zeros(self.layout.total))
      variables = {'unimodal': frozen, 'refiner': refiner, 'latents': moments}
      return losses, self.model.decode(
        variables, jax.random.split(self._key, 1), latents
      )

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, self.layout.total), jnp.float32))

  def _check_setup(self, name: str) -> None:
    """Whether the networks are trained for what a setup asks of them."""
    setup = self.setups[name]
    where = '' if name == 'default' else f' (config.compare.{name})'
    if self.is_joint:
      spec = self.setup_spec(name)
      for part in ('conditioning', 'guidance'):
        if spec[part]:
          raise UserError(
            f'{part}{where}: a joint VAE has none, its encoders see what is given; '
            'leave it empty.'
          )
      if isinstance(setup.sampler, GaussianMixture):
        number = setup.sampler.num_components
        usable = int(np.asarray(self.dataset.splits['train'].present).any(1).sum())
        if not 1 <= number <= min(usable, _MIXTURE_EXAMPLES):
          raise UserError(
            f'num_components={number}{where} cannot be fitted to {usable} examples.'
          )
      if self.score is None and not isinstance(setup.sampler, tuple(PRIORS.values())):
        raise UserError(
          f'sampler {spec["sampler"]["name"]!r}{where} needs a score '
          f"model: config.stages must have 'score', or choose one of {list(PRIORS)}."
        )
      return
    score = self.config['score']
    if self.setup_spec(name)['conditioning']['name'] == 'time_zero' and not (
      score['condition_probability'] > 0
    ):
      raise UserError(
        f"conditioning 'time_zero'{where} needs a network that has seen observed "
        'modalities: config.score.condition_probability must be positive.'
      )
    for each in setup.guidance:
      # Only rows that would show something drop it.
      seen = score['condition_probability'] > 0 and score['drop_probability'] > 0
      if each.needs == 'dropped' and not seen:
        raise UserError(
          f"guidance 'classifier_free'{where} needs a network that has seen modalities "
          'left out: config.score.drop_probability and condition_probability must be '
          'positive.'
        )
      if each.needs == 'energy' and self.energy is None:
        raise UserError(
          f"guidance 'energy'{where} needs a trained energy: config.stages must have "
          "'energy', see `energy` in configs/common.py."
        )


def parameter_count(training: Training, example: Mapping[str, Any]) -> int:
  """Number of trained parameters of a learner; nothing is computed."""
  shapes = jax.eval_shape(lambda: training.learner.init(training.key, example))
  return int(parameter_overview.count_parameters(shapes['params']))


def describe_setup(setup: Setup) -> dict[str, str]:
  """What results.jsonl says of a setup; guidance is '' for none."""
  return {
    'sampler': _describe(setup.sampler, SAMPLERS | PRIORS),
    'conditioning': (
      _describe(setup.conditioning, CONDITIONING) if setup.conditioning else ''
    ),
    'guidance': ' + '.join(_describe(each, GUIDANCE) for each in setup.guidance),
  }


def _describe(component: Any, table: Mapping[str, type]) -> str:
  """'name(only the arguments that differ from their defaults)'."""
  names = {cls: name for name, cls in table.items()}
  values = []
  for field in dataclasses.fields(component):
    value = getattr(component, field.name)
    if value != field.default:
      values.append(f'{field.name}={value}')
  return f'{names[type(component)]}({", ".join(values)})'
