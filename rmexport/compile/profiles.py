"""Optimization profiles: which sizes of a pass an engine takes, and which it is tuned for.

A profile bounds each dimension separately, and TensorRT allocates memory for the largest sizes of all dimensions at
once. So a profile for long sequences cannot have as many attention rows as one for short ones: `throughput` takes usual
lengths, `long` the rest. The runtime splits a pass that fits no profile into two.
"""

from dataclasses import dataclass
from math import isqrt

from rmexport.errors import OptionError
from rmruntime.bundle.engine_record import Extent, Profile
from rmruntime.bundle.graph_names import READ_ROWS, RESULTS, SCORED, TOKENS, row_names

LATENCY_TOKENS = 512  # tokens of the conversation that `latency` is tuned for
USUAL_LENGTH = 2048  # most tokens of a sequence in `throughput`
TUNED_LENGTH = 1024  # tokens of the sequences that `throughput` is tuned for
USUAL_PADDED_LENGTH = 512  # USUAL_LENGTH of padded graphs, where each sequence costs the square of the longest
LEAST_BLOCK = 16  # the fewest queries in an attention row that is full
# Attention rows of one sequence beyond its full blocks, because some rows have smaller blocks where that saves work.
SPARE_ROWS = 20
LATENCY_SEQUENCES = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a pass: at most `tokens` tokens of at most `sequences` sequences, of up to `length` tokens each.

    `key_slots` is the most keys in all attention rows together; `query_block` and `key_multiple` are those of the
    manifest's Graph.

    >>> limits = Limits(tokens=16384, length=1000, sequences=512, key_slots=1 << 20, query_block=128, key_multiple=16)
    >>> limits.rows(1000), limits.keys(1000)
    (28, 1008)
    """

    tokens: int
    length: int
    sequences: int
    key_slots: int
    query_block: int
    key_multiple: int

    def rows(self, length: int) -> int:
        """The most attention rows of one sequence."""
        return -(-length // self.query_block) + SPARE_ROWS

    def keys(self, length: int) -> int:
        """The key length of attention rows for sequences of `length` tokens."""
        return -(-length // self.key_multiple) * self.key_multiple


def chosen_length(asked: int | None, model: int, possible: int) -> int:
    """The most tokens of a sequence: `asked`, else the limit of the model or, where that is lower, of the memory.

    Raises OptionError where `asked` is more than either limit.

    >>> chosen_length(None, model=32768, possible=8192)
    8192
    """
    if asked is None:
        return min(model, possible)
    if asked > model:
        raise OptionError(f"--max-length is {asked}, but the model takes sequences of up to {model} tokens")
    if asked > possible:
        raise OptionError(
            f"--max-length is {asked}, but the keys of one sequence in attention rows take too much memory beyond "
            f"{possible} tokens; use --max-length {possible}, or another engine for such sequences"
        )
    return asked


def longest_packed(key_slots: int, query_block: int, key_multiple: int) -> int:
    """The longest sequence, in tokens, whose attention rows have at most `key_slots` keys together.

    There are length / query_block + SPARE_ROWS rows, of up to `length` keys each: a quadratic equation.

    >>> longest_packed(key_slots=1 << 20, query_block=128, key_multiple=16)
    10304
    """
    spare = SPARE_ROWS + 1
    length = query_block * (isqrt(spare * spare + 4 * key_slots // query_block) - spare) // 2
    return max(length // key_multiple * key_multiple, key_multiple)


def packed_profiles(limits: Limits) -> tuple[Profile, ...]:
    """The profiles of a packed graph, whose dimensions have the names in `rmruntime.bundle.graph_names`.

    >>> limits = Limits(tokens=16384, length=8192, sequences=512, key_slots=1 << 24, query_block=128, key_multiple=16)
    >>> [(profile.name, profile.dimensions["Sk"].most) for profile in packed_profiles(limits)]
    [('latency', 2048), ('throughput', 2048), ('long', 8192)]
    """
    usual = min(limits.length, USUAL_LENGTH)
    profiles = [_latency(limits, usual), _throughput(limits, "throughput", usual, min(usual, TUNED_LENGTH))]
    if limits.length > usual:
        profiles.append(_throughput(limits, "long", limits.length, (usual + limits.length) // 2))
    return tuple(profiles)


def padded_profiles(limits: Limits, batch: str, sequence: str) -> tuple[Profile, ...]:
    """The profiles of a padded graph, whose inputs have the dimensions `batch` and `sequence`.

    `limits.key_slots` is the most pairs of a query and a key in all sequences together.

    >>> limits = Limits(tokens=16384, length=512, sequences=64, key_slots=1 << 24, query_block=128, key_multiple=16)
    >>> [(profile.name, profile.dimensions["B"].most) for profile in padded_profiles(limits, "B", "S")]
    [('latency', 16), ('throughput', 64)]
    """

    def profile(name: str, length: int, tuned: int, sequences: int) -> Profile:
        most = max(1, min(sequences, limits.tokens // 2, limits.key_slots // length**2))
        tuned_batch = 1 if name == "latency" else limits.tokens // tuned
        sizes = {batch: _extent(1, tuned_batch, most), sequence: _extent(2, tuned, length)}
        return Profile(name=name, dimensions=sizes)

    usual = min(limits.length, USUAL_PADDED_LENGTH)
    profiles = [
        profile("latency", usual, LATENCY_TOKENS, LATENCY_SEQUENCES),
        profile("throughput", usual, usual, limits.sequences),
    ]
    if limits.length > usual:
        profiles.append(profile("long", limits.length, (usual + limits.length) // 2, limits.sequences))
    return tuple(profiles)


def _latency(limits: Limits, length: int) -> Profile:
    """The profile for one conversation, or a few short ones."""
    tuned = min(LATENCY_TOKENS, length)
    rows = Extent(least=1, tuned=-(-tuned // limits.query_block), most=limits.rows(length))
    sequences = min(limits.sequences, LATENCY_SEQUENCES)
    return _profile("latency", limits, tokens=(tuned, length), rows=rows, keys=(tuned, length), reads=(1, sequences))


def _throughput(limits: Limits, name: str, length: int, tuned: int) -> Profile:
    """A profile for passes of `limits.tokens` tokens, with sequences of about `tuned` and at most `length` tokens."""
    tokens = max(limits.tokens, length)
    sequences = max(1, limits.tokens // tuned)
    slots = limits.key_slots // limits.keys(length)
    most = min(slots, -(-tokens // LEAST_BLOCK) + limits.sequences)
    rows = _extent(1, -(-tokens // limits.query_block) + sequences, most)
    reads = (sequences, min(limits.sequences, slots))
    return _profile(name, limits, tokens=(limits.tokens, tokens), rows=rows, keys=(tuned, length), reads=reads)


def _profile(
    name: str, limits: Limits, *, tokens: tuple[int, int], rows: Extent, keys: tuple[int, int], reads: tuple[int, int]
) -> Profile:
    """The profile `name`; `tokens`, `keys` and `reads` (scored positions) are each the tuned size and the most."""
    least_keys, tuned, most = limits.key_multiple, limits.keys(keys[0]), limits.keys(keys[1])
    read = _extent(2, reads[0], max(tokens[1], reads[1]))
    (n_rows, n_queries), (_, n_keys) = row_names().query_dims, row_names().key_dims
    (n_read_rows, n_read_queries), (_, n_read_keys) = READ_ROWS.query_dims, READ_ROWS.key_dims
    return Profile(
        name=name,
        dimensions={
            TOKENS: _extent(2, *tokens),
            n_rows: rows,
            n_queries: _extent(2, min(limits.query_block, tokens[0]), limits.query_block),
            n_keys: _extent(least_keys, tuned, most),
            SCORED: read,
            RESULTS: read,
            n_read_rows: _extent(1, *reads),
            n_read_queries: _extent(2, 2, limits.query_block),
            n_read_keys: _extent(least_keys, tuned, most),
        },
    )


def _extent(least: int, tuned: int, most: int) -> Extent:
    """The Extent up to `most`, with `least` and `tuned` moved inside it where they are larger."""
    most = max(1, most)
    least = min(least, most)
    return Extent(least=least, tuned=min(max(tuned, least), most), most=most)
