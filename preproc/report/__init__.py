"""Quality of scans and cohorts: numbers, pictures, one page."""

from bjepa.preproc.report.cohort import CohortWatch
from bjepa.preproc.report.page import write_report
from bjepa.preproc.report.qc import scan_qc
from bjepa.preproc.report.scan_picture import draw_scan_picture

__all__ = ["CohortWatch", "draw_scan_picture", "scan_qc", "write_report"]
