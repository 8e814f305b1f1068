"""The reference: transformers' own backbone, layer by layer from the checkpoint's shards, so that 8B fits in a few GB.

The only file that imports torch and transformers to compute scores (extra `[verify]`). Each layer is loaded once and
run over all sequences, one sequence at a time: no padding, no mask, nothing that could make the reference doubtful.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from rmexport.checkpoint import Checkpoint
from rmexport.errors import VerificationError
from rmexport.progress import DELAY
from rmexport.spec import ModelSpec
from rmruntime.sequences import TokenSequence

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class LayerPeak:
    """The largest magnitude among a layer's activations (inputs and outputs of its linear layers, residual)."""

    layer: str
    magnitude: float


@dataclass(frozen=True)
class ReferenceScores:
    """Outputs by name, one row per read of each sequence in order, and the layers' peaks."""

    outputs: Outputs
    peaks: tuple[LayerPeak, ...]


def reference_scores(
    checkpoint: Checkpoint, spec: ModelSpec, sequences: Sequence[TokenSequence], dtype: str
) -> ReferenceScores:
    """What transformers gives in `dtype`, head included, as `from_pretrained(dtype=...)` would compute it.

    Raises VerificationError when this transformers has no such architecture.
    """
    with torch.inference_mode():
        backbone = _Backbone(checkpoint, TORCH_DTYPES[dtype])
        hidden, peaks = backbone.hidden_states(sequences)
        weights = _head_weights(checkpoint, spec, TORCH_DTYPES[dtype])
        outputs = spec.head.reference(spec.head_spec, hidden, weights)
    return ReferenceScores({name: value.float().numpy() for name, value in outputs.items()}, peaks)


def _head_weights(checkpoint: Checkpoint, spec: ModelSpec, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    weights = {}
    for stored in spec.stored:
        if spec.requests[stored.name].in_fp32:
            array = checkpoint.read(stored.source)
            weights[stored.name] = _tensor(array[list(stored.rows)] if stored.rows else array, dtype)
    return weights


def _tensor(array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """A torch copy of a checkpoint array; torch cannot read ml_dtypes' bf16, but takes its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(dtype)
    return torch.from_numpy(np.array(array)).to(dtype)


class _Recorder(nn.Module):  # type: ignore[misc] # torch is untyped here
    """Stands in for a layer: notes the arguments that the backbone would pass it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._stands_for = (layer,)  # in a tuple, so that it is no submodule
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        """The layer's own attributes: some backbones ask a layer for its attention type."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._stands_for[0], name)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls.append((args, kwargs))
        return hidden


class _Backbone:
    """A transformers backbone whose parameters come and go."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._checkpoint, self._dtype = checkpoint, dtype
        raw = {k: v for k, v in checkpoint.config.items() if k not in ("auto_map", "quantization_config")}
        try:
            config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
            with _parameters_on_meta():
                self._model = transformers.AutoModel.from_config(config, attn_implementation="sdpa").eval()
        except (ValueError, KeyError) as error:
            raise VerificationError(f"transformers {transformers.__version__} has no such backbone: {error}") from error
        self._prefix = f"{self._model.base_model_prefix}."

    def hidden_states(
        self, sequences: Sequence[TokenSequence]
    ) -> tuple[dict[str, torch.Tensor], tuple[LayerPeak, ...]]:
        """Final hidden states at every role's reads, [P, hidden] in this dtype, sequences in order."""
        states, calls = self._record([s.ids for s in sequences])
        peaks = []
        bar = tqdm(self._model.layers, f"reference in {self._dtype}", unit=" layer", disable=None, delay=DELAY)
        for index, layer in enumerate(bar):
            name = f"layers.{index}"
            with self._loaded(layer, name), _peak(layer, name) as peak:
                for i, (args, kwargs) in enumerate(calls[index]):
                    found = layer(states[i], *args, **kwargs)
                    states[i] = found[0] if isinstance(found, tuple) else found
                    peak.see(states[i])
            peaks.append(LayerPeak(name, peak.magnitude))
        with self._loaded(self._model.norm, "norm"):
            states = [self._model.norm(x)[0] for x in states]
        roles = sequences[0].reads if sequences else {}
        read = {
            role: torch.cat([x[torch.from_numpy(s.reads[role])] for x, s in zip(states, sequences, strict=True)])
            for role in roles
        }
        return read, tuple(peaks)

    def _record(self, ids: Sequence[NDArray[np.int64]]) -> tuple[list[torch.Tensor], list[list[Any]]]:
        """Embedded sequences and, per layer, the arguments each sequence's call would have."""
        distinct, places = np.unique(np.concatenate(ids), return_inverse=True)
        table = self._model.get_input_embeddings()
        rows = _tensor(self._checkpoint.read(f"{self._prefix}embed_tokens.weight")[distinct], self._dtype)
        recorders = [_Recorder(layer) for layer in self._model.layers]
        layers, norm, old, padding = self._model.layers, self._model.norm, table.weight, table.padding_idx
        self._model.layers, self._model.norm = nn.ModuleList(recorders), nn.Identity()
        table.weight = nn.Parameter(rows, requires_grad=False)  # only the rows that are used, renumbered
        table.padding_idx = None  # it would name a row by its old number, and matters to gradients alone
        try:
            cuts = np.cumsum([len(x) for x in ids])[:-1]
            parts = [torch.from_numpy(part)[None] for part in np.split(places, cuts)]
            states = [self._model(input_ids=part, use_cache=False).last_hidden_state for part in parts]
        finally:
            self._model.layers, self._model.norm = layers, norm
            table.weight, table.padding_idx = old, padding
        return states, [recorder.calls for recorder in recorders]

    @contextmanager
    def _loaded(self, module: nn.Module, name: str) -> Iterator[None]:
        """The module with its weights, which leave memory again afterwards."""
        names = [key for key, _ in module.named_parameters()]
        state = {
            key: _tensor(self._checkpoint.read(f"{self._prefix}{name}.{key}"), self._dtype).requires_grad_(False)
            for key in names
        }
        module.load_state_dict(state, strict=False, assign=True)
        del state
        yield
        module.to("meta")


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters without storage, buffers with: rotary frequencies are buffers that no checkpoint holds."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # restored below
    try:
        yield
    finally:
        nn.Module.register_parameter = register


class _Peak:
    """The running largest magnitude of a layer."""

    def __init__(self) -> None:
        self.magnitude = 0.0

    def see(self, x: torch.Tensor) -> None:
        self.magnitude = max(self.magnitude, float(x.abs().max()))


@contextmanager
def _peak(layer: nn.Module, name: str) -> Iterator[_Peak]:
    """Watches the inputs and outputs of every linear layer inside: the places where fp16 overflows."""
    peak = _Peak()

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        peak.see(inputs[0])
        peak.see(output)

    handles = [m.register_forward_hook(watch) for m in layer.modules() if isinstance(m, nn.Linear)]
    try:
        yield peak
    finally:
        for handle in handles:
            handle.remove()


def versions() -> Mapping[str, str]:
    """What computed the reference, for reports."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}
