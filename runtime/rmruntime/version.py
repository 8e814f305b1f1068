"""The version that both distributions share."""

__version__ = "0.1.0"
