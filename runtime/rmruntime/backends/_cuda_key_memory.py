"""Memory of a GPU for keys and values that are kept between passes: how much, and where they are.

Figures are estimates, none of them measured on a GPU.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rmruntime.backends.base import KeyMove
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import layer_pages, past_names
from rmruntime.bundle.manifest import Graph
from rmruntime.devices.cuda_driver import device_copies
from rmruntime.devices.host_memory import cache_share
from rmruntime.errors import DeviceMemoryError
from rmruntime.options import EngineOptions

# Keys and values that a pass needs memory for, as many times as its own. By pages it writes them, and the last page of
# a sequence is partly empty. By rows it returns them, and reads about as many of earlier tokens.
PASS_SHARE = {"pages": 1.25, "rows": 2.0}
# Of those the ones that ONNX Runtime's own allocator does not hold: pages, and what is read of earlier tokens.
_OWN_SHARE = {"pages": 1.25, "rows": 1.0}
_ONNX_TYPES = {"fp32": (1, 4), "fp16": (10, 2), "bf16": (16, 2)}  # TensorProto.DataType, bytes


def token_bytes(bundle: Bundle, graph: Graph) -> int:
    """Bytes of one token's keys and values in the layers of a graph with a past, or of a stage of it; else 0."""
    if not graph.takes_past or graph.past is None:
        return 0
    return 2 * len(_layers(bundle, graph)) * graph.past.features * _ONNX_TYPES[graph.compute_dtype][1]


def pass_token_bytes(bundle: Bundle, graph: Graph) -> int:
    """Bytes that keys and values take for each token of a pass."""
    return int(PASS_SHARE[graph.attention] * token_bytes(bundle, graph))


def own_bytes(bundle: Bundle, graph: Graph, tokens: int, batch_tokens: int) -> int:
    """Bytes of keys and values of `tokens` earlier tokens and of a pass, beside what ONNX Runtime allocates itself."""
    return int((tokens + _OWN_SHARE[graph.attention] * batch_tokens) * token_bytes(bundle, graph))


def asked_bytes(bundle: Bundle, graph: Graph, options: EngineOptions) -> int:
    """Bytes of the device that the options ask for: of the prefix cache's size the share of the graph's layers."""
    if not graph.takes_past or not isinstance(options.prefix_cache, int):
        return 0
    return options.prefix_cache * len(_layers(bundle, graph)) // bundle.manifest.backbone.num_layers


def cache_tokens(bundle: Bundle, graph: Graph, options: EngineOptions, left: int) -> int:
    """How many tokens of earlier passes are kept, where `left` bytes are left beside the weights and a pass."""
    if not graph.takes_past:
        return 0
    nbytes = cache_share(max(0, left)) if options.prefix_cache == "auto" else asked_bytes(bundle, graph, options)
    return nbytes // token_bytes(bundle, graph)


def _layers(bundle: Bundle, graph: Graph) -> range:
    """The layers that a graph computes, which may be a stage's."""
    layers = range(bundle.manifest.backbone.num_layers)
    for stage in graph.stages:
        if stage.file == graph.file:
            return layers[stage.first : stage.last + 1]
    return layers


class CudaKeyMemory:
    """The KeyMemory of one session on a GPU, for `tokens` tokens of earlier passes.

    By rows tensors are made and freed as they are needed. By pages there are `page_values`, inputs of the graph by
    name, which are all made at once: for the tokens that are kept, and for a pass of `batch_tokens`.
    """

    def __init__(
        self, ort: Any, device: int, bundle: Bundle, graph: Graph, *, tokens: int, batch_tokens: int, session: Any
    ) -> None:
        """Raises DeviceMemoryError where the pages do not fit."""
        assert graph.past is not None
        self._ort, self._device = ort, device
        self._onnx_type, self._item_bytes = _ONNX_TYPES[graph.compute_dtype]
        self._features = graph.past.features
        self.token_bytes, self.cache_tokens = token_bytes(bundle, graph), tokens
        layers = _layers(bundle, graph)
        self.pages, self.names, self.page_values = 0, tuple[str, ...](), dict[str, Any]()
        if graph.attention == "rows":
            self.names = tuple(name for layer in layers for name in past_names(layer).inputs)
            return
        written = int(PASS_SHARE["pages"] * batch_tokens)
        self.pages = tokens // graph.page_size - (-written // graph.page_size)
        shapes = {value.name: value.shape for value in session.get_inputs()}
        self._make_pages({name: shapes[name] for layer in layers for name in layer_pages(layer)})

    def empty(self, tokens: int) -> Any:
        return self._made([tokens, self._features])

    def zero(self, tensors: Sequence[Any]) -> None:
        if not tensors:
            return
        with device_copies(self._device) as device:
            for tensor in tensors:
                device.zero(tensor.data_ptr(), tensor.tensor_size_in_bytes())

    def copy(self, moves: Sequence[KeyMove]) -> None:
        if not moves:
            return
        size = self._features * self._item_bytes
        with device_copies(self._device) as device:
            for target, first, source, begin, count in moves:
                device.copy(target.data_ptr() + first * size, source.data_ptr() + begin * size, count * size)

    def _make_pages(self, shapes: Mapping[str, Sequence[Any]]) -> None:
        """Zeros: what is in a page beyond a sequence's keys is masked, and so must be finite."""
        for name, shape in shapes.items():
            self.page_values[name] = self._made([self.pages, *shape[1:]])
        self.zero(list(self.page_values.values()))

    def _made(self, shape: list[int]) -> Any:
        make = self._ort.OrtValue.ortvalue_from_shape_and_type
        try:
            return make(shape, self._onnx_type, "cuda", self._device)
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise DeviceMemoryError(
                f"there is no memory on cuda:{self._device} for keys and values {shape} of earlier tokens: {error}; "
                "give a smaller --prefix-cache"
            ) from error
