"""Components by name: what is built, and what is refused."""

import dataclasses

import pytest
from mmsbm.build import build, nearest

from mmsbm.infra.errors import UserError
from mmsbm.nn.encoders import ENCODERS


@dataclasses.dataclass(frozen=True)
class Part:
  size: int
  rate: float = 0.5


TABLE = {'part': Part}


def test_builds_from_the_arguments_of_the_config_and_of_the_program():
  assert build(TABLE, {'name': 'part', 'rate': 0.1}, size=3) == Part(3, 0.1)


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ({'name': 'prat', 'size': 1}, "Did you mean 'part'"),
    ({'name': 'part', 'siez': 1}, "Did you mean 'size'"),
    ({'name': 'part'}, "'part' needs the argument 'size'"),
    ({'size': 1}, "needs a `name`: one of .'part'."),
  ],
)
def test_mistakes_are_named(spec, message):
  with pytest.raises(UserError, match=message):
    build(TABLE, spec)


def test_an_argument_of_the_program_cannot_be_set_by_the_config():
  with pytest.raises(UserError, match="has no argument 'latent_dim'"):
    build(ENCODERS, {'name': 'mlp', 'latent_dim': 3}, latent_dim=4)


def test_a_linen_module_offers_its_own_fields_only():
  with pytest.raises(UserError, match=r"it has \['activation', 'norm', 'widths'\]"):
    build(ENCODERS, {'name': 'mlp', 'width': 3}, latent_dim=4)


def test_nothing_close_is_no_hint():
  assert nearest('zzz', ['part']) == ''
