"""Folders that are there whole or not at all, and what a command shows while it writes them."""
