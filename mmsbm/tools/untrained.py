"""Models with random weights and latents: speed depends on neither."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from mmsbm.experiment import Experiment
from mmsbm.inference import Inference
from mmsbm.learners.base import init_state
from mmsbm.methods.base import Derived, Stage, Step

PyTree = Any


def random_rows(example: PyTree, size: int) -> PyTree:
  """Returns a batch in which nothing is missing.

  Args:
    example: a batch of any number of rows, which gives shapes.
    size: number of rows.

  Returns:
    A tree of arrays [size, ...]: positive random numbers, or ones where they are no
    fractions.
  """
  rng = np.random.default_rng(0)

  def rows(a):
    shape = (size, *a.shape[1:])
    if a.dtype.kind != 'f':
      return np.ones(shape, a.dtype)
    return rng.uniform(0.5, 1.5, shape).astype(a.dtype)

  return jax.tree.map(rows, example)


def random_variables(steps: Iterable[Step]) -> dict[str, PyTree]:
  """Returns the results of steps that were not made."""
  return {step.name: _random_result(step) for step in steps}


def _random_result(step: Step) -> PyTree:
  if isinstance(step, Derived):
    return jax.tree.map(np.ones_like, dict(step.example))
  states = jax.jit(lambda batch: {t.name: init_state(t, batch) for t in step.trainings})
  return step.collect(
    {
      name: {'params': state.params, **state.mutables}
      for name, state in states(step.example).items()
    }
  )


def random_inference(experiment: Experiment) -> Inference:
  """Returns the model as it is before training."""
  return Inference(
    experiment.method.model,
    random_variables(experiment.method.steps),
    mesh=experiment.workspace.mesh,
    chunk_size=experiment.config['evaluate']['chunk_size'],
  )


def main_stage(experiment: Experiment) -> Stage:
  """Returns the stage that a method is named after."""
  (step,) = (s for s in experiment.method.steps if s.name == experiment.method.main)
  return step
