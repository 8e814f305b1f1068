"""Storage of a bundle's weights: shards kept as they are, or new ones streamed from the checkpoint."""

from rmexport.weights.shard_journal import Journal, Progress, Reports
from rmexport.weights.store import store_weights
from rmexport.weights.stored import StoredTensor, StoredWeights, WeightLocation

__all__ = ["Journal", "Progress", "Reports", "StoredTensor", "StoredWeights", "WeightLocation", "store_weights"]
