"""Modalities of which a data set needs to know the names only."""

import pytest

from mmsbm.modalities import Modality, Vector


@pytest.fixture(scope='session')
def named():
  """Makes modalities of the given names."""

  def make(*names):
    kind = Vector(shape=(), offset=0.0, scale=1.0)
    return tuple(Modality(name=n, kind_name='vector', kind=kind) for n in names)

  return make
