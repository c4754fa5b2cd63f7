"""A classifier that reads the class of an example."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mmsbm.learners.base import POSITION, masked_mean
from mmsbm.modalities import Modality


@dataclasses.dataclass(frozen=True)
class Classifier:
  """Cross-entropy on the real examples of all modalities that it reads.

  Every example of the batch contributes one modality, drawn at random.

  Attributes:
    reader: its name in config.readers.
    annotation: the labels that it learns, int32 [B], -1 where unknown.
    network: x [B, ...] -> (logits [B, K], features [B, F]).
    modalities: those it reads; equal shapes.
    indices: their columns in `present`.
  """

  reader: str
  annotation: str
  network: nn.Module
  modalities: tuple[Modality, ...]
  indices: tuple[int, ...] = dataclasses.field(metadata=POSITION)

  # It reads each modality alone, so it can be lent to a run that has fewer of them.
  reads_each_alone = True

  @property
  def name(self) -> str:
    return f'classifier/{self.reader}'

  def init(self, key, batch):
    modality = self.modalities[0]
    x = modality.kind.to_model(batch['x'][modality.name][:1])
    return self.network.init(key, x, False)

  def loss(self, variables, frozen, batch, rngs, *, train):
    """See `Learner.loss`; rows without label or modality do not count."""
    del frozen
    label, num = batch['annotations'][self.annotation], len(self.modalities)
    pick = jax.random.randint(rngs['condition'], label.shape, 0, num)
    x = jnp.stack([m.kind.to_model(batch['x'][m.name]) for m in self.modalities])
    x = jnp.take_along_axis(x, pick.reshape(1, -1, *[1] * (x.ndim - 2)), axis=0)[0]
    present = batch['present'][:, jnp.asarray(self.indices)]
    present = jnp.take_along_axis(present, pick[:, None], axis=1)[:, 0]
    mutable = [name for name in variables if name != 'params'] if train else []
    (logits, _), updated = self.network.apply(
      variables, x, train, mutable=mutable, rngs={'dropout': rngs['dropout']}
    )
    weight = present & (label >= 0)
    safe = jnp.maximum(label, 0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    correct = (logits.argmax(-1) == label).astype(jnp.float32)
    loss = masked_mean(loss, weight)
    terms = {'accuracy': masked_mean(correct, weight)}
    return loss, terms, {k: updated.get(k, variables[k]) for k in mutable}
