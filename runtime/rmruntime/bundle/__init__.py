"""A bundle on disk: its manifest, its files and their headers, and the records of compiled engines."""

from rmruntime.bundle.bundle import Bundle

__all__ = ["Bundle"]
