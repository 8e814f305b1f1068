"""What a user may choose for a comparison, as one frozen value."""

from dataclasses import dataclass

from rmexport.errors import OptionError
from rmruntime.option_checks import check_fields


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Options of `rmexport diff`. The revisions are those of checkpoints from the Hub, or from its cache."""

    revision_a: str | None = None
    revision_b: str | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is no text."""
        check_fields(self, {}, error=OptionError)
