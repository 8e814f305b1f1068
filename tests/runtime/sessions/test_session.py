"""What sessions compute, what they refuse and keep, and how they live with other callers."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gated_engine import gated_model, wait_until
from rmexport import ExportOptions, export
from rmruntime import (
    BackendError,
    InputError,
    InputTooLong,
    OptionError,
    RecordError,
    RewardModel,
    RewardModelError,
    ScoreOptions,
    Session,
    Statistics,
)
from rmruntime.errors import DeviceLimit, PassTooLarge
from rmruntime.records import parse_record
from rmruntime.sessions.session_scorer import SessionScorer
from session_checkpoints import session_bundle
from tiny_checkpoints import sequence_classifier

CACHE = 20_000_000
PROMPT = "What is the sum? " * 4
STEPS = ["the answer is 12", "good number", "therefore the sum"]


@pytest.fixture
def model(prm: Path) -> Any:
    with RewardModel.load(prm, device="ort-cpu", prefix_cache=CACHE) as model:
        yield model


def test_a_step_computes_its_own_tokens_alone(model: RewardModel) -> None:
    with model.session(PROMPT) as session:
        computed, tokens = [], []
        for step in STEPS:
            session.append(step)
            assert session.statistics.computed + session.statistics.cached == session.statistics.given
            computed.append(session.statistics.computed)
            tokens.append(session.tokens)
        assert computed[0] > 30 > max(computed[1:])
        assert computed[1:] == [after - before for before, after in pairwise(tokens)]
        total = model.statistics
        assert session.steps == session.result().steps and session.score() == session.result()
        assert model.statistics == total  # all is known


def test_nothing_is_computed_twice_where_candidates_are_looked_at_first(model: RewardModel) -> None:
    session = model.session(PROMPT, STEPS[:1])
    peeked = [session.score(text) for text in STEPS]
    total = model.statistics
    assert session.append(STEPS[1]) == [(peeked[1].steps or ())[-1]]
    assert (model.statistics, session.statistics) == (total, Statistics())
    assert session.result() == peeked[1]


def test_what_is_appended_again_after_a_rollback_is_cached(model: RewardModel) -> None:
    session = model.session(PROMPT)
    values = session.append(STEPS)
    session.rollback(2)
    assert session.texts == tuple(STEPS[:1]) and session.steps == tuple(values[:1])
    assert session.append(STEPS[1:]) == values[1:]
    assert session.statistics.computed == 2  # the read tokens
    session.rollback(0)
    assert session.steps == tuple(values)
    session.rollback(3)
    assert (session.steps, session.tokens) == ((), 0)
    with pytest.raises(InputError, match="found 0 steps, expected at least the 1 to take back"):
        session.rollback(1)
    with pytest.raises(OptionError, match="count is -1, expected a number of steps"):
        session.rollback(-1)


def test_forks_go_their_own_ways(model: RewardModel) -> None:
    parent = model.session(PROMPT, STEPS[:1])
    first, second = parent.fork(2)
    parent.close()
    first.append(STEPS[1])
    second.append(STEPS[2])
    assert (first.texts, second.texts) == ((STEPS[0], STEPS[1]), (STEPS[0], STEPS[2]))
    assert second.statistics.cached > 30
    first.rollback(2)  # also what is older than the fork
    assert (first.texts, second.texts) == ((), (STEPS[0], STEPS[2]))
    assert first.fork(0) == []
    beams = copy.deepcopy([second, copy.copy(second)])
    assert [one.texts for one in beams] == [second.texts] * 2
    assert beams[0].append("a") == beams[1].append("a") and len(second.texts) == 2
    with pytest.raises(OptionError, match="count is -1, expected a number of sessions"):
        first.fork(-1)


def test_a_beam_is_one_pass_and_errors_have_their_places(model: RewardModel) -> None:
    beam = model.session(PROMPT, STEPS[:1]).fork(4)
    beam[0].result()
    total = model.statistics
    results = model.append_many(zip(beam, (STEPS[1], "a ки b", STEPS[1:], "\ud800"), strict=True))
    assert model.statistics.passes == total.passes + 1
    assert model.statistics.computed == total.computed + sum(one.statistics.computed for one in (beam[0], beam[2]))
    assert [type(one) for one in results] == [list, InputError, list, RecordError]
    assert "step 2 holds the tag ' ки'" in str(results[1]) and "surrogate" in str(results[3])
    assert [len(one.texts) for one in beam] == [2, 1, 3, 1]
    assert results[0] == list(beam[0].steps[1:]) and results[2] == list(beam[2].steps[1:])
    assert model.append_many([]) == []
    assert model.append_many([(beam[1], STEPS[1])]) == [results[0]]


def test_what_is_no_move_is_an_error_of_the_call(model: RewardModel, prm: Path) -> None:
    session = model.session(PROMPT, STEPS[:1])
    with pytest.raises(RecordError, match="the same session twice, expected different ones: fork it"):
        model.append_many([(session, "a"), (session, "b")])
    for moves in (session, [session], [(session,)], [("a", "b")]):
        with pytest.raises(RecordError, match=r"expected a (session and a step|list of sessions, each with its step)"):
            model.append_many(moves)  # type: ignore[arg-type]
    with RewardModel.load(prm, device="ort-cpu") as other:
        with pytest.raises(RecordError, match=r"\[0\]: found a session of another RewardModel"):
            other.append_many([(session, "a")])
    assert session.texts == (STEPS[0],)


def test_what_is_no_step_leaves_the_session_as_it_was(model: RewardModel) -> None:
    session = model.session(PROMPT, options=ScoreOptions(strict_content=True))
    with pytest.raises(InputError, match="found a session without steps, expected at least one to score"):
        session.result()
    assert session.append([]) == []
    for wrong, error, message in (
        (5, RecordError, "steps: found int"),
        ([5], RecordError, r"steps\[0\]: found 5 \(int\), expected a string"),
        ("number " * 5000, InputTooLong, "the limit is 2048"),
        ("<|eot_id|>", InputError, "spells the special token"),
    ):
        with pytest.raises(error, match=message):
            session.append(wrong)  # type: ignore[arg-type]
    assert session.texts == ()
    assert len(session.append(STEPS)) == 3


def test_options_are_of_the_session(model: RewardModel) -> None:
    longest = model.session(PROMPT, STEPS).tokens
    cut = model.session(PROMPT, STEPS, ScoreOptions(max_length=longest - 5, truncate="left", aggregate="min"))
    assert (cut.tokens, cut.result().truncated, cut.result().value) == (longest - 5, 5, min(cut.steps))
    assert cut.append("good") and cut.result().truncated > 5
    with pytest.raises(InputTooLong):
        model.session(PROMPT, STEPS, ScoreOptions(max_length=longest - 5))
    with pytest.raises(InputTooLong):
        model.session(PROMPT, options=ScoreOptions(max_length=8))
    with pytest.raises(OptionError, match="options is"):
        model.session(PROMPT, options="left")  # type: ignore[arg-type]


def test_prompts_that_cannot_be_continued(model: RewardModel) -> None:
    for prompt, message in (
        (5, "prompt: found 5"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "end in an assistant turn"),
        ("the ки", "holds the tag"),
    ):
        with pytest.raises(InputError, match=message):
            model.session(prompt)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="steps: found str"):
        model.session(PROMPT, "a step")


def test_models_that_score_no_steps_say_why(tmp_path: Path) -> None:
    export(
        str(sequence_classifier(tmp_path / "c").folder),
        tmp_path / "b",
        ExportOptions(recipe=str(_preference(tmp_path))),
    )
    with RewardModel.load(tmp_path / "b") as model:
        for ask in (model.session, model.warm):
            with pytest.raises(InputError, match="which of two answers is better"):
                ask("a")
    with RewardModel.load(session_bundle(tmp_path / "labels", "labels")) as model:
        parts = model.manifest, model._request_tokenizer, model._submitter, model._output_processor
        with pytest.raises(InputError, match="an encoder reads a conversation whole"):
            SessionScorer(*parts, padded=True).check_grows()
        with pytest.raises(InputError, match="several labels and none of them is its score"):
            model.session("a")


def test_a_piece_of_an_answer_has_the_score_of_the_answer_up_to_there(orm: Path) -> None:
    with RewardModel.load(orm, device="ort-cpu", prefix_cache=CACHE) as model:
        session = model.session(PROMPT, STEPS[:1])
        assert session.append(STEPS[1:]) == list(model.score_steps(PROMPT, STEPS).steps or ())[1:]
        assert session.result() == model.score([{"prompt": PROMPT, "response": "".join(STEPS)}])[0]
        assert session.result().gating is not None


def test_the_end_of_the_template_is_not_cached(orm: Path) -> None:
    with RewardModel.load(orm, device="ort-cpu", prefix_cache=CACHE) as model:
        cache = model._loop.cache
        assert cache is not None
        session = model.session(PROMPT)
        session.append(STEPS[0])
        token_bytes = cache.nbytes // (session.tokens - 1)  # without the token that ends the turn
        assert cache.nbytes == token_bytes * (session.tokens - 1)
        for step in (" to", " the", " step"):
            session.append(step)
        assert cache.nbytes == token_bytes * (session.tokens - 1)


@pytest.mark.parametrize("options", [{}, {"prefix_cache": 1}])
def test_without_space_for_a_cache_more_is_computed(prm: Path, options: dict[str, Any]) -> None:
    with RewardModel.load(prm, device="ort-cpu", **options) as model:
        session = model.session(PROMPT)
        for step in STEPS:
            session.append(step)
            assert session.statistics.cached == 0 and session.statistics.computed == session.statistics.given > 30


def test_many_open_sessions(model: RewardModel) -> None:
    sessions = model.session(PROMPT, STEPS[:1]).fork(1000)
    results = model.append_many([(one, STEPS[1]) for one in sessions])
    assert results == [results[0]] * 1000
    assert sum(one.statistics.computed for one in sessions) == sessions[0].statistics.computed < 100


def test_closed_sessions_and_models(prm: Path) -> None:
    model = RewardModel.load(prm, device="ort-cpu", prefix_cache=CACHE)
    with model.session(PROMPT, STEPS[:1]) as closed:
        kept = closed.fork()[0]
        assert repr(closed) == "<Session of 1 steps>"
    closed.close()
    assert repr(closed) == "<Session of 0 steps, closed>"
    calls: tuple[Callable[[Session], object], ...] = (
        lambda s: s.append("a"),
        lambda s: s.score("a"),
        lambda s: s.result(),
        lambda s: s.steps,
        lambda s: model.append_many([(s, "a")]),
    )
    for call in (*calls, lambda s: s.fork(), lambda s: s.rollback(0)):
        with pytest.raises(RewardModelError, match="this session is closed"):
            call(closed)
    model.close()
    for call in calls:
        with pytest.raises(RewardModelError, match="this RewardModel is closed"):
            call(kept)
    for ask in (model.session, model.warm):
        with pytest.raises(RewardModelError, match="this RewardModel is closed"):
            ask(PROMPT)


def test_a_drained_model_refuses_sessions(model: RewardModel) -> None:
    session = model.session(PROMPT, STEPS)
    values = session.steps
    assert model.drain(60)
    with pytest.raises(RewardModelError, match="takes no more requests"):
        session.append("a")
    assert session.steps == values  # they are known


def test_threads_share_passes(prm: Path) -> None:
    model, engine = gated_model(prm)
    with model, ThreadPoolExecutor(8) as pool:
        busy = model.submit({"prompt": PROMPT, "steps": STEPS})
        engine.wait_for_pass()
        sessions = model.session(PROMPT).fork(8)
        found = [pool.submit(one.append, step) for one, step in zip(sessions, STEPS * 3, strict=False)]
        asked = [
            parse_record({"prompt": PROMPT, "steps": [step]}) for step, _ in zip(STEPS * 3, sessions, strict=False)
        ]
        # What is after the last scored token is not asked for.
        tokens = sum(1 + max(sequence.reads["score"]) for [sequence] in model.encode(asked, ScoreOptions()))
        wait_until(lambda: model.waiting_tokens >= tokens)
        engine.permit(1000)
        assert len({future.result()[0] for future in found}) == 3
        assert busy.result() and len(engine.passes) == 2


def test_calls_on_one_session_come_one_after_another(model: RewardModel) -> None:
    session = model.session(PROMPT)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: session.append("good number"), range(16)))
    assert sorted(value for [value] in values) == sorted(session.steps)
    assert len(session.texts) == 16


def test_appending_in_different_orders_does_not_lock_up(model: RewardModel) -> None:
    first, second = model.session(PROMPT).fork(2)
    with ThreadPoolExecutor(2) as pool:
        orders = [[first, second], [second, first]]
        done = [
            pool.submit(lambda own=own: [model.append_many([(s, "1") for s in own]) for _ in range(20)])
            for own in orders
        ]
        for one in done:
            one.result()
    assert len(first.texts) == len(second.texts) == 40


def test_a_fault_of_the_engine_leaves_all_sessions_as_they_were(prm: Path) -> None:
    model, engine = gated_model(prm)
    engine.permit(1000)
    with model:
        beam = model.session(PROMPT, STEPS[:1], ScoreOptions(max_batch_tokens=60)).fork(2)
        for one in beam:
            one.result()
        passes = len(engine.passes)
        engine.faults[passes + 1] = BackendError("the engine failed")  # of two passes the second
        moves = [(beam[0], "number " * 30), (beam[1], "the answer " * 20)]
        with pytest.raises(BackendError, match="the engine failed"):
            model.append_many(moves)
        assert len(engine.passes) == passes + 2
        assert [one.texts for one in beam] == [(STEPS[0],)] * 2
        assert all(isinstance(one, list) for one in model.append_many(moves))


def test_what_the_device_does_not_hold_is_an_error_of_its_session(prm: Path) -> None:
    model, engine = gated_model(prm)
    engine.permit(1000)
    with model:
        session = model.session(PROMPT, STEPS[:1])
        engine.faults[0] = PassTooLarge("too large")
        with pytest.raises(DeviceLimit, match="does not fit into the device"):
            session.append("a")
        assert session.texts == (STEPS[0],) and len(session.append("a")) == 1


def test_a_full_queue_makes_sessions_wait(prm: Path) -> None:
    model, engine = gated_model(prm, queue_tokens=100)
    with model, ThreadPoolExecutor(1) as pool:
        first = model.submit({"prompt": PROMPT, "steps": STEPS[:1]})
        engine.wait_for_pass()
        second = model.submit({"prompt": PROMPT, "steps": ["number " * 50]})
        appended = pool.submit(model.session(PROMPT).append, "number " * 60)
        engine.permit(1000)
        assert len(appended.result()) == 1 and first.result() and second.result()


def test_a_callback_may_not_wait_for_the_engine(model: RewardModel) -> None:
    session, told = model.session(PROMPT), list[BaseException]()
    ended = threading.Event()

    def callback(_: object) -> None:
        try:
            session.append("a")
        except RewardModelError as error:
            told.append(error)
        ended.set()

    model.submit({"prompt": PROMPT, "steps": STEPS}).add_done_callback(callback)
    assert ended.wait(60) and session.texts == ()
    assert "this is a callback of a future" in str(told[0])


def _preference(folder: Path) -> Path:
    path = folder / "recipe.json"
    path.write_text(
        '{"name": "p", "description": "", "layout": "preference", '
        '"preference_template": "{{ messages[0].content }} A: {{ a }} B: {{ b }}"}'
    )
    return path


def test_closing_the_model_ends_what_waits(prm: Path) -> None:
    model, engine = gated_model(prm)
    with ThreadPoolExecutor(2) as pool:
        busy = model.submit({"prompt": PROMPT, "steps": STEPS})
        engine.wait_for_pass()
        session = model.session(PROMPT)
        waiting = pool.submit(session.append, "a")
        wait_until(lambda: model.waiting_tokens)
        closing = pool.submit(model.close)
        with pytest.raises(RewardModelError, match="closed"):
            waiting.result()
        engine.permit(1000)
        closing.result()
        assert busy.result() and session.texts == ()
