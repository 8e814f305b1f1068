"""The reference: transformers' backbone and the head's published formula, in any dtype (extra `[verify]`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from rmexport.checkpoint import Checkpoint
from rmexport.encoders import EncoderSpec, is_encoder, read_encoder_spec
from rmexport.encoders.classifier import TORCH_DTYPES
from rmexport.errors import VerificationError
from rmexport.options import ExportOptions
from rmexport.spec import ModelSpec, read_spec
from rmexport.verify.encoder_reference import encoder_outputs, encoder_states
from rmexport.verify.reference_backbone import LayerPeak, ReferenceBackbone, as_tensor, largest, read_derived
from rmexport.verify.reference_pass import Meter, SequenceStates
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

    >>> reference_device("cpu")
    device(type='cpu')
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


class Reference(Protocol):
    """A checkpoint's reference: states that are costly and worth keeping, and the scores that follow from them."""

    def states(self, sequences: Sequence[TokenSequence], dtype: str, meter: Meter) -> list[SequenceStates]:
        """What transformers' backbone computes for each sequence in `dtype`: the same whatever else is among them."""
        ...

    def scores(self, states: Sequence[SequenceStates], dtype: str) -> ReferenceScores:
        """The outputs of all sequences together, [P] or [P, labels] with P the scored positions of all."""
        ...


class DecoderReference:
    """A backbone of transformers and the head's published formula."""

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, device: torch.device = CPU) -> None:
        self._checkpoint, self._spec, self._device = checkpoint, spec, device
        self._backbones: dict[str, ReferenceBackbone] = {}  # by dtype; without weights between two passes

    def states(self, sequences: Sequence[TokenSequence], dtype: str, meter: Meter) -> list[SequenceStates]:
        """Final hidden states at each role's reads. Raises VerificationError for an unknown architecture."""
        with torch.inference_mode(), _full_precision(dtype, self._device):
            if dtype not in self._backbones:
                made = ReferenceBackbone(self._checkpoint, self._spec, TORCH_DTYPES[dtype], self._device)
                self._backbones[dtype] = made
            found, peaks = self._backbones[dtype].sequence_states(sequences, meter)
            return [
                SequenceStates(values={role: x.float().cpu().numpy() for role, x in read.items()}, peaks=seen)
                for read, seen in zip(found, peaks, strict=True)
            ]

    def scores(self, states: Sequence[SequenceStates], dtype: str) -> ReferenceScores:
        """The head's outputs, computed in `dtype` like the backbone."""
        with torch.inference_mode(), _full_precision(dtype, self._device):
            hidden = {role: self._joined(states, role, dtype) for role in (states[0].values if states else ())}
            weights = _head_weights(self._checkpoint, self._spec, TORCH_DTYPES[dtype], self._device)
            outputs = self._spec.head.reference(hidden, weights)
        scores = {name: value.float().cpu().numpy() for name, value in outputs.items()}
        return ReferenceScores(scores, largest([found.peaks for found in states]))

    def _joined(self, states: Sequence[SequenceStates], role: str, dtype: str) -> torch.Tensor:
        """[P, hidden] of all sequences, in memory of torch's own: its products may depend on the alignment."""
        rows = np.concatenate([found.values[role] for found in states])
        return torch.tensor(rows, dtype=TORCH_DTYPES[dtype], device=self._device)


class EncoderReference:
    """A classifier of transformers: small, on the CPU, without peaks."""

    def __init__(self, checkpoint: Checkpoint, spec: EncoderSpec) -> None:
        self._checkpoint, self._spec = checkpoint, spec

    def states(self, sequences: Sequence[TokenSequence], dtype: str, meter: Meter) -> list[SequenceStates]:
        """The classifier's logits. Raises CheckpointError for weights that transformers cannot load."""
        return encoder_states(self._checkpoint, self._spec, sequences, dtype, meter)

    def scores(self, states: Sequence[SequenceStates], dtype: str) -> ReferenceScores:
        """The logits by the names of the outputs."""
        return ReferenceScores(encoder_outputs(self._spec, [found.values for found in states]), ())


def reference_scores(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    sequences: Sequence[TokenSequence],
    dtype: str,
    device: torch.device = CPU,
) -> ReferenceScores:
    """The scores of transformers in `dtype`, head included, as `from_pretrained(dtype=...)` would compute on `device`.

    Raises VerificationError when this transformers has no such architecture.
    """
    reference = DecoderReference(checkpoint, spec, device)
    return reference.scores(reference.states(sequences, dtype, Meter()), dtype)


def reference_of(checkpoint: Checkpoint, options: ExportOptions, device: torch.device = CPU) -> Reference:
    """What computes the reference of a checkpoint.

    Raises VerificationError for an encoder on any other device than the CPU.
    """
    if not is_encoder(checkpoint.config):
        return DecoderReference(checkpoint, read_spec(checkpoint, options), device)
    if device != CPU:
        raise VerificationError(
            f"reference device {str(device)!r}: the reference of an encoder is computed on the cpu only; leave the "
            "reference device out"
        )
    return EncoderReference(checkpoint, read_encoder_spec(checkpoint, options))


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
        weight.name: as_tensor(read_derived(checkpoint, weight.made), dtype, device)
        for weight in spec.weights
        if spec.requests[weight.name].in_fp32
    }


def versions(device: torch.device = CPU) -> Mapping[str, str]:
    """What computed the reference, for reports.

    >>> sorted(versions())
    ['reference_device', 'torch', 'transformers']
    """
    where = str(device) if device == CPU else f"{device} ({torch.cuda.get_device_name(device)})"
    return {"torch": torch.__version__, "transformers": transformers.__version__, "reference_device": where}


def arithmetic(device: torch.device = CPU) -> dict[str, Any]:
    """What else the reference's bits depend on, beside checkpoint, dtype and processor: versions, threads, switches.

    >>> arithmetic()["reference_device"]
    'cpu'
    """
    facts: dict[str, Any] = {
        **versions(device),
        "build": torch.__config__.show(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "onednn": torch.backends.mkldnn.enabled,
    }
    if device == CPU:
        return facts
    products, dnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = (products.allow_tf32, dnn.allow_tf32, products.allow_bf16_reduced_precision_reduction)
    return {**facts, "cuda": torch.version.cuda, "cudnn": dnn.version(), "gpu_switches": switches}
