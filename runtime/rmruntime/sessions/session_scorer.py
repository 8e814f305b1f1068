"""Scores what sessions have become: only rows that nobody read before, those of several sessions in the same passes."""

from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace

import numpy as np

from rmruntime.batching.request_queue import OutcomeFuture
from rmruntime.batching.runner import Statistics
from rmruntime.batching.submitter import Submitter
from rmruntime.batching.trie import common_prefix
from rmruntime.bundle.manifest import Manifest
from rmruntime.errors import InputError
from rmruntime.options import ScoreOptions
from rmruntime.records import Message, Request
from rmruntime.scores import Arrays, OutputProcessor, Score
from rmruntime.sequences import Ints, TokenSequence
from rmruntime.sessions.known_rows import Reading, Row, all_rows, known_rows, remainder
from rmruntime.sessions.progress import Progress
from rmruntime.text.request_tokenizer import RequestTokenizer

_PROBES = ("a", "B2", "(")  # answers that differ in their first and last tokens


@dataclass(frozen=True)
class Scored:
    """A session's progress with all its scores, and what computing them took."""

    progress: Progress
    statistics: Statistics


@dataclass
class _Draft:
    """One request on its way: its sequence, the rows of it that are known, and the future of the others."""

    request: Request
    options: ScoreOptions
    sequence: TokenSequence
    known: list[Row | None]
    future: OutcomeFuture | None = field(default=None)

    @property
    def missing(self) -> list[int]:
        return [at for at, row in enumerate(self.known) if row is None]


class SessionScorer:
    """What all sessions of one model share; safe from many threads."""

    def __init__(
        self,
        manifest: Manifest,
        request_tokenizer: RequestTokenizer,
        submitter: Submitter,
        output_processor: OutputProcessor,
        *,
        padded: bool,
    ) -> None:
        """`padded`: the model is an encoder."""
        self._manifest, self._submitter = manifest, submitter
        self._tokenizer, self._outputs = request_tokenizer, output_processor
        self._whole = request_tokenizer.whole or ("an encoder reads a conversation whole" if padded else "")
        if not all(graph.causal for graph in manifest.graphs):
            self._whole = "in this model earlier tokens see later ones, so that nothing of a conversation can be kept"
        self.rope_class = manifest.backbone.rope_class

    def check_open(self) -> None:
        """Raises RewardModelError where nothing can be computed any more."""
        self._submitter.check()

    def check_grows(self) -> None:
        """Raises InputError for a model whose conversations cannot be continued piece by piece."""
        if self._whole:
            raise InputError(f"found a request for a session, but {self._whole}; use score()")

    def check_values(self) -> None:
        """Raises InputError for a model without a score, whose steps have no value."""
        if self._manifest.score is None:
            raise InputError(
                "found a request for a session, but this model has several labels and none of them is its score, so "
                "steps have no value; use score(), or export with --score-label"
            )

    def begun(self, prompt: tuple[Message, ...], options: ScoreOptions) -> Progress:
        """A session without steps. Raises InputError for a prompt after which nothing could be scored."""
        progress = self._empty(prompt)
        if progress.by_step:
            self.check_fits(progress.extended(_PROBES[:1]), options)
            return progress
        answered = self._sequences([progress.answered(text) for text in _PROBES], options)
        return replace(progress, tail=_shared([sequence.ids[::-1] for sequence in answered]))

    def completed(self, wanted: Sequence[tuple[Progress, ScoreOptions]]) -> list[Scored | InputError]:
        """Each session with its scores, or why it has none; what is missing of all is computed together.

        Raises RewardModelError once the model is drained or closed, and what computing raises.
        """
        self.check_open()
        drafts = self._drafted(wanted)
        self._compute([draft for own in drafts if not isinstance(own, InputError) for draft in own])
        return [
            own if isinstance(own, InputError) else self._scored(progress, own)
            for (progress, _), own in zip(wanted, drafts, strict=True)
        ]

    def check_fits(self, progress: Progress, options: ScoreOptions) -> None:
        """Raises InputError for steps that cannot be scored, as far as that is known without computing."""
        self._sequences(progress.requests(), options)

    def common_beginning(self, messages: tuple[Message, ...], options: ScoreOptions) -> TokenSequence:
        """The tokens that all conversations which begin with these messages begin with, as a sequence.

        Found from conversations that go on in different ways. Raises InputError where the bundle cannot lay them out.
        """
        ids = [sequence.ids for sequence in self._sequences(self._continued(messages), options)]
        length = _shared(ids)
        if not length:
            raise InputError("conversations that begin with these messages have no token in common")
        return TokenSequence(ids=ids[0][:length], reads=dict.fromkeys(self._manifest.positions, np.array([length - 1])))

    def compute(self, sequence: TokenSequence, options: ScoreOptions) -> None:
        """Compute a sequence for what it leaves in the prefix cache. Raises as `completed` does, and InputError."""
        [future] = self._submitter.submit_sequences([(sequence, options)])
        self._await([future])
        future.result()

    def _continued(self, messages: tuple[Message, ...]) -> list[Request]:
        turns = [messages if messages[-1].role == "user" else (*messages, Message("user", text)) for text in _PROBES]
        begun = [self._empty(own).extended((text,)) for own, text in zip(turns, _PROBES, strict=True)]
        return [request for progress in begun for request in progress.requests()]

    def _empty(self, prompt: tuple[Message, ...]) -> Progress:
        form = self._manifest.format
        return Progress(prompt=prompt, by_step=form.unit == "step", joiner=form.step_joiner)

    def _drafted(self, wanted: Sequence[tuple[Progress, ScoreOptions]]) -> list[list[_Draft] | InputError]:
        """What is left of each session, or its first error; what has the same options is tokenized together."""
        by_options: dict[ScoreOptions, list[tuple[int, Request]]] = {}
        for at, (progress, options) in enumerate(wanted):
            by_options.setdefault(options, []).extend((at, request) for request in progress.requests())
        drafts: list[list[_Draft]] = [[] for _ in wanted]
        errors: dict[int, InputError] = {}
        for options, given in by_options.items():
            encoded = self._tokenizer.encode_many([request for _, request in given], options) if given else []
            for (at, request), found in zip(given, encoded, strict=True):
                if isinstance(found, InputError):
                    errors.setdefault(at, found)
                else:
                    drafts[at].append(self._draft(wanted[at][0], request, options, *found))
        return [errors.get(at, own) for at, own in enumerate(drafts)]

    def _draft(self, progress: Progress, request: Request, options: ScoreOptions, sequence: TokenSequence) -> _Draft:
        if not progress.by_step:
            sequence = replace(sequence, kept=max(0, len(sequence.ids) - progress.tail))
        return _Draft(request, options, sequence, known_rows(sequence, progress.readings, self.rope_class))

    def _sequences(self, requests: Sequence[Request], options: ScoreOptions) -> list[TokenSequence]:
        """One for each request. Raises InputError for the first that has none."""
        found = self._tokenizer.encode_many(requests, options) if requests else []
        sequences: list[TokenSequence] = []
        for own in found:
            if isinstance(own, InputError):
                raise own
            sequences += own
        return sequences

    def _compute(self, drafts: Sequence[_Draft]) -> None:
        """Raises the first error that is not of the input of one draft, once all have ended."""
        todo = [draft for draft in drafts if draft.missing]
        if not todo:
            return
        wanted = [(remainder(draft.sequence, draft.missing, self.rope_class), draft.options) for draft in todo]
        futures = self._submitter.submit_sequences(wanted)
        for draft, future in zip(todo, futures, strict=True):
            draft.future = future
        self._await(futures)

    def _await(self, futures: Sequence[OutcomeFuture]) -> None:
        try:
            wait(futures)
        except BaseException:  # an interrupt
            for future in futures:
                future.cancel()
            raise
        for future in futures:
            error = future.exception()
            if error is not None and not isinstance(error, InputError):
                raise error

    def _scored(self, progress: Progress, drafts: Sequence[_Draft]) -> Scored | InputError:
        scores: list[Score] = []
        readings: list[Reading] = []
        statistics = Statistics()
        for draft in drafts:
            try:
                outputs = self._rows(draft)
            except InputError as error:
                return error
            found = self._outputs.result(draft.request, [(draft.sequence, outputs)], draft.options)
            if isinstance(found, InputError):
                return found
            assert isinstance(found, Score)  # one conversation, one score
            scores.append(found)
            readings.append(Reading.of(draft.sequence, outputs, self.rope_class))
            statistics += draft.future.statistics if draft.future else Statistics()
        return Scored(progress.scored(scores, readings), statistics)

    def _rows(self, draft: _Draft) -> Arrays:
        computed = draft.future.result() if draft.future else {}
        if isinstance(computed, InputError):
            raise computed
        return all_rows(draft.known, computed)


def _shared(sequences: Sequence[Ints]) -> int:
    """How many leading tokens all have."""
    return min(common_prefix(sequences[0], other) for other in sequences[1:])
