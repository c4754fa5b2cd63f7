"""The order of modalities in the flat latent array."""

import jax.numpy as jnp
import numpy as np

from mmsbm.latents import LatentLayout

LAYOUT = LatentLayout((2, 1, 3))


def test_modalities_of_unequal_sizes_lie_in_order():
  assert (LAYOUT.total, LAYOUT.num_modalities) == (6, 3)
  np.testing.assert_array_equal(LAYOUT.modality_of_dim, [0, 0, 1, 2, 2, 2])
  parts = LAYOUT.split(jnp.arange(6.0)[None])
  assert [p.tolist() for p in parts] == [[[0, 1]], [[2]], [[3, 4, 5]]]


def test_join_undoes_split():
  z = jnp.arange(12.0).reshape(2, 6)
  np.testing.assert_array_equal(LAYOUT.join(LAYOUT.split(z)), z)


def test_expand_repeats_each_modality_over_its_dimensions():
  values = jnp.array([[True, False, True], [False, True, False]])
  expected = [[1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0]]
  np.testing.assert_array_equal(LAYOUT.expand(values), np.array(expected, bool))
