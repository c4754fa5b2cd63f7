"""The evaluators by name."""

from mmsbm.evaluators.conditional import Conditional
from mmsbm.evaluators.latents import LinearProbe
from mmsbm.evaluators.likelihood import Likelihood
from mmsbm.evaluators.reader_accuracy import ReaderAccuracy
from mmsbm.evaluators.reconstruction import Reconstruction
from mmsbm.evaluators.samples import Samples
from mmsbm.evaluators.unconditional import Unconditional

EVALUATORS = {
  'readers': ReaderAccuracy,
  'reconstruction': Reconstruction,
  'unconditional': Unconditional,
  'conditional': Conditional,
  'likelihood': Likelihood,
  'linear_probe': LinearProbe,
  'samples': Samples,
}
