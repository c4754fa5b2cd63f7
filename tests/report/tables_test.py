import math

import pytest

from mmsbm.infra.errors import UserError
from mmsbm.report import tables


def test_over_seeds_is_the_mean_with_its_own_error(lines):
  (entry,) = [e for e in tables.entries(lines) if e.columns['method'] == 'A']
  cell = entry.cell('coherence', 1)
  values = [0.6 * (1.02 + 0.01 * seed) for seed in (0, 1)]
  assert cell.value == pytest.approx(sum(values) / 2)
  deviation = abs(values[1] - values[0]) / math.sqrt(2)
  # Of two seeds, and of the test examples, which are the same for both.
  assert cell.stderr == pytest.approx(math.hypot(deviation / math.sqrt(2), 0.01))
  assert (cell.n, cell.averaged) == (1500, 2)


def test_over_seeds_keeps_the_error_of_a_single_line_and_counts(lines):
  one_seed = [line for line in lines if line['seed'] == 0]
  entry = tables.entries(one_seed)[0]
  assert entry.cell('coherence', 1).stderr == 0.01
  (network, _) = tables.entries(lines, generated=False)
  cell = network.cell('autoencoder_parameters', None)
  assert (cell.value, cell.stderr, cell.averaged) == (1000, None, 2)


def test_entry_cell_takes_one_given_of_two_modalities_as_the_rest(lines):
  for line in lines:
    line['modalities'] = 2
  entry = tables.entries(lines)[0]
  assert entry.cell('coherence', 1) == entry.cell('coherence', 'rest')


def test_entries_refuses_two_rows_of_the_same_columns_and_seed(lines):
  lines.append(lines[0] | {'row': 'again'})
  with pytest.raises(UserError, match='A_s0 and again have the same columns'):
    tables.entries(lines, generated=False)


def test_entries_stand_by_family_and_cost(lines):
  runs = [(e.columns['method'], e.first['nfe']) for e in tables.entries(lines)]
  assert runs == [('A', 20), ('B', 5), ('B', 20)]


def test_markdown_is_the_table_and_its_note(lines):
  out = tables.markdown(lines).split('\n')
  head = out[0].strip('| ').split(' | ')
  assert head == [
    'run', 'sampled with', 'NFE', 'coherence given 1', 'given the rest', 'joint',
    'Fréchet, unconditional', 'Fréchet, given the rest',
  ]  # fmt: skip
  first, *_, last = (line.strip('| ').split(' | ') for line in out[2:5])
  assert first[:3] == ['A', 'heun(num_steps=20)', '20']
  # Coherence is best where it is high, the distance where it is low.
  assert last[3] == '**0.675 ± 0.010**' and first[6] == '**20.50 ± 0.10**'
  assert [cell.startswith('**') for cell in first] == [False] * 6 + [True] * 2
  assert '± is one standard error over test examples and 2 seeds of the' in out[6]
  assert 'Bold is what lies within two errors of the best of its group.' in out[6]
  assert 'n = 1,500 test examples' in out[6] and 'In all lines: conditioning' in out[6]
  assert out[8] == '| run | reconstruction | parameters: autoencoders |'
  assert out[10] == '| A | 0.900 ± 0.010 | 1,000 |'


def test_generation_table_has_columns_for_metrics_that_it_does_not_know(lines):
  for line in [x for x in lines if x['metric'] == 'coherence']:
    lines.append(line | {'metric': 'r2'})
  table = tables.generation_table(lines)
  assert {'R², given 1', 'R², given the rest'} <= set(table.head)


def test_real_data_stand_below_and_limit_what_is_best(lines):
  plain = {k: v for k, v in lines[0].items() if k not in ('metric', 'value', 'stderr')}
  for metric, value, more in (
    ('classifier_accuracy', 0.61, {}),
    ('real_train_frechet', 30.0, {'features': 'digit'}),
    ('real_half_frechet', 40.0, {'features': 'digit'}),
  ):
    lines.append(plain | {'metric': metric, 'value': value, 'stderr': 1e-3} | more)
  table = tables.generation_table(lines)
  *methods, real, half = table.lines
  assert (real[0], half[0]) == ('real data', 'half of test')
  column = table.head.index('Fréchet, unconditional')
  assert (real[column].value, half[column].value) == (30, 40)
  # All are below what real examples have: none is better than another.
  assert all(line[column].best for line in methods)
  column = table.head.index('coherence given 1')
  assert real[column].value == 0.61 and half[column] is None
  # 0.627 and 0.675 are above it.
  assert [line[column].best for line in methods] == [True, True, True]
  assert 'What is better than real data counts as equal' in table.note


def test_bold_is_the_best_of_a_group(lines):
  for line in lines:
    line['columns'] = line['columns'] | {'group': line['columns']['method']}
  table = tables.generation_table(lines)
  best = [line[table.head.index('joint')].best for line in table.lines]
  # A method alone in its group has no rival; 0.5625 and 0.57 have errors of 0.01.
  assert best == [False, True, True]
