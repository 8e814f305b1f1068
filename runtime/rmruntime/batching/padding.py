"""The inputs of one pass of a padded graph: a row of token ids for every sequence, all of the longest one's length."""

from collections.abc import Sequence

import numpy as np

from rmruntime.batching.packing import PassInputs
from rmruntime.bundle.graph_names import PADDED_INPUTS
from rmruntime.sequences import TokenSequence


def pad(sequences: Sequence[TokenSequence], pad_id: int) -> PassInputs:
    """PADDED_INPUTS (`rmruntime.bundle.graph_names`), padded on the right.

    The mask, 1 for tokens and 0 for padding, hides what stands behind a sequence; `pad_id` matters to graphs that count
    positions from it (RoBERTa's). Sequences without token types have type 0 throughout. One result a sequence.
    """
    lengths = np.array([len(s.ids) for s in sequences])
    shape = (len(sequences), int(lengths.max()))
    ids, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : lengths[row]] = sequence.ids
        if sequence.types is not None:
            types[row, : lengths[row]] = sequence.types
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    feeds = dict(zip(PADDED_INPUTS, (ids, mask, types), strict=True))
    given = int(lengths.sum())
    return PassInputs(feeds, given, given, (1,) * len(sequences), ids.size - given)
