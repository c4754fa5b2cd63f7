"""The page that a run, or a study of runs, leaves: readable without a network.

numbers.py   rows of results.jsonl: which to show, how to write a number
tables.py    the table of a study, averaged over seeds
figures.py   curves as PNG
samples.py   samples/*.npz as captioned panels
markup.py    fragments of HTML, and the frame of a page
page.py      the page of a run
study_page.py  the page of a study
"""

from mmsbm.report.page import write_report
from mmsbm.report.samples import compare_samples, render_samples
from mmsbm.report.study_page import trade_off_figure, write_study_report

__all__ = [
  'compare_samples',
  'render_samples',
  'trade_off_figure',
  'write_report',
  'write_study_report',
]
