"""What the score models of both families are trained on."""

import numpy as np
import pytest

from mmsbm.infra.errors import UserError
from mmsbm.latents import LatentLayout
from mmsbm.methods.latent_diffusion import check_finite, latent_example, standardised


def test_standardised_has_what_the_step_stores():
  z, present = np.array([[3.0, 8.0]]), np.array([[True]])
  stored = {'z': z, 'mean': np.array([1.0, 2.0]), 'std': np.array([2.0, 3.0])}
  out = standardised({'latents': stored})
  assert set(out) == {'z'}
  np.testing.assert_allclose(out['z'], [[1.0, 2.0]])
  more = standardised(
    {'latents': stored | {'spread': np.array([[1.0, 6.0]]), 'present': present}}
  )
  assert set(more) == {'z', 'spread', 'present'} and more['present'] is present
  np.testing.assert_allclose(more['spread'], [[0.5, 2.0]])


def test_latent_example_is_one_row():
  example = latent_example(LatentLayout((2, 3)), 'spread')
  assert {k: (v.shape, v.dtype) for k, v in example.items()} == {
    'z': ((1, 5), np.float32),
    'present': ((1, 2), bool),
    'spread': ((1, 5), np.float32),
  }
  assert set(latent_example(LatentLayout((2, 3)))) == {'z', 'present'}


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_check_finite(value):
  z = np.zeros((3, 2))
  assert check_finite(z) is z
  z[1, 1] = value
  with pytest.raises(UserError, match='the encoders give latents that are not finite'):
    check_finite(z)
