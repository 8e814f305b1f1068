"""Finds and reads checkpoints: configuration, tokenizer and tensors. Safetensors are read without torch."""

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
