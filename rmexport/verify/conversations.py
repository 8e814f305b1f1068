"""The conversations that `verify` scores: the user's, or a built-in set, seeded, varied in length and content, with two
answers to every prompt."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rmexport.errors import VerificationError
from rmexport.verify.options import VerifyOptions
from rmexport.verify.quality import Pairs
from rmruntime import InputError, InputTooLong, RewardModel, ScoreOptions
from rmruntime.batching.source import IterableSource
from rmruntime.bundle.manifest import Manifest
from rmruntime.records import Request, parse_record
from rmruntime.records.reader import Record, read_records
from rmruntime.sequences import TokenSequence

WORDS = (
    "the of and to in is that for it as was with be by on not he this are or his from at which but have an had they "
    "you were their one all we can her has there been if more when will would who so no said what up out about into "
    "than them only some could time these two may then do first any my now such like our over man me even most made "
    "after also did many before must through back years where much your way well down should because each just those "
    "people how too little state good very make world still own see men work long get here between both life being "
    "under never day same another know while last might us great old year off come since against go came right used "
    "take three water number light energy reason answer question proof sum integer function list model reward river"
).split()
OPENINGS = (
    "Explain", "Write", "Why does", "How many", "Compare", "Prove that", "Summarise", "Translate", "List", "Describe",
)  # fmt: skip
EXTRAS = ("", "", "", " 12 + 30 = 42.", "\n\n1. one\n2. two", " naïve façade — 東京 🙂", "\n```python\nprint(1)\n```")


def verification_records(
    count: int = 256, seed: int = 0, *, steps: bool = False, pairs: bool = False
) -> list[dict[str, Any]]:
    """`count` conversations; with `steps`, each answer is a list of steps, with `pairs`, a record has two of them.

    >>> [sorted(record) for record in verification_records(2)]
    [['id', 'prompt', 'response'], ['id', 'prompt', 'response']]
    """
    rng = random.Random(seed)
    records = list(_records(rng, count, steps))
    return _paired(records) if pairs else records


def _paired(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two answers to each prompt as one record; with an odd count, the last prompt has none to compare."""
    return [
        {"id": a["id"], "prompt": a["prompt"], "chosen": a["response"], "rejected": b["response"]}
        for a, b in zip(records[::2], records[1::2], strict=False)
    ]


def _records(rng: random.Random, count: int, steps: bool) -> Iterator[dict[str, Any]]:
    for i in range((count + 1) // 2):
        prompt = f"{rng.choice(OPENINGS)} {_text(rng, 4, 60)}?"
        for j in range(min(2, count - 2 * i)):
            if steps:
                answer = {"steps": [_text(rng, 3, 25) for _ in range(rng.randint(1, 4))]}
                yield {"id": 2 * i + j, "prompt": prompt, **answer}
            else:
                yield {"id": 2 * i + j, "prompt": prompt, "response": _text(rng, 2, 120)}


def _text(rng: random.Random, low: int, high: int) -> str:
    words = rng.choices(WORDS, k=rng.randint(low, high))
    return " ".join(words).capitalize() + rng.choice((".", "!", "")) + rng.choice(EXTRAS)


@dataclass(frozen=True)
class Conversations:
    """What is scored: `left_out` records were too long; `pairs` are the places of two answers that records compare."""

    sequences: list[TokenSequence]
    left_out: int
    pairs: Pairs


def read_conversations(model: RewardModel, options: VerifyOptions) -> Conversations:
    """The token sequences of `options.data`, or of the built-in set, read and tokenized a window at a time.

    Records of the built-in set that are too long for the model are left out. `pairs` has some where all records are
    pairs. Raises VerificationError for a record of the data that cannot be scored, and where there is none.
    """
    tokenized = _Tokenized(built_in=options.data is None)
    for window in IterableSource(_entries(model.manifest, options)).windows():
        requests = [request for _, request in window if isinstance(request, Request)]
        for request, sequences in zip(requests, model.encode(requests, ScoreOptions()), strict=True):
            tokenized.add(request, sequences)
    if not tokenized.sequences:
        raise VerificationError(
            f"no built-in conversation fits into {model.manifest.backbone.max_length} tokens; give some with --data"
        )
    compares = model.manifest.format.preference_template is not None  # a pair there is one score, in both orders
    only_pairs = 2 * len(tokenized.pairs) == len(tokenized.sequences)
    return Conversations(
        tokenized.sequences, tokenized.left_out, tokenized.pairs if only_pairs and not compares else []
    )


@dataclass(kw_only=True)
class _Tokenized:
    """The sequences so far."""

    built_in: bool
    sequences: list[TokenSequence] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    left_out: int = 0

    def add(self, request: Request, sequences: tuple[TokenSequence, ...] | InputError) -> None:
        if isinstance(sequences, InputTooLong) and self.built_in:
            self.left_out += 1  # the built-in set is made without this model's limit
            return
        if isinstance(sequences, InputError):
            raise VerificationError(f"record {request.id!r} cannot be scored: {sequences}")
        if request.kind == "pair" and [sequence.position_count for sequence in sequences] == [1, 1]:
            self.pairs.append((len(self.sequences), len(self.sequences) + 1))
        self.sequences += sequences


def _entries(manifest: Manifest, options: VerifyOptions) -> Iterator[Record]:
    """The records by their number, all of them requests."""
    if options.data is None:
        steps = any(output.per == "step" for output in manifest.outputs)
        pairs = manifest.format.preference_template is not None
        yield from enumerate(map(parse_record, verification_records(options.conversations, steps=steps, pairs=pairs)))
        return
    number = None
    for number, request in read_records(options.data):
        if isinstance(request, InputError):
            raise VerificationError(str(request))  # which begins with the file, the line and the record
        yield number, request
    if number is None:
        raise VerificationError(f"{options.data} holds no records; expected at least one conversation")
