"""The error of the report package."""

from rmexport.errors import ExportError


class ReportError(ExportError):
    """The report cannot be read, or its pages cannot be drawn or written."""
