"""The conversations that `verify` scores: records as sequences of tokens, and which of them are pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

from rmexport.errors import VerificationError
from rmexport.quality import Pairs
from rmruntime import InputError, InputTooLong, RewardModel, ScoreOptions
from rmruntime.records import Request
from rmruntime.sequences import TokenSequence


@dataclass(frozen=True)
class Conversations:
    """What is scored: `left_out` records were too long; `pairs` are the places of two answers that records compare."""

    sequences: list[TokenSequence]
    left_out: int
    pairs: Pairs


def read_conversations(
    model: RewardModel, requests: Sequence[Request], options: ScoreOptions, *, built_in: bool
) -> Conversations:
    """The sequences, how many records of the built-in set were too long, and the pairs where all records are pairs."""
    sequences: list[TokenSequence] = []
    pairs: list[tuple[int, int]] = []
    left_out = 0
    for request, encoded in zip(requests, model.encode(requests, options), strict=True):
        if isinstance(encoded, InputTooLong) and built_in:
            left_out += 1  # the built-in set knows nothing of this model's limit
            continue
        if isinstance(encoded, InputError):
            raise VerificationError(f"record {request.id!r} cannot be scored: {encoded}")
        if request.kind == "pair" and [_reads(sequence) for sequence in encoded] == [1, 1]:
            pairs.append((len(sequences), len(sequences) + 1))
        sequences += encoded
    if not sequences:
        raise VerificationError(
            f"no built-in conversation fits into {model.manifest.backbone.max_length} tokens; give some with --data"
        )
    compares = model.manifest.format.preference_template is not None  # a pair there is one score, in both orders
    return Conversations(sequences, left_out, pairs if 2 * len(pairs) == len(sequences) and not compares else [])


def _reads(sequence: TokenSequence) -> int:
    return len(next(iter(sequence.reads.values())))
