"""What a method is: steps that follow from each other, and the model that they make."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from clu import parameter_overview

from mmsbm.config import Section
from mmsbm.infra import sharding
from mmsbm.infra.errors import UserError
from mmsbm.infra.optim import OPTIMIZERS
from mmsbm.infra.rng import fold_in_name
from mmsbm.learners.base import Learner, Training, init_state, train_step
from mmsbm.models.base import HasLatents, MultimodalModel, Reconstructs, SampleKeys

PyTree = Any
# Results of steps by name.
Inputs = Mapping[str, PyTree]


def no_inputs(inputs: Inputs) -> None:
  """Is what a step passes on that uses no earlier one."""
  del inputs


def no_check() -> None:
  """Is the check of a step that depends on no data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """Learners that train side by side. Its result is their variables.

  Attributes:
    name: names its section in the config and its folder.
    trainings: the learners; more than one is called NAME/KEY each.
    example: a batch of one blank row, which gives shapes.
    source: returns the arrays that batches are drawn from, given what it needs.
    needs: names of earlier steps.
    frozen: returns what the losses are told of them.
    spec: what `source` closes over and the learners do not say: a part of their
      identity.
    check: looks at the data before training; raises UserError.
    held_out: like `source`, of the validation split; None where it has not all that a
      loss needs.
  """

  name: str
  trainings: tuple[Training, ...]
  example: PyTree
  source: Callable[[Inputs], PyTree]
  needs: tuple[str, ...] = ()
  frozen: Callable[[Inputs], PyTree] = no_inputs
  spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  check: Callable[[], None] = no_check
  held_out: Callable[[Inputs], PyTree | None] = no_inputs

  def collect(self, results: Mapping[str, PyTree]) -> PyTree:
    """Returns the result of the stage from the variables of every learner."""
    if list(results) == [self.name]:
      return results[self.name]
    return {name.split('/', 1)[1]: value for name, value in results.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derived:
  """Arrays that are computed once from earlier steps, and kept.

  Attributes:
    name: of its file.
    compute: returns the arrays, given what it needs.
    example: arrays of the shapes of those that the model sees; the others are only
      for later steps.
    needs: names of earlier steps.
    spec: numbers that `compute` closes over: they are part of its identity.
    check: looks at the data before training; raises UserError.
  """

  name: str
  compute: Callable[[Inputs], Mapping[str, Any]]
  example: Mapping[str, Any]
  needs: tuple[str, ...] = ()
  spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  check: Callable[[], None] = no_check


Step = Stage | Derived


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """A method.

  Attributes:
    steps: in the order in which they are made.
    model: what they make; its `variables` are the results of the steps by name.
    main: the stage whose checkpoint step stands beside every number.
  """

  steps: tuple[Step, ...]
  model: MultimodalModel
  main: str


# The fields of a config section that say how a learner is trained.
TRAINING = ('num_steps', 'batch_size', 'ema_decay', 'optimizer', 'patience')


def make_training(section: Section, learner: Learner, key: jax.Array) -> Training:
  """Returns how a section of the config trains a learner."""
  num_steps = section.count('num_steps')
  batch_size = section.count('batch_size')
  if batch_size % jax.device_count():
    raise UserError(
      f'{section.place("batch_size")}={batch_size} cannot be split over '
      f'{jax.device_count()} devices.'
    )
  optimizer = section.section('optimizer')
  named = Section({'name': 'adamw', **optimizer}, optimizer.path)
  return Training(
    learner=learner,
    optimizer=optax.with_extra_args_support(
      named.make(OPTIMIZERS, num_steps=num_steps)
    ),
    ema_decay=section.share('ema_decay'),
    num_steps=num_steps,
    batch_size=batch_size,
    key=fold_in_name(key, learner.name),
    optimizer_spec=_without_defaults(named.find('name', OPTIMIZERS), optimizer),
    patience=section.count('patience') if section.get('patience') else 0,
  )


def _without_defaults(
  function: Callable[..., Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns those arguments that say something: identity is not a way to spell."""
  defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
  defaults['name'] = 'adamw'
  return {
    key: value
    for key, value in arguments.items()
    if type(value) is not type(defaults.get(key)) or value != defaults.get(key)
  }


def own_section(c: Section, name: str) -> Section:
  """Returns the section of a stage that a method cannot do without."""
  if not c.get(name):
    raise UserError(
      f'the method {c["method"]!r} needs a section config.{name}. The config files of '
      f'this program make it by their argument: --config=FILE:method={c["method"]}.'
    )
  return c.section(name)


def samplings(c: Section) -> dict[str, Section]:
  """Returns the sections of all ways of sampling; 'default' is the run's own.

  An empty section leaves a sampling out, for the command line.
  """
  specs = {n: spec for n, spec in c.section('samplings').sections() if spec}
  if 'default' not in specs:
    raise UserError(
      "config.samplings has no 'default', which is how the run's own samples are drawn."
    )
  return {'default': specs.pop('default'), **specs}


def dry_run(steps: Iterable[Step], model: MultimodalModel) -> dict[str, int]:
  """Goes through all steps and all ways of sampling without computing anything.

  Returns:
    Number of parameters of every learner.

  Raises:
    UserError: something does not fit together, or does not fit the data.
  """
  results: dict[str, PyTree] = {}
  parameters: dict[str, int] = {}
  for step in steps:
    step.check()
    if isinstance(step, Derived):
      results[step.name] = _shapes(step.example)
      continue
    inputs = {name: results[name] for name in step.needs}
    frozen = jax.eval_shape(step.frozen, inputs)
    variables = {}
    for training in step.trainings:
      with _of(f'learner {training.name!r}'):
        state = _dry_run_training(training, step.example, frozen)
      variables[training.name] = {'params': state.params, **state.mutables}
      parameters[training.name] = int(parameter_overview.count_parameters(state.params))
    results[step.name] = step.collect(variables)
  _dry_run_model(model, results)
  return parameters


@contextlib.contextmanager
def _of(place: str) -> Iterator[None]:
  """Says where the mistake is that a network or a sampler refuses."""
  try:
    yield
  except UserError as e:
    raise UserError(f'{place}: {e}') from e


def _dry_run_training(training: Training, example: PyTree, frozen: PyTree) -> PyTree:
  """Returns the shapes of a learner's state; goes through one update."""
  state = jax.eval_shape(lambda: init_state(training, example))
  needed = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state)) / 2**30
  if needed > (there := sharding.memory_bytes() / 2**30):
    raise UserError(
      f'its parameters, averages and moments need {needed:,.0f} GB, and there are '
      f'{there:,.0f}: make the network smaller.'
    )
  batch = _shapes(example, training.batch_size)
  jax.eval_shape(functools.partial(train_step, training), state, frozen, batch)
  return state


def _dry_run_model(model: MultimodalModel, variables: PyTree) -> None:
  """Encodes, samples, reconstructs and decodes two rows without computing them."""
  for sampling in model.samplings:
    model.describe(sampling)
    unknown = model.uses(sampling) - variables.keys()
    if unknown:
      raise UserError(
        f'config.samplings.{sampling} needs the step {min(unknown)!r}, which this run '
        f'does not have; its steps are {sorted(variables)}.'
      )
  rows = 2
  x = tuple(
    jax.ShapeDtypeStruct((rows, *m.shape), np.dtype(m.kind.dtype))
    for m in model.modalities
  )
  observed = jax.ShapeDtypeStruct((rows, len(x)), bool)
  key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
  encoded = jax.eval_shape(model.encode, variables, x)
  for sampling in model.samplings:
    with _of(f'sampling {sampling!r}'):
      jax.eval_shape(
        lambda v, keys, e, o, s=sampling: model.sample(
          v, SampleKeys(keys, keys), e, o, s
        ),
        variables,
        key,
        encoded,
        observed,
      )
  if isinstance(model, Reconstructs):
    jax.eval_shape(model.reconstruct, variables, key, encoded)
  if isinstance(model, HasLatents):
    latents = jax.eval_shape(model.latents, variables, key, encoded, observed)
    jax.eval_shape(model.decode, variables, key, latents)


def _shapes(tree: PyTree, rows: int | None = None) -> PyTree:
  """Returns the shapes of arrays, with another number of rows where one is given."""
  return jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(
      a.shape if rows is None else (rows, *a.shape[1:]), a.dtype
    ),
    tree,
  )


def moments(
  z: np.ndarray, present: np.ndarray, spread: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and standard deviation of latents.

  Args:
    z: latents [N, D], 0 where absent.
    present: [N, D], or [N, 1], bool.
    spread: standard deviations [N, D] of latents that are distributions.

  Returns:
    Two arrays [D].
  """
  count = np.maximum(present.sum(0), 1)
  mean = z.sum(0, dtype=np.float64) / count
  square = (z - mean) ** 2 + np.square(spread)
  square = np.where(present, square, 0.0)
  std = np.sqrt(square.sum(0) / count)
  # A dimension that the encoder ignores is a constant; leave it near 0.
  std = np.maximum(std, 1e-6 * max(std.max(), 1e-6))
  return mean.astype(np.float32), std.astype(np.float32)
