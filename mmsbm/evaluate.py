"""The evaluation protocol: every method goes through these measurements.

Each measurement is a unit that is written to `evaluation/` when it is finished;
a call that finds it there, made from the same checkpoints with the same
settings, does not repeat it. results.jsonl is the units put together.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mmsbm.evaluate_likelihood import likelihood_measurements
from mmsbm.evaluators import (
  VERSION,
  agreement,
  coherence,
  frechet,
  images,
  linear_probe,
  precision_recall,
)
from mmsbm.experiment import Experiment, describe_setup
from mmsbm.generate import Generator
from mmsbm.infra.errors import UserError
from mmsbm.infra.files import write_atomic
from mmsbm.infra.metric_writer import to_plain, write_results
from mmsbm.infra.progress import Progress
from mmsbm.infra.rng import fold_in_name
from mmsbm.nn.inception import load_inception

Row = dict[str, Any]

# Fewer make no distribution to compare.
MIN_QUALITY_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Unit:
  """A measurement that is kept.

  Attributes:
    measure: makes its rows.
    setup: name of the setup that it draws with; None for none.
    options: of config.evaluate.likelihood, those that it uses.
    decodes: whether it depends on how latents are decoded.
  """

  measure: Callable[[], list[Row]]
  setup: str | None = None
  options: tuple[str, ...] = ()
  decodes: bool = True


@dataclasses.dataclass
class Protocol:
  """The measurements of one trained model on one split.

  Attributes:
    experiment: config, data and model.
    generator: model with its variables.
    steps: checkpoint step of every learner.
  """

  experiment: Experiment
  generator: Generator
  steps: dict[str, int]

  def __post_init__(self):
    config = self.experiment.config['evaluate']
    self.names = self.experiment.names
    self.max_subsets, self.seed = config['max_subsets'], config['seed']
    self.split, self.num_probe_examples = config['split'], config['linear_probe']
    part = self.experiment.split('evaluate')
    # Examples with everything: what is generated is compared with what is there.
    complete = np.asarray(part.present).all(axis=1)
    if part.labels is not None:
      complete = complete & (np.asarray(part.labels) >= 0)
    complete = np.flatnonzero(complete)
    wanted = config['num_examples']
    if not len(complete):
      raise UserError(f'no {self.split} example has all modalities and a label.')
    # A random part: files are often sorted by class.
    draw = np.random.default_rng(config['seed']).permutation(len(complete))[:wanted]
    self.rows = complete[np.sort(draw)]
    self.x = tuple(np.asarray(part.arrays[name][self.rows]) for name in self.names)
    self.label = None if part.labels is None else np.asarray(part.labels[self.rows])
    self.key = fold_in_name(jax.random.key(config['seed']), 'evaluate')
    self.judged = np.array([bool(m.judge) for m in self.experiment.modalities])

  # --- rows -----------------------------------------------------------------

  def row(self, metric: str, value: float, stderr: float | None, **fields) -> Row:
    """A row of results.jsonl that says all that one must know to use it."""
    config = self.experiment.config
    return {
      'metric': metric,
      'value': value,
      'stderr': stderr,
      **fields,
      'n': len(self.rows),
      'split': self.split,
      'seed': config['seed'],
      'evaluation_seed': config['evaluate']['seed'],
      'step': self.steps[self.experiment.main_stage],
      'model': config['method'],
      'preset': config['preset'],
    }

  def setup_fields(self, setup: str, num_given: int) -> Row:
    return {
      'setup': setup,
      **describe_setup(self.experiment.setups[setup]),
      'nfe': self.generator.model.num_evaluations(setup, num_given),
    }

  # --- what is measured -----------------------------------------------------

  @functools.cached_property
  def codes(self) -> np.ndarray:
    return self.generator.encode(self.x)

  @functools.cached_property
  def real(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Judged classes [N, M] and features of the real examples."""
    return self.generator.judge(self.x)

  @functools.cached_property
  def inception(self):
    path = self.experiment.config['evaluate']['inception_weights']
    return load_inception(path) if path else None

  @functools.cached_property
  def real_inception(self) -> dict[str, np.ndarray]:
    return {
      name: images.inception_features(self.inception, x)
      for name, x, modality in zip(
        self.names, self.x, self.experiment.modalities, strict=True
      )
      if modality.kind_name == 'image'
    }

  def generate(self, given: np.ndarray, setup: str) -> tuple[np.ndarray, ...]:
    """One generated tuple per test tuple, given the modalities `given` [M].

    The same subset gets the same noise in every setup.
    """
    observed = np.broadcast_to(given, (len(self.rows), len(given)))
    name = 'given ' + ','.join(np.array(self.names)[given])
    key = fold_in_name(self.key, name)
    z = self.generator.sample_latents(self.codes, observed, key=key, setup=setup)
    return self.generator.decode(z, key=fold_in_name(key, 'decode'))

  def classifier(self) -> list[Row]:
    """Accuracy of the judges on real examples, without which no number means much."""
    classes, _ = self.real
    rows = []
    for i in np.flatnonzero(self.judged):
      value, stderr = coherence.accuracy(classes[:, i], self.label)
      rows.append(self.row('classifier_accuracy', value, stderr, target=self.names[i]))
    correct = (classes[:, self.judged] == self.label[:, None]).T
    return rows + [
      self.row('classifier_accuracy', *coherence.clustered_mean(correct), target='mean')
    ]

  def reconstruction(self) -> list[Row]:
    """Accuracy of the judges on every modality encoded and decoded alone."""
    x = self.generator.reconstruct(
      self.codes, key=fold_in_name(self.key, 'reconstruction')
    )
    classes, _ = self.generator.judge(x)
    correct = (classes == self.label[:, None]).T
    rows = []
    for i in np.flatnonzero(self.judged):
      name = self.names[i]
      value, stderr = coherence.clustered_mean(correct[i])
      rows.append(
        self.row(
          'reconstruction', value, stderr, target=name, given=[name], num_given=1
        )
      )
    value, stderr = coherence.clustered_mean(correct[self.judged])
    return rows + [self.row('reconstruction', value, stderr, target='mean')]

  def subsets(self, num_given: int) -> tuple[np.ndarray, np.ndarray]:
    """Observed sets to try.

    Returns:
      Sets [S, M], and [S] bool: False for a prefix (m0, m1, ...) that was not drawn.
      It is measured for the incremental curve and counts in no average, which would
      otherwise depend on the order of the modalities.
    """
    num = len(self.names)
    if num_given == num - 1:
      # Given the rest: one per target, whatever the limit.
      return ~np.eye(num, dtype=bool), np.ones(num, bool)
    chosen = coherence.choose_subsets(num, num_given, self.max_subsets, self.seed)
    drawn = np.ones(len(chosen), bool)
    prefix = np.arange(num) < num_given
    if not (chosen == prefix).all(1).any():
      chosen = np.concatenate([chosen, prefix[None]])
      drawn = np.append(drawn, False)
    return chosen, drawn

  def given(self, num_given: int, setup: str) -> list[Row]:
    """Coherence, Fréchet distance, precision and recall, given so many modalities."""
    fields = self.setup_fields(setup, num_given)
    rows, correct, counted = [], [], []
    quality: dict[str, list[Row]] = {}
    subsets, drawn = self.subsets(num_given)
    with Progress(f'evaluate given {num_given} [{setup}]', len(subsets)) as progress:
      for s, given in enumerate(subsets):
        x = self.generate(given, setup)
        classes, features = self.generator.judge(x)
        names = [name for name, g in zip(self.names, given, strict=True) if g]
        common = {'given': names, 'num_given': num_given, **fields}
        hit = np.zeros((len(self.names), len(self.rows)), bool)
        targets = ~given & self.judged
        if self.label is not None and targets.any():
          hit = (classes == self.label[:, None]).T & targets[:, None]
          for i in np.flatnonzero(targets):
            value, stderr = coherence.accuracy(classes[:, i], self.label)
            rows.append(
              self.row('coherence', value, stderr, target=self.names[i], **common)
            )
          every = coherence.clustered_mean(hit[targets])
          rows.append(self.row('coherence', *every, target='mean', **common))
        for i in np.flatnonzero(~given):
          rows += self.agreement(i, x[i], common)
        if drawn[s]:
          correct.append(hit)
          counted.append(np.broadcast_to(targets[:, None], hit.shape))
        for i in np.flatnonzero(~given):
          # Quality is costly and varies little between subsets: one per target.
          if drawn[s] and self.names[i] not in quality:
            quality[self.names[i]] = self.quality(i, x[i], features[i], common)
        progress.update(s + 1)
    if self.label is not None and np.any(counted):
      value, stderr = coherence.clustered_mean(np.array(correct), np.array(counted))
      common = {'num_given': num_given, **fields}
      rows.append(
        self.row('coherence', value, stderr, target='mean', given='mean', **common)
      )
      # Each class counts alike, which is what MultiVae calls coherence.
      shares = np.sum(correct, axis=(0, 1)) / np.sum(counted, axis=(0, 1))
      macro = coherence.macro_mean(shares, self.label)
      rows.append(
        self.row('coherence_macro', *macro, target='mean', given='mean', **common)
      )
      if num_given == len(self.names) - 1:
        for row in rows[-2:]:
          row['protocol'] = 'given the rest'
    return (
      rows
      + [row for each in quality.values() for row in each]
      + self.quality_mean(
        list(quality.values()), {'given': 'mean', 'num_given': num_given, **fields}
      )
    )

  def incremental(self, rows: Sequence[Row]) -> list[Row]:
    """The published curve: the last modality given the first k (section 7.2)."""
    out = []
    for k in range(1, len(self.names)):
      for row in rows:
        if (
          row['metric'] == 'coherence'
          and row.get('given') == list(self.names[:k])
          and row['target'] == self.names[-1]
        ):
          out.append(row | {'given': 'incremental'})
    return out

  def unconditional(self, setup: str) -> list[Row]:
    """Joint coherence and quality of samples given nothing."""
    fields = {'given': [], 'num_given': 0, **self.setup_fields(setup, 0)}
    x = self.generate(np.zeros(len(self.names), bool), setup)
    classes, features = self.generator.judge(x)
    rows = []
    if self.judged.sum() > 1:
      # The published count is of agreement with the first modality, never more.
      for metric, reference in (
        ('joint_coherence', 'mode'),
        ('joint_coherence_with_first', 'first'),
      ):
        levels = coherence.joint_agreement(classes[:, self.judged], reference)
        for k, (value, stderr) in levels.items():
          rows.append(self.row(metric, value, stderr, at_least=k, **fields))
      mean = coherence.mean_agreement(classes[:, self.judged])
      rows.append(self.row('mean_agreement', *mean, **fields))
    each = [self.quality(i, x[i], features[i], fields) for i in range(len(self.names))]
    return (
      rows + [row for part in each for row in part] + self.quality_mean(each, fields)
    )

  def agreement(self, index: int, x: np.ndarray, fields: Row) -> list[Row]:
    """F1 of attributes and masks, accuracy of labels, against the test example."""
    modality = self.experiment.modalities[index]
    measured = agreement.agreement(modality.kind_name, x, self.x[index])
    if measured is None:
      return []
    metric, values = measured
    value, stderr = coherence.clustered_mean(values)
    return [self.row(metric, value, stderr, target=modality.name, **fields)]

  def quality(self, index: int, x, features, fields: Row) -> list[Row]:
    """Fréchet distance, precision and recall of one modality."""
    name = self.names[index]
    if len(self.rows) < MIN_QUALITY_EXAMPLES:
      return []
    sets = {}
    if features.shape[1]:
      sets['classifier'] = (self.real[1][index], features)
    if self.inception is not None and name in self.real_inception:
      generated = images.inception_features(self.inception, x)
      sets['inception'] = (self.real_inception[name], generated)
    rows = []
    for kind, (real, generated) in sets.items():
      common = {'target': name, 'features': kind, **fields}
      estimate = frechet.frechet_with_stderr(real, generated)
      note = {'note': estimate.note} if estimate.note else {}
      rows.append(self.row('frechet', estimate.value, estimate.stderr, **common) | note)
      if self.experiment.config['evaluate']['precision_recall']:
        both = precision_recall.precision_recall(real, generated)
        rows.append(
          self.row('precision', both.precision, both.precision_stderr, **common)
        )
        rows.append(self.row('recall', both.recall, both.recall_stderr, **common))
    return rows

  def quality_mean(self, each: list[list[Row]], fields: Row) -> list[Row]:
    """Averages over targets; their error bars as if targets were independent."""
    groups: dict[tuple, list[Row]] = {}
    for row in (row for part in each for row in part):
      groups.setdefault((row['metric'], row['features']), []).append(row)
    return [
      self.row(
        metric,
        float(np.mean([r['value'] for r in group])),
        float(np.sqrt(np.sum([r['stderr'] ** 2 for r in group])) / len(group)),
        target='mean',
        features=features,
        **fields,
      )
      for (metric, features), group in groups.items()
    ]

  @functools.cached_property
  def probe_rows(self) -> np.ndarray:
    """Training examples that a linear probe is fitted to: a random part of those that
    have everything; none if they are what is evaluated."""
    train = self.experiment.dataset.splits['train']
    if self.split == 'train' or self.label is None or train.labels is None:
      return np.zeros(0, int)
    usable = np.asarray(train.present).all(axis=1) & (np.asarray(train.labels) >= 0)
    order = np.random.default_rng(self.seed).permutation(np.flatnonzero(usable))
    return np.sort(order[: self.num_probe_examples])

  def linear_probe(self, counts: Sequence[int]) -> list[Row]:
    """Accuracy of linear classifiers of latents, given `counts` modalities.

    The latents are those of `mean_latents`: of joint VAEs the shared one, of others
    those of all observed modalities.
    """
    train, chosen = self.experiment.dataset.splits['train'], self.probe_rows
    codes = self.generator.encode(
      tuple(np.asarray(train.arrays[name][chosen]) for name in self.names)
    )
    label, rows = np.asarray(train.labels[chosen]), []
    num, key = len(self.names), fold_in_name(self.key, 'linear probe')
    shared = self.generator.model.latent_dims.get('shared')
    with Progress('evaluate linear probe', len(counts)) as progress:
      for done, k in enumerate(counts, start=1):
        fields = {'num_given': k, 'num_train': len(chosen)}
        correct = []
        for given in coherence.choose_subsets(num, k, self.max_subsets, self.seed):
          z = [
            self.generator.mean_latents(
              each,
              np.broadcast_to(given, (len(each), num)),
              key=fold_in_name(key, name),
            )[:, :shared]
            for name, each in (('train', codes), ('test', self.codes))
          ]
          hit = linear_probe.linear_probe(z[0], label, z[1]) == self.label
          names = [name for name, g in zip(self.names, given, strict=True) if g]
          value, stderr = coherence.clustered_mean(hit)
          rows.append(self.row('latent_accuracy', value, stderr, given=names, **fields))
          correct.append(hit)
        value, stderr = coherence.clustered_mean(np.array(correct))
        rows.append(self.row('latent_accuracy', value, stderr, given='mean', **fields))
        progress.update(done)
    return rows

  # --- units ----------------------------------------------------------------

  def units(self) -> dict[str, Unit]:
    """Measurements by name, in the order in which they are made."""
    num = len(self.names)
    out: dict[str, Unit] = {}
    if self.judged.any() and self.label is not None:
      out['classifier'] = Unit(self.classifier, decodes=False)
      out['reconstruction'] = Unit(self.reconstruction)
    config = self.experiment.config['evaluate']
    wanted = config['num_given'] or range(1, num)
    for setup in self.experiment.setups:
      suffix = '' if setup == 'default' else f'_{setup}'
      # Other setups are compared on the extremes only, unless all is asked for; those
      # of a joint VAE differ only where nothing is given.
      all_given = setup == 'default' or config['compare_all_given']
      others = set() if self.experiment.is_joint else {num - 1}
      out[f'unconditional{suffix}'] = Unit(
        functools.partial(self.unconditional, setup), setup
      )
      for k in sorted(wanted if all_given else others, reverse=True):
        out[f'given_{k}{suffix}'] = Unit(functools.partial(self.given, k, setup), setup)
    for name, (measure, options) in likelihood_measurements(self).items():
      out[name] = Unit(measure, options=options, decodes=False)
    if len(self.probe_rows):
      counts = (*wanted, num)
      name = '_'.join(map(str, ('linear_probe', self.num_probe_examples, *counts)))
      out[name] = Unit(functools.partial(self.linear_probe, counts), decodes=False)
    return out


def _fingerprint(experiment: Experiment, steps: dict[str, int], unit: Unit) -> str:
  """Identifies what a unit depends on: checkpoints, settings, setup, data."""
  config = experiment.config
  keys = ('evaluate', 'method', 'seed')
  guidance = unit.setup and experiment.setups[unit.setup].guidance
  if not any(each.needs == 'energy' for each in guidance or ()):
    steps = {name: step for name, step in steps.items() if name != 'energy'}
  decoding = experiment.decoding
  if not unit.decodes and not experiment.is_joint:
    # The same with refiners and without.
    steps = {k: step for k, step in steps.items() if not k.startswith('refiner/')}
    decoding = {}
  # What is measured beside a unit, and options that it does not use, change nothing.
  common = dict(config['evaluate'])
  options = common.pop('likelihood')
  for key in ('num_given', 'compare_all_given', 'linear_probe'):
    del common[key]
  parts = [
    VERSION,
    {k: config[k] for k in keys} | {'evaluate': common},
    unit.setup and experiment.setup_spec(unit.setup),
    *decoding.values(),
    steps,
    experiment.dataset.content_hash,
    experiment.judged_by,
  ]
  if unit.options:
    parts.append({k: options[k] for k in unit.options})
  return hashlib.sha1(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _read_unit(path: pathlib.Path) -> list[Row] | None:
  """Rows of a unit that is measured already; None if it is absent or damaged."""
  try:
    rows = json.loads(path.read_text())
  except (OSError, ValueError):
    return None
  return rows if isinstance(rows, list) else None


def make_generator(experiment: Experiment) -> tuple[Generator, dict[str, int]]:
  """The trained model with its judges, and the checkpoint step of each learner."""
  variables, steps = experiment.restore()
  judge_variables, judge_steps = experiment.restore_classifiers()
  generator = Generator(
    experiment.model,
    variables,
    mesh=experiment.mesh,
    chunk_size=experiment.config['evaluate']['chunk_size'],
    judges=experiment.classifiers,
    judge_variables=judge_variables,
  )
  return generator, judge_steps | steps


def sampling_seconds(
  experiment: Experiment, generator: Generator, known: Row | None = None
) -> Row:
  """Seconds for one tuple of all modalities from nothing, with the run's own setup.

  The mean over three chunks, after one that compiles. It depends on the machine, so it
  belongs to run.json and not to the results.

  Args:
    experiment: config and model.
    generator: model with its variables.
    known: what an earlier call said, which is returned if nothing has changed.
  """
  config = experiment.config
  size = min(generator.chunk_size, config['evaluate']['num_examples'])
  of = {
    'chunk_size': size,
    'devices': sorted(str(d.device_kind) for d in jax.devices()),
    'setup': experiment.setup_spec('default'),
    **experiment.decoding,
  }
  of = json.loads(json.dumps(of))
  if known and known['of'] == of:
    return known
  key = jax.random.key(0)
  codes = np.zeros((size, generator.model.code_dim), np.float32)
  observed = np.zeros((size, len(generator.model.modalities)), bool)
  seconds = []
  for _ in range(4):
    start = time.perf_counter()
    z = generator.sample_latents(codes, observed, key=key)
    generator.decode(z, key=key)
    seconds.append((time.perf_counter() - start) / size)
  measured = np.array(seconds[1:])
  return {
    'value': float(measured.mean()),
    'stderr': float(measured.std(ddof=1) / len(measured) ** 0.5),
    'of': of,
  }


def evaluate(
  experiment: Experiment, generator: Generator, steps: dict[str, int]
) -> list[Row]:
  """Measures everything that is not measured yet; writes results.jsonl."""
  protocol = Protocol(experiment, generator, steps)
  folder = pathlib.Path(experiment.workdir, 'evaluation')
  results = os.path.join(experiment.workdir, 'results.jsonl')
  rows: list[Row] = []
  for name, unit in protocol.units().items():
    path = folder / f'{name}-{_fingerprint(experiment, steps, unit)}.json'
    found = _read_unit(path)
    if found is None:
      found = [to_plain(row) for row in unit.measure()]
      write_atomic(path, json.dumps(found))
    rows += found
    write_results(results, rows)
  rows += protocol.incremental(rows)
  write_results(results, rows)
  return rows
