"""What an export decides about a checkpoint before it writes a byte."""

from rmexport.spec.checkpoint_spec import CheckpointSpec
from rmexport.spec.model_spec import ModelSpec, build_graph, read_spec

__all__ = ["CheckpointSpec", "ModelSpec", "build_graph", "read_spec"]
