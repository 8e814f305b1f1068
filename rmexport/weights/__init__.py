"""Storage of a bundle's weights: shards kept as they are, or new ones streamed from the checkpoint."""

from rmexport.graph.writer import WeightLocation
from rmexport.weights.journal import Journal
from rmexport.weights.reports import Progress, Reports
from rmexport.weights.store import store_weights
from rmexport.weights.stored import StoredTensor, StoredWeights

__all__ = ["Journal", "Progress", "Reports", "StoredTensor", "StoredWeights", "WeightLocation", "store_weights"]
