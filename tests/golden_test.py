"""Learners are those that results were published with: parameters, steps, batches."""

import importlib
import json
import pathlib

import pytest

from mmsbm.experiment import make_experiment

FOLDER = pathlib.Path(__file__).parent
# {file and arguments: {learner: [parameters, steps, batch size]}}, computed by the
# program before its methods were recipes (e99e35a).
GOLDEN = json.loads((FOLDER / 'golden' / 'parameters.json').read_text())


@pytest.mark.parametrize('key', GOLDEN)
def test_learners_are_the_published_ones(key, cache, tmp_path):
  name, _, arguments = key.partition(':')
  get_config = importlib.import_module(f'configs.{name}').get_config
  config = get_config(arguments)
  # Few examples, and none that are downloaded. Sizes that are left open are for so few.
  config.data = get_config(f'{arguments},smoke').data
  experiment = make_experiment(config.to_dict(), tmp_path)
  parameters = experiment.check()
  found = {
    training.name: [
      parameters[training.name],
      training.num_steps,
      training.batch_size,
    ]
    for step in experiment.workspace.steps
    for training in getattr(step, 'trainings', ())
  }
  assert found == GOLDEN[key]
