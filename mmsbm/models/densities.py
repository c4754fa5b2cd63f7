"""What densities each family of models has, as programs that an evaluator runs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mmsbm.diffusion.probability_flow import ProbabilityFlow
from mmsbm.learners.autoencoder import VAE
from mmsbm.models import likelihood
from mmsbm.models.base import Density, DensityEntry, DensityOptions

_OF_DATA = 'of data scaled as the networks see them'
_FLOW = ('num_steps', 'num_probes', 'time_min')
_DRAWS = ('num_importance_samples',)


def _sizes(model) -> list[int]:
  """Returns the number of entries of an example of each modality."""
  return [math.prod(m.shape) for m in model.modalities]


def _all_but_one(names: list[str], name: str) -> tuple[str, ...]:
  return tuple(n for n in names if n != name)


def of_joint_vae(model, options: DensityOptions) -> tuple[Density, ...]:
  """Returns bounds on log p(X), and on log of the mean of p(x_m | z), z ~ q.

  The latter is the density of x_m as the model generates it from the rest. What a
  diffusion decoder is trained with is no density, so with one there are none.

  Args:
    model: a `JointModel`.
    options: number of draws.
  """
  if any(codec.diffusion for codec in model.codecs):
    return ()
  names, sizes = [m.name for m in model.modalities], _sizes(model)
  joint = DensityEntry(
    metric='joint_log_likelihood_bound',
    target='all',
    given=None,
    dimensions=sum(sizes),
    note=_OF_DATA,
  )
  conditional = [
    DensityEntry(
      metric='conditional_log_likelihood_bound',
      target=name,
      given=_all_but_one(names, name),
      dimensions=size,
      note=f'{_OF_DATA}; z from the posterior given the rest',
    )
    for name, size in zip(names, sizes, strict=True)
  ]
  return (
    Density(
      name='joint_vae_likelihood',
      entries=(joint, *conditional),
      options=_DRAWS,
      uses=model.uses(None),
      compute=functools.partial(_joint_vae, model, options.num_importance_samples),
    ),
  )


def _joint_vae(model, number, per_row, encoded, raw):
  """Nats [1 + M, n]: of all modalities, and of each given the rest."""
  num = len(model.modalities)
  given = np.concatenate([np.ones((1, num), bool), ~np.eye(num, dtype=bool)])

  def fn(variables, keys, raw, encoded, observed):
    weights, by_modality = likelihood.joint_vae_log_weights(
      model, variables, keys, encoded, raw, observed, number
    )
    target = jnp.where(observed, 0.0, by_modality).sum(-1)
    weights = jnp.where(observed.all(-1), weights, target)
    return likelihood.importance_bound(weights)

  # All sets in one call: the program is compiled once.
  nats = per_row(
    fn,
    'joint vae likelihood',
    _tiled(tuple(raw), len(given)),
    _tiled(encoded, len(given)),
    np.repeat(given, len(raw[0]), axis=0),
  )
  return nats.reshape(len(given), -1), None


def _tiled(tree, times: int):
  """Repeats all rows of arrays [n, ...], [times * n, ...]."""
  return jax.tree.map(lambda a: np.tile(a, (times, *[1] * (a.ndim - 1))), tree)


def of_score_based(model, options: DensityOptions) -> tuple[Density, ...]:
  """Returns the densities of latents, and bounds for VAEs alone and together.

  The encoders of other autoencoders are no densities, and what refiners draw has
  others than the autoencoders.

  Args:
    model: a `ScoreBasedModel`.
    options: of the flow, and number of draws.
  """
  flow = ProbabilityFlow(
    num_steps=options.num_steps,
    num_probes=options.num_probes,
    time_min=options.time_min,
  )
  names, sizes = [m.name for m in model.modalities], _sizes(model)
  num = model.layout.num_modalities
  given = np.zeros((1, num), bool)
  if model.score.condition_probability > 0:
    # A score model that has seen observed modalities at time 0 has conditionals too.
    given = np.concatenate([given, ~np.eye(num, dtype=bool)])
  latent = [
    DensityEntry(
      metric='latent_log_likelihood',
      target=target,
      given=tuple(n for n, shown in zip(names, row, strict=True) if shown),
      dimensions=int((~model.layout.expand(row)).sum()),
      note='of standardised latents',
      of_data=False,
    )
    for target, row in zip(('all', *names), given, strict=False)
  ]
  uses = frozenset(('unimodal', 'latents', 'score'))
  out = [
    Density(
      name='latent_likelihood',
      entries=tuple(latent),
      options=_FLOW,
      uses=uses,
      compute=functools.partial(_latent, model, flow, given),
    )
  ]
  if model.refiners or not all(isinstance(a, VAE) for a in model.autoencoders):
    return tuple(out)
  alone = [
    DensityEntry(
      metric='vae_log_likelihood_bound',
      target=name,
      given=None,
      dimensions=size,
      note=_OF_DATA,
    )
    for name, size in zip(names, sizes, strict=True)
  ]
  joint = DensityEntry(
    metric='joint_log_likelihood_bound',
    target='all',
    given=None,
    dimensions=sum(sizes),
    note=_OF_DATA,
  )
  return (
    *out,
    Density(
      name='vae_likelihood',
      entries=tuple(alone),
      options=_DRAWS,
      uses=frozenset(('unimodal',)),
      compute=functools.partial(_vaes, model, options.num_importance_samples),
    ),
    Density(
      name='joint_likelihood',
      entries=(joint,),
      options=_FLOW,
      uses=uses,
      compute=functools.partial(_joint, model, flow),
    ),
  )


def _latent(model, flow, given, per_row, encoded, raw):
  """Nats [E, n] of latents: of all, and of each modality given the rest."""
  del raw

  def fn(variables, keys, z, observed):
    return likelihood.latent_log_prob(model, flow, variables, keys, z, observed)

  # All sets in one call: the program is compiled once.
  nats, stderr = per_row(
    fn,
    'latent likelihood',
    np.tile(encoded, (len(given), 1)),
    np.repeat(given, len(encoded), axis=0),
  )
  return nats.reshape(len(given), -1), _of_probes(flow, stderr, len(given))


def _of_probes(flow, stderr, num_entries: int):
  return stderr.reshape(num_entries, -1) if flow.num_probes else None


def _vaes(model, number, per_row, encoded, raw):
  """Nats [M, n]: the importance weighted bound on log p(x) of every VAE alone."""
  del encoded
  nats = []
  for autoencoder, x in zip(model.autoencoders, raw, strict=True):
    name = autoencoder.codec.name

    def fn(variables, keys, x, autoencoder=autoencoder, name=name):
      weights = variables['unimodal'][name]
      log_weights = likelihood.vae_log_weights(autoencoder, weights, keys, x, number)
      return likelihood.importance_bound(log_weights)

    nats.append(per_row(fn, f'vae likelihood {name}', x))
  return np.stack(nats), None


def _joint(model, flow, per_row, encoded, raw):
  """Nats [1, n]: the evidence lower bound on log p(x_1, ..., x_M)."""
  del encoded

  def fn(variables, keys, raw):
    return likelihood.joint_log_weight(model, flow, variables, keys, raw)

  nats, stderr = per_row(fn, 'joint likelihood', tuple(raw))
  return nats[None], _of_probes(flow, stderr, 1)
