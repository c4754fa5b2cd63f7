import pytest

from mmsbm.report import formats


@pytest.mark.parametrize(
  ('value', 'stderr', 'expected'),
  [
    (0.95123, 0.0021, '0.951 ± 0.002'),
    (0.95123, 0.0012, '0.9512 ± 0.0012'),
    (0.95123, 0.00196, '0.951 ± 0.002'),
    (812.34, 23.0, '812 ± 23'),
    (1.0, 0.0, '1.00'),
    (0.5, None, '0.500'),
    (18.3, None, '18.30'),
    (123456.7, None, '123,457'),
    (120345, None, '120,345'),
    (0.000123, None, '0.000123'),
    (0.00003643, None, '0.0000364'),
    (0.0499, None, '0.0499'),
    (3.2e-9, None, '3.2e-09'),
    (None, 0.1, 'not finite'),
    (float('nan'), None, 'not finite'),
  ],
)
def test_format_number_gives_the_digits_that_the_error_supports(
  value, stderr, expected
):
  assert formats.format_number(value, stderr) == expected


@pytest.mark.parametrize(
  ('seconds', 'expected'),
  [(0.421, '0.42 s'), (59.96, '60.0 s'), (125, '2 min 05 s'), (7380, '2 h 03 min')],
)
def test_format_seconds(seconds, expected):
  assert formats.format_seconds(seconds) == expected


def test_describe_writes_a_mapping_in_one_line():
  assert formats.describe({'jax': '0.1', 'numpy': '2'}) == 'jax 0.1, numpy 2'
  assert formats.describe(['cpu', 'gpu']) == 'cpu, gpu' and formats.describe(3) == '3'
  assert formats.short('time_zero() + a(b=1)') == 'time_zero + a(b=1)'
