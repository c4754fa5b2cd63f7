"""Seconds of a sample: run.json keeps them while nothing changes."""

from mmsbm.evaluators import sampling_seconds


def test_seconds_are_measured_once(fakes):
  problem = fakes.digits_problem(30)
  model = fakes.ClassModel('perfect', problem.modalities)
  inference = fakes.FakeInference(model, chunk_size=8)
  plan = fakes.make_plan(problem)
  first = sampling_seconds(plan, inference)
  # One draw that compiles, and three.
  assert inference.drawn == [('default', 8)] * 4
  assert first['value'] > 0 and first['stderr'] >= 0
  assert first['of']['sampling']['sampler'] == 'dpm_solver(num_steps=5)'
  assert sampling_seconds(plan, inference, first) == first
  assert len(inference.drawn) == 4
  inference.chunk_size = 4
  assert sampling_seconds(plan, inference, first)['of']['chunk_size'] == 4
