"""The inputs and outputs of one ONNX Runtime session on a device: uploaded and downloaded once per pass."""

from collections.abc import Mapping, Sequence
from traceback import clear_frames
from typing import Any

import numpy as np

from rmruntime.bundle.graph_names import HIDDEN_IN, HIDDEN_OUT, PAGE_TABLE
from rmruntime.errors import BackendError

_INDEX_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
# Pages of keys and values: numpy's type of the same size, and the number of the type in ONNX (TensorProto.DataType).
_PAGE_TYPES = {
    "tensor(float)": (np.float32, 1),
    "tensor(float16)": (np.float16, 10),
    "tensor(bfloat16)": (np.uint16, 16),
}
_PAST_RANK = 2  # of earlier tokens' keys and values by rows
_GROWTH = 1.25  # pages grow at least by this factor, so that not every pass allocates them again


class DeviceBinding:
    """One IOBinding, used for every pass.

    Binding an array copies it to where the graph reads it: the device, or the host for inputs that kernels read there.
    Hidden states stay on the device that computed them, and ORT copies them to another device that reads them.
    Inputs of rank 4 are the pages in which attention keeps keys and values during a pass: the binding owns them, starts
    them as zeros and enlarges them when a pass needs more. With a past, pages are given and stay what they are; keys
    and values by rows come and go as OrtValues on the device. A pass that fails, maybe while an input is bound, leaves
    an IOBinding that ORT refuses from then on ("Size mismatch"), so the next pass has a new one.
    """

    def __init__(
        self, ort: Any, session: Any, device: int, *, kept: Sequence[str] = (), pages: Mapping[str, Any] | None = None
    ) -> None:
        """`device` is the number of the session's GPU, `kept` are outputs that stay there, `pages` inputs by name."""
        self._ort, self._session, self._device = ort, session, device
        self._kept, self._given_pages = {HIDDEN_OUT, *kept}, pages or {}
        self._binding: Any = session.io_binding()
        inputs = {value.name: value for value in session.get_inputs()}
        self._takes_hidden = inputs.pop(HIDDEN_IN, None) is not None
        floats = {name: value for name, value in inputs.items() if value.type in _PAGE_TYPES}
        self._past = [name for name, value in floats.items() if kept and len(value.shape) == _PAST_RANK]
        self._pages = {name: value for name, value in floats.items() if name not in self._past}
        self._indices = {name: _INDEX_TYPES.get(v.type) for name, v in inputs.items() if name not in floats}
        self._outputs = [value.name for value in session.get_outputs()]
        self._page_count = 0
        self._check(inputs)

    def run(self, feeds: Mapping[str, Any], run_options: Any) -> dict[str, Any]:
        """The outputs by name: arrays on the host; hidden states, keys and values as OrtValues on the device.

        Raises BackendError for an input that is missing from `feeds`, and what ORT raises.
        """
        try:
            return self._run(feeds, run_options)
        except BaseException as error:
            clear_frames(error.__traceback__)  # onnxruntime's hold the binding as long as the error is kept,
            self._binding = None  # and the binding holds memory of the device, which the next pass needs
            self._binding, self._page_count = self._session.io_binding(), 0
            raise

    def _run(self, feeds: Mapping[str, Any], run_options: Any) -> dict[str, Any]:
        for name in (*self._indices, *self._past, *([HIDDEN_IN] if self._takes_hidden else [])):
            if name not in feeds:
                raise BackendError(
                    f"the graph needs the input {name!r}, the pass has {', '.join(sorted(feeds))}; export the bundle "
                    "with this version of rmexport"
                )
        for name, dtype in self._indices.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name], dtype))
        for name in (*self._past, *([HIDDEN_IN] if self._takes_hidden else [])):
            self._binding.bind_ortvalue_input(name, feeds[name])
        if self._pages:
            self._grow(int(feeds[PAGE_TABLE].max()) + 1)
        for name in self._outputs:  # bound anew: ORT would write into the last pass's output, of another length
            where = ("cuda", self._device) if name in self._kept else ("cpu", 0)
            self._binding.bind_output(name, *where)
        self._session.run_with_iobinding(self._binding, run_options)
        values = zip(self._outputs, self._binding.get_outputs(), strict=True)
        return {name: value if name in self._kept else value.numpy() for name, value in values}

    def _grow(self, count: int) -> None:
        """Enlarge the pages to at least `count`; their content is lost. Those that were given are bound."""
        if count <= self._page_count:
            return
        if self._given_pages:
            for name in self._pages:
                self._binding.bind_ortvalue_input(name, self._given_pages[name])
            self._page_count = min(self._given_pages[name].shape()[0] for name in self._pages)
            return
        count = max(count, int(_GROWTH * self._page_count))
        self._page_count = 0  # until both, keys and values, are bound
        for name, value in self._pages.items():
            dtype, onnx_type = _PAGE_TYPES[value.type]
            zeros = np.zeros((count, *value.shape[1:]), dtype)
            self._binding.bind_ortvalue_input(
                name, self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(zeros, onnx_type)
            )
        self._page_count = count

    def _check(self, inputs: Mapping[str, Any]) -> None:
        unknown = [f"{name}: {inputs[name].type}" for name, dtype in self._indices.items() if dtype is None]
        odd = [f"{name}: {value.shape}" for name, value in self._pages.items() if not _is_paged(value.shape)]
        if unknown or odd or (self._pages and PAGE_TABLE not in self._indices):
            raise BackendError(
                f"the graph has inputs that this rmruntime does not know ({', '.join(unknown + odd) or 'pages'}); "
                "upgrade rmruntime"
            )


def _is_paged(shape: Any) -> bool:
    """Whether a shape is [pages, page_size, kv_heads, head_dim], all fixed except for the first."""
    return len(shape) == 4 and all(isinstance(size, int) for size in shape[1:])
