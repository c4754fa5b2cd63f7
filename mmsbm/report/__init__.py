"""The page that a run, or a study of runs, leaves: readable without a network.

results.py   rows of results.jsonl: panels, averages, what is best
tables.py    the table of a study, averaged over seeds
figures.py   curves as SVG or PNG
grid.py      pictures in rows and columns as PNG
folder.py    the files of a run
page.py      the page of a run
study_page.py  the page of a study
templates/   what both pages look like
"""

from mmsbm.report.page import write_report
from mmsbm.report.study_page import (
  compare_samples,
  trade_off_figure,
  write_study_report,
)

__all__ = ['compare_samples', 'trade_off_figure', 'write_report', 'write_study_report']
