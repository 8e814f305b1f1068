"""Checkpoints: where they are, what they hold, and how their parts are read. No torch is needed for safetensors."""

from rmexport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from rmexport.checkpoint.tensors import TensorInfo
from rmexport.checkpoint.tokenizer_files import TokenizerFiles, read_tokenizer
from rmexport.checkpoint.weight_check import WeightFault, check_weights

__all__ = [
    "Checkpoint",
    "TensorInfo",
    "TokenizerFiles",
    "WeightFault",
    "check_weights",
    "open_checkpoint",
    "read_tokenizer",
]
