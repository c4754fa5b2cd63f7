"""A trained run from Python: `mmsbm.load(workdir).sample(given=...)`."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmsbm.config import nearest, plain
from mmsbm.evaluators import READERS_STEP
from mmsbm.experiment import make_experiment
from mmsbm.inference import Inference
from mmsbm.infra.bounds import COUNT, SEED, check_value
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import local_path
from mmsbm.infra.rng import fold_in_name, make_key
from mmsbm.modalities import Modality
from mmsbm.modalities.label import Label
from mmsbm.models.base import HasLatents
from mmsbm.record import read_record
from mmsbm.trained import Trained, load_trained

Examples = Mapping[str, np.ndarray]

# Standard deviations from the mean of the latents of the training examples.
_FAR = 8.0


class Run:
  """A trained model. The data that it was trained on are not needed.

  Attributes:
    config: the resolved config.
    steps: checkpoint step of every learner.
  """

  def __init__(self, trained: Trained):
    self._trained, self._others = trained, {}
    self._inference = trained.inference
    self._model = trained.inference.model
    self.config = trained.experiment.config
    self.steps = dict(trained.steps)

  @property
  def modalities(self) -> tuple[str, ...]:
    """Names of the modalities, in their order."""
    return tuple(m.name for m in self._model.modalities)

  @property
  def samplings(self) -> tuple[str, ...]:
    """Names of the ways of sampling; the first is the default."""
    return tuple(self._model.samplings)

  def _modality(self, name: str) -> Modality:
    if name not in self.modalities:
      raise UserError(
        f'there is no modality {name!r}; they are {list(self.modalities)}.'
        + nearest(name, self.modalities)
      )
    return self._model.modalities[self.modalities.index(name)]

  def _check(self, given: Examples) -> dict[str, np.ndarray]:
    out = {}
    for name, value in given.items():
      modality = self._modality(name)
      try:
        value = np.asarray(value)
      except ValueError as e:
        raise UserError(
          f'modality {name!r}: the given examples are no array: each must have the '
          f'shape {modality.shape}.'
        ) from e
      if value.shape == modality.shape:
        value = value[None]
      if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        raise UserError(f'modality {name!r}: the given examples hold NaN or infinity.')
      out[name] = modality.check(value)
    return out

  def _fill(self, given: Examples, num: int) -> tuple[np.ndarray, ...]:
    """Every modality [num, *shape]; zeros where it is not given."""
    return tuple(
      np.broadcast_to(given[m.name], (num, *m.shape))
      if m.name in given
      else np.zeros((num, *m.shape), m.kind.dtype)
      for m in self._model.modalities
    )

  def sample(
    self,
    given: Examples | None = None,
    num: int | None = None,
    seed: int = 0,
    *,
    observed: np.ndarray | None = None,
    sampling: str | Mapping[str, Any] = 'default',
    draws: int | None = None,
    average: bool = False,
  ) -> dict[str, np.ndarray]:
    """Draws all modalities given any of them.

    Args:
      given: raw examples by modality: one example [*shape], shown to all samples,
        or one for each sample [num, *shape]. None or empty: unconditional.
      num: number of samples; that of the given examples (or 1) by default.
      seed: of the draw, from 0 to 2**32 - 1. Sample i depends on (seed, i) and on what
        it was given.
      observed: [num, M] bool: which of the given modalities each row may see;
        all of them by default.
      sampling: a name in config.samplings, or a dict such as stands there;
        what it leaves out is that of the default.
      draws: samples for each row; the first is what is drawn without it.
      average: return their mean or, of classes and of what is 0 or 1, their vote.

    Returns:
      {name: [num, *shape]} raw examples of every modality, or [num, draws, *shape] with
      `draws` and without `average`; observed ones come back as they were given.

    Raises:
      UserError: unknown modality or sampling, wrong shape, NaN.

    Warns:
      UserWarning: what is given lies far outside the training data.

    Example:
      >>> run = mmsbm.load('runs/digits')                      # doctest: +SKIP
      >>> run.sample(given={'m0': image}, num=16)['m1'].shape  # doctest: +SKIP
      (16, 16, 16, 3)
    """
    check_value('seed', seed, int, SEED)
    for name, count in (('num', num), ('draws', draws)):
      if count is not None:
        check_value(name, count, int, COUNT)
    if average and draws is None:
      raise UserError('average needs draws, e.g. draws=16.')
    if observed is not None and not given:
      raise UserError(
        'observed says which of the given modalities are seen: give some.'
      )
    inference = self._inference
    if isinstance(sampling, Mapping):
      sampling, inference = 'default', self._with_sampling(sampling)
    elif sampling not in self.samplings:
      raise UserError(
        f'there is no sampling {sampling!r}; they are {list(self.samplings)}.'
        + nearest(sampling, self.samplings)
      )
    given = self._check(given or {})
    sizes = {name: len(value) for name, value in given.items()}
    if num is None:
      num = max([1, *sizes.values()])
    for name, size in sizes.items():
      if size not in (1, num):
        raise UserError(
          f'modality {name!r}: {size} examples given for {num} samples; give 1 or '
          f'{num}.'
        )
    shown = np.array([name in given for name in self.modalities])
    mask = np.broadcast_to(shown, (num, len(shown)))
    if observed is not None:
      observed = np.asarray(observed, bool)
      if observed.shape != mask.shape:
        raise UserError(f'observed must be {mask.shape}, not {observed.shape}.')
      mask = mask & observed
    x = self._fill(given, num)
    encoded = inference.encode(x)
    self._warn(encoded, mask)
    key = fold_in_name(make_key(seed), 'sample')
    keys = [key, *(jax.random.fold_in(key, j) for j in range(1, draws or 1))]
    drawn = [
      inference.sample(encoded, mask, key=key, sampling=sampling) for key in keys
    ]
    out = {}
    for i, (modality, *values) in enumerate(
      zip(self._model.modalities, *drawn, strict=True)
    ):
      rows = mask[:, i].reshape(-1, *[1] * len(modality.shape))
      values = [np.where(rows, x[i], value).astype(value.dtype) for value in values]
      if average:
        out[modality.name] = _average(modality, np.stack(values, axis=1))
      else:
        out[modality.name] = values[0] if draws is None else np.stack(values, axis=1)
    return out

  def _with_sampling(self, spec: Mapping[str, Any]) -> Inference:
    """Returns the model with a way of sampling that its config does not have."""
    spec = {**self.config['samplings']['default'], **plain(spec)}
    key = repr(spec)
    if key not in self._others:
      config = {**self.config, 'samplings': {'default': spec}}
      trained = self._trained
      ledger = trained.experiment.workspace.ledger
      experiment = make_experiment(config, ledger.workdir, read_record(ledger.workdir))
      self._others[key] = Inference(
        experiment.method.model,
        trained.inference.variables,
        mesh=trained.inference.mesh,
        chunk_size=trained.inference.chunk_size,
      )
    return self._others[key]

  def _warn(self, encoded: Any, mask: np.ndarray) -> None:
    """Warns of given examples whose latents no training example comes near."""
    # Latents of the others have no known scale.
    is_standard = self.config.get('score', {}).get('standardise', False)
    if not mask.any() or not is_standard or not isinstance(self._model, HasLatents):
      return
    latents = self._inference.latents(encoded, mask, key=make_key(0))
    for i, name in enumerate(self.modalities):
      far = np.abs(latents[name]).max(-1) * mask[:, i] if name in latents else 0
      if np.max(far) > _FAR:
        warnings.warn(
          f'modality {name!r}: {np.sum(far > _FAR)} given examples lie far outside the '
          f'training data (latents up to {np.max(far):.0f} standard deviations from '
          'their mean): what is drawn for them means little.',
          stacklevel=3,
        )

  def encode(self, given: Examples) -> dict[str, np.ndarray]:
    """Latents {name: [N, d]} of raw examples {name: [N, *shape]}, without noise.

    Of score-based methods: the standardised latent of every given modality. Of joint
    VAEs: 'shared', the mean of the posterior given all of them, and the private latents
    where the method has any.
    """
    self._latent_dims()
    given = self._check(given)
    num = max([len(value) for value in given.values()], default=0)
    if any(len(value) != num for value in given.values()) or not num:
      raise UserError('encode needs the same number of examples of each modality.')
    shown = np.array([name in given for name in self.modalities])
    latents = self._inference.latents(
      self._inference.encode(self._fill(given, num)),
      np.broadcast_to(shown, (num, len(shown))),
      key=make_key(0),
    )
    return {
      name: part
      for name, part in latents.items()
      if name in given or name not in self.modalities
    }

  def _latent_dims(self) -> Mapping[str, int]:
    if not isinstance(self._model, HasLatents):
      raise UserError(f'the method {self.config["method"]!r} has no latents.')
    return self._model.latent_dims

  def decode(self, z: Examples, seed: int = 0) -> dict[str, np.ndarray]:
    """Raw examples {name: [N, *shape]} of latents {name: [N, d]}; see `encode`.

    Of score-based methods those of the modalities in z, of joint VAEs of all. Decoders
    that draw samples depend on the seed.
    """
    check_value('seed', seed, int, SEED)
    dims = self._latent_dims()
    for name in z:
      if name not in dims:
        raise UserError(
          f'there is no latent {name!r}; they are {list(dims)}.' + nearest(name, dims)
        )
    num = max([len(np.atleast_2d(value)) for value in z.values()], default=0)
    if not num:
      raise UserError(f'decode needs latents: one or more of {list(dims)}.')
    latents = {}
    for name, dim in dims.items():
      part = np.zeros((num, dim), np.float32)
      if name in z:
        value = np.asarray(z[name], np.float32)
        if value.shape != part.shape:
          raise UserError(
            f'latents of {name!r} must be {part.shape}, not {value.shape}.'
          )
        part = value
      latents[name] = part
    x = self._inference.decode(latents, key=make_key(seed))
    shared = self._model.latents_are_shared
    return {n: v for n, v in zip(self.modalities, x, strict=True) if shared or n in z}


def _average(modality: Modality, values: np.ndarray) -> np.ndarray:
  """Mean over axis 1, or the class that is drawn most often."""
  if isinstance(modality.kind, Label):
    classes = np.arange(values.max() + 1)
    counts = (values[..., None] == classes).sum(1)
    return counts.argmax(-1).astype(values.dtype)
  mean = values.mean(1, dtype=np.float64)
  if not np.issubdtype(values.dtype, np.floating):
    mean = np.round(mean)
  return mean.astype(values.dtype)


def load(workdir: str | os.PathLike, *, allow_partial: bool = False) -> Run:
  """Loads a run that `python -m mmsbm.main` has trained.

  Args:
    workdir: of the run.
    allow_partial: take networks at the steps that they have reached.

  Raises:
    UserError: the folder holds no run, an unfinished one, or one of another version.
  """
  needs = ('data_hash', 'data_samples', 'num_classes')
  workdir = local_path(workdir)
  record = read_record(workdir, needs)
  experiment = make_experiment(record['config'], workdir, record)
  experiment.workspace.check_trained(allow_partial, without=(READERS_STEP,))
  return Run(load_trained(experiment, with_readers=False))
