"""transformers' own backbone, layer by layer from the checkpoint's shards, so that 8B fits in a few GB.

Each layer is loaded once and run over all sequences, one sequence at a time: no padding, no mask, nothing that could
make the reference doubtful. A family that transformers lacks, or knows in another form, says how it is had from there
with `reference_config(raw)` and `reference_tensor(config, name)`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from rmexport.checkpoint import Checkpoint
from rmexport.checkpoint.derived_tensors import Derived, TensorAlias, TensorRows, TensorStack, rename, renamed
from rmexport.errors import VerificationError
from rmexport.spec import ModelSpec
from rmexport.verify.reference_pass import Meter
from rmruntime.sequences import TokenSequence


@dataclass(frozen=True)
class LayerPeak:
    """The largest magnitude among a layer's activations (inputs and outputs of its linear layers, residual)."""

    layer: str
    magnitude: float


def as_tensor(array: NDArray[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A copy of a checkpoint array on `device`; torch cannot read ml_dtypes' bf16, but takes its bits.

    Uploaded as it is stored, widened there.

    >>> as_tensor(np.array([1.5, 2.5]), torch.bfloat16, torch.device("cpu"))
    tensor([1.5000, 2.5000], dtype=torch.bfloat16)
    """
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).to(device).view(torch.bfloat16).to(dtype)
    return torch.from_numpy(np.array(array)).to(device).to(dtype)


def read_derived(checkpoint: Checkpoint, derived: Derived) -> NDArray[Any]:
    """The whole of a weight that is made of checkpoint tensors."""
    if isinstance(derived, TensorStack):
        return np.stack([checkpoint.read(name) for name in derived.sources])
    array = checkpoint.read(derived.source)
    return array[list(derived.rows)] if isinstance(derived, TensorRows) else array


class _Parameters:
    """transformers' parameters by their names in the bare backbone, out of the checkpoint's tensors."""

    def __init__(
        self, checkpoint: Checkpoint, spec: ModelSpec, prefix: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._checkpoint, self._prefixes, self._dtype = checkpoint, spec.prefixes, dtype
        self._prefix, self._config, self._device = prefix, spec.config, device
        self._made: Callable[[Any, str], Derived | None] | None = getattr(spec.family, "reference_tensor", None)

    def read(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A parameter; a stack of tensors takes its shape. Raises CheckpointError for a tensor that is not there."""
        found = read_derived(self._checkpoint, self._parts(name))
        return as_tensor(found.reshape(tuple(shape)), self._dtype, self._device).requires_grad_(False)

    def rows(self, name: str, rows: NDArray[np.int64]) -> torch.Tensor:
        """Some rows of an embedding table."""
        return as_tensor(read_derived(self._checkpoint, self._parts(name))[rows], self._dtype, self._device)

    def _parts(self, name: str) -> Derived:
        stored = rename(self._prefix + name, self._prefixes)
        made = None
        if self._made is not None and stored not in self._checkpoint.tensors:
            made = self._made(self._config, name)
        return renamed(made, self._prefixes) if made else TensorAlias(source=stored)


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


class ReferenceBackbone:
    """A transformers backbone whose parameters come and go on `device`, one layer's at a time."""

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        try:
            config = _config(checkpoint, spec)
            # transformers' fused attention has no softcap
            attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
            with _parameters_on_meta():
                self._model = transformers.AutoModel.from_config(config, attn_implementation=attention).eval()
        except (ValueError, KeyError) as error:
            raise VerificationError(f"transformers {transformers.__version__} has no such backbone: {error}") from error
        names = {id(module): name for name, module in self._model.named_modules()}
        self._table = self._model.get_input_embeddings()
        self._table_name, self._norm_name = names[id(self._table)], _final_norm(self._model, self._table)
        self._parameters = _Parameters(checkpoint, spec, f"{self._model.base_model_prefix}.", dtype, device)
        _move_buffers(self._model, device)

    def hidden_states(
        self, sequences: Sequence[TokenSequence]
    ) -> tuple[dict[str, torch.Tensor], tuple[LayerPeak, ...]]:
        """Final hidden states at every role's reads, [P, hidden] in this dtype on the device, sequences in order."""
        read, peaks = self.sequence_states(sequences, Meter())
        roles = read[0] if read else ()
        return {role: torch.cat([states[role] for states in read]) for role in roles}, largest(peaks)

    def sequence_states(
        self, sequences: Sequence[TokenSequence], meter: Meter
    ) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, float]]]:
        """The same of each sequence by role, and the largest activations of each by layer."""
        with meter.loading():
            states, calls = self._record([s.ids for s in sequences])
        peaks: list[dict[str, float]] = [{} for _ in sequences]
        count = len(self._model.layers)
        for index, layer in enumerate(self._model.layers):
            name = f"layers.{index}"
            with self._loaded(layer, name, meter), _peaks(layer) as watched:
                for i, (args, kwargs) in enumerate(calls[index]):
                    watched.append(_Peak())
                    with meter.computing(states[i].shape[1] / count, first=index == 0):
                        found = layer(states[i], *args, **kwargs)
                        states[i] = found[0] if isinstance(found, tuple) else found
                        watched[i].see(states[i])
                for seen, peak in zip(peaks, watched, strict=True):
                    seen[name] = peak.magnitude
        norm = getattr(self._model, self._norm_name)
        with self._loaded(norm, self._norm_name, meter):
            states = [norm(x)[0] for x in states]
        read = [
            {role: x[self._indices(at)] for role, at in s.reads.items()} for x, s in zip(states, sequences, strict=True)
        ]
        return read, peaks

    def _record(self, ids: Sequence[NDArray[np.int64]]) -> tuple[list[torch.Tensor], list[list[Any]]]:
        """Embedded sequences and, per layer, the arguments each sequence's call would have."""
        distinct, places = np.unique(np.concatenate(ids), return_inverse=True)
        recorders = [_Recorder(layer) for layer in self._model.layers]
        cuts = np.cumsum([len(x) for x in ids])[:-1]
        parts = [self._indices(part)[None] for part in np.split(places, cuts)]
        with self._without_layers(recorders, self._parameters.rows(f"{self._table_name}.weight", distinct)):
            states = [self._run(part) for part in parts]
        return states, [recorder.calls for recorder in recorders]

    def _indices(self, values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        """The recorders' pass. Rotary frequencies that depend on the length forget the sequence before."""
        for module in self._model.modules():
            if hasattr(module, "original_inv_freq") and hasattr(module, "original_max_seq_len"):
                module.inv_freq = module.original_inv_freq.clone().to(self._device)  # longrope writes into it
                module.max_seq_len_cached = module.original_max_seq_len
        state: torch.Tensor = self._model(input_ids=ids, use_cache=False).last_hidden_state
        return state

    @contextmanager
    def _without_layers(self, recorders: Sequence[nn.Module], rows: torch.Tensor) -> Iterator[None]:
        """Recorders for layers, no last norm, and only those rows of the embedding table that are used, renumbered."""
        model, table = self._model, self._table
        layers, norm = model.layers, getattr(model, self._norm_name)
        weight, padding = table.weight, table.padding_idx
        model.layers = nn.ModuleList(recorders)
        setattr(model, self._norm_name, nn.Identity())
        table.weight = nn.Parameter(rows, requires_grad=False)
        table.padding_idx = None  # it would name a row by its old number, and matters to gradients alone
        try:
            yield
        finally:
            model.layers = layers
            setattr(model, self._norm_name, norm)
            table.weight, table.padding_idx = weight, padding

    @contextmanager
    def _loaded(self, module: nn.Module, name: str, meter: Meter) -> Iterator[None]:
        """The module with its weights, which leave memory again afterwards."""
        with meter.loading():
            state = {key: self._parameters.read(f"{name}.{key}", p.shape) for key, p in module.named_parameters()}
            module.load_state_dict(state, strict=False, assign=True)
            del state
        yield
        module.to("meta")


def largest(peaks: Sequence[Mapping[str, float]]) -> tuple[LayerPeak, ...]:
    """The layers' peaks over all sequences; NaN where one is.

    >>> largest([{"layers.0": 1.0}, {"layers.0": 3.0}])
    (LayerPeak(layer='layers.0', magnitude=3.0),)
    """
    layers = peaks[0] if peaks else {}
    return tuple(LayerPeak(layer, float(np.max([seen[layer] for seen in peaks]))) for layer in layers)


def _config(checkpoint: Checkpoint, spec: ModelSpec) -> Any:
    """The configuration that transformers gets: the checkpoint's, or what its family makes of it."""
    raw = dict(getattr(spec.family, "reference_config", dict)(checkpoint.config))
    for name in ("auto_map", "quantization_config"):
        raw.pop(name, None)
    return transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)


def _final_norm(model: nn.Module, table: nn.Module) -> str:
    """The name of the one module with weights that is neither the embedding nor the layers."""
    weighty = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    found: list[str] = [name for name in weighty if name != "layers" and getattr(model, name) is not table]
    if len(found) != 1:
        raise VerificationError(f"transformers' backbone has {', '.join(found)} beside its layers, expected one norm")
    return found[0]


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


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    """Buffers alone: `model.to(device)` refuses parameters without storage."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


class _Peak:
    """The running largest magnitude of a layer, kept on the device: reading it every time would wait every time."""

    def __init__(self) -> None:
        self._largest: torch.Tensor | None = None
        self._input: torch.Tensor | None = None

    def see(self, x: torch.Tensor) -> None:
        low, high = torch.aminmax(x)  # a third of the time of x.abs().max()
        found = torch.maximum(-low, high)
        self._largest = found if self._largest is None else torch.maximum(self._largest, found)

    def see_product(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """Of a linear layer; several in a row have the same input."""
        if x is not self._input:
            self.see(x)
        self._input = x
        self.see(output)

    @property
    def magnitude(self) -> float:
        return 0.0 if self._largest is None else abs(float(self._largest))  # not -0.0


@contextmanager
def _peaks(layer: nn.Module) -> Iterator[list[_Peak]]:
    """Watches the inputs and outputs of every linear layer inside, the places where fp16 overflows.

    Add a peak for every sequence: the last one watches.
    """
    peaks: list[_Peak] = []

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        peaks[-1].see_product(inputs[0], output)

    handles = [m.register_forward_hook(watch) for m in layer.modules() if isinstance(m, nn.Linear)]
    try:
        yield peaks
    finally:
        for handle in handles:
            handle.remove()
