"""The page that a run, or a study of runs, leaves: readable without a network."""

from mmsbm.report.page import write_report
from mmsbm.report.study_page import (
  compare_samples,
  trade_off_figure,
  write_study_report,
)

__all__ = ['compare_samples', 'trade_off_figure', 'write_report', 'write_study_report']
