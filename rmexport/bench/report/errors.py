"""What the report package raises on purpose."""

from rmexport.errors import ExportError


class ReportError(ExportError):
    """The report cannot be read, or its pages cannot be drawn or written."""
