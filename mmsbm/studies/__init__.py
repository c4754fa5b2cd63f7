"""Studies: many runs, one table.

definition.py  rows, what they borrow from each other, what identifies them
runner.py      their processes, and what they cost
results.py     the numbers of all rows as two CSV files
table.py       pages, pictures and tables made of them
main.py        the command: python -m mmsbm.studies
"""

from mmsbm.studies.definition import Row

__all__ = ['Row']
