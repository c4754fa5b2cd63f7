"""A classifier sees the modalities that it reads, and no others."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsbm.learners.classifier import Classifier
from mmsbm.modalities import Modality, Vector

NUM_CLASSES, BATCH = 3, 400


class Identity(nn.Module):
  """The example holds the logits."""

  def __call__(self, x, train):
    return x, x


def modality(name):
  return Modality(
    name=name,
    kind_name='vector',
    kind=Vector(shape=(NUM_CLASSES,), offset=0.0, scale=1.0),
  )


# The data have modalities a, b, c, d; the classifier reads b and d.
READER = Classifier(
  'digit', 'class', Identity(), (modality('b'), modality('d')), (1, 3)
)
SURE, UNSURE, WRONG = 50.0, 0.0, -50.0


def batch(present, label=None):
  """Logits: b always right, d without an opinion, a and c always wrong."""
  label = np.arange(BATCH) % NUM_CLASSES if label is None else label
  hot = np.eye(NUM_CLASSES, dtype=np.float32)[np.maximum(label, 0)]
  x = {'a': WRONG * hot, 'b': SURE * hot, 'c': WRONG * hot, 'd': UNSURE * hot}
  return {
    'x': jax.tree.map(jnp.asarray, x),
    'present': jnp.broadcast_to(jnp.asarray(present, bool), (BATCH, 4)),
    'annotations': {'class': jnp.asarray(label), 'other': jnp.zeros(BATCH, int)},
  }


def loss(data):
  keys = {'condition': jax.random.key(0), 'dropout': jax.random.key(1)}
  value, terms, _ = READER.loss({}, None, data, keys, train=True)
  return float(value), float(terms['accuracy'])


@pytest.mark.parametrize(
  ('present', 'value', 'accuracy'),
  [
    # Only d is there: cross-entropy log 3; the first class wins a draw.
    ([1, 0, 1, 1], np.log(3), 1 / 3),
    ([1, 1, 1, 0], 0.0, 1.0),
    ([1, 0, 1, 0], 0.0, 0.0),
  ],
)
def test_presence_is_read_from_the_columns_of_what_is_read(present, value, accuracy):
  got = loss(batch(present))
  np.testing.assert_allclose(got[0], value, rtol=1e-6)
  np.testing.assert_allclose(got[1], accuracy, atol=0.1)


def test_every_example_contributes_one_modality_at_random():
  value, _ = loss(batch([1, 1, 1, 1]))
  # b costs nothing and d log 3, each with probability 1/2.
  assert abs(value / np.log(3) - 0.5) < 4 * 0.5 / np.sqrt(BATCH)


def test_examples_without_a_label_do_not_count():
  label = np.where(np.arange(BATCH) % 2, np.arange(BATCH) % NUM_CLASSES, -1)
  value, accuracy = loss(batch([0, 1, 0, 0], label))
  assert value == 0 and accuracy == 1
  assert loss(batch([1, 1, 1, 1], np.full(BATCH, -1))) == (0.0, 0.0)


def test_the_name_and_the_shapes():
  assert READER.name == 'classifier/digit'
  assert READER.init(jax.random.key(0), batch([1, 1, 1, 1])) == {}
