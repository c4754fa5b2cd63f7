"""Own data against simple models: four tables of scikit-learn, without tuning.

  python -m mmsbm.tools.small_tables --workdir=runs/small_tables \
    --results=launch/results/small_tables.csv

Each table is cut into modalities and trained as configs/arrays.py has it. Given the
rest of a test example, each modality is drawn 16 times: numbers are their mean, classes
their vote. The same is asked of ridge or logistic regression, of nearest neighbours and
of a constant, fitted to the same training examples. A run that is finished is not
trained again; lines of the results file that are not measured stay.
"""

import argparse
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mmsbm.api import load
from mmsbm.experiment import make_experiment
from mmsbm.infra.files import write_atomic

DRAWS = 16
SPLIT = (0.7, 0.1, 0.2)
# The key of a line of the results, and what is said of it.
KEY = ('data', 'target', 'method', 'seed')
FIELDS = (*KEY, 'metric', 'value', 'n', 'num_train', 'draws', 'sampler')
MODEL = 'SBM-VAE'

Table = Mapping[str, np.ndarray]


def diabetes() -> Table:
  """Returns 442 patients: who they are, their blood, how the disease went on."""
  from sklearn import datasets

  x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
  return {'patient': x[:, :4], 'serum': x[:, 4:], 'progression': y[:, None]}


def wine() -> Table:
  """Returns 178 wines: two halves of a chemical analysis, and the cultivar."""
  from sklearn import datasets

  x, y = datasets.load_wine(return_X_y=True)
  return {'first': x[:, :7], 'second': x[:, 7:], 'cultivar': y}


def breast_cancer() -> Table:
  """Returns 569 tumours: mean, error and worst of ten features, and the diagnosis."""
  from sklearn import datasets

  x, y = datasets.load_breast_cancer(return_X_y=True)
  parts = {'average': x[:, :10], 'error': x[:, 10:20], 'worst': x[:, 20:]}
  return {**parts, 'diagnosis': y}


def digits() -> Table:
  """Returns 1,797 pictures of 8 by 8 pixels, and the digit that each shows."""
  from sklearn import datasets

  data = datasets.load_digits()
  image = np.rint(data.images * (255 / 16)).astype(np.uint8)
  return {'image': image[..., None], 'digit': data.target}


TABLES = {
  'diabetes': diabetes, 'wine': wine, 'breast_cancer': breast_cancer, 'digits': digits
}  # fmt: skip


def standard(values: np.ndarray) -> np.ndarray:
  """Returns columns of numbers with zero mean and unit variance; else the same."""
  is_numbers = values.ndim == 2
  return (values - values.mean(0)) / values.std(0) if is_numbers else values


def spec_of(values: np.ndarray) -> dict[str, Any]:
  """Returns what the config says of a modality with these values."""
  if values.dtype == np.uint8:
    return dict(kind='image', shape=values.shape[1:])
  if values.ndim == 1:
    return dict(kind='label', num_classes=int(values.max()) + 1)
  return dict(kind='vector', shape=values.shape[1:])


def make_config(
  path: str, table: Table, files: pathlib.Path, seed: int
) -> dict[str, Any]:
  """Returns the config of a table: the file `path` with its modalities and data."""
  spec = importlib.util.spec_from_file_location('arrays_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.MODALITIES = {name: spec_of(values) for name, values in table.items()}
  module.READERS = {}
  c = module.get_config()
  c.seed = c.data.seed = seed
  c.data.files, c.data.split = str(files), SPLIT
  # The draws that are measured need no energies.
  c.energy, c.samplings.guided = {}, {}
  return c.to_dict()


def train(config: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Table]:
  """Trains what is not trained yet; returns the examples of every split."""
  from mmsbm.main import execute

  execute(config, str(workdir), 'train', ['mmsbm.tools.small_tables'])
  splits = make_experiment(config, workdir).problem.dataset.splits
  return {
    name: {m: np.asarray(a) for m, a in split.arrays.items()}
    for name, split in splits.items()
  }


def is_class(values: np.ndarray) -> bool:
  return values.ndim == 1


def score(true: np.ndarray, guess: np.ndarray) -> float:
  """Returns the share of right classes, or R2.

  Of several outputs it is the mean of their R2; of pictures, some of whose pixels
  hardly vary, the error of all pixels over their variance.
  """
  if is_class(true):
    return float(np.mean(true == guess))
  true, guess = (np.reshape(x, (len(x), -1)).astype(float) for x in (true, guess))
  error = np.square(true - guess).mean(0)
  variance = true.var(0)
  if variance.min() < 1e-6 * variance.max():
    return float(1 - error.sum() / variance.sum())
  return float((1 - error / variance).mean())


def summary(draws: np.ndarray) -> np.ndarray:
  """Returns the vote, or the mean, of draws [N, DRAWS, ...]."""
  if draws.ndim == 2:
    counts = (draws[:, :, None] == np.arange(draws.max() + 1)).sum(1)
    return counts.argmax(1)
  return draws.astype(float).mean(1)


def model_guesses(workdir: pathlib.Path, test: Table, seed: int) -> Table:
  """Returns the mean or the vote of draws of each modality given the rest."""
  run, out = load(workdir), {}
  for target in test:
    given = {
      name: np.repeat(values, DRAWS, axis=0)
      for name, values in test.items()
      if name != target
    }
    drawn = run.sample(given, seed=seed)[target]
    out[target] = summary(drawn.reshape(-1, DRAWS, *drawn.shape[1:]))
  return out


def inputs(splits: Mapping[str, Table], target: str) -> dict[str, np.ndarray]:
  """Returns all modalities but one as columns, standardised by training examples."""
  out = {}
  for name in ('train', 'test'):
    columns = []
    for modality, values in splits[name].items():
      if modality == target:
        continue
      if is_class(values):
        values = np.eye(splits['train'][modality].max() + 1)[values]
      columns.append(values.reshape(len(values), -1).astype(float))
    out[name] = np.concatenate(columns, axis=1)
  mean, std = out['train'].mean(0), out['train'].std(0)
  return {name: (x - mean) / np.where(std > 0, std, 1.0) for name, x in out.items()}


def baselines(splits: Mapping[str, Table], target: str) -> dict[str, np.ndarray]:
  """Returns what simple models, fitted to training examples, say of the test split."""
  from sklearn import linear_model, neighbors

  x, y = inputs(splits, target), splits['train'][target]
  if is_class(y):
    models = {
      'logistic regression': linear_model.LogisticRegression(max_iter=5_000),
      'nearest neighbours': neighbors.KNeighborsClassifier(10),
    }
    constant = np.full(len(x['test']), np.bincount(y).argmax())
  else:
    models = {
      'ridge regression': linear_model.RidgeCV(np.logspace(-3, 4, 30)),
      'nearest neighbours': neighbors.KNeighborsRegressor(10),
    }
    y = y.reshape(len(y), -1).astype(float)
    constant = np.repeat(y.mean(0, keepdims=True), len(x['test']), axis=0)
  guesses = {
    name: model.fit(x['train'], y).predict(x['test']).reshape(constant.shape)
    for name, model in models.items()
  }
  return {**guesses, 'constant': constant}


def measure(
  data: str, seed: int, config_path: str, workdir: pathlib.Path
) -> list[dict[str, Any]]:
  """Returns the lines of one table and seed."""
  table = {name: standard(values) for name, values in TABLES[data]().items()}
  folder = workdir / f'{data}_{seed}'
  folder.mkdir(parents=True, exist_ok=True)
  files = folder / 'data.npz'
  np.savez(files, **table)
  config = make_config(config_path, table, files, seed)
  splits = train(config, folder / 'run')
  test, rows = splits['test'], []
  drawn = model_guesses(folder / 'run', test, seed)
  config = load(folder / 'run').config['samplings']['default']['sampler']
  sampler = '{name}({num_steps})'.format(**config)
  for target, true in test.items():
    metric = 'accuracy' if is_class(true) else 'r2'
    guesses = {MODEL: drawn[target], **baselines(splits, target)}
    for method, guess in guesses.items():
      rows.append(
        dict(
          data=data, target=target, method=method, seed=seed, metric=metric,
          value=score(true, guess), n=len(true), num_train=len(splits['train'][target]),
          draws=DRAWS if method == MODEL else None,
          sampler=sampler if method == MODEL else None,
        )
      )  # fmt: skip
  return rows


def merge(path: pathlib.Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
  """Writes the lines into the results file; others stay."""
  new = pd.DataFrame(rows, columns=list(FIELDS))
  if path.exists():
    new = pd.concat([pd.read_csv(path), new])
  new = new.drop_duplicates(list(KEY), keep='last').sort_values(list(KEY))
  write_atomic(path, new.to_csv(index=False))
  return new


def markdown(results: pd.DataFrame) -> str:
  """Returns the table of means over seeds, as it stands in the documents."""
  columns = (MODEL, 'linear', 'nearest neighbours', 'constant')
  head = ('data', 'target', 'measure', 'n', 'seeds', *columns)
  lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
  method = results.method.replace(
    {'ridge regression': 'linear', 'logistic regression': 'linear'}
  )
  groups = results.assign(method=method).groupby(['data', 'target'], sort=True)
  for (data, target), part in groups:
    cells = []
    for name in columns:
      values = part[part.method == name].value
      error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
      error = f' ± {error:.3f}' if np.isfinite(error) else ''
      cells.append(f'{values.mean():.3f}{error}')
    metric = {'r2': 'R2', 'accuracy': 'accuracy'}[part.metric.iloc[0]]
    about = (data, target, metric, str(part.n.iloc[0]), str(part.seed.nunique()))
    lines.append('| ' + ' | '.join((*about, *cells)) + ' |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Measures the chosen tables and prints the means of the results file."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--config', default='configs/arrays.py', help='the config file')
  parser.add_argument('--workdir', required=True, help='where the runs are')
  parser.add_argument('--results', required=True, help='the results file, .csv')
  parser.add_argument('--data', nargs='+', default=list(TABLES), choices=TABLES)
  parser.add_argument('--seeds', nargs='+', default=[0, 1, 2], type=int)
  args = parser.parse_args()
  for seed in args.seeds:
    for data in args.data:
      rows = measure(data, seed, args.config, pathlib.Path(args.workdir))
      print(markdown(merge(pathlib.Path(args.results), rows)))


if __name__ == '__main__':
  main()
