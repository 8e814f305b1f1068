"""Writes folders so that they appear complete or not at all, and shows the progress of a command."""
