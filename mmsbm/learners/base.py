"""A learner: parameters, the loss that trains them, and one update of both."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mmsbm.infra.rng import fold_in_name, step_rngs
from mmsbm.nn.convolutions import canonical_gradients

PyTree = Any
Batch = Mapping[str, Any]

# Metadata of fields of learners that say where a modality stands among the others:
# they are no part of what a learner is.
POSITION = {'identity': False}

# Streams of randomness that a loss may use, each its own function of the step.
STREAMS = ('noise', 'time', 'condition', 'dropout')


@struct.dataclass
class Best:
  """The average of the parameters with the lowest held-out loss so far.

  Attributes:
    loss: held out, float32 scalar; infinite at first.
    step: when it was measured, int32 scalar.
    params: as `TrainState.ema_params`.
    mutables: as `TrainState.ema_mutables`.
  """

  loss: jax.Array
  step: jax.Array
  params: PyTree
  mutables: PyTree


@struct.dataclass
class TrainState:
  """Everything that training changes.

  Attributes:
    step: number of updates made, int32 scalar.
    params: trained by the optimiser.
    ema_params: exponential moving average of `params`; what evaluation uses.
    opt_state: of the optimiser.
    mutables: linen collections that the network itself updates (batch_stats).
    ema_mutables: their average, which belongs to `ema_params`.
    best: what evaluation uses in place of the last average; None: the last one.
  """

  step: jax.Array
  params: PyTree
  ema_params: PyTree
  opt_state: optax.OptState
  mutables: PyTree
  ema_mutables: PyTree
  best: Best | None = None


class Learner(Protocol):
  """A set of parameters and the loss that trains it."""

  name: str

  def init(self, key: jax.Array, batch: Batch) -> PyTree:
    """Linen variables: {'params': ..., other collections}."""

  def loss(
    self,
    variables: PyTree,
    frozen: PyTree,
    batch: Batch,
    rngs: Mapping[str, jax.Array],
    *,
    train: bool,
  ) -> tuple[jax.Array, Mapping[str, jax.Array], PyTree]:
    """Scalar loss, scalar terms to log, and the collections it updated."""


@dataclasses.dataclass(frozen=True)
class Training:
  """A learner and how it is optimised.

  Attributes:
    learner: what is trained.
    optimizer: optax transformation.
    ema_decay: largest decay d of the average; it starts at (1 + step) / (10 +
      step), so that early averages do not remember the initialisation.
    num_steps: updates in all.
    batch_size: examples per update, over all devices.
    key: the learner's own key: nothing it draws depends on other learners.
    optimizer_spec: the arguments that the optimiser was made from, which it does not
      tell itself.
    patience: the average with the lowest held-out loss is kept, and training ends after
      so many steps without a lower one; 0: the last average is kept.
  """

  learner: Learner
  optimizer: optax.GradientTransformationExtraArgs
  ema_decay: float
  num_steps: int
  batch_size: int
  key: jax.Array
  optimizer_spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  patience: int = 0

  @property
  def name(self) -> str:
    return self.learner.name


def init_state(training: Training, batch: Batch) -> TrainState:
  """Step 0; `batch` gives shapes only."""
  variables = dict(training.learner.init(fold_in_name(training.key, 'init'), batch))
  params = variables.pop('params')

  def copy():
    # No alias: the state is donated to the jitted step.
    return jax.tree.map(jnp.copy, (params, variables))

  zero = jnp.zeros((), jnp.int32)
  ema_params, ema_mutables = copy()
  return TrainState(
    step=zero,
    params=params,
    ema_params=ema_params,
    opt_state=training.optimizer.init(params),
    mutables=variables,
    ema_mutables=ema_mutables,
    best=Best(jnp.float32(jnp.inf), zero, *copy()) if training.patience else None,
  )


def train_step(
  training: Training, state: TrainState, frozen: PyTree, batch: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update; returns the new state and scalars to log."""
  rngs = step_rngs(training.key, state.step, STREAMS)

  def loss_fn(params):
    loss, terms, mutables = training.learner.loss(
      {'params': params, **state.mutables}, frozen, batch, rngs, train=True
    )
    return loss, (terms, mutables)

  with canonical_gradients():
    (loss, (terms, mutables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params
    )
  updates, opt_state = training.optimizer.update(
    grads, state.opt_state, state.params, value=loss
  )
  params = optax.apply_updates(state.params, updates)
  warm = (1.0 + state.step) / (10.0 + state.step)
  decay = jnp.minimum(training.ema_decay, warm)
  ema_params, ema_mutables = optax.incremental_update(
    (params, mutables), (state.ema_params, state.ema_mutables), 1.0 - decay
  )
  new = TrainState(
    state.step + 1, params, ema_params, opt_state, mutables, ema_mutables, state.best
  )
  return new, {'loss': loss, **terms}


def hold_out(
  training: Training, state: TrainState, frozen: PyTree, batches: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Measures the averaged parameters on examples that training does not see.

  The draws are the same at every step, so that nothing but the parameters differs.

  Args:
    training: the learner.
    state: its state.
    frozen: constant argument of the loss.
    batches: held-out examples [K, B, ...].

  Returns:
    The state with the better of this average and the best one before; means of the loss
    and of its terms.
  """
  key = fold_in_name(training.key, 'held out')
  variables = {'params': state.ema_params, **state.ema_mutables}

  def measure(i, batch):
    rngs = step_rngs(key, i, STREAMS)
    loss, terms, _ = training.learner.loss(variables, frozen, batch, rngs, train=False)
    return i + 1, {'loss': loss, **terms}

  _, values = jax.lax.scan(measure, jnp.zeros((), jnp.int32), batches)
  values = jax.tree.map(jnp.mean, values)
  if state.best is None:
    return state, values
  new = Best(values['loss'], state.step, state.ema_params, state.ema_mutables)
  is_better = new.loss < state.best.loss
  best = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), new, state.best)
  return state.replace(best=best), values | {'best_step': best.step}


def masked_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean of values [B] over the rows of positive weight [B]; 0 if none."""
  weights = weights.astype(values.dtype)
  return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
