"""The index arrays of one pass over a token trie: the inputs of the packed graphs, `rmruntime.bundle.graph_names`.

Tokens that sequences of a batch have in common at their beginning are computed once. Three sequences, made of the
tokens P Q R (the prompt), a, b, c and d, become T = 7 trie tokens. The path of a sequence lists its trie tokens:

    sequence       trie                        path         shared with earlier sequences
    P Q R a b      0:P─1:Q─2:R┬3:a┬4:b         0 1 2 3 4    0
    P Q R a c                 │   └5:c         0 1 2 3 5    4
    P Q R d                   └6:d             0 1 2 6      3

Each sequence adds attention rows: blocks of the tokens that it does not share (queries), each with the tokens of its
path up to the block's last one (keys). Here one block holds all queries of a sequence. So there are R = 3 rows, sorted
by their number of keys and padded to [R, Sq] = [3, 5] and, with a `key_multiple` of 8, to [R, Sk] = [3, 8]:

    row    query_index    query_positions    key_index          key_positions
    0      6 . . . .      3 . . . .          0 1 2 6 . . . .    0 1 2 3 ∞ ∞ ∞ ∞
    1      0 1 2 3 4      0 1 2 3 4          0 1 2 3 4 . . .    0 1 2 3 4 ∞ ∞ ∞
    2      5 . . . .      4 . . . .          0 1 2 3 5 . . .    0 1 2 3 4 ∞ ∞ ∞

A query sees the keys of its row whose position is at most its own, and so no padding: ∞ is PAD_POSITION. Padding (.) is
token 0 at position 0 among the queries, and the row's first key among the keys. `unpack_index` [T], 5 6 7 8 9 10 0, is
the place of each trie token's output among the flattened rows [R * Sq].

Where some of the trie's tokens are cached (`rmruntime.batching.past`), rows have queries of the others alone, which are
numbered anew, and the keys of all, by their slots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from rmruntime.batching.cached_paging import cached_page_feeds
from rmruntime.batching.paging import page_feeds
from rmruntime.batching.trie import Placement, TokenTrie, all_computed, build_trie
from rmruntime.bundle.graph_names import (
    INPUT_IDS,
    PAGE_TOKENS,
    POSITION_IDS,
    READ_INDEX,
    READ_ROWS,
    READ_UNPACK_INDEX,
    TOKEN_INPUTS,
    UNPACK_INDEX,
    RowNames,
    role_index,
    row_names,
)
from rmruntime.bundle.manifest import Graph
from rmruntime.sequences import Ints, TokenSequence

PAD_POSITION = 1 << 30  # beyond any query, and inside int32: engines narrow int64 indices
GATHER_COST = 8  # a key gathered for a row counts as this many query-key products; 8 to 64 measure the same
QUERY_BLOCKS = (16, 32, 64, 128, 256)
GROUPED_BLOCKS = (16, 32, 64, 128)
CHUNK_MULTIPLE = 16  # rows of a matrix tile
KEY_LEVELS = 16  # distinct key lengths that the split into groups looks at


@dataclass(frozen=True)
class RowShape:
    """Limits of attention rows: at most `query_block` queries, key lengths a multiple of `key_multiple`.

    Rows stand in exactly `groups` groups, each with key and query lengths of its own. Tokens are padded to equal chunks
    of about `token_chunk`, a multiple of CHUNK_MULTIPLE each; 0: neither chunks nor padding. With a `page_size` other
    than 0, tokens find their keys by pages, and there are no rows. At least `least_reads` are scored. Where attention
    is not `causal`, every query has its sequence's last position, from which it sees all of it.
    """

    query_block: int
    key_multiple: int
    groups: int = 1
    token_chunk: int = 0
    page_size: int = 0
    least_reads: int = 2
    causal: bool = True


def row_shape(graph: Graph) -> RowShape:
    """What a graph of the manifest asks for."""
    page_size = graph.page_size if graph.attention == "pages" else 0
    return RowShape(
        graph.query_block,
        graph.key_multiple,
        graph.row_groups,
        graph.token_chunk,
        page_size,
        graph.least_reads,
        graph.causal,
    )


@dataclass(frozen=True)
class PassInputs:
    """Graph inputs of one pass by name, and the figures that statistics are made of.

    `given` counts the tokens of all sequences, `computed` those left after sharing (packed: of the trie) that are not
    `cached`, `padded` the slots computed beyond them (packed: of query rows, or of tokens fed to pages again);
    `reads[i]` is how many results sequence i has. Results come in the order of the sequences, then of their reads; a
    lone result of a packed graph is followed by its copy.
    """

    feeds: Mapping[str, Ints]
    given: int
    computed: int
    reads: tuple[int, ...]
    padded: int = 0
    cached: int = 0


@dataclass(frozen=True)
class _Row:
    """Queries of the computed tokens `queries` with positions `positions`, seeing the keys in the slots `keys`."""

    queries: Ints
    positions: Ints
    keys: Ints


def pack(
    sequences: Sequence[TokenSequence],
    shape: RowShape,
    trie: TokenTrie | None = None,
    placement: Placement | None = None,
) -> PassInputs:
    """Index arrays for one pass; every role of `reads` becomes an input, `role_index`.

    `trie` is that of the sequences, in their order; without one what they share is found here. `placement` says which
    of its tokens are computed, all without one.
    """
    if trie is None:
        trie = build_trie([s.ids for s in sequences], share=shape.causal)
    placement = placement or all_computed(trie.tokens)
    tokens = len(placement.computed)
    feeds = {INPUT_IDS: trie.input_ids[placement.computed], POSITION_IDS: trie.position_ids[placement.computed]}
    attention = _attention_feeds(trie, placement, shape)
    queries = (PAGE_TOKENS, *(row_names(group).query_index for group in range(shape.groups)))
    slots = sum(attention[name].size for name in queries if name in attention)
    feeds |= attention
    feeds |= _read_feeds(trie, placement, sequences, shape)
    if shape.token_chunk:
        feeds |= _chunked_feeds(feeds, tokens, shape.token_chunk)
    elif tokens == 1:
        feeds |= {name: _at_least_two(feeds[name]) for name in TOKEN_INPUTS}
    reads = tuple(len(next(iter(s.reads.values()))) for s in sequences)
    return PassInputs(
        feeds=feeds,
        given=sum(len(s.ids) for s in sequences),
        computed=tokens,
        reads=reads,
        padded=slots - tokens,
        cached=trie.tokens - tokens,
    )


def _chunked_feeds(feeds: Mapping[str, Ints], tokens: int, limit: int) -> dict[str, Ints]:
    """The per-token inputs, padded with token 0 so that chunks are equal; input_ids [chunks, size of each]."""
    chunks, size = chunk_plan(tokens, limit)
    padded = {name: _extended(feeds[name], chunks * size) for name in TOKEN_INPUTS}
    return padded | {INPUT_IDS: padded[INPUT_IDS].reshape(chunks, size)}


def _extended(values: Ints, length: int) -> Ints:
    """With zeros at the end; np.pad takes ten times as long."""
    extended = np.zeros(length, np.int64)
    extended[: len(values)] = values
    return extended


@cache
def chunk_plan(tokens: int, limit: int) -> tuple[int, int]:
    """The number of equal chunks and their size that compute least, larger chunks where that is equal."""
    least = max(1, -(-tokens // limit))
    choices = [(n, CHUNK_MULTIPLE * -(-tokens // (n * CHUNK_MULTIPLE))) for n in range(least, 2 * least + 1)]
    return min(choices, key=lambda choice: (choice[0] * choice[1], choice[0]))


def _attention_feeds(trie: TokenTrie, placement: Placement, shape: RowShape) -> dict[str, Ints]:
    """Where all computed tokens find their keys."""
    if not shape.page_size:
        return _row_feeds(trie, placement, shape)
    if placement.pages is None:
        return page_feeds(trie, shape.page_size)
    return cached_page_feeds(trie, placement, shape.page_size)


def _row_feeds(trie: TokenTrie, placement: Placement, shape: RowShape) -> dict[str, Ints]:
    """All computed tokens in attention rows."""
    return _grouped_feeds(_token_rows(trie, placement, shape), len(placement.computed), shape)


def _token_rows(trie: TokenTrie, placement: Placement, shape: RowShape) -> list[_Row]:
    """Rows over every computed token, in blocks of the size that wastes least."""
    computed = np.zeros(trie.tokens, bool)
    computed[placement.computed] = True
    own = [start + np.flatnonzero(computed[path[start:]]) for path, start in zip(trie.paths, trie.shared, strict=True)]
    block = _choose_block(np.array([len(d) for d in own]), np.array([len(path) for path in trie.paths]), shape)
    rows = []
    for path, depths in zip(trie.paths, own, strict=True):
        keys = placement.slots[path]
        for begin in range(0, len(depths), block):
            part = depths[begin : begin + block]
            queries = placement.numbers[path[part]]
            rows.append(_row(queries, part, keys, shape))
    return rows


def _row(queries: Ints, depths: Ints, keys: Ints, shape: RowShape) -> _Row:
    """The row of `queries` at `depths`, out of the keys of all their sequence: causal, those up to the last of them."""
    if shape.causal:
        return _Row(queries, depths, keys[: int(depths[-1]) + 1])
    return _Row(queries, np.full(len(depths), len(keys) - 1), keys)


def _choose_block(fresh: Ints, lengths: Ints, shape: RowShape) -> int:
    """The block size with the least padded attention work; all rows share one [Sq, Sk]."""
    if shape.groups > 1:
        return _choose_grouped_block(fresh, lengths, shape)
    longest, keys = int(fresh.max()), int(lengths.max())
    choices = [b for b in QUERY_BLOCKS if b <= shape.query_block] or [shape.query_block]

    def cost(block: int) -> int:
        rows = int(np.sum(-(-fresh // block)))
        return rows * keys * (min(block, longest) + GATHER_COST)

    return min(choices, key=cost)


def _choose_grouped_block(fresh: Ints, lengths: Ints, shape: RowShape) -> int:
    """As above where rows of like key length stand together: every row counts with its own keys."""

    blocks = np.array([b for b in GROUPED_BLOCKS if b <= shape.query_block] or [shape.query_block])[:, None]
    counts = -(-fresh // blocks)
    # The keys of a sequence's rows end at length, length - block, ...: an arithmetic series.
    keys = counts * lengths - blocks * counts * (counts - 1) // 2
    costs = keys.sum(axis=1) * (blocks[:, 0] + GATHER_COST)
    return int(blocks[costs.argmin(), 0])


def _grouped_feeds(rows: Sequence[_Row], tokens: int, shape: RowShape) -> dict[str, Ints]:
    """The rows of each group under its number; unpack_index runs on through the groups."""
    feeds: dict[str, Ints] = {}
    unpack, base = np.zeros(tokens, np.int64), 0
    for i, group in enumerate(_split_rows(rows, shape)):
        names = row_names(i)
        part = _rows_feeds(group, unpack, base, shape, names) if group else _idle_feeds(shape, names)
        base += part[names.query_index].size
        feeds |= part
    return feeds | {UNPACK_INDEX: unpack}


def _split_rows(rows: Sequence[_Row], shape: RowShape) -> list[Sequence[_Row]]:
    """Rows by key length, cut into groups where the padded area is least; the last groups may have none."""
    ordered = sorted(rows, key=lambda row: len(row.keys))
    cuts = _best_cuts([len(row.keys) for row in ordered], shape.groups)
    groups: list[Sequence[_Row]] = [ordered[a:b] for a, b in pairwise((0, *cuts, len(ordered)))]
    return groups + [()] * (shape.groups - len(groups))


@cache
def _idle_feeds(shape: RowShape, names: RowNames) -> dict[str, Ints]:
    """One row that nobody reads, where a group has no rows: an engine wants no empty arrays."""
    idle = _Row(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64))
    return _rows_feeds([idle], np.zeros(0, np.int64), 0, shape, names)


def _best_cuts(keys: Sequence[int], groups: int) -> tuple[int, ...]:
    """At most groups - 1 places to cut ascending key lengths, by dynamic programming over a few candidate places."""
    places = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]]
    if len(places) < groups:
        return tuple(places)
    places = places[:: -(-len(places) // KEY_LEVELS)] if places else places
    ends = [*places, len(keys)]
    best: dict[int, tuple[int, tuple[int, ...]]] = {end: (end * keys[end - 1], ()) for end in ends}
    for _ in range(groups - 1):
        for end in reversed(ends):
            options = (
                (cost + (end - place) * keys[end - 1], (*cuts, place))
                for place, (cost, cuts) in best.items()
                if place < end
            )
            best[end] = min((best[end], *options))
    return best[len(keys)][1]


def _rows_feeds(rows: Sequence[_Row], unpack: Ints, base: int, shape: RowShape, names: RowNames) -> dict[str, Ints]:
    """Padded row arrays; padding queries repeat token 0, padding keys the row's first, beyond every query's position.

    A masked key still counts where it is NaN (0 * NaN is NaN), so a row has no key of sequences that it is not about.
    Writes where each query's output lies into `unpack`, counted from `base`.
    """
    n_queries = max(2, *(len(r.queries) for r in rows))
    n_keys = -(-max(len(r.keys) for r in rows) // shape.key_multiple) * shape.key_multiple
    queries, positions = np.zeros((len(rows), n_queries), np.int64), np.zeros((len(rows), n_queries), np.int64)
    keys, key_positions = np.zeros((len(rows), n_keys), np.int64), np.full((len(rows), n_keys), PAD_POSITION)
    depth = np.arange(n_keys)
    for i, row in enumerate(rows):
        count, seen = len(row.queries), len(row.keys)
        queries[i, :count], positions[i, :count] = row.queries, row.positions
        keys[i, :seen], keys[i, seen:] = row.keys, row.keys[0]
        key_positions[i, :seen] = depth[:seen]
        unpack[row.queries] = base + i * n_queries + np.arange(count)
    return dict(zip(names.names, (queries, positions, keys, key_positions), strict=True))


def _read_feeds(
    trie: TokenTrie, placement: Placement, sequences: Sequence[TokenSequence], shape: RowShape
) -> dict[str, Ints]:
    """Inputs of the last layer, which computes only the tokens that a head reads, each once."""
    roles = tuple(sequences[0].reads)
    by_role = [[path[s.reads[role]] for path, s in zip(trie.paths, sequences, strict=True)] for role in roles]
    flat = np.concatenate([np.concatenate(tokens) for tokens in by_role])
    read_index, places = np.unique(flat, return_inverse=True)
    parts = zip(roles, np.split(places, len(roles)), strict=True)
    feeds = {role_index(role): _at_least_two(part) for role, part in parts}
    feeds[READ_INDEX] = _at_least(shape.least_reads, placement.numbers[read_index])
    if shape.page_size:
        return feeds
    number = np.full(trie.tokens, -1)
    number[read_index] = np.arange(len(read_index))
    rows = _read_rows(trie, placement, number, shape)
    unpack = np.zeros(len(feeds[READ_INDEX]), np.int64)
    feeds |= _rows_feeds(rows, unpack, 0, shape, READ_ROWS)
    return feeds | {READ_UNPACK_INDEX: unpack}


def _at_least_two(values: Ints) -> Ints:
    """A matrix product of one row takes another kernel, with other rounding: a lone row is computed twice."""
    return _at_least(2, values)


def _at_least(count: int, values: Ints) -> Ints:
    """The same with the first value again behind them, as often as it takes."""
    missing = count - len(values)
    return np.concatenate([values, np.repeat(values[:1], missing)]) if missing > 0 else values


def _read_rows(trie: TokenTrie, placement: Placement, number: Ints, shape: RowShape) -> list[_Row]:
    """A row per sequence with scored tokens of its own; `number` [T] is a token's place among them, -1 for the rest."""
    rows = []
    for path, start in zip(trie.paths, trie.shared.tolist(), strict=True):
        fresh = number[path[start:]]
        depths = np.flatnonzero(fresh >= 0)
        if len(depths):
            rows.append(_row(fresh[depths], depths + start, placement.slots[path], shape))
    return rows
