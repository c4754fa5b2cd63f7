"""What stands beside the numbers of samples: real data, and reconstructions.

A number that is better than that of real examples is no better than they are.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from mmsbm.report import results
from mmsbm.report.results import Number, Panel

# Captions of columns and lines, in this order.
REAL, HALF, RECONSTRUCTED = 'real data', 'half of test', 'reconstructions'


def reference_metrics(metric: str) -> dict[str, tuple[str, ...]]:
  """Caption -> metrics of which the first one that was measured is the reference.

  Real data are, of distributions, examples of the training split, and of all else the
  test examples; for coherence the accuracy of the classifier on them.
  """
  real = (f'real_{metric}', f'real_train_{metric}')
  reconstruction = f'reconstruction_{metric}'
  if metric in ('coherence', 'coherence_macro', 'coherence_second'):
    real = ('classifier_accuracy',)
    reconstruction = 'reconstruction' if metric == 'coherence' else reconstruction
  return {REAL: real, HALF: (f'real_half_{metric}',), RECONSTRUCTED: (reconstruction,)}


def reference_features(metric: str, features: Sequence[str | None]) -> str | None:
  """Which of the features of the accuracies belongs to a metric of the first or second
  classifier; rows of the first one state none."""
  named = [name for name in features if name]
  return (named or [''])[0] if metric == 'coherence_second' else None


def is_reference(metric: str) -> bool:
  """Whether a metric is only shown beside those of samples."""
  return metric.startswith('real_')


def references_of(panel: Panel, line: str, panels: Sequence[Panel]) -> dict:
  """Caption -> number that belongs to a line of the panel, where there is one."""
  out: dict[str, Number] = {}
  for caption, names in reference_metrics(panel.metric).items():
    for name in names:
      found = [p for p in panels if p.metric == name]
      features = panel.features
      if name == 'classifier_accuracy':
        features = reference_features(panel.metric, [p.features for p in found])
      for p in found:
        if p.features == features and caption not in out:
          value = p.lines.get(line, {}).get(None)
          out |= {caption: value} if value else {}
  return out


def compare_samplings(
  rows: pd.DataFrame, about: Mapping, modalities: Sequence[str]
) -> list[tuple[Panel, str, int | None, dict[str, Number | None]]]:
  """Averages that several samplings have: (panel, line, count, {sampling: number})."""
  names, compared = list(results.samplings(rows)), {}
  plain = results.make_panels(rows[rows.sampling.isna()], about, modalities, None)
  for name in names:
    part = rows[rows.sampling == name]
    for panel in results.make_panels(part, about, modalities, name):
      for line, numbers in panel.main.items():
        for count, value in numbers.items():
          key = (panel.key, line, count)
          compared.setdefault(key, (panel, line, count, {}))[3][name] = value
  out = []
  for panel, line, count, values in compared.values():
    if len(values) > 1:
      real = references_of(panel, line, plain).get(REAL)
      numbers = {name: values.get(name) for name in names}
      out.append((panel, line, count, results.mark_best(numbers, panel.better, real)))
  return out
