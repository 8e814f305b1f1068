"""The public class of sessions: append, peek, take back, fork; and appending to many sessions at once."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from rmruntime.batching.runner import Statistics
from rmruntime.errors import InputError, RecordError, RewardModelError
from rmruntime.option_checks import Limit, check_value
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.records.call_arguments import check_texts
from rmruntime.scores import Score
from rmruntime.sessions.progress import Progress
from rmruntime.sessions.session_scorer import Scored, SessionScorer

_FORKS = Limit(0, 1_000_000, "a number of sessions, at least 0")
_STEPS = Limit(0, 1 << 40, "a number of steps, at least 0")


class Session:
    """One prompt and the steps of a solution to it, which grow and are taken back; from `RewardModel.session`.

    All scores equal those that `RewardModel.score` would return for the prompt with the steps as they are now, on CPUs
    to the last bit, on GPUs up to rounding. The whole is tokenized anew, so a step may change the tokens of the one
    before it, and then its value.
    What a call computes are the tokens that no call before it did, of this session or of others, as far as the model
    has a prefix cache that kept them; without one more is computed, with the same scores. A session holds no keys and
    values, only its texts, ids and scores, so that thousands may be open, and one that is not closed costs nothing.

    Of a head that judges answers the steps are pieces of one answer, put together as `RewardModel.score_steps` does: a
    step's value is the score of the answer up to there.

    Calls of several threads on one session come one after another. `statistics` are those of the last call.

    >>> from rmruntime import RewardModel
    >>> def search(model: RewardModel, question: str, candidates: list[str]) -> tuple[float, ...]:
    ...     with model.session(question, ["Add the numbers."]) as session:
    ...         best = max(candidates, key=lambda text: session.score(text).value)
    ...         session.append(best)
    ...         return session.steps
    """

    _serials = itertools.count()

    def __init__(self, scorer: SessionScorer, progress: Progress, options: ScoreOptions) -> None:
        """Use `RewardModel.session`."""
        self._scorer, self._progress, self._options = scorer, progress, options
        self._statistics = Statistics()
        self._closed = False
        self._lock, self._serial = threading.RLock(), next(self._serials)

    def append(self, steps: str | Sequence[str]) -> list[float]:
        """Add one step, or several, in one pass. Returns the values of those that were added, in their order.

        Raises InputError for what cannot be scored, and the session stays as it was.
        """
        [found] = append_all(self._scorer, [(self, steps)])
        if isinstance(found, InputError):
            raise found
        return found

    def score(self, text: str | Sequence[str] | None = None) -> Score:
        """The score of the whole, were this step, or several, appended; the session stays as it is.

        None for the whole as it is.

        Raises InputError as `append` does, and where there is no step at all.
        """
        with self._open():
            wanted = extended(self._progress, [] if text is None else text)
            if not wanted.steps:
                raise InputError("found a session without steps, expected at least one to score: append one")
            if wanted is self._progress:
                return self._whole().scores[-1]
            found = self._computed(wanted)
            # Where the steps that were looked at are appended next, nothing is computed.
            self._progress = self._progress.peeked(found)
            return found.scores[-1]

    def result(self) -> Score:
        """The score of the whole, what `RewardModel.score` returns for the prompt and its steps.

        Of a head that judges answers it is that of the answer so far, as for a record with a `response`. Raises
        InputError where there is no step yet.
        """
        return self.score()

    @property
    def steps(self) -> tuple[float, ...]:
        """The values of all steps as they are now; where they are not scored yet they are here, as `append` does it."""
        return self._whole().values

    @property
    def texts(self) -> tuple[str, ...]:
        """The steps themselves."""
        return self._progress.steps

    @property
    def tokens(self) -> int:
        """Of the whole, as in `Score.tokens`; 0 without steps. Scored here where it is not yet."""
        scores = self._whole().scores
        return scores[-1].tokens if scores else 0

    @property
    def statistics(self) -> Statistics:
        """Of the last call that had something to score: tokens `given`, `computed` for it and `cached`, and `passes`.

        A token that sessions of one `append_many` share counts for the first of them. All are 0 where earlier calls had
        read everything.
        """
        return self._statistics

    def rollback(self, count: int) -> None:
        """Take back the last steps, also those from before a fork. Raises InputError where there are fewer."""
        with self._open(computes=False):
            check_value("count", count, int, _STEPS)
            if count > len(self._progress.steps):
                raise InputError(f"found {len(self._progress.steps)} steps, expected at least the {count} to take back")
            self._progress = self._progress.shortened(count)

    def fork(self, count: int = 1) -> list["Session"]:
        """Return `count` sessions with the same steps, each of which goes its own way; this one goes on too."""
        with self._open(computes=False):
            check_value("count", count, int, _FORKS)
            return [Session(self._scorer, self._progress, self._options) for _ in range(count)]

    def close(self) -> None:
        """Forget everything; other calls are errors afterwards. Forks stay."""
        with self._lock:
            self._closed = True
            self._progress = Progress(prompt=(), by_step=True, joiner="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __copy__(self) -> "Session":
        return self.fork()[0]

    def __deepcopy__(self, memo: object) -> "Session":
        """As `fork` does: search that copies its beams goes on as it is."""
        return self.fork()[0]

    def __repr__(self) -> str:
        return f"<Session of {len(self._progress.steps)} steps{', closed' if self._closed else ''}>"

    @contextmanager
    def _open(self, *, computes: bool = True) -> Iterator[None]:
        """Hold the session. Raises RewardModelError for one that is closed, or whose model is."""
        with self._lock:
            if self._closed:
                raise RewardModelError("this session is closed; open another one with RewardModel.session")
            if computes:
                self._scorer.check_open()
            yield

    def _whole(self) -> Progress:
        """The progress, scored."""
        with self._open(computes=False):
            if not self._progress.is_scored:
                self._progress = self._computed(self._progress)
            return self._progress

    def _computed(self, wanted: Progress) -> Progress:
        [found] = self._scorer.completed([(wanted, self._options)])
        if isinstance(found, InputError):
            raise found
        self._statistics = found.statistics
        return found.progress


def append_all(scorer: SessionScorer, moves: Sequence[tuple[Session, Any]]) -> list[list[float] | InputError]:
    """Append to each session its steps, all in the same passes: the new steps' values, or why there are none.

    All or none of the sessions without an InputError go on: none where the engine fails. Raises RecordError for a
    session that is there twice, and for what is no session of this model.
    """
    sessions = [_checked(scorer, session, at) for at, (session, _) in enumerate(moves)]
    if len(set(map(id, sessions))) < len(sessions):
        raise RecordError("found the same session twice, expected different ones: fork it, and append to the fork")
    with ExitStack() as held:
        for session in sorted(
            sessions, key=lambda one: one._serial
        ):  # in one order, so that no two wait for each other
            held.enter_context(session._open())
        return _appended(scorer, moves)


def extended(progress: Progress, steps: object) -> Progress:
    """The progress with a step, or several, after its own. Raises RecordError for what is none."""
    texts = [steps] if isinstance(steps, str) else check_texts("steps", steps)
    if texts:
        parse_record({"prompt": "-", "steps": [*progress.steps, *texts]})
    return progress.extended(texts)


def _checked(scorer: SessionScorer, session: object, at: int) -> Session:
    if not isinstance(session, Session):
        raise RecordError(f"[{at}]: found {type(session).__name__}, expected a session and a step")
    if session._scorer is not scorer:
        raise RecordError(f"[{at}]: found a session of another RewardModel, expected one of this")
    return session


def _appended(scorer: SessionScorer, moves: Sequence[tuple[Session, Any]]) -> list[list[float] | InputError]:
    longer: list[Progress | InputError] = []
    for session, steps in moves:
        try:
            longer.append(extended(session._progress, steps))
        except InputError as error:
            longer.append(error)
    wanted = [
        (progress, session._options)
        for progress, (session, _) in zip(longer, moves, strict=True)
        if not isinstance(progress, InputError)
    ]
    completed = iter(scorer.completed(wanted))
    found = [progress if isinstance(progress, InputError) else next(completed) for progress in longer]
    return [_advanced(session, own) for (session, _), own in zip(moves, found, strict=True)]


def _advanced(session: Session, found: Scored | InputError) -> list[float] | InputError:
    if isinstance(found, InputError):
        return found
    before = len(session._progress.steps)
    session._progress, session._statistics = found.progress, found.statistics
    return list(found.progress.values[before:])


def pairs_of(moves: object) -> list[tuple[Any, Any]]:
    """The arguments of `RewardModel.append_many`. Raises RecordError for what is no list of pairs."""
    if not isinstance(moves, Iterable) or isinstance(moves, (str, bytes, Mapping)):
        raise RecordError(f"found {type(moves).__name__}, expected a list of sessions, each with its step")
    found = list(moves)
    for at, pair in enumerate(found):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise RecordError(f"[{at}]: found {type(pair).__name__}, expected a session and a step")
    return [(session, steps) for session, steps in found]


def open_session(
    scorer: SessionScorer, prompt: str | Sequence[Mapping[str, str]], steps: object, options: ScoreOptions
) -> Session:
    """A session, whose first steps are scored with its first call. Raises InputError for a prompt or steps that cannot
    be scored, and for a model that scores no steps.
    """
    check_value("options", options, ScoreOptions)
    scorer.check_open()
    scorer.check_grows()
    scorer.check_values()
    [conversation] = parse_record({"prompt": prompt, "steps": ["-"]}).conversations
    begun = scorer.begun(conversation.messages or (), options)
    progress = extended(begun, check_texts("steps", steps))
    scorer.check_fits(progress, options)
    return Session(scorer, progress, options)
