"""The reference: what transformers' backbone and the head's published formula give, in any dtype (extra `[verify]`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from rmexport.checkpoint import Checkpoint
from rmexport.encoders import is_encoder, read_encoder_spec
from rmexport.encoders.classifier import TORCH_DTYPES
from rmexport.encoders.reference import encoder_reference
from rmexport.errors import VerificationError
from rmexport.options import ExportOptions
from rmexport.reference_backbone import LayerPeak, ReferenceBackbone, as_tensor, read_derived
from rmexport.spec import ModelSpec, read_spec
from rmexport.tensor_parts import Derived, TensorAlias, TensorRows, TensorStack
from rmexport.weights import StoredTensor
from rmruntime.sequences import TokenSequence

Outputs = dict[str, NDArray[np.float32]]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ReferenceScores:
    """Outputs by name, one row per read of each sequence in order, and the layers' peaks."""

    outputs: Outputs
    peaks: tuple[LayerPeak, ...]


def reference_device(name: str) -> torch.device:
    """The torch device called cpu, cuda or cuda:N.

    Raises VerificationError for another name, and where torch sees no such GPU.
    """
    if name == "cpu":
        return CPU
    kind, colon, index = name.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise VerificationError(f"reference device {name!r} is unknown; expected cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise VerificationError(
            f"reference device {name!r}: torch {torch.__version__} sees {count} CUDA devices; install a torch that is "
            "built for CUDA and a driver that it can use (see nvidia-smi), or leave the reference on the cpu"
        )
    return torch.device(name)


def reference_scores(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    sequences: Sequence[TokenSequence],
    dtype: str,
    device: torch.device = CPU,
) -> ReferenceScores:
    """What transformers gives in `dtype`, head included, as `from_pretrained(dtype=...)` would compute it on `device`.

    Raises VerificationError when this transformers has no such architecture.
    """
    with torch.inference_mode(), _full_precision(dtype, device):
        backbone = ReferenceBackbone(checkpoint, spec, TORCH_DTYPES[dtype], device)
        hidden, peaks = backbone.hidden_states(sequences)
        weights = _head_weights(checkpoint, spec, TORCH_DTYPES[dtype], device)
        outputs = spec.head.reference(spec.head_spec, hidden, weights)
    return ReferenceScores({name: value.float().cpu().numpy() for name, value in outputs.items()}, peaks)


def reference_of(
    checkpoint: Checkpoint, options: ExportOptions, device: torch.device = CPU
) -> Callable[[Sequence[TokenSequence], str], ReferenceScores]:
    """What computes the reference of a checkpoint from sequences and a dtype; encoders are small and have no peaks.

    Raises VerificationError for an encoder on any other device than the CPU.
    """
    if not is_encoder(checkpoint.config):
        return partial(reference_scores, checkpoint, read_spec(checkpoint, options), device=device)
    if device != CPU:
        raise VerificationError(
            f"reference device {str(device)!r}: the reference of an encoder is computed on the cpu only; leave the "
            "reference device out"
        )
    spec = read_encoder_spec(checkpoint, options)

    def encoder_scores(sequences: Sequence[TokenSequence], dtype: str) -> ReferenceScores:
        return ReferenceScores(encoder_reference(checkpoint, spec, sequences, dtype), ())

    return encoder_scores


@contextmanager
def _full_precision(dtype: str, device: torch.device) -> Iterator[None]:
    """On a GPU, fp32 means fp32: no TF32 (10 mantissa bits) in products, attention written out as products."""
    if device == CPU or dtype != "fp32":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def _head_weights(
    checkpoint: Checkpoint, spec: ModelSpec, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    return {
        stored.name: as_tensor(read_derived(checkpoint, _made(stored)), dtype, device)
        for stored in spec.stored
        if spec.requests[stored.name].in_fp32
    }


def _made(stored: StoredTensor) -> Derived:
    if stored.stack:
        return TensorStack(sources=stored.stack)
    if stored.rows is None:
        return TensorAlias(source=stored.source)
    return TensorRows(source=stored.source, rows=stored.rows)


def versions(device: torch.device = CPU) -> Mapping[str, str]:
    """What computed the reference, for reports."""
    where = str(device) if device == CPU else f"{device} ({torch.cuda.get_device_name(device)})"
    return {"torch": torch.__version__, "transformers": transformers.__version__, "reference_device": where}
