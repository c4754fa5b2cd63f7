"""The likelihoods of the evaluation protocol: rows in nats, off by default.

Like every number of the protocol they are of test examples; see
`evaluators/likelihood.py` for what they are.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmsbm.evaluators import likelihood
from mmsbm.evaluators.coherence import clustered_mean
from mmsbm.evaluators.probability_flow import ProbabilityFlow
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name
from mmsbm.learners.autoencoder import VAE

Row = dict[str, Any]

_FLOW = tuple(field.name for field in dataclasses.fields(ProbabilityFlow))
_DRAWS = ('num_importance_samples',)
_OF_DATA = 'of data scaled as the networks see them'


def likelihood_measurements(
  protocol: Any,
) -> dict[str, tuple[Callable[[], list[Row]], tuple[str, ...]]]:
  """Measurements that config.evaluate.likelihood asks for.

  Args:
    protocol: an `evaluate.Protocol`.

  Returns:
    By name: what makes the rows, and the options that they depend on.
  """
  options = protocol.experiment.config['evaluate']['likelihood']
  if not options['num_examples']:
    return {}
  made = _Likelihoods(protocol, options)
  if protocol.experiment.is_joint:
    if any(m.diffusion for m in made.model.modalities):
      # What a diffusion decoder is trained with is no density.
      return {}
    return {'joint_vae_likelihood': (made.joint_vae, ('num_examples', *_DRAWS))}
  flow = ('num_examples', *_FLOW)
  out = {'latent_likelihood': (made.latent, flow)}
  if made.model.refiners:
    # The densities of autoencoders are not those of what is drawn.
    return out
  # The encoders of other autoencoders are no densities.
  if all(isinstance(a, VAE) for a in made.model.autoencoders):
    out['vae_likelihood'] = (made.vae, ('num_examples', *_DRAWS))
    out['joint_likelihood'] = (made.joint, flow)
  return out


@dataclasses.dataclass
class _Likelihoods:
  """The measurements.

  Attributes:
    protocol: see `likelihood_measurements`.
    options: config.evaluate.likelihood.
  """

  protocol: Any
  options: Mapping[str, Any]

  @property
  def model(self):
    return self.protocol.generator.model

  @property
  def flow(self) -> ProbabilityFlow:
    return self.protocol.experiment.probability_flow()

  @functools.cached_property
  def chosen(self) -> np.ndarray:
    """Positions of the examples: a random part, since files may be sorted."""
    rng = np.random.default_rng(self.protocol.seed)
    order = rng.permutation(len(self.protocol.rows))
    return np.sort(order[: self.options['num_examples']])

  @property
  def raw(self) -> tuple[np.ndarray, ...]:
    return tuple(x[self.chosen] for x in self.protocol.x)

  def per_row(self, fn: Callable, name: str, *trees):
    key = fold_in_name(self.protocol.key, name)
    generator = self.protocol.generator
    return generator.per_row(fn, key, *trees, name=f'evaluate {name}')

  def row(self, metric: str, values: np.ndarray, used: Sequence[str], **fields) -> Row:
    """A row for nats [n]; `used` are the options that they depend on."""
    value, stderr = clustered_mean(values)
    if not math.isfinite(value):
      raise UserError(
        f'{metric} is not finite: set a larger config.evaluate.likelihood.time_min, '
        'or train longer.'
      )
    fields |= {'unit': 'nats', **{name: self.options[name] for name in used}}
    return self.protocol.row(metric, value, stderr, **fields) | {'n': len(values)}

  def probe_fields(self, stderr: np.ndarray) -> Row:
    """What random directions add to the standard error of a mean, [n] rows."""
    if not self.options['num_probes']:
      return {}
    return {'probe_stderr': float(np.sqrt(np.square(stderr).sum()) / len(stderr))}

  def latent(self) -> list[Row]:
    """log density of the latents: of all, and of each modality given the rest.

    The latter only of a score model that has seen observed modalities at time 0.
    """
    model, flow, names = self.model, self.flow, self.protocol.names
    num, z = len(names), self.protocol.codes[self.chosen]
    given = np.zeros((1, num), bool)
    if model.score.condition_probability > 0:
      given = np.concatenate([given, ~np.eye(num, dtype=bool)])

    def fn(variables, keys, z, observed):
      return likelihood.latent_log_prob(model, flow, variables, keys, z, observed)

    # All sets in one call: the program is compiled once.
    values, stderr = self.per_row(
      fn,
      'latent likelihood',
      np.tile(z, (len(given), 1)),
      np.repeat(given, len(z), axis=0),
    )
    values, stderr = values.reshape(len(given), -1), stderr.reshape(len(given), -1)
    rows = []
    for i, target in enumerate(('all', *names)[: len(given)]):
      size = int((~model.layout.expand(given[i])).sum())
      row = self.row(
        'latent_log_likelihood',
        values[i],
        _FLOW,
        target=target,
        given=[name for name, g in zip(names, given[i], strict=True) if g],
        num_given=int(given[i].sum()),
        dimensions=size,
        note='of standardised latents',
        **self.probe_fields(stderr[i]),
      )
      rows.append(row | {'per_dimension': row['value'] / size})
    return rows

  def vae(self) -> list[Row]:
    """Importance weighted bound on log p(x) of every VAE alone."""
    number, rows = self.options['num_importance_samples'], []
    for autoencoder, raw in zip(self.model.autoencoders, self.raw, strict=True):
      modality = autoencoder.modality

      def fn(variables, keys, raw, autoencoder=autoencoder, name=modality.name):
        own = variables['unimodal'][name]
        weights = likelihood.vae_log_weights(autoencoder, own, keys, raw, number)
        return likelihood.importance_bound(weights)

      values = self.per_row(fn, f'vae likelihood {modality.name}', raw)
      row = self.row(
        'vae_log_likelihood_bound', values, _DRAWS, target=modality.name, note=_OF_DATA
      )
      rows.append(row | _bits(row, math.prod(modality.shape)))
    return rows

  def joint(self) -> list[Row]:
    """Evidence lower bound on log p(x_1, ..., x_M) of VAEs and score model."""
    model, flow = self.model, self.flow

    def fn(variables, keys, raw):
      return likelihood.joint_log_weight(model, flow, variables, keys, raw)

    values, stderr = self.per_row(fn, 'joint likelihood', self.raw)
    row = self.row(
      'joint_log_likelihood_bound',
      values,
      _FLOW,
      target='all',
      note=_OF_DATA,
      **self.probe_fields(stderr),
    )
    return [row | _bits(row, sum(math.prod(m.shape) for m in model.modalities))]

  def joint_vae(self) -> list[Row]:
    """Of a joint VAE: bounds on log p(X), and on log of the mean of p(x_m|z), z ~ q.

    The latter is the density of x_m as the model generates it from the rest.
    """
    model, number = self.model, self.options['num_importance_samples']
    codes, num = self.protocol.codes[self.chosen], len(self.protocol.names)
    given = np.concatenate([np.ones((1, num), bool), ~np.eye(num, dtype=bool)])

    def fn(variables, keys, raw, codes, observed):
      weights, each = likelihood.joint_vae_log_weights(
        model, variables, keys, codes, raw, observed, number
      )
      target = jnp.where(observed, 0.0, each).sum(-1)
      weights = jnp.where(observed.all(-1), weights, target)
      return likelihood.importance_bound(weights)

    # All sets in one call: the program is compiled once.
    values = self.per_row(
      fn,
      'joint vae likelihood',
      tuple(np.tile(a, (len(given), *[1] * (a.ndim - 1))) for a in self.raw),
      np.tile(codes, (len(given), 1)),
      np.repeat(given, len(codes), axis=0),
    ).reshape(len(given), -1)
    names = self.protocol.names
    row = self.row(
      'joint_log_likelihood_bound', values[0], _DRAWS, target='all', note=_OF_DATA
    )
    rows = [row | _bits(row, sum(math.prod(m.shape) for m in model.modalities))]
    for i, modality in enumerate(model.modalities):
      row = self.row(
        'conditional_log_likelihood_bound',
        values[1 + i],
        _DRAWS,
        target=modality.name,
        given=[name for name in names if name != modality.name],
        num_given=num - 1,
        note=f'{_OF_DATA}; z from the posterior given the rest',
      )
      rows.append(row | _bits(row, math.prod(modality.shape)))
    return rows


def _bits(row: Row, dimensions: int) -> Row:
  """The same in bits per entry of an example, less is better."""
  bits = -row['value'] / (dimensions * math.log(2))
  return {'dimensions': dimensions, 'bits_per_dimension': bits}
