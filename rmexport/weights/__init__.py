"""Storage of a bundle's weights: shards kept as they are, or new ones streamed from the checkpoint."""

from rmexport.graph.writer import WeightLocation
from rmexport.weights.store import Progress, store_weights
from rmexport.weights.stored import StoredTensor, StoredWeights

__all__ = ["Progress", "StoredTensor", "StoredWeights", "WeightLocation", "store_weights"]
