"""An engine of graphs that attend by pages: ONNX's reference implementation in fp32, on pages that stay."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from contrib_ops import CONTRIB_OPS
from rmexport import ExportOptions
from rmexport.checkpoint import open_checkpoint
from rmexport.dialects import dialects
from rmexport.spec import build_graph, read_spec
from rmexport.weights import store_weights
from rmruntime import RewardModel
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph, Past
from rmruntime.executors import DirectExecutor

PAGE = 16
PAGED: Any = dialects()["ort-cuda-paged"]


class SmallPages(PAGED):  # type: ignore[misc]
    """Pages that a few tokens fill."""

    PAGE_SIZE: ClassVar[int] = PAGE


@dataclass
class PagesOnly:
    """The KeyMemory of so many pages, and tokens of earlier passes."""

    pages: int
    cache_tokens: int
    token_bytes: int
    names: tuple[str, ...] = ()

    def empty(self, tokens: int) -> Any: ...
    def zero(self, tensors: Any) -> None: ...
    def copy(self, moves: Any) -> None: ...


@dataclass
class PagedEngine:
    """A Backend; what a page has of earlier uses is NaN before a pass writes it."""

    file: Path
    graph: Graph
    key_memory: PagesOnly
    batch_tokens: int = 256
    name: str = "reference"
    precision: str = "fp32"
    bound: dict[str, Any] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = onnx.load(self.file)
        self._evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=CONTRIB_OPS)
        self._inputs = {i.name: i.type.tensor_type for i in model.graph.input}
        for name, kind in self._inputs.items():
            if "_pages_" in name:
                sizes = (self.key_memory.pages, *(d.dim_value for d in kind.shape.dim[1:]))
                self.bound[name] = np.full(sizes, np.nan, np.float32)

    def run(self, feeds: Any) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        written = np.unique(feeds["page_slots"][feeds["page_slots"] >= 0] // self.graph.page_size)
        for pages in self.bound.values():
            pages[written] = np.nan
        names = [output.name for output in self._evaluator.proto_.graph.output]
        given = {name: feeds[name] for name in self._inputs if name not in self.bound}
        return dict(zip(names, self._evaluator.run(names, given | self.bound), strict=True))

    def close(self) -> None: ...


def paged_model(checkpoint: Path, bundle: Path, folder: Path, *, pages: int, tokens: int) -> RewardModel:
    """The bundle's model in fp32, which the op does not have on GPUs, in `pages` pages, `tokens` tokens of them cached.

    `bundle` is an export of the checkpoint.
    """
    folder.mkdir(parents=True)
    source = open_checkpoint(str(checkpoint), revision=None)
    spec = read_spec(source, ExportOptions())
    weights = store_weights(source, spec.weights, folder, ExportOptions())
    model = ir.to_proto(build_graph(SmallPages, "fp32", spec, weights.locations, past=True).model("paged"))
    (folder / "paged.past.onnx").write_bytes(model.SerializeToString())
    graph = Graph(
        file="paged.onnx",
        dialect="ort-cuda-paged",
        compute_dtype="fp32",
        attention="pages",
        page_size=PAGE,
        past=Past(file="paged.past.onnx", features=spec.config.key_size),
    ).of_past()
    token_bytes = 2 * spec.config.num_hidden_layers * spec.config.key_size * 4
    memory = PagesOnly(pages, tokens, token_bytes)
    executor = DirectExecutor(PagedEngine(folder / graph.file, graph, memory))
    executor.cache_bytes = tokens * token_bytes
    return RewardModel(Bundle.open(bundle), executor)
