"""Extended PolyMNIST as a TFDS dataset, and MNIST through TFDS; no TensorFlow.

  builder = ExtendedPolymnist(config='m5', file_format='array_record')
  builder.download_and_prepare()
  source = builder.as_data_source(split='train')   # source[0]['m0'], ...

The images are those of the dataset 'polymnist' (`polymnist.py`) for the same
arguments, bit for bit.
"""

import dataclasses
import io

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from mmsbm.data import backgrounds, mnist
from mmsbm.infra.errors import UserError

_MNIST_URL = 'https://storage.googleapis.com/cvdf-datasets/mnist/'


@dataclasses.dataclass(eq=False, kw_only=True)
class PolymnistConfig(tfds.core.BuilderConfig):
  """Arguments of `polymnist.build`, and the number of modalities m0, m1, ...

  Without `mnist_dir` MNIST is downloaded. `num_val` is of the split 'validation'.
  """

  num_modalities: int = 5
  mnist_dir: str = ''
  background_dir: str = ''
  num_train: int = 50_000
  num_val: int = 10_000
  num_test: int = 10_000
  verify_checksums: bool = True
  seed: int = 0


class ExtendedPolymnist(tfds.core.GeneratorBasedBuilder):
  """Images of one digit class on a photograph per modality."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [
    PolymnistConfig(name=f'm{n}', num_modalities=n, description=f'{n} modalities.')
    for n in (5, 10)
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      f'm{m}': tfds.features.Tensor(shape=(28, 28, 3), dtype=np.uint8)
      for m in range(self.builder_config.num_modalities)
    }
    features['label'] = tfds.features.ClassLabel(num_classes=10)
    return tfds.core.DatasetInfo(
      builder=self,
      description='MNIST digits in inverse colour on crops of photographs.',
      features=tfds.features.FeaturesDict(features),
      # Row i is row i of the dataset 'polymnist'; its order is random already.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    config = self.builder_config
    if config.mnist_dir:
      digits = mnist.read(config.mnist_dir, verify_checksums=config.verify_checksums)
    else:
      paths = dl_manager.download([_MNIST_URL + name for name in mnist.FILES])
      digits = mnist.read_files(paths)
    instances = mnist.split_instances(digits, config.seed)
    return {
      'train': self._generate_examples('train', instances, config.num_train),
      'validation': self._generate_examples('val', instances, config.num_val),
      'test': self._generate_examples('test', instances, config.num_test),
    }

  def _generate_examples(self, split, instances, num):
    config = self.builder_config
    photographs = backgrounds.load_backgrounds(
      config.background_dir or tuple(backgrounds.BUNDLED), config.num_modalities
    )
    labels, images = mnist.make_split(
      split, num, instances=instances, photographs=photographs, seed=config.seed
    )
    images = list(images)
    for i, label in enumerate(labels.tolist()):
      example = {f'm{m}': pixels[i] for m, pixels in enumerate(images)}
      yield i, example | {'label': label}


class Mnist(tfds.image_classification.MNIST, skip_registration=True):
  """TFDS's own 'mnist', prepared without TensorFlow.

  The class of TFDS opens files and encodes images with TensorFlow; this one
  leaves the same records, so either can read what the other has prepared.
  """

  name = 'mnist'

  def _generate_examples(self, num_examples, data_path, label_path):
    images, labels = mnist.read_pair(data_path, label_path)
    for i in range(len(labels)):
      png = io.BytesIO()
      PIL.Image.fromarray(images[i]).save(png, 'png')
      png.seek(0)
      yield i, {'image': png, 'label': int(labels[i])}


def read_mnist(data_dir: str = '') -> mnist.Mnist:
  """Reads MNIST from the folder of TFDS, downloading it on first use."""
  result = {}
  try:
    builder = Mnist(data_dir=data_dir or None, file_format='array_record')
    builder.download_and_prepare()
    for split in ('train', 'test'):
      source = builder.as_data_source(split=split)
      rows = [source[i] for i in range(len(source))]
      result[split] = (
        np.stack([row['image'][..., 0] for row in rows]),
        np.array([row['label'] for row in rows], np.int32),
      )
  except UserError:
    raise
  except Exception as error:  # TFDS raises anything, by the state of the network.
    reason = str(error).partition('\n')[0]
    raise UserError(
      f'TFDS could not provide MNIST ({type(error).__name__}: {reason}); fetch the '
      "four gz files yourself and use data.source='idx' with data.mnist_dir."
    ) from error
  return result
