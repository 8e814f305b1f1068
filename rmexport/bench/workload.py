"""The workload: the conversations that every contestant scores, encoded once by the bundle's own tokenizer."""

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
class WorkloadRequest:
    """One request: its records, their token sequences, and whether they are a chosen and a rejected answer.

    A record has one sequence, or one per partial answer.
    """

    records: tuple[Record, ...]
    sequences: tuple[tuple[int, ...], ...]
    pair: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All requests; `kind` is "file" or "profile", `seed` None for a file.

    >>> pair = WorkloadRequest(records=({}, {}), sequences=((5, 6), (5, 7)), pair=True)
    >>> Workload(name="records.jsonl", kind="file", seed=None, requests=(pair,)).pairs
    [(0, 1)]
    """

    name: str
    kind: str
    seed: int | None
    requests: tuple[WorkloadRequest, ...]

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """The token sequences of all requests, in order."""
        return [ids for request in self.requests for ids in request.sequences]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The indices in `sequences` of the chosen and the rejected answer of every pair."""
        found, place = [], 0
        for request in self.requests:
            if request.pair:
                found.append((place, place + 1))
            place += len(request.sequences)
        return found


def make_workload(bundle: Bundle, options: BenchOptions) -> Workload:
    """The workload that `options` ask for.

    Raises OptionError when it is empty, or when this bundle's conversations are more than plain token sequences, and
    InputError for a record that this bundle cannot score.
    """
    _check_benchable(bundle, options)
    if options.workload is None:
        name = options.profile or DEFAULT_PROFILE
        return profile_workload(bundle, name, PROFILES[name], options.seed)
    encoder = RequestTokenizer(bundle.manifest, bundle.folder)
    name = Path(options.workload).name
    asked = [_split_answers(encoder, request) for request in _read(Path(options.workload))]
    if not asked:
        raise OptionError(f"the workload {name} is empty: found no record, expected at least one")
    return Workload(name=name, kind="file", seed=None, requests=tuple(asked))


def _check_benchable(bundle: Bundle, options: BenchOptions) -> None:
    """Raises OptionError for a layout that is not one sequence of token ids per score, as contestants need it."""
    form, rules = bundle.manifest.format, bundle.manifest.positions.values()
    if form.preference_template is not None or form.pair_ids:
        raise OptionError(
            f"bench gives contestants one sequence of token ids per score, which the layout {form.layout} does not "
            "have; time it with `rmexport score`, whose summary says how long it took"
        )
    if options.workload is None and any(rule.rule == "step_end" for rule in rules):
        raise OptionError(
            "a profile's token ids do not tell where steps end: give a file of prompts and steps (--workload)"
        )


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


def _split_answers(encoder: RequestTokenizer, request: Request) -> WorkloadRequest:
    """A request of the user's file; a pair or candidates become one record per answer, so that each has one score."""
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


def _encoded(encoder: RequestTokenizer, records: Sequence[Record], *, pair: bool = False) -> WorkloadRequest:
    encoded = [encoder.encode(parse_record(record), ScoreOptions()) for record in records]
    sequences = tuple(tuple(int(i) for i in s.ids) for found in encoded for s in found)
    return WorkloadRequest(tuple(records), sequences, pair)


def describe(workload: Workload) -> dict[str, Any]:
    """The report's record of a workload: its name and hash, its sizes in tokens, and the histogram of lengths.

    >>> requests = (WorkloadRequest(records=({"text": "a"},), sequences=((5, 6),)),)
    >>> found = describe(Workload(name="records.jsonl", kind="file", seed=None, requests=requests))
    >>> found["records"], found["tokens"], found["shared_share"]
    (1, 2, 0.0)
    """
    sequences = workload.sequences
    tokens, distinct = sum(map(len, sequences)), distinct_tokens(sequences)
    records = [record for request in workload.requests for record in request.records]
    body = json.dumps([request.records for request in workload.requests], sort_keys=True, ensure_ascii=False)
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
    """How many tokens must be computed when every common prefix is computed once: the nodes of the token trie.

    >>> distinct_tokens([[5, 6, 7], [5, 6, 8]])
    4
    """
    total = 0
    previous: tuple[int, ...] = ()
    for ids in sorted(map(tuple, sequences)):
        shared = next((i for i, (a, b) in enumerate(zip(previous, ids, strict=False)) if a != b), None)
        total += len(ids) - (min(len(previous), len(ids)) if shared is None else shared)
        previous = ids
    return total


def length_histogram(lengths: Sequence[int]) -> dict[str, Any]:
    """A histogram of lengths in tokens: counts between integer edges (the last edge included), and some quantiles.

    >>> found = length_histogram([10, 10, 20])
    >>> found["min"], found["p50"], found["max"], sum(found["counts"])
    (10, 10.0, 20, 3)
    """
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // BINS))
    edges = list(range(low, high + width + 1, width))
    counts, _ = np.histogram(lengths, edges)
    p50, p90 = (float(value) for value in np.percentile(lengths, [50, 90]))
    return {
        "edges": edges, "counts": [int(count) for count in counts],
        "min": low, "p50": p50, "p90": p90, "max": high, "mean": float(np.mean(lengths)),
    }  # fmt: skip
