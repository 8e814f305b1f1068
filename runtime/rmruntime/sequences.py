"""A token sequence and where the head reads it: what the text half returns, and what passes are planned from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """One sequence of token ids, and the positions that the head reads.

    `ids` [L]; `reads` maps each position role of the manifest to token positions [P], the same P for all roles.

    P is 1 for a head that scores sequences and the number of steps for one that scores steps. `types` [L] are the token
    types of encoders that tell a question from its answer by them. `truncated` counts the tokens that were cut;
    `special_content` says that a message's content spelled a special token, and `flags` which; `doubts` are flags of
    what else may make its score meaningless. `where` names the part of the record in messages, "" for the whole of it.
    Of its tokens the first `kept` are worth keeping in a prefix cache, all for None: others are not what comes next.
    """

    ids: Ints
    reads: Mapping[str, Ints]
    types: Ints | None = None
    truncated: int = 0
    special_content: bool = False
    flags: tuple[str, ...] = field(default=())
    doubts: tuple[str, ...] = ()
    where: str = ""
    kept: int | None = None

    @property
    def position_count(self) -> int:
        """P, the number of positions that each role reads: as many results come of it.

        >>> TokenSequence(ids=np.arange(5), reads={"score": np.array([2, 4])}).position_count
        2
        """
        return len(next(iter(self.reads.values())))
