"""Arguments of config files, and sections that all of them have."""

import pytest

from mmsbm.configs import base


def test_parse_arg_gives_defaults():
  arg = base.parse_arg(None, method='mld', modalities=4, smoke=False)
  assert arg.to_dict() == {'method': 'mld', 'modalities': 4, 'smoke': False}


def test_parse_arg_gives_values_of_the_types_of_the_defaults():
  arg = base.parse_arg('smoke,modalities=3', method='mld', modalities=4, smoke=False)
  assert arg.to_dict() == {'method': 'mld', 'modalities': 3, 'smoke': True}
  assert base.parse_arg('smoke=false', smoke=True).smoke is False


@pytest.mark.parametrize(
  'text,message',
  [
    ('smok', "unknown config argument 'smok'; .* Did you mean 'smoke'?"),
    ('smoke=maybe', "smoke is True or False, not 'maybe'"),
    ('modalities=two', "modalities is of type int: 'two'"),
  ],
)
def test_parse_arg_refuses(text, message):
  with pytest.raises(ValueError, match=message) as error:
    base.parse_arg(text, modalities=4, smoke=False)
  assert '\n' not in str(error.value)


def test_choose():
  base.choose('preset', 'cpu', ('default', 'cpu'))
  with pytest.raises(ValueError, match=r"preset=none is not one of \['default'\]"):
    base.choose('preset', 'none', ('default',))


def test_ordered_keeps_the_order():
  assert list(base.ordered({'m2': {}, 'm10': {}, 'm1': {}})) == ['m2', 'm10', 'm1']
  config = base.base()
  config.section = {'inner': base.ordered({'b': 1, 'a': 2})}
  assert list(config.to_dict()['section']['inner']) == ['b', 'a']


def test_ordered_copies_what_stands_in_it_twice():
  network = {'width': 1, 'optimizer': {'learning_rate': 1.0}}
  section = base.ordered({'a': network, 'b': network})
  section.a.optimizer.learning_rate = 2.0
  assert section.b.optimizer.learning_rate == 1.0
  assert network['optimizer']['learning_rate'] == 1.0


def test_shrink_reaches_all_that_is_trained_and_drawn():
  config = base.base()
  optimizer = {'warmup_steps': 50}
  training = {'num_steps': 100, 'batch_size': 100, 'optimizer': optimizer}
  config.readers = base.ordered({'digit': training, 'inception': base.INCEPTION})
  config.unimodal = training
  config.score = training
  config.samplings = base.ordered(
    {
      'default': {'sampler': {'num_steps': 100}},
      'mixture': {'prior': {'name': 'mixture', 'num_components': 100}},
      'score': {'prior': {'name': 'score', 'sampler': {'num_steps': 100}}},
      'prior': {'prior': {'name': 'standard'}},
    }
  )
  base.shrink(
    config,
    num_steps=20,
    batch_size=3,
    sampler_steps=4,
    num_examples=5,
    max_subsets=6,
    num_shown=7,
    num_samples=8,
  )
  small = {'num_steps': 20, 'batch_size': 3, 'optimizer': {'warmup_steps': 2}}
  assert config.unimodal.to_dict() == config.score.to_dict() == small
  assert config.readers.digit.to_dict() == small
  assert config.readers.inception.to_dict() == base.INCEPTION
  assert config.loop.block_steps == config.loop.checkpoint_every_steps == 10
  samplings = config.samplings
  assert samplings.default.sampler.num_steps == 4
  assert samplings.mixture.prior.num_components == 4
  assert samplings.score.prior.sampler.num_steps == 4
  assert (config.evaluate.num_examples, config.evaluate.chunk_size) == (5, 5)
  evaluators = config.evaluate.evaluators
  assert evaluators.conditional.max_subsets == evaluators.linear_probe.max_subsets == 6
  assert (evaluators.samples.num_examples, evaluators.samples.num_samples) == (7, 8)
