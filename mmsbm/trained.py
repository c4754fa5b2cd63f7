"""What a run has trained, ready to be used and measured."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmsbm.evaluators import READERS_STEP, evaluate, sampling_seconds
from mmsbm.experiment import Experiment
from mmsbm.inference import Inference


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained model.

  Attributes:
    experiment: what its config describes.
    inference: the model with its variables.
    readers: variables of the trained readers by name.
    steps: the checkpoint step of every learner.
  """

  experiment: Experiment
  inference: Inference
  readers: Mapping[str, Any]
  steps: Mapping[str, int]

  def evaluate(self, only: Sequence[str] = (), without: Sequence[str] = ()) -> None:
    """Measures what is not measured yet.

    Args:
      only: names of evaluators; all if empty.
      without: names of evaluators.
    """
    config, ledger = self.experiment.config, self.experiment.workspace.ledger
    common = {
      'seed': config['seed'],
      'step': self.steps[self.experiment.method.main],
      'model': config['method'],
      'preset': config['preset'],
    }
    evaluate(
      self.experiment.plan,
      self.inference,
      self.readers,
      workdir=ledger.workdir,
      common=common,
      identity=ledger.checkpoint_identity(self.steps),
      only=only,
      without=without,
    )

  def sampling_seconds(self, known: Any = None) -> dict[str, Any]:
    """Returns the seconds for one tuple; see `evaluators.sampling_seconds`."""
    return sampling_seconds(self.experiment.plan, self.inference, known)


def load_trained(experiment: Experiment, with_readers: bool = True) -> Trained:
  """Loads the variables of all steps.

  Args:
    experiment: what the config describes.
    with_readers: whether those of readers are wanted.

  Raises:
    UserError: something is not trained, missing or damaged.
  """
  without = () if with_readers else (READERS_STEP,)
  variables, steps = experiment.workspace.load(without)
  readers = variables.pop(READERS_STEP, {})
  inference = Inference(
    experiment.method.model,
    variables,
    mesh=experiment.workspace.mesh,
    chunk_size=experiment.config['evaluate']['chunk_size'],
  )
  return Trained(experiment, inference, readers, steps)
