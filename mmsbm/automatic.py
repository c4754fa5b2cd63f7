"""What a config leaves open: functions of kind, shape and examples.

A config leaves a number open with None and a network or a likelihood with {}. What it
says itself is never changed. The resolved config stands in run.json, so that a run is
loaded without its data.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmsbm.config import plain
from mmsbm.data.dataset import MultimodalDataset
from mmsbm.infra.errors import UserError
from mmsbm.modalities import Modality


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
  """What a number of training examples allows.

  Attributes:
    below: number of examples that it is for, exclusive.
    widths: hidden layers of perceptrons.
    tokens: width of the layers on patches and modalities.
    layers: of those.
    dropout: in score networks.
    weight_decay: of all networks.
    steps: of autoencoders and joint VAEs; score models have twice as many.
  """

  below: float
  widths: tuple[int, ...]
  tokens: int
  layers: int
  dropout: float
  weight_decay: float
  steps: int


SCALES = (
  Scale(
    below=1_000, widths=(64,), tokens=64, layers=2, dropout=0.2, weight_decay=0.1,
    steps=2_000,
  ),
  Scale(
    below=10_000, widths=(128, 128), tokens=128, layers=3, dropout=0.1,
    weight_decay=0.01, steps=4_000,
  ),
  Scale(
    below=math.inf, widths=(256, 256), tokens=192, layers=4, dropout=0.0,
    weight_decay=0.0, steps=8_000,
  ),
)  # fmt: skip

# Weight of the divergence of discrete kinds. With 1 a latent that says nothing costs as
# little as one that says all: a bit of rate buys a bit of likelihood.
_DISCRETE_BETA = 0.1


def scale_of(num_train: int) -> Scale:
  """Returns what so many training examples allow."""
  return next(scale for scale in SCALES if num_train < scale.below)


def codec(modality: Modality, scale: Scale) -> dict[str, Any]:
  """Returns latent_dim, encoder, decoder, likelihood and beta for a modality.

  Raises:
    UserError: its kind is none of the program's.
  """
  shape = modality.model_shape
  entries, name = math.prod(shape), modality.kind_name
  # The linear part keeps what a few examples can tell, the others bend it.
  network = dict(name='mlp', widths=scale.widths, linear=True)
  beta = 1.0
  if name == 'label':
    latent_dim = min(max(entries - 1, 1), 16)
    likelihood, beta = dict(name='categorical'), _DISCRETE_BETA
  elif name == 'attributes':
    latent_dim = min(entries, 16)
    likelihood, beta = dict(name='bernoulli'), _DISCRETE_BETA
  elif name == 'mask':
    latent_dim = min(entries, 32)
    likelihood = dict(name='bernoulli')
  elif name == 'vector':
    latent_dim = min(entries, 32)
    likelihood = dict(name='normal', scale=0.1)
  elif name == 'image':
    latent_dim = min(entries, 32)
    likelihood = dict(name='normal', scale=0.1)
    if not any(side % 4 for side in shape[:2]) and scale is not SCALES[0]:
      network = dict(name='patch', patch=4, width=scale.tokens // 2, num_layers=2)
  else:
    raise UserError(
      f'modality {modality.name!r}: there are no sizes for the kind {name!r}; give '
      'its latent_dim, encoder, decoder and likelihood in the config.'
    )
  return dict(
    latent_dim=latent_dim, encoder=network, decoder=network, likelihood=likelihood,
    beta=beta,
  )  # fmt: skip


_SECTIONS = ('unimodal', 'joint', 'score', 'energy', 'refiner')
# Parts that are open where they are empty.
_PARTS = ('encoder', 'decoder', 'likelihood', 'network')


def is_open(section: Mapping[str, Any]) -> bool:
  """Returns whether a section leaves anything open."""
  return any(
    value is None
    or (key in _PARTS and value == {})
    or (isinstance(value, Mapping) and is_open(value))
    for key, value in section.items()
  )


def resolve(
  config: Mapping[str, Any],
  modalities: Sequence[Modality],
  num_train: Callable[[], int],
) -> dict[str, Any]:
  """Returns a config without anything open.

  Args:
    config: plain values.
    modalities: the records.
    num_train: returns the number of training examples; not called where nothing is
      open.
  """
  names = [name for name in _SECTIONS if config.get(name)]
  if not any(is_open(config[name]) for name in names):
    return dict(config)
  scale, out = scale_of(num_train()), dict(config)
  for name in names:
    section = out[name] = dict(out[name])
    if 'networks' in section:
      section['networks'] = _networks(section, modalities, scale)
    if 'likelihood_weights' in section:
      weights = section['likelihood_weights'] = dict(section['likelihood_weights'])
      for modality in modalities:
        if weights.get(modality.name, 1.0) is None:
          weights[modality.name] = 1 / codec(modality, scale)['beta']
    if section.get('network') == {}:
      section['network'] = _score_network(name, section, out, scale)
    _fill(section, num_steps=scale.steps * (2 if name == 'score' else 1))
    _fill(section, patience=max(section['num_steps'] // 5, 1))
    section['optimizer'] = dict(section['optimizer'])
    _fill(section['optimizer'], weight_decay=scale.weight_decay)
  return plain(out)


def fit(
  config: Mapping[str, Any],
  modalities: Sequence[Modality],
  open_dataset: Callable[[], MultimodalDataset],
) -> dict[str, Any]:
  """Returns a config with the numbers that kinds measure on the training split.

  Args:
    config: plain values.
    modalities: the records.
    open_dataset: returns the data; not called where nothing is to be measured.
  """
  if not any(getattr(modality.kind, 'unfitted', ()) for modality in modalities):
    return dict(config)
  out = {name: dict(spec) for name, spec in config['modalities'].items()}
  for name, values in open_dataset().fit(modalities).items():
    out[name] |= values
  return dict(config, modalities=plain(out))


def _fill(section: dict[str, Any], **values: Any) -> None:
  """Sets what stands in a section and is open."""
  for key, value in values.items():
    if key in section and section[key] in (None, {}):
      section[key] = value


def _networks(section, modalities, scale) -> dict[str, Any]:
  networks = {name: dict(spec) for name, spec in section['networks'].items()}
  is_vae = section.get('autoencoder', {}).get('name') == 'vae'
  for modality in modalities:
    spec = networks.get(modality.name, {})
    if not any(part in (None, {}) for part in spec.values()):
      continue
    values = codec(modality, scale)
    # What `beta` weighs is another thing in other autoencoders, which have their own.
    if not is_vae and spec.get('beta', 0) is None:
      del spec['beta']
    _fill(spec, **values)
  return networks


def _score_network(name, section, config, scale) -> dict[str, Any]:
  if name == 'energy':
    return dict(name='tower', width=scale.tokens, num_blocks=2, features=scale.tokens)
  if config.get('joint'):
    return dict(
      name='mlp', width=2 * scale.tokens, num_blocks=scale.layers, expansion=2,
      dropout=scale.dropout,
    )  # fmt: skip
  # A token per modality, since latent sizes may differ.
  return dict(
    name='transformer', width=scale.tokens, num_layers=scale.layers, num_heads=4,
    dropout=scale.dropout,
  )  # fmt: skip
