"""`rmexport diff`: which tensors, settings and files of two bundles, or two checkpoints, differ, and by how much."""

from rmexport.difference.comparison import Difference, diff
from rmexport.difference.options import DiffOptions

__all__ = ["DiffOptions", "Difference", "diff"]
