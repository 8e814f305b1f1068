"""The version, shared with rmruntime."""

from rmruntime.version import __version__

__all__ = ["__version__"]
