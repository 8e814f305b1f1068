"""What every contestant is asked to score: the same token ids, encoded once by the bundle's own encoder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.bench.options import DEFAULT_PROFILE, BenchOptions
from rmexport.bench.profiles import PROFILES, Profile
from rmexport.bench.token_source import TokenSource
from rmexport.errors import OptionError
from rmruntime.bundle import Bundle
from rmruntime.errors import InputError
from rmruntime.options import ScoreOptions
from rmruntime.records import Conversation, Request, parse_record
from rmruntime.records.reader import read_records
from rmruntime.text.request_tokenizer import RequestTokenizer

Record = dict[str, Any]
BINS = 12


@dataclass(frozen=True)
class Asked:
    """One request: its records, their token sequences, and whether they are a chosen and a rejected answer."""

    records: tuple[Record, ...]
    sequences: tuple[tuple[int, ...], ...]
    pair: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All requests; `seed` is None for a file."""

    name: str
    kind: str
    seed: int | None
    requests: tuple[Asked, ...]

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """Of all requests in order."""
        return [ids for asked in self.requests for ids in asked.sequences]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Places of chosen and rejected answers among `sequences`."""
        found, place = [], 0
        for asked in self.requests:
            if asked.pair:
                found.append((place, place + 1))
            place += len(asked.sequences)
        return found


def make_workload(bundle: Bundle, options: BenchOptions) -> Workload:
    """The workload that `options` ask for.

    Raises OptionError when it is empty or this bundle's conversations are no plain token sequences, and InputError for
    a record that this bundle cannot score.
    """
    _check_benchable(bundle, options)
    if options.workload is None:
        name = options.profile or DEFAULT_PROFILE
        return profile_workload(bundle, name, PROFILES[name], options.seed)
    encoder = RequestTokenizer(bundle.manifest, bundle.folder)
    name = Path(options.workload).name
    asked = [_asked(encoder, request) for request in _read(Path(options.workload))]
    if not asked:
        raise OptionError(f"the workload {name} is empty: found no record, expected at least one")
    return Workload(name=name, kind="file", seed=None, requests=tuple(asked))


def _check_benchable(bundle: Bundle, options: BenchOptions) -> None:
    """Contestants are given token ids, one sequence per score."""
    form, rules = bundle.manifest.format, bundle.manifest.positions.values()
    if form.preference_template is not None or form.pair_ids:
        raise OptionError(
            f"bench gives contestants one sequence of token ids per score, which the layout {form.layout} does not "
            "have; time it with `rmexport score`, whose summary says how long it took"
        )
    if options.workload is None and any(rule.rule == "step_end" for rule in rules):
        raise OptionError("a profile's token ids do not say where steps end: give a file of prompts and steps")


def _read(path: Path) -> list[Request]:
    requests = []
    for _, request in read_records(path):
        if isinstance(request, InputError):
            raise request
        requests.append(request)
    return requests


def profile_workload(bundle: Bundle, name: str, profile: Profile, seed: int) -> Workload:
    """The requests of `profile` for this bundle, in token ids. Raises OptionError where the bundle is too short."""
    encoder = RequestTokenizer(bundle.manifest, bundle.folder)
    rng = np.random.default_rng(seed)
    drafts = profile.drafts(rng)
    conversations = TokenSource(bundle.manifest, bundle.folder, rng).conversations(drafts)
    asked = [
        _encoded(encoder, [{"input_ids": ids} for ids in answers], pair=draft.pair)
        for draft, answers in zip(drafts, conversations, strict=True)
    ]
    return Workload(name=name, kind="profile", seed=seed, requests=tuple(asked))


def _asked(encoder: RequestTokenizer, request: Request) -> Asked:
    """A pair or candidates as one record per answer: a contestant then returns one score per record."""
    if request.kind == "steps":
        [prompt] = request.conversations
        return _encoded(encoder, [{"prompt": _turns(prompt), "steps": list(request.steps)}])
    records = [_record(conversation) for conversation in request.conversations]
    return _encoded(encoder, records, pair=request.kind == "pair")


def _record(conversation: Conversation) -> Record:
    if conversation.input_ids is not None:
        return {"input_ids": list(conversation.input_ids)}
    if conversation.text is not None:
        return {"text": conversation.text}
    return {"messages": _turns(conversation)}


def _turns(conversation: Conversation) -> list[dict[str, str]]:
    return [message.as_turn() for message in conversation.messages or ()]


def _encoded(encoder: RequestTokenizer, records: Sequence[Record], *, pair: bool = False) -> Asked:
    encoded = [encoder.encode(parse_record(record), ScoreOptions()) for record in records]
    sequences = tuple(tuple(int(i) for i in s.ids) for found in encoded for s in found)
    return Asked(tuple(records), sequences, pair)


def describe(workload: Workload) -> dict[str, Any]:
    """The report's section: identity, sizes, and the histogram of lengths."""
    sequences = workload.sequences
    tokens, distinct = sum(map(len, sequences)), distinct_tokens(sequences)
    records = [record for asked in workload.requests for record in asked.records]
    body = json.dumps([asked.records for asked in workload.requests], sort_keys=True, ensure_ascii=False)
    return {
        "name": workload.name,
        "kind": workload.kind,
        "sha256": hashlib.sha256(body.encode()).hexdigest(),
        "seed": workload.seed,
        "requests": len(workload.requests),
        "records": len(records),
        "sequences": len(sequences),
        "tokens": tokens,
        "distinct_tokens": distinct,
        "shared_share": 1 - distinct / tokens,
        "lengths": length_histogram([len(ids) for ids in sequences]),
    }


def distinct_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the token trie: what must be computed when every common prefix is computed once."""
    total = 0
    previous: tuple[int, ...] = ()
    for ids in sorted(map(tuple, sequences)):
        shared = next((i for i, (a, b) in enumerate(zip(previous, ids, strict=False)) if a != b), None)
        total += len(ids) - (min(len(previous), len(ids)) if shared is None else shared)
        previous = ids
    return total


def length_histogram(lengths: Sequence[int]) -> dict[str, Any]:
    """Counts between integer edges (the last edge included), and a few quantiles, in tokens."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // BINS))
    edges = list(range(low, high + width + 1, width))
    counts, _ = np.histogram(lengths, edges)
    p50, p90 = (float(value) for value in np.percentile(lengths, [50, 90]))
    return {
        "edges": edges, "counts": [int(count) for count in counts],
        "min": low, "p50": p50, "p90": p90, "max": high, "mean": float(np.mean(lengths)),
    }  # fmt: skip
