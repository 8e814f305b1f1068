"""Turns requests into token sequences with the places a head reads: the whole text half, driven by the manifest.

Between records and the planner: request -> exchanges -> turns -> text -> ids -> reads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from rmruntime.answers import Exchange, exchanges
from rmruntime.chat_template import ChatTemplate
from rmruntime.errors import BundleError, InputError
from rmruntime.layouts import find_layout
from rmruntime.manifest import Format, Manifest
from rmruntime.options import ScoreOptions
from rmruntime.positions import check_rules
from rmruntime.reads import cut_reads, find_reads
from rmruntime.records import Conversation, Message, Request
from rmruntime.sequences import Ints, TokenSequence
from rmruntime.tokenization import BosRule, Tokenizer
from rmruntime.truncation import Cut, length_limit, plan_cut


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A sequence before tokenization: `text` to encode, or `ids` as given.

    `reads` is how many places the head must find (None: as many as there are); `spelled` are the special tokens that
    the content spells; `where` names the part of the record in messages.
    """

    text: str = ""
    ids: Ints | None = None
    reads: int | None
    spelled: tuple[str, ...] = ()
    where: str = ""


class Encoder:
    """The text half of one bundle; encoding is safe from several threads.

    `folder` holds tokenizer.json and the chat template. Raises BundleError when they or the manifest's format and
    position rules cannot be used.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._form = manifest.format
        self._rules = manifest.positions
        self._backbone = manifest.backbone
        _check_unit(manifest)
        check_rules(self._rules)
        self._layout = find_layout(self._form)
        self._template = _read_template(self._form, folder)
        self._tokenizer = Tokenizer(folder)
        self._bos = BosRule.from_format(self._form, self._tokenizer)

    def encode(self, request: Request, options: ScoreOptions) -> tuple[TokenSequence, ...]:
        """The sequences of `request`: 1 for a single conversation, n for candidates, 2 for a pair (chosen first).

        Steps give one sequence with a read per step, or one per partial answer where the head scores sequences.
        Raises InputError for what cannot be scored, InputTooLong for what must be truncated first.
        """
        [outcome] = self.encode_many((request,), options)
        if isinstance(outcome, InputError):
            raise outcome
        return outcome

    def encode_many(
        self, requests: Sequence[Request], options: ScoreOptions
    ) -> list[tuple[TokenSequence, ...] | InputError]:
        """`encode` of every request, in order, tokenized together; an error takes its request's place."""
        drafted = [self._try_draft(request, options) for request in requests]
        drafts = [draft for item in drafted if not isinstance(item, InputError) for draft in item]
        encoded = iter(self._tokenizer.encode_batch([draft.text for draft in drafts if draft.ids is None]))
        outcomes: list[tuple[TokenSequence, ...] | InputError] = []
        for item in drafted:
            if isinstance(item, InputError):
                outcomes.append(item)
                continue
            # All ids are taken before any is judged: an error must not shift those of later requests.
            ids = [self._bos.apply(next(encoded)) if draft.ids is None else draft.ids for draft in item]
            outcomes.append(self._try_finish(item, ids, options))
        return outcomes

    def _try_draft(self, request: Request, options: ScoreOptions) -> list[_Draft] | InputError:
        try:
            length_limit(options, self._backbone.max_length)
            if request.conversations[0].messages is None:
                return [self._draft_given(conversation) for conversation in request.conversations]
            parts = exchanges(request, self._form)
            return [
                self._draft_exchange(part, _where(request, index, len(parts)), options)
                for index, part in enumerate(parts)
            ]
        except InputError as error:
            return error

    def _draft_given(self, conversation: Conversation) -> _Draft:
        reads = 1 if self._form.unit == "sequence" else None
        if conversation.input_ids is None:
            text = self._bos.complete_text(conversation.text or "")
            return _Draft(text=self._bos.clean_text(text), reads=reads)
        # Checked before it becomes an array, which cannot hold what lies beyond 64 bits.
        _check_ids(conversation.input_ids, self._backbone.vocab_size, "input_ids")
        return _Draft(ids=np.array(conversation.input_ids, dtype=np.int64), reads=reads)

    def _draft_exchange(self, exchange: Exchange, where: str, options: ScoreOptions) -> _Draft:
        if self._template is None:
            raise InputError("this bundle has no chat template; give the conversation as text or input_ids")
        try:
            turns = self._layout.lay_out(exchange, self._form)
            spelled = self._spelled(turns)
            if spelled and options.strict_content:
                raise InputError(f"the content spells the special token(s) {', '.join(spelled)}; take them out")
            text = self._bos.clean_text(self._template.render([turn.as_turn() for turn in turns]))
        except InputError as error:
            _raise_located(error, where)
        reads = max(1, len(exchange.answer))
        return _Draft(text=text, reads=reads, spelled=spelled, where=where)

    def _spelled(self, turns: Iterable[Message]) -> tuple[str, ...]:
        find = self._tokenizer.find_special
        return tuple(dict.fromkeys(text for turn in turns for text in find(turn.content) + find(turn.role)))

    def _try_finish(
        self, drafts: list[_Draft], ids: list[Ints], options: ScoreOptions
    ) -> tuple[TokenSequence, ...] | InputError:
        try:
            return tuple(self._finish(draft, tokens, options) for draft, tokens in zip(drafts, ids, strict=True))
        except InputError as error:
            return error

    def _finish(self, draft: _Draft, ids: Ints, options: ScoreOptions) -> TokenSequence:
        try:
            if draft.ids is None:
                _check_ids(ids, self._backbone.vocab_size, "the text's tokens")
            cut = self._cut(ids, options)
            reads = find_reads(self._rules, ids, draft.reads)
            if cut is None:
                return _sequence(draft, ids, reads, truncated=0)
            kept = cut.keep(ids)
            return _sequence(draft, kept, cut_reads(self._rules, reads, ids, cut), truncated=len(ids) - len(kept))
        except InputError as error:
            _raise_located(error, draft.where, draft.spelled)

    def _cut(self, ids: Ints, options: ScoreOptions) -> Cut | None:
        limit = length_limit(options, self._backbone.max_length)
        if len(ids) <= limit:
            return None
        has_bos = self._form.bos == "one" or self._form.text_bos
        keep_first = has_bos and bool(ids[0] == self._form.bos_id)
        return plan_cut(len(ids), limit, options, keep_first=keep_first)


def _sequence(draft: _Draft, ids: Ints, reads: dict[str, Ints], *, truncated: int) -> TokenSequence:
    flags = (f"content spells {', '.join(draft.spelled)}",) if draft.spelled else ()
    return TokenSequence(ids=ids, reads=reads, truncated=truncated, special_content=bool(draft.spelled), flags=flags)


def _check_ids(ids: Ints | tuple[int, ...], vocab_size: int, where: str) -> None:
    if not len(ids):
        raise InputError(f"{where}: found no tokens, expected at least one")
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids  # for short sequences faster than array operations
    if 0 <= min(values) and max(values) < vocab_size:
        return
    position, wrong = next((i, int(token)) for i, token in enumerate(ids) if not 0 <= token < vocab_size)
    raise InputError(
        f"{where}: found id {wrong} at position {position}, expected 0 to {vocab_size - 1}; "
        "was it made with this checkpoint's tokenizer?"
    )


def _check_unit(manifest: Manifest) -> None:
    units = {output.per for output in manifest.outputs}
    if manifest.outputs and units != {manifest.format.unit}:
        raise BundleError(
            f"format.unit: found {manifest.format.unit!r}, but the outputs are per {' and '.join(sorted(units))}; "
            "export the bundle again"
        )


def _read_template(form: Format, folder: Path) -> ChatTemplate | None:
    if form.template is None:
        return None
    path = folder / form.template
    if not path.is_file():
        raise BundleError(f"{path} is missing; export the bundle again")
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read ({error}); export the bundle again") from error
    return ChatTemplate(source, form.template_variables, form.pinned_date)


def _where(request: Request, index: int, count: int) -> str:
    if count == 1:
        return ""
    names = {"pair": ("chosen", "rejected")[index % 2], "steps": f"the first {index + 1} step(s)"}
    return names.get(request.kind, f"responses[{index}]")


def _raise_located(error: InputError, where: str, spelled: tuple[str, ...] = ()) -> NoReturn:
    prefix = f"{where}: " if where else ""
    suffix = f" (the content spells {', '.join(spelled)})" if spelled else ""
    raise type(error)(f"{prefix}{error}{suffix}") from error
