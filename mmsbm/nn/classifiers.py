"""Classifiers: images [B, H, W, C] to (logits [B, K], features [B, F]).

The features are the penultimate activations; Frechet distances are computed on
them, so their number must stay well below the number of judged examples.
"""

import flax.linen as nn
import jax

from mmsbm.nn import blocks


class ConvClassifier(nn.Module):
  """The published judge of PolyMNIST digits (1.15 M parameters at 28x28x3).

  Attributes:
    num_classes: K.
    widths: channels of each 3x3 convolution with stride 2.
    feature_dim: F.
    dropout: rate on the features, before the logits; none in the published one.
  """

  num_classes: int
  widths: tuple[int, ...] = (32, 64, 128)
  feature_dim: int = 512
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, H, W, C] to logits [B, K] and features [B, F]."""
    for i, width in enumerate(self.widths):
      x = nn.relu(blocks.conv(x, width, 3, stride=2, name=f'conv_{i}'))
    x = x.reshape(x.shape[0], -1)
    features = nn.relu(blocks.linear(x, self.feature_dim, name='features'))
    h = nn.Dropout(self.dropout, deterministic=not train)(features)
    return blocks.linear(h, self.num_classes, name='logits'), features


class PatchClassifier(nn.Module):
  """Patches and mixing layers: matrix products only, for a CPU.

  Attributes:
    num_classes: K.
    patch: side of a patch; must divide height and width.
    width: channels of a token.
    num_layers: mixing layers.
    feature_dim: F.
    dropout: rate on the features, before the logits.
    expansion: hidden size of a mixing layer over its input size.
    activation: key of blocks.ACTIVATIONS.
  """

  num_classes: int
  patch: int = 4
  width: int = 64
  num_layers: int = 2
  feature_dim: int = 64
  dropout: float = 0.0
  expansion: int = 2
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """Maps x [B, H, W, C] to logits [B, K] and features [B, F]."""
    trunk = blocks.PatchTrunk(
      self.patch, self.width, self.num_layers, self.expansion, self.activation
    )
    features = nn.Dense(self.feature_dim, name='features')(trunk(x))
    features = blocks.ACTIVATIONS[self.activation](features)
    h = nn.Dropout(self.dropout, deterministic=not train)(features)
    return nn.Dense(self.num_classes, name='logits')(h), features


CLASSIFIERS = {
  'conv': ConvClassifier,
  'patch': PatchClassifier,
}
