"""The past of a pass: which tokens it need not compute, and the keys and values that it reads instead.

Of a trie's tokens those are cached that a `PrefixCache` has for a sequence that begins with them. What a head reads is
computed again where it is cached, because keys and values are all that is kept: such a token is a query like any other,
and its own key is the cached one, which has the same bits. Slots of keys: the cached tokens', in the trie's order, then
those of the tokens computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from rmruntime.backends.base import Feeds, Outputs
from rmruntime.batching.prefix_cache import NOTHING, CachedPrefix, Copied, KeyBlock, PrefixCache
from rmruntime.batching.trie import Placement, TokenTrie
from rmruntime.bundle.graph_names import past_inputs, past_outputs
from rmruntime.bundle.manifest import Graph
from rmruntime.errors import DeviceMemoryError
from rmruntime.sequences import Ints, TokenSequence

PastPart = tuple[int, KeyBlock]  # keys and values, and the slot of the first

_TYPES: Mapping[str, Any] = {"fp32": np.float32, "bf16": np.uint16, "fp16": np.float16}  # numpy has no bf16


@dataclass(frozen=True)
class PastLayout:
    """What a graph with a past takes and returns: `inputs` and `outputs` by layer, keys then values, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    features: int
    dtype: Any

    def copied(self, outputs: Outputs, offset: int, begin: int, end: int) -> KeyBlock:
        """What a pass returned for the tokens from `begin` to `end` of a sequence whose first would be at `offset`."""
        block = np.empty((len(self.inputs), end - begin, self.features), self.dtype)
        for part, name in zip(block, self.outputs, strict=True):
            part[:] = outputs[name][begin + offset : end + offset]
        return block

    def joined(self, tokens: int, parts: Sequence[PastPart]) -> dict[str, Any]:
        """Inputs of the graph: keys and values of `tokens` earlier tokens, made of the parts; zeros without any."""
        past = np.empty((len(self.inputs), tokens, self.features), self.dtype)
        if not parts:
            past[:] = 0
        for first, block in parts:
            past[:, first : first + block.shape[1]] = block
        return dict(zip(self.inputs, past, strict=True))


class KeyLayout(Protocol):
    """PastLayout, or what does the same with blocks of another kind: `rmruntime.batching.device_past`."""

    @property
    def outputs(self) -> tuple[str, ...]: ...
    def copied(self, outputs: Outputs, offset: int, begin: int, end: int) -> KeyBlock: ...
    def joined(self, tokens: int, parts: Sequence[PastPart]) -> Mapping[str, Any]: ...


def past_layout(graph: Graph, layers: int) -> PastLayout:
    """Of a graph with a past."""
    assert graph.past is not None
    names = (past_inputs(layers), past_outputs(layers)) if graph.attention == "rows" else ((), ())
    return PastLayout(*names, graph.past.features, _TYPES[graph.compute_dtype])


@dataclass(frozen=True)
class PassPast:
    """The past of one pass of `sequences`, whose trie and cached beginnings (`prefixes`) these are.

    `kept`: whether what the pass computes is cached in turn.
    """

    sequences: Sequence[TokenSequence]
    trie: TokenTrie
    prefixes: Sequence[CachedPrefix]
    placement: Placement
    kept: bool

    def gained(self, found: Sequence[CachedPrefix]) -> int:
        """How many tokens fewer the pass would compute with these cached beginnings."""
        known = zip(self.trie.shared.tolist(), self.prefixes, found, strict=True)
        return sum(max(0, now.length - max(before.length, shared)) for shared, before, now in known)

    def feeds(self, layout: KeyLayout) -> Mapping[str, Any]:
        """Inputs of the graph: the cached tokens' keys and values, each token once; one row of zeros for none."""
        return layout.joined(max(1, self.placement.past), list(self._blocks()))

    def completed(self, feeds: Feeds, layout: KeyLayout) -> Feeds:
        """All inputs of a pass with these index arrays, when it is next: the past may be large.

        Raises PassTooLarge where there is no memory for what it computes.
        """
        return {**feeds, **self.feeds(layout)}

    def release(self) -> None:
        """The pass is over, or will not be: what it held goes."""

    def keep(self, cache: PrefixCache, layout: KeyLayout, outputs: Outputs, sound: Sequence[bool]) -> None:
        """Cache what the pass computed, but nothing of sequences that are not `sound`, nor what begins with them."""
        if not self.kept:
            return
        for i in np.argsort(self.trie.starts, kind="stable").tolist():
            ids = self.sequences[i].ids
            begin = max(int(self.trie.shared[i]), self.prefixes[i].length)
            kept = self.sequences[i].kept
            end = len(ids) if kept is None else kept
            if sound[i] and begin < end:
                copied = self._copied(layout, outputs, i, begin)
                with suppress(DeviceMemoryError):  # the scores are there; what does not fit is computed again
                    cache.insert(ids, begin, copied, end)

    def _copied(self, layout: KeyLayout, outputs: Outputs, i: int, begin: int) -> Copied:
        """Where sequence i, which adds what the pass computed from the token `begin` on, has its blocks from."""
        offset = int(self.placement.numbers[self.trie.paths[i][begin]]) - begin
        return partial(layout.copied, outputs, offset)

    def _blocks(self) -> Iterator[PastPart]:
        for begin, found, skip in self._parts():
            at = begin - skip  # the slot of the sequence's first token, were it cached for itself
            for block in found.blocks:
                end = at + block.shape[1]
                first = max(at, begin)
                if first < end:
                    yield first, block[:, first - at :]
                at = end

    def _parts(self) -> Iterator[tuple[int, CachedPrefix, int]]:
        """For each sequence with cached tokens of its own: their first slot, and how many it has from others."""
        for path, shared, found in zip(self.trie.paths, self.trie.shared.tolist(), self.prefixes, strict=True):
            if found.length > shared:
                yield int(self.placement.slots[path[shared]]), found, shared


def plan_past(
    sequences: Sequence[TokenSequence], trie: TokenTrie, prefixes: Sequence[CachedPrefix], cache: PrefixCache
) -> PassPast:
    """The past of a pass whose sequences have these cached beginnings."""
    cached = np.zeros(trie.tokens, bool)
    for path, found in zip(trie.paths, prefixes, strict=True):
        cached[path[: found.length]] = True
    computed = ~cached
    for sequence, path in zip(sequences, trie.paths, strict=True):
        for read in sequence.reads.values():
            computed[path[read]] = True
        if cache.rope_class(len(sequence.ids)):
            computed[path[-1]] = True  # the graph learns the length, and so the frequencies, from the last position
    return PassPast(sequences, trie, prefixes, _placement(cached, computed), kept=True)


def without_past(sequences: Sequence[TokenSequence], trie: TokenTrie) -> PassPast:
    """That of a pass that reads nothing from the cache and leaves nothing there."""
    nothing = np.zeros(trie.tokens, bool)
    return PassPast(sequences, trie, [NOTHING] * len(sequences), _placement(nothing, ~nothing), kept=False)


def _placement(
    cached: "np.ndarray[Any, np.dtype[np.bool_]]", computed: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> Placement:
    past = int(cached.sum())
    numbers: Ints = np.cumsum(computed) - 1
    slots = np.where(cached, np.cumsum(cached) - 1, max(1, past) + numbers)
    return Placement(np.flatnonzero(computed), numbers, slots, past)


def longer(a: Sequence[CachedPrefix], b: Sequence[CachedPrefix]) -> list[CachedPrefix]:
    """Of two answers of a cache about the same sequences the better one for each."""
    return [x if x.length >= y.length else y for x, y in zip(a, b, strict=True)]
