"""Densities of test examples in nats, off by default.

What a model has a density of, and how it is computed, is said by the model; see
`mmsbm.models.base.HasDensities`.
"""

import dataclasses
import functools
import math

import numpy as np

from mmsbm.diffusion.probability_flow import ProbabilityFlow
from mmsbm.evaluators.base import Evaluator, Measurement, Row, check_least, take
from mmsbm.evaluators.evaluation import Evaluation
from mmsbm.infra.errors import UserError
from mmsbm.infra.rng import fold_in_name
from mmsbm.metrics.averages import clustered_mean
from mmsbm.models.base import Density, DensityOptions

_ABOUT = {
  'latent_log_likelihood': (
    'The log density of the latents under the score model, in nats.'
  ),
  'vae_log_likelihood_bound': (
    'The importance weighted bound on the log density of an example under its VAE '
    'alone, in nats.'
  ),
  'joint_log_likelihood_bound': (
    'A lower bound on the log density of all modalities of an example, in nats.'
  ),
  'conditional_log_likelihood_bound': (
    'The log density of a modality as the model generates it from the rest, in nats.'
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Evaluator):
  """All densities that the model has.

  Attributes:
    num_examples: of the test examples, at most; 0 for no measurement.
    num_importance_samples, num_steps, num_probes, time_min: see `DensityOptions`.
  """

  num_examples: int = 0
  num_importance_samples: int = 1000
  num_steps: int = 25
  num_probes: int = 0
  time_min: float = 1e-5

  def __post_init__(self):
    check_least(self, 0, 'num_examples')
    check_least(self, 1, 'num_importance_samples')
    ProbabilityFlow(
      num_steps=self.num_steps, num_probes=self.num_probes, time_min=self.time_min
    )

  @property
  def options(self) -> DensityOptions:
    names = [field.name for field in dataclasses.fields(DensityOptions)]
    return DensityOptions(**{name: getattr(self, name) for name in names})

  def measurements(self, evaluation: Evaluation) -> list[Measurement]:
    """See `Evaluator.measurements`."""
    if not self.num_examples:
      return []
    densities = getattr(evaluation.model, 'densities', lambda options: ())
    out = []
    for density in densities(self.options):
      options = {
        'num_likelihood_examples': self.num_examples,
        'chunk_size': evaluation.plan.chunk_size,
      }
      about = {}
      for entry in density.entries:
        text = _ABOUT.get(entry.metric, 'A log density, in nats.')
        about[entry.metric] = {'about': text, 'better': 'high'}
      out.append(
        Measurement(
          name=density.name,
          uses=density.uses,
          options=options | self._used(density),
          run=functools.partial(self._measure, evaluation, density),
          about=about,
        )
      )
    if not out:
      evaluation.warn('the method has no densities, so no likelihood is measured.')
    return out

  def _used(self, density: Density) -> Row:
    return {name: getattr(self, name) for name in density.options}

  def _measure(self, evaluation: Evaluation, density: Density) -> list[Row]:
    inference, rows = evaluation.inference, evaluation.rows
    # A random part, since files may be sorted.
    order = np.random.default_rng(evaluation.plan.seed).permutation(len(rows))
    chosen = np.sort(order[: self.num_examples])

    def per_row(fn, name, *trees):
      key = fold_in_name(evaluation.key, name)
      return inference.per_row(fn, key, *trees, name=f'evaluate {name}')

    encoded = take(evaluation.encoded, chosen)
    raw = tuple(array[chosen] for array in evaluation.x)
    nats, probe_stderr = density.compute(per_row, encoded, raw)
    if probe_stderr is None:
      probe_stderr = [None] * len(density.entries)
    return [
      self._row(evaluation, density, entry, evaluation.present[chosen], *parts)
      for entry, *parts in zip(density.entries, nats, probe_stderr, strict=True)
    ]

  def _row(self, evaluation, density, entry, present, nats, probe_stderr) -> Row:
    """The mean of nats [n] over the examples that have all that it is about."""
    names = {entry.target, *(entry.given or ())}
    needed = [entry.target == 'all' or name in names for name in evaluation.names]
    counted = present[:, np.array(needed, bool)].all(axis=1)
    num = int(counted.sum())
    fields: Row = {'target': entry.target}
    if entry.given is not None:
      fields |= {'given': list(entry.given), 'num_given': len(entry.given)}
    fields |= {'dimensions': entry.dimensions, 'note': entry.note, 'unit': 'nats'}
    fields |= self._used(density)
    if not num:
      fields['note'] += '; no example has the modalities'
      return evaluation.row(entry.metric, None, None, **fields, n=0)
    value, stderr = clustered_mean(nats[counted])
    if not math.isfinite(value):
      raise UserError(
        f'{entry.metric} is not finite: set a larger time_min of the evaluator '
        "'likelihood', or train longer."
      )
    if probe_stderr is not None:
      # What random directions add to the standard error of the mean.
      squares = np.square(probe_stderr[counted]).sum()
      fields['probe_stderr'] = float(np.sqrt(squares) / num)
    if entry.of_data:
      # Bits per entry of an example; less is better.
      fields['bits_per_dimension'] = -value / (entry.dimensions * math.log(2))
    else:
      fields['per_dimension'] = value / entry.dimensions
    return evaluation.row(entry.metric, value, stderr, **fields, n=num)
