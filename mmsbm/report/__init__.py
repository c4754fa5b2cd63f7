"""The page that a run leaves: `report/index.html`, readable without a network.

numbers.py   rows of results.jsonl: which to show, how to write a number
figures.py   curves as PNG
samples.py   samples/*.npz as captioned panels
page.py      sections, tables, HTML
"""

from mmsbm.report.page import write_report
from mmsbm.report.samples import render_samples

__all__ = ['render_samples', 'write_report']
