"""Whatever sessions go through, their scores are bitwise those of `score` for the same texts, without any cache."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rmruntime import InputError, RewardModel, Score, ScoreOptions, Session
from session_checkpoints import session_bundle

FEW_BYTES, MANY_BYTES = 60_000, 20_000_000  # evicts all the time, and never
PROMPTS: tuple[Any, ...] = (
    "What is the sum?",
    "the answer is " * 12,
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "bad"},
    ],
)
# Of one token and of many; ends that a template trims, or that make other tokens of what comes next; the tag itself.
PIECES = (
    *("the answer is 12", "Step", "good number ", "1", "\n", "", " ", "\n\n", ".", "...", "кики", "é\u0301", "🙂"),
    *("therefore the sum is 1 + 2 because that is a good step in the answer", "number " * 17, "to the"),
    *(" ки", "<|eot_id|>"),
)
CHOICES = [
    ("tagged", "llama", {}),
    ("separated", "mistral", {}),  # a sliding window
    pytest.param("tagged", "mixtral", {}, marks=pytest.mark.ladder),
    pytest.param("graded", "gemma2", {}, marks=pytest.mark.ladder),
    pytest.param("tagged", "llama_dynamic", {"max_position_embeddings": 64}, marks=pytest.mark.ladder),
    ("classifier", "qwen3_moe", {}),
    pytest.param("classifier", "gemma3", {}, marks=pytest.mark.ladder),
    pytest.param("classifier", "llama_dynamic", {"max_position_embeddings": 64}, marks=pytest.mark.ladder),
    ("gated", "llama", {}),
]


class Expected:
    """What `score` says of a prompt and its steps, each asked once."""

    def __init__(self, plain: RewardModel) -> None:
        self._plain, self._known = plain, dict[Any, Score | str]()
        self.by_step = plain.manifest.format.unit == "step"

    def score(self, prompt: Any, steps: Sequence[str], options: ScoreOptions) -> Score | str:
        """Of the whole, or the type of the error."""
        key = str(prompt), tuple(steps), options
        if key not in self._known:
            record = {"steps": list(steps)} if self.by_step else {"response": self._joined(steps)}
            try:
                [found] = self._plain.score([{"prompt": prompt, **record}], options)
                assert isinstance(found, Score)
                self._known[key] = found
            except InputError as error:
                self._known[key] = type(error).__name__
        return self._known[key]

    def values(self, prompt: Any, steps: Sequence[str], options: ScoreOptions) -> tuple[float, ...]:
        """Of all steps of what can be scored."""
        if self.by_step:
            whole = self.score(prompt, steps, options)
            assert isinstance(whole, Score) and whole.steps is not None
            return whole.steps
        partial = [self.score(prompt, steps[: n + 1], options) for n in range(len(steps))]
        return tuple(score.value for score in partial if isinstance(score, Score) and score.value is not None)

    def _joined(self, steps: Sequence[str]) -> str:
        return self._plain.manifest.format.step_joiner.join(steps)


class Play:
    """Sessions that do anything, each checked against what is expected of its steps."""

    def __init__(self, model: RewardModel, expected: Expected, rng: random.Random) -> None:
        self.model, self.expected, self.rng = model, expected, rng
        self.open: list[tuple[Session, Any, list[str], ScoreOptions]] = []

    def begin(self) -> None:
        prompt = self.rng.choice(PROMPTS)
        options = ScoreOptions(
            aggregate=self.rng.choice(("mean", "min", "last")),
            truncate=self.rng.choice((None, "left")),
            max_batch_tokens=self.rng.choice((None, 32)),
        )
        steps = [self.rng.choice(PIECES[:6]) for _ in range(self.rng.choice((0, 0, 2)))]
        try:
            self.open.append((self.model.session(prompt, steps, options), prompt, steps, options))
        except InputError:
            assert isinstance(self.expected.score(prompt, [*steps, "a"], options), str)

    def pieces(self) -> list[str]:
        return [self.rng.choice(PIECES) for _ in range(self.rng.choice((1, 1, 1, 3)))]

    def after(self, prompt: Any, steps: list[str], more: list[str], options: ScoreOptions) -> list[float] | str:
        """What appending to the steps returns, or the type of its error."""
        for n in range(0 if self.expected.by_step else len(steps), len(steps) + len(more)):
            found = self.expected.score(prompt, [*steps, *more][: n + 1], options)
            if isinstance(found, str) and (not self.expected.by_step or n + 1 == len(steps) + len(more)):
                return found
        return list(self.expected.values(prompt, [*steps, *more], options)[len(steps) :])

    def append(self) -> None:
        session, prompt, steps, options = self.rng.choice(self.open)
        more = self.pieces()
        try:
            found: list[float] | str = session.append(more[0] if len(more) == 1 else more)
        except InputError as error:
            found = type(error).__name__
        assert found == self.after(prompt, steps, more, options)
        if not isinstance(found, str):
            steps += more

    def append_many(self) -> None:
        chosen = self.rng.sample(self.open, k=self.rng.randint(1, len(self.open)))
        more = [self.pieces() for _ in chosen]
        results = self.model.append_many([(one[0], own) for one, own in zip(chosen, more, strict=True)])
        for (_, prompt, steps, options), own, result in zip(chosen, more, results, strict=True):
            found = type(result).__name__ if isinstance(result, InputError) else result
            assert found == self.after(prompt, steps, own, options)
            if not isinstance(found, str):
                steps += own

    def peek(self) -> None:
        session, prompt, steps, options = self.rng.choice(self.open)
        more = self.pieces()
        try:
            found: Score | str = session.score(more)
        except InputError as error:
            found = type(error).__name__
        errors = self.after(prompt, steps, more, options)
        assert found == (errors if isinstance(errors, str) else self.expected.score(prompt, [*steps, *more], options))

    def rollback(self) -> None:
        session, _, steps, _ = self.rng.choice(self.open)
        count = self.rng.randint(0, len(steps))
        session.rollback(count)
        del steps[len(steps) - count :]

    def fork(self) -> None:
        session, prompt, steps, options = self.rng.choice(self.open)
        self.open += [(one, prompt, list(steps), options) for one in session.fork(2)]

    def check(self) -> None:
        session, prompt, steps, options = self.rng.choice(self.open)
        assert list(session.texts) == steps
        if not steps:
            assert session.steps == () and session.tokens == 0
        elif not isinstance(self.after(prompt, [], steps, options), str):
            whole = self.expected.score(prompt, steps, options)
            assert isinstance(whole, Score)
            assert session.steps == self.expected.values(prompt, steps, options)
            assert (session.result(), session.tokens) == (whole, whole.tokens)

    def go(self, turns: int) -> None:
        for _ in range(turns):
            moves = [self.append, self.append_many, self.peek, self.rollback, self.fork, self.check, self.check]
            while not self.open:
                self.begin()
            self.rng.choice([self.begin, *moves])()
            self.open = self.open[-8:]


@pytest.fixture(scope="module")
def bundle_of(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Callable[..., Path]:
    def made(head: str, backbone: str, fields: dict[str, Any]) -> Path:
        def make(folder: Path) -> None:
            session_bundle(folder, head, backbone, **fields)

        return made_once(f"session-{head}-{backbone}", make) / "b"

    return made


@pytest.mark.parametrize(("head", "backbone", "fields"), CHOICES)
def test_scores_are_those_of_score(
    bundle_of: Callable[..., Path], head: str, backbone: str, fields: dict[str, Any]
) -> None:
    bundle = bundle_of(head, backbone, fields)
    for device in ("ort-cpu", "openvino"):
        with RewardModel.load(bundle, device=device) as plain:
            expected = Expected(plain)
            caches: tuple[Any, ...] = (MANY_BYTES, FEW_BYTES, "off") if device == "ort-cpu" else (FEW_BYTES,)
            for cache in caches:
                with RewardModel.load(bundle, device=device, prefix_cache=cache) as model:
                    Play(model, expected, random.Random(f"{head} {backbone} {cache}")).go(turns=40)


def test_threads_with_sessions_of_their_own(bundle_of: Callable[..., Path]) -> None:
    bundle = bundle_of("tagged", "llama", {})
    with (
        RewardModel.load(bundle, device="ort-cpu") as plain,
        RewardModel.load(bundle, device="ort-cpu", prefix_cache=FEW_BYTES) as model,
        ThreadPoolExecutor(4) as pool,
    ):
        ended = [pool.submit(Play(model, Expected(plain), random.Random(seed)).go, 25) for seed in range(4)]
        records = [{"prompt": PROMPTS[0], "steps": list(PIECES[: n + 1])} for n in range(6)]
        expected = plain.score(records)
        assert [model.submit(record).result() for record in records] == expected
        assert model.score(records) == expected
        for one in ended:
            one.result()
