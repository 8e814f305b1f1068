"""Shows the report of `rmexport bench`: as a table for the terminal, as plots, and as one self-contained HTML page."""

from rmexport.bench.report.reading import read_report
from rmexport.bench.report.text_table import table
from rmexport.bench.report.writing import write_report
from rmexport.errors import ReportError

__all__ = ["ReportError", "read_report", "table", "write_report"]
