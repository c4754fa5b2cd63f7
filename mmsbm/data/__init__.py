"""Datasets by name.

A builder takes the modalities, the folder of prepared datasets and the keyword
arguments that stand in `config.data`, and returns a `MultimodalDataset`.
"""

from mmsbm.data import arrays, digits, polymnist

DATASETS = {
  'arrays': arrays.build,
  'digits': digits.build,
  'polymnist': polymnist.build,
}
