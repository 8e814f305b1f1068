"""The errors of the benchmark."""

from rmexport.errors import ExportError


class ContestantError(ExportError):
    """A contestant crashed, hung or refused: it is reported as failed and the others go on."""


class ContestantMissing(ContestantError):
    """A contestant's packages are not installed in its Python."""


class BenchmarkError(ExportError):
    """The benchmark as a whole cannot run or write its report."""
