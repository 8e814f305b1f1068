"""`rmexport diff`: which tensors, settings and files of two bundles, or two checkpoints, differ, and by how much."""

from rmexport.diff.comparison import Difference, DiffOptions, diff

__all__ = ["DiffOptions", "Difference", "diff"]
