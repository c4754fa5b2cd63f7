"""Optimisers from keyword arguments."""

import optax

from mmsbm.infra.errors import UserError


def make_schedule(
  *,
  schedule: str,
  learning_rate: float,
  num_steps: int,
  warmup_steps: int = 0,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """Learning rate as a function of the step.

  Args:
    schedule: 'constant' or 'cosine' (to `final_fraction` of the peak).
    learning_rate: peak.
    num_steps: length of the training.
    warmup_steps: linear from 0 before it.
    final_fraction: last learning rate over the peak.
  """
  if not learning_rate > 0:
    raise UserError(f'learning_rate={learning_rate} must be positive.')
  if schedule == 'constant':
    after = optax.constant_schedule(learning_rate)
  elif schedule == 'cosine':
    after = optax.cosine_decay_schedule(
      learning_rate, max(1, num_steps - warmup_steps), alpha=final_fraction
    )
  else:
    raise UserError(f"schedule must be 'constant' or 'cosine', not {schedule!r}.")
  if not warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
  *,
  num_steps: int,
  learning_rate: float,
  schedule: str = 'cosine',
  warmup_steps: int = 0,
  final_fraction: float = 0.0,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  plateau_patience: int | None = None,
  plateau_factor: float = 0.1,
  plateau_steps: int = 1,
) -> optax.GradientTransformationExtraArgs:
  """AdamW with clipping by the global norm of one learner's gradient.

  Args:
    num_steps: length of the training, for the schedule.
    learning_rate: peak.
    schedule: see `make_schedule`.
    warmup_steps: see `make_schedule`.
    final_fraction: see `make_schedule`.
    weight_decay: decoupled; 0 gives Adam.
    clip_norm: largest norm of the gradient, or None.
    plateau_patience: multiply the learning rate by `plateau_factor` after so
      many windows of `plateau_steps` steps without a lower mean training loss
      (relative threshold 1e-4); None switches it off. The published program
      watches the validation loss instead, once per epoch.
    plateau_factor: see above.
    plateau_steps: window, in steps; one epoch in the published program.
  """
  rate = make_schedule(
    schedule=schedule,
    learning_rate=learning_rate,
    num_steps=num_steps,
    warmup_steps=warmup_steps,
    final_fraction=final_fraction,
  )
  parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
  parts.append(optax.adamw(rate, weight_decay=weight_decay))
  if plateau_patience is not None:
    parts.append(
      optax.contrib.reduce_on_plateau(
        factor=plateau_factor,
        patience=plateau_patience,
        rtol=1e-4,
        accumulation_size=plateau_steps,
      )
    )
  return optax.with_extra_args_support(optax.chain(*parts))


# Each takes num_steps and the arguments of the config.
OPTIMIZERS = {'adamw': make_optimizer}
