"""Keys and values of earlier tokens as tensors of a GPU: kept, cut and put together there, layer by layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rmruntime.backends.base import KeyMemory, KeyMove, Outputs
from rmruntime.batching.past import KeyLayout, PastPart, past_layout
from rmruntime.executors import PassExecutor


@dataclass(frozen=True)
class DeviceBlock:
    """The tokens `begin` to `end` - 1 of `tensors` [., features], each layer's keys, then its values."""

    tensors: tuple[Any, ...]
    begin: int
    end: int
    layout: "DeviceLayout"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.tensors), self.end - self.begin

    @property
    def nbytes(self) -> int:
        return (self.end - self.begin) * self.layout.token_bytes

    def __getitem__(self, key: tuple[slice, slice]) -> "DeviceBlock":
        start, stop, _ = key[1].indices(self.end - self.begin)
        return DeviceBlock(self.tensors, self.begin + start, self.begin + stop, self.layout)

    def copy(self) -> "DeviceBlock":
        """These tokens in memory of their own."""
        tokens = self.end - self.begin
        return self.layout.block(tokens, [[(source, self.begin, 0, tokens)] for source in self.tensors])


Source = tuple[Any, int, int, int]  # a tensor, its first token, the first token of the copy, how many


@dataclass(frozen=True)
class DeviceLayout:
    """A PastLayout whose blocks are on devices; `memories` has the memory of each input."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    memories: tuple[KeyMemory, ...]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return sum(memory.token_bytes for memory in _distinct(self.memories))

    def copied(self, outputs: Outputs, offset: int, begin: int, end: int) -> DeviceBlock:
        """What a pass returned for the tokens from `begin` to `end` of a sequence whose first would be at `offset`."""
        return self.block(end - begin, [[(outputs[name], begin + offset, 0, end - begin)] for name in self.outputs])

    def joined(self, tokens: int, parts: Sequence[PastPart]) -> dict[str, Any]:
        """Inputs of the graph: keys and values of `tokens` earlier tokens, made of the parts; zeros without any."""
        sources = [
            [(block.tensors[place], block.begin, first, block.end - block.begin) for first, block in _blocks(parts)]
            for place in range(len(self.inputs))
        ]
        return dict(zip(self.inputs, self.block(tokens, sources).tensors, strict=True))

    def block(self, tokens: int, sources: Sequence[Sequence[Source]]) -> DeviceBlock:
        """New tensors of that many tokens, made of the sources of each."""
        tensors = tuple(memory.empty(tokens) for memory in self.memories)
        for memory in _distinct(self.memories):
            own = [place for place, one in enumerate(self.memories) if one is memory]
            memory.zero([tensors[place] for place in own if not sources[place]])
            moves: list[KeyMove] = [
                (tensors[place], first, source, begin, count)
                for place in own
                for source, begin, first, count in sources[place]
            ]
            memory.copy(moves)
        return DeviceBlock(tensors, 0, tokens, self)


def _distinct(memories: Sequence[KeyMemory]) -> list[KeyMemory]:
    return list({id(memory): memory for memory in memories}.values())


def _blocks(parts: Sequence[PastPart]) -> Iterator[tuple[int, DeviceBlock]]:
    for first, block in parts:
        assert isinstance(block, DeviceBlock)  # a cache on a device has no others
        yield first, block


def key_layout(executor: PassExecutor, layers: int) -> KeyLayout:
    """Of an executor whose graph, of that many layers, takes a past: where it keeps keys and values."""
    layout = past_layout(executor.graph, layers)
    if executor.page_pool is not None or not executor.key_memories:
        return layout
    memories = {name: memory for memory in executor.key_memories for name in memory.names}
    return DeviceLayout(layout.inputs, layout.outputs, tuple(memories[name] for name in layout.inputs))
