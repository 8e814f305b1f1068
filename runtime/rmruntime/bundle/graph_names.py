"""The inputs and outputs of graphs: their names, shapes and dtypes, as rmexport declares them and rmruntime feeds them.

Arrays are int64, except where something else is said. Sizes of a packed graph, which computes a trie of tokens:

    T         tokens of the trie                   R, Sq, Sk   attention rows, queries and keys of each
    N         scored tokens, each once             A, B, M     slots, edges, pages of an edge (attention by pages)
    P         results, at least two                C           chunks of equal size, T / C tokens of each
    S         earlier tokens, at least one         F           copied slots, at least one
              (S and F: graphs with a past alone)

By rows, the last layer's queries are those of scored tokens alone; their sizes are `read_R`, `read_Sq` and `read_Sk`. A
padded graph, of an encoder, has B sequences of L tokens each. What the arrays are for is told by an example in
`rmruntime.batching.packing`. These names are part of the bundle's format: another name is another schema version.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

TOKENS, SCORED, RESULTS, PAST = "T", "N", "P", "S"

INPUT_IDS = "input_ids"  # [T], or [C, T / C] where tokens are computed in chunks; padded: [B, L]
POSITION_IDS = "position_ids"  # [T]: a token's place in its sequence, from 0
UNPACK_INDEX = "unpack_index"  # [T]: where each token's output lies in the flattened rows, or among the pages' slots
TOKEN_INPUTS = (INPUT_IDS, POSITION_IDS, UNPACK_INDEX)
READ_INDEX = "read_index"  # [N]: the scored tokens out of the trie's, ascending
READ_UNPACK_INDEX = "read_unpack_index"  # [N]: where each scored token's output lies in the flattened `read_` rows

# Attention by pages; int32 in the graph, except the first. What B edges of the trie read and write.
PAGE_TOKENS = "page_tokens"  # [A], int64: the trie's token in each slot; some tokens have several
PAGE_STARTS = "page_starts"  # [B + 1]: each edge's first slot, and A
PAGE_PAST = "page_past"  # [B]: how many positions before its slots an edge reads from pages
PAGE_TABLE = "page_table"  # [B, M]: the page of each edge's positions 0, page size, 2 * page size and so on, from 0
PAGE_BOUNDS = "page_bounds"  # [2], read on the host: the most slots of an edge, and the most positions
# [pages, page size, kv heads, head_dim] in the compute dtype, as many pages as PAGE_TABLE names, whatever is in them.
KEY_PAGES, VALUE_PAGES = "key_pages", "value_pages"
PAGE_INPUTS = (PAGE_TOKENS, PAGE_STARTS, PAGE_PAST, PAGE_TABLE, PAGE_BOUNDS, KEY_PAGES, VALUE_PAGES)
# With a past, every layer has pages of its own (`layer_pages`), which keep keys and values from pass to pass. A place
# in them is a page's number times the page size, plus the place in the page.
PAGE_COPIES = "page_copies"  # [F], int64: places of earlier tokens whose keys are written again, to an edge's own page
PAGE_QUERIES = "page_queries"  # [A], int64: the pass's token in each slot; PAGE_TOKENS also counts the copies, last
PAGE_SLOTS = "page_slots"  # [A], int32: the place that each slot's key is written to, -1 for none
PAST_PAGE_INPUTS = (PAGE_COPIES, PAGE_QUERIES, PAGE_SLOTS)

ATTENTION_MASK = "attention_mask"  # [B, L]: 1 for tokens, 0 for padding
TOKEN_TYPE_IDS = "token_type_ids"  # [B, L]: 0 where the model has no token types
PADDED_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)

# Input and output of a stage's graph: the residual stream [T, hidden] from the stage before, and for the one after.
HIDDEN_IN, HIDDEN_OUT = "hidden_in", "hidden_out"


@dataclass(frozen=True, kw_only=True)
class RowNames:
    """One group of attention rows: the queries of a block of tokens, each row with the keys that they may see.

    query_index, query_positions [R, Sq] and key_index, key_positions [R, Sk]: tokens of the trie, or of the scored
    ones, and their positions. `query_dims` and `key_dims` are the names of those sizes.
    """

    query_index: str
    query_positions: str
    key_index: str
    key_positions: str
    query_dims: tuple[str, str]
    key_dims: tuple[str, str]

    @property
    def names(self) -> tuple[str, str, str, str]:
        """The four inputs."""
        return self.query_index, self.query_positions, self.key_index, self.key_positions


def _named(prefix: str, suffix: str) -> RowNames:
    rows, queries, keys = (f"{prefix}{size}{suffix}" for size in ("R", "Sq", "Sk"))
    return RowNames(
        query_index=f"{prefix}query_index{suffix}",
        query_positions=f"{prefix}query_positions{suffix}",
        key_index=f"{prefix}key_index{suffix}",
        key_positions=f"{prefix}key_positions{suffix}",
        query_dims=(rows, queries),
        key_dims=(rows, keys),
    )


@cache
def row_names(group: int = 0) -> RowNames:
    """The rows of all tokens, in group 0, 1, ...: each group has lengths of its own.

    >>> row_names().key_index, row_names(2).key_index, row_names(2).key_dims
    ('key_index', 'key_index_2', ('R_2', 'Sk_2'))
    """
    return _named("", f"_{group}" if group else "")


READ_ROWS = _named("read_", "")  # of the scored tokens, in the last layer


def role_index(role: str) -> str:
    """[P]: which of the N scored tokens a head's `role` reads for each result.

    >>> role_index("score")
    'score_index'
    """
    return f"{role}_index"


@dataclass(frozen=True)
class PastNames:
    """Of one layer, in a graph with a past: keys after rotation, and values, [S, features] in and [T, features] out.

    Both in the compute dtype. Key k of a row stands at slot k: earlier tokens have the slots 0 to S - 1, those of the
    pass S to S + T - 1. Where there are no earlier tokens S is 1, and no row has that slot.
    """

    keys_in: str
    values_in: str
    keys_out: str
    values_out: str

    @property
    def inputs(self) -> tuple[str, str]:
        """Keys and values of earlier tokens."""
        return self.keys_in, self.values_in

    @property
    def outputs(self) -> tuple[str, str]:
        """Keys and values of the pass's tokens."""
        return self.keys_out, self.values_out


@cache
def past_names(layer: int) -> PastNames:
    """The names of one layer, from 0.

    >>> past_names(3).keys_in, past_names(3).values_out
    ('past_k_3', 'v_3')
    """
    return PastNames(f"past_k_{layer}", f"past_v_{layer}", f"k_{layer}", f"v_{layer}")


def layer_pages(layer: int) -> tuple[str, str]:
    """Pages of one layer's keys, and of its values, in a graph with a past that attends by pages.

    >>> layer_pages(3)
    ('key_pages_3', 'value_pages_3')
    """
    return f"{KEY_PAGES}_{layer}", f"{VALUE_PAGES}_{layer}"


def past_inputs(layers: int) -> tuple[str, ...]:
    """Of a graph with a past, layer by layer.

    >>> past_inputs(2)
    ('past_k_0', 'past_v_0', 'past_k_1', 'past_v_1')
    """
    return tuple(name for layer in range(layers) for name in past_names(layer).inputs)


def past_outputs(layers: int) -> tuple[str, ...]:
    """In the order of `past_inputs`.

    >>> past_outputs(2)
    ('k_0', 'v_0', 'k_1', 'v_1')
    """
    return tuple(name for layer in range(layers) for name in past_names(layer).outputs)


def row_groups(inputs: Iterable[str]) -> int:
    """How many groups of attention rows a graph with these inputs has.

    >>> row_groups([*row_names(0).names, *row_names(1).names, READ_INDEX])
    2
    """
    first = row_names().query_index
    return sum(name == first or name.startswith(f"{first}_") for name in inputs)
