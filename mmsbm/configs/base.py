"""Arguments of config files, and the sections that no data set changes."""

import difflib
import os
from collections.abc import Iterable, Mapping

import ml_collections

# Reads features that no class was trained on; the same in all runs.
RANDOM_CONV = dict(name='random_conv', seed=0)
# Reads the features of the original FID; `weights` is the file that `python -m
# mmsbm.tools.convert_inception` writes. Empty: there is no such reader.
INCEPTION = dict(name='inception', weights='')


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """Parses 'smoke,modalities=3' into values of the types of `defaults`.

  Args:
    arg: what stands after the colon in --config=file.py:arg. A bare name means
      True.
    **defaults: every argument that exists, with its default.

  Returns:
    A ConfigDict with an entry for each default.

  Raises:
    ValueError: an argument is unknown, or a value of the wrong type.
  """
  values = ml_collections.ConfigDict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, _, text = item.partition('=')
    if name not in defaults:
      close = difflib.get_close_matches(name, defaults, n=1)
      hint = f' Did you mean {close[0]!r}?' if close else ''
      raise ValueError(
        f'unknown config argument {name!r}; there are {sorted(defaults)}.{hint}'
      )
    default = defaults[name]
    if isinstance(default, bool):
      if text not in ('', 'True', 'true', '1', 'False', 'false', '0'):
        raise ValueError(f'config argument {name} is True or False, not {text!r}.')
      values[name] = text not in ('False', 'false', '0')
    else:
      try:
        values[name] = type(default)(text)
      except ValueError as e:
        kind = type(default).__name__
        raise ValueError(f'config argument {name} is of type {kind}: {text!r}.') from e
  return values


def choose(name: str, value, choices: Iterable) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f'{name}={value} is not one of {list(choices)}.')


def second_judge(digit, network, **changes):
  """A reader beside `digit`, of another network and so of other weights.

  Nothing is to be chosen by what it says, and no distance is measured on its features:
  it tells whether samples show a class, or please the judge that settings were chosen
  with.
  """
  return copied(digit) | dict(network=network, has_features=False) | changes


def ordered(specs: Mapping) -> ml_collections.ConfigDict:
  """Makes a section that keeps its order; others are in alphabetical order.

  Dictionaries that stand in it twice are copied, so that an override of one does not
  change the other.
  """
  return ml_collections.ConfigDict(copied(specs), sort_keys=False)


def copied(value):
  """Returns nested dictionaries, none of which is the same object as another."""
  if isinstance(value, Mapping | ml_collections.ConfigDict):
    return {k: copied(v) for k, v in value.items()}
  return value


def auto(kind: type):
  """Makes a field that `mmsbm.automatic` fills in where nobody sets it."""
  return ml_collections.config_dict.placeholder(kind)


def cache_dir() -> str:
  """Where prepared data sets are kept."""
  return os.environ.get('MMSBM_CACHE', os.path.join('~', '.cache', 'mmsbm'))


def base() -> ml_collections.ConfigDict:
  """A config with the sections that no data set changes.

  In the finished config an empty section, `{}`, means that there is no such thing: no
  such step, reader, way of sampling or guidance. So what a recipe has set can be left
  out on the command line, e.g. --config.energy={}. Only the metrics and evaluators are
  those whose names are there, with or without options.
  """
  c = ml_collections.ConfigDict()
  c.seed = 0
  # Names of the steps or learners to train, e.g. ('unimodal',), or ('unimodal/m0',) for
  # one task of a cluster; empty: all.
  c.train_only = ()
  # Whether to evaluate, sample and load what is not fully trained.
  c.allow_partial = False
  # For each step the folder of a run that has it trained, in place of training it here;
  # empty: it is trained here. That run may have more modalities. A relative path begins
  # at the current folder or, if there is none, at the workdir. A recipe adds its steps.
  c.borrow = dict(classifier='')
  c.loop = dict(
    block_steps=250,
    checkpoint_every_steps=1000,
    keep_checkpoints=2,
    # Training sets up to this size are copied to the devices.
    device_memory_gb=4.0,
  )
  c.readers = ordered({})
  c.evaluate = dict(split='test', num_examples=1000, chunk_size=500, seed=0)
  # Each is measured where it applies. The name is that of the metric, unless the
  # options have a `name`, which may also be 'package.module:Class'.
  c.evaluate.metrics = ordered(
    dict(
      # Does a reader see the class of the example in what is generated?
      coherence=dict(),
      coherence_macro=dict(),
      # By a second reader, if there is one, that nothing was chosen with.
      coherence_second=dict(),
      # Against the example itself: masks and attributes, labels, vectors, pictures.
      f1=dict(),
      f1_by_entry=dict(),
      accuracy=dict(),
      r2=dict(),
      mse=dict(),
      # Do generated modalities agree with each other?
      joint_coherence=dict(),
      joint_coherence_with_first=dict(),
      joint_coherence_second=dict(),
      mean_agreement=dict(),
      # Are classes as frequent as in the data?
      class_balance_kl=dict(),
      # Several samples for one example: how sure is the model, and of what?
      brier=dict(),
      log_score=dict(),
      target_agreement=dict(),
      target_agreement_apart=dict(),
      # Sets of features of readers.
      frechet=dict(),
      precision=dict(),
      recall=dict(),
      variance_ratio=dict(),
    )
  )
  c.evaluate.evaluators = ordered(
    dict(
      readers=dict(),
      # Real examples in the place of samples, and as many draws as below.
      real_data=dict(num_draws=8),
      reconstruction=dict(),
      unconditional=dict(),
      conditional=dict(
        # Observed sets of each size: all of them while there are at most so many.
        max_subsets=10,
        # Numbers of observed modalities; empty: all.
        num_given=(),
        # Whether the other ways of sampling are measured with all numbers of observed
        # modalities too, not only given all but one.
        all_samplings=False,
      ),
      # Samples for each of so many examples, given one and given all but one.
      draws=dict(num_draws=8, num_examples=500, max_subsets=4, num_given=()),
      likelihood=dict(
        # Number of test examples; 0 disables it. On two CPU cores 200 take minutes with
        # num_probes=8; with num_probes=0 it takes longer by a factor of one eighth of
        # the number of latent dimensions.
        num_examples=0,
        # Draws from the posterior of each VAE.
        num_importance_samples=1000,
        # Steps of the probability flow, and random directions that estimate its
        # divergence, at least 2; 0: exact.
        num_steps=25,
        num_probes=0,
        time_min=1e-5,
      ),
      linear_probe=dict(
        # Training examples of linear classifiers of the latents; 0 disables it.
        num_train=0,
        # As for `conditional`.
        max_subsets=10,
        num_given=(),
      ),
      # Warnings: latents that keep less than this share of their modality, and samples
      # that lie less than this times as far from training examples as test examples.
      kept_share=dict(least=0.5),
      memorised=dict(least=0.5),
      # Examples that the report shows.
      samples=dict(split='test', num_examples=10, num_samples=3, seed=0),
    )
  )
  return c


def shrink(
  c,
  *,
  num_steps: int,
  batch_size: int,
  sampler_steps: int,
  num_examples: int,
  max_subsets: int,
  num_shown: int,
  num_samples: int,
) -> None:
  """Makes training, sampling and evaluation short; the numbers mean nothing then.

  Args:
    c: a finished config.
    num_steps: training steps of every learner.
    batch_size: examples in a training step.
    sampler_steps: steps of the samplers, or components of a mixture.
    num_examples: test examples that are measured.
    max_subsets: observed sets of each size.
    num_shown: test examples that are shown.
    num_samples: samples that are shown of each.
  """
  trained = [c[name] for name in ('unimodal', 'joint', 'score', 'energy', 'refiner')
             if name in c]  # fmt: skip
  trained += [reader for reader in c.readers.values() if 'num_steps' in reader]
  for section in trained:
    section.num_steps, section.batch_size = num_steps, batch_size
    if 'warmup_steps' in section.get('optimizer', {}):
      section.optimizer.warmup_steps = num_steps // 10
  c.loop.block_steps = c.loop.checkpoint_every_steps = num_steps // 2
  for sampling in c.samplings.values():
    prior = sampling.get('prior', {})
    if 'num_components' in prior:
      prior.num_components = sampler_steps
    for sampler in (sampling.get('sampler', {}), prior.get('sampler', {})):
      if 'num_steps' in sampler:
        sampler.num_steps = sampler_steps
  c.evaluate.num_examples = c.evaluate.chunk_size = num_examples
  evaluators = c.evaluate.evaluators
  evaluators.conditional.max_subsets = evaluators.draws.max_subsets = max_subsets
  evaluators.draws.num_draws = evaluators.real_data.num_draws = 2
  evaluators.linear_probe.max_subsets = max_subsets
  evaluators.samples.num_examples = num_shown
  evaluators.samples.num_samples = num_samples
