"""What a user may choose for a comparison, as one frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Options of `rmexport diff`. The revisions are those of checkpoints from the Hub, or from its cache."""

    revision_a: str | None = None
    revision_b: str | None = None
