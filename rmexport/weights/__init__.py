"""Storage of a bundle's weights: shards kept as they are, or new ones streamed from the checkpoint."""

from rmexport.weights.shard_journal import Journal, Progress, Reports
from rmexport.weights.store import store_weights
from rmexport.weights.weight_spec import StoredWeights, WeightLocation, WeightSpec

__all__ = ["Journal", "Progress", "Reports", "StoredWeights", "WeightLocation", "WeightSpec", "store_weights"]
