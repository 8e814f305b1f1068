"""Turns requests into token sequences and the positions that the head scores, as the manifest says.

The steps: request -> exchanges -> turns -> segments -> ids -> positions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from rmruntime.bundle.bundle import TEMPLATE_LIMIT
from rmruntime.bundle.manifest import Format, Manifest
from rmruntime.bundle.regular_files import read_regular
from rmruntime.errors import BundleError, InputError
from rmruntime.options import ScoreOptions
from rmruntime.records import Conversation, Message, Request
from rmruntime.scores import Score
from rmruntime.sequences import Ints, TokenSequence
from rmruntime.text.chat_template import ChatTemplate
from rmruntime.text.exchanges import Exchange, exchanges
from rmruntime.text.flags import answer_doubts, flag_alike, spelled_flags
from rmruntime.text.layouts import find_layout
from rmruntime.text.layouts.base import Piece, Turns
from rmruntime.text.positions import check_rules, check_whole_patterns, cut_reads, find_reads
from rmruntime.text.segments import PLACEHOLDER, JoinedSegments, Segment
from rmruntime.text.stray_padding import Padding
from rmruntime.text.tokenizer import BosRule, Tokenizer
from rmruntime.text.truncation import Cut, Span, length_limit, plan_cut


class _Draft(NamedTuple):
    """A sequence before tokenization, in segments.

    `reads` is the number of positions that must be found (None: any number); `spelled` are the special tokens that the
    content spells; `doubts` are flags; `exchange` is what it was laid out from, None for a text or ids.
    """

    segments: tuple[Segment, ...]
    reads: int | None
    spelled: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    exchange: Exchange | None = None

    @property
    def where(self) -> str:
        """The part of the record, for messages."""
        return self.exchange.where if self.exchange else ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The segments' texts, of those that are text."""
        return tuple([segment.text for segment in self.segments if segment.ids is None])


class RequestTokenizer:
    """Encodes requests with the tokenizer, chat template and format of one bundle; safe from several threads.

    `folder` has tokenizer.json and the chat template. Raises BundleError when these, or the manifest's format and
    position rules, cannot be used.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._form = manifest.format
        self._rules = manifest.positions
        self._backbone = manifest.backbone
        _check_unit(manifest)
        _check_format_ids(self._form, self._backbone.vocab_size)
        check_rules(self._rules)
        self._layout = find_layout(self._form)
        _check_step_ends(manifest)
        self._template = _read_template(self._form, folder)
        self._tokenizer = Tokenizer(folder)
        check_whole_patterns(self._rules, lambda text: self._tokenizer.encode(text).tolist())
        self._bos = BosRule.from_format(self._form, self._tokenizer)
        self._padding = Padding.of(manifest, self._tokenizer)

    @property
    def whole(self) -> str:
        """Why answers of this bundle's layout cannot be continued step by step, "" where they can."""
        return self._layout.whole

    def encode(self, request: Request, options: ScoreOptions) -> tuple[TokenSequence, ...]:
        """The sequences of `request`: 1 for a single conversation, n for candidates, 2 for a pair (chosen first).

        Steps make one sequence with a position per step, or one per partial answer where the head scores sequences.
        Where answers are compared, there is one for every ordered pair of them.
        Raises InputError for a request that cannot be scored, InputTooLong for one that must be truncated first.
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
        texts = [text for draft in drafts for text in draft.texts]
        distinct = list(dict.fromkeys(texts))  # rerankers have the same text around every document
        by_text = dict(zip(distinct, self._tokenizer.encode_batch(distinct), strict=True))
        encoded = iter([by_text[text] for text in texts])
        outcomes: list[tuple[TokenSequence, ...] | InputError] = []
        for request, item in zip(requests, drafted, strict=True):
            if isinstance(item, InputError):
                outcomes.append(item)
                continue
            # All ids of a request are taken before an error is raised, which would shift those of later requests.
            parts = [self._take(draft, encoded) for draft in item]
            outcomes.append(self._try_finish(request, item, parts, options))
        return outcomes

    def encode_text(self, text: str, *, special: bool = True) -> Ints:
        """Ids [L] of a text alone, nothing of which is scored; with `special` the BOS that scoring gives it.

        Raises InputError for a text that the tokenizer cannot encode.
        """
        if not special:
            return self._tokenizer.encode(text)
        return self._bos.apply(self._tokenizer.encode(self._bos.clean_text(self._bos.complete_text(text))))

    def encode_messages(self, messages: Sequence[Message], *, generation_prompt: bool) -> Ints:
        """Ids [L] of messages through the chat template. Raises InputError, also where the bundle has no template."""
        segment = self._segment(Turns(tuple(messages), generation_prompt))
        return self._bos.apply(self._tokenizer.encode(segment.text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises InputError for what are no ids of this tokenizer."""
        return self._tokenizer.decode(ids)

    def text_of(self, token_id: int) -> str | None:
        """One token as the tokenizer's file has it; None for an id that it does not have."""
        return self._tokenizer.text_of(token_id)

    def join(self, request: Request, scores: list[Score]) -> list[Score]:
        """A score for each conversation of `request`, from those of its sequences: fewer where answers are compared."""
        return self._layout.join(request, scores)

    def _try_draft(self, request: Request, options: ScoreOptions) -> list[_Draft] | InputError:
        try:
            length_limit(options, self._backbone.max_length)
            if request.conversations[0].messages is None:
                return [self._draft_given(conversation) for conversation in request.conversations]
            parts = self._layout.arrange(request, exchanges(request, self._form))
            return [self._draft_exchange(part, options) for part in parts]
        except InputError as error:
            return error

    def _draft_given(self, conversation: Conversation) -> _Draft:
        if conversation.input_ids is None:
            text = self._bos.clean_text(self._bos.complete_text(conversation.text or ""))
            conversation = Conversation(text=text)
        else:
            # Checked before it becomes an array, which cannot hold numbers of more than 64 bits.
            _check_ids(conversation.input_ids, self._backbone.vocab_size, "input_ids")
            self._padding.check(conversation.input_ids)
        segments = self._layout.given(conversation, self._form)
        return _Draft(segments=segments, reads=1 if self._form.unit == "sequence" else None)

    def _draft_exchange(self, exchange: Exchange, options: ScoreOptions) -> _Draft:
        try:
            pieces = self._layout.lay_out(exchange, self._form)
            spelled = self._spelled(exchange)
            if spelled and options.strict_content:
                raise InputError(f"the content spells the special token(s) {', '.join(spelled)}; take them out")
            segments = tuple([self._segment(piece) for piece in pieces])
        except InputError as error:
            _raise_located(error, exchange.where)
        texts = [segment.text for segment in segments]
        doubts = answer_doubts(exchange, self._form, texts, self._bos.clean_text)
        reads = max(1, len(exchange.answer))
        return _Draft(segments=segments, reads=reads, spelled=spelled, doubts=doubts, exchange=exchange)

    def _segment(self, piece: Piece) -> Segment:
        if isinstance(piece, Turns):
            if self._template is None:
                raise InputError("this bundle has no chat template; give the conversation as text or input_ids")
            turns = [turn.as_turn() for turn in piece.messages]
            text = self._bos.clean_text(self._template.render(turns, piece.generation_prompt))
            return Segment(text) if piece.loose is None else self._loosened(text, piece, piece.loose)
        if piece.ids is not None:
            return piece
        text = self._bos.clean_text(piece.text)
        if piece.loose is None or text == piece.text:
            return piece._replace(text=text)
        parts = [self._bos.clean_text(part) for part in _cut_at(piece.text, piece.loose)]
        return _around(text, *parts)

    def _loosened(self, text: str, piece: Turns, loose: int) -> Segment:
        """The rendered `text` with the place of the loose message in it."""
        assert self._template is not None
        turns = [turn.as_turn() for turn in piece.messages]
        content = self._bos.clean_text(turns[loose]["content"])
        if text.count(content) == 1:
            return Segment(text, loose=(text.find(content), text.find(content) + len(content)))
        turns[loose]["content"] = PLACEHOLDER
        rendered = self._bos.clean_text(self._template.render(turns, piece.generation_prompt))
        before, _, after = rendered.partition(PLACEHOLDER)
        return _around(text, before, content if content in text else content.strip(), after)

    def _spelled(self, exchange: Exchange) -> tuple[str, ...]:
        # What the layout itself writes around the content, such as a step's tag, may be a special token.
        texts = [text for turn in exchange.prompt for text in (turn.content, turn.role)]
        texts += exchange.answer if exchange.against is None else (*exchange.answer, exchange.against)
        return tuple(dict.fromkeys([found for text in texts for found in self._tokenizer.find_special(text)]))

    def _take(self, draft: _Draft, encoded: Iterator[Ints | InputError]) -> list[Ints] | InputError:
        """The ids of each segment [L_i], those of texts from `encoded`; the BOS policy applies if the first is text."""
        taken = [next(encoded) if s.ids is None else np.array(s.ids, dtype=np.int64) for s in draft.segments]
        parts = [part for part in taken if not isinstance(part, InputError)]
        for part in taken:
            if isinstance(part, InputError):
                return part
        if draft.segments[0].ids is None:
            parts[0] = self._bos.apply(parts[0])
        return parts

    def _try_finish(
        self, request: Request, drafts: list[_Draft], parts: list[list[Ints] | InputError], options: ScoreOptions
    ) -> tuple[TokenSequence, ...] | InputError:
        try:
            sequences = tuple([self._finish(draft, own, options) for draft, own in zip(drafts, parts, strict=True)])
        except InputError as error:
            return error
        laid_out = [draft.exchange for draft in drafts if draft.exchange is not None]
        return flag_alike(request, laid_out, sequences) if len(laid_out) > 1 else sequences

    def _finish(self, draft: _Draft, parts: list[Ints] | InputError, options: ScoreOptions) -> TokenSequence:
        try:
            if isinstance(parts, InputError):
                raise parts
            joined = JoinedSegments(draft.segments, parts, self._form.append)
            ids, types = joined.ids, joined.types() if self._form.pair_types else None
            if len(parts) > 1 or draft.segments[0].ids is None:  # ids alone were checked as they came
                _check_ids(ids, self._backbone.vocab_size, "the text's tokens")
            cut = self._cut(joined, options)
            ends = joined.step_ends() if self._form.step_separator is not None else None
            reads, length = find_reads(self._rules, ids, draft.reads, ends, draft.texts), len(ids)
            if cut is not None:
                reads = cut_reads(self._rules, reads, ids, cut, ends)
                ids, types = cut.keep(ids), None if types is None else cut.keep(types)
            return TokenSequence(
                ids=ids,
                reads=reads,
                types=types,
                truncated=length - len(ids),
                special_content=bool(draft.spelled),
                flags=spelled_flags(draft.spelled),
                doubts=draft.doubts,
                where=draft.where,
            )
        except InputError as error:
            _raise_located(error, draft.where, draft.spelled)

    def _cut(self, joined: JoinedSegments, options: ScoreOptions) -> Cut | None:
        limit = length_limit(options, self._backbone.max_length)
        if len(joined.ids) <= limit:
            return None
        has_bos = self._form.bos == "one" or self._form.text_bos
        keep_first = has_bos and bool(joined.ids[0] == self._form.bos_id)
        spare = joined.spare(keep_first=keep_first, offsets=self._tokenizer.offsets)
        return plan_cut(len(joined.ids), limit, options, spare)


def _cut_at(text: str, place: Span) -> tuple[str, str, str]:
    return text[: place[0]], text[place[0] : place[1]], text[place[1] :]


def _around(text: str, before: str, loose: str, after: str) -> Segment:
    """The segment of a text whose part `loose` may be cut; a fixed one where these are not the text's parts."""
    if before + loose + after != text:
        return Segment(text, fixed=True)
    return Segment(text, loose=(len(before), len(before) + len(loose)))


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


def _check_format_ids(form: Format, vocab_size: int) -> None:
    for name, ids in (("append", form.append), *(("pair_ids", ids) for ids in form.pair_ids)):
        if any(not 0 <= token < vocab_size for token in ids):
            raise BundleError(f"format.{name}: found {list(ids)}, expected ids of 0 to {vocab_size - 1}; export again")


def _check_step_ends(manifest: Manifest) -> None:
    by_step_end = any(rule.rule == "step_end" for rule in manifest.positions.values())
    if by_step_end and manifest.format.step_separator is None:
        raise BundleError(
            "positions: found the rule step_end, but format.step_separator, whose ends it reads, is absent; "
            "export the bundle again"
        )


def _read_template(form: Format, folder: Path) -> ChatTemplate | None:
    if form.template is None:
        return None
    path = folder / form.template
    try:
        # As a file opened for text reads: every line end is a newline.
        source = read_regular(path, TEMPLATE_LIMIT).decode().replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; export the bundle again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read ({error}); export the bundle again") from error
    return ChatTemplate(source, form.template_variables, form.pinned_date)


def _raise_located(error: InputError, where: str, spelled: tuple[str, ...] = ()) -> NoReturn:
    prefix = f"{where}: " if where else ""
    suffix = f" (the content spells {', '.join(spelled)})" if spelled else ""
    raise type(error)(f"{prefix}{error}{suffix}") from error
