"""Rows of preference data sets, in the columns that they are published with."""

from typing import Any

import numpy as np
import pytest

from rmruntime.errors import RecordError
from rmruntime.records import Message, Request, parse_record

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}]
OTHER = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}]
MODELS = {"chosen_model": "m1", "rejected_model": "m2"}

PAIRS: dict[str, dict[str, Any]] = {
    "ultrafeedback_binarized": {
        "prompt": "Q", "prompt_id": "p", "chosen": TURNS, "rejected": OTHER, "messages": TURNS, "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
    "reward-bench": {"prompt": "Q", "chosen": "good", "rejected": "bad", "subset": "alpacaeval", "id": 0, **MODELS},
    "tulu preference mixture": {
        "id": "t-1", "source": "s", "prompt": "Q", "chosen": TURNS, "rejected": OTHER, "chosen_rating": 5.0, **MODELS,
    },
    "Skywork-Reward-Preference": {"chosen": TURNS, "rejected": OTHER, "source": "magpie"},
    "HelpSteer3": {
        "domain": "code", "language": "python", "context": TURNS[:1], "response1": "bad", "response2": "good",
        "overall_preference": 2, "individual_preference": [{"score": 2}],
    },
    "HelpSteer2 preference": {
        "prompt": "Q", "response_1": "good", "response_2": "bad", "preference_strength": -1, "split": "train",
    },
    "PKU-SafeRLHF": {
        "prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0,
        "is_response_0_safe": True,
    },
    "HH-RLHF": {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
}  # fmt: skip


def answers(request: Request) -> list[str]:
    turns = [conversation.messages for conversation in request.conversations]
    assert all(found is not None and found[0] == Message("user", "Q") for found in turns)
    return [found[-1].content for found in turns if found is not None]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_data_sets_as_published(name: str) -> None:
    for record in (PAIRS[name], {**PAIRS[name], "unheard_of": None}):
        request = parse_record(record)
        assert request.kind == "pair" and answers(request) == ["good", "bad"]
        assert request.id == record.get("id")


def test_rewardbench_2_has_lists_of_answers() -> None:
    record = {
        "id": "7", "prompt": "Q", "chosen": ["good"], "rejected": ["bad", "worse", "worst"], "num_correct": 1,
        "num_incorrect": 3, "total_completions": 4, "models": ["a", "b", "c", "d"], "subset": "Math",
        "additional_metadata": {"category": None},
    }  # fmt: skip
    arrays = {key: np.array(value, object) if isinstance(value, list) else value for key, value in record.items()}
    for given in (record, arrays):
        request = parse_record(given)
        assert (request.kind, request.chosen, request.id) == ("sets", 1, "7")
        assert answers(request) == ["good", "bad", "worse", "worst"]


def test_one_list_beside_one_answer_and_lists_of_conversations() -> None:
    request = parse_record({"prompt": "Q", "chosen": "good", "rejected": ["bad", "worse"]})
    assert (request.kind, request.chosen, answers(request)) == ("sets", 1, ["good", "bad", "worse"])
    request = parse_record({"chosen": [TURNS, TURNS], "rejected": [OTHER]})
    assert (request.chosen, answers(request)) == (2, ["good", "good", "bad"])


def test_ultrafeedback_is_candidates() -> None:
    completions = [{"model": "m", "response": text, "overall_score": 7.0} for text in ("good", "bad")]
    record = {"source": "s", "instruction": "Q", "models": [], "completions": completions, "correct_answers": ["None"]}
    request = parse_record(record)
    assert request.kind == "candidates" and answers(request) == ["good", "bad"]
    with pytest.raises(RecordError, match="expected a list of objects"):
        parse_record({"instruction": "Q", "completions": ["a"]})


def test_helpsteer_rows_with_marks_are_single_answers() -> None:
    marks = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 4)
    request = parse_record({"prompt": "Q", "response": "good", **marks})
    assert request.kind == "single" and answers(request) == ["good"]


def test_a_preference_for_neither_answer_is_candidates() -> None:
    request = parse_record({**PAIRS["HelpSteer3"], "overall_preference": 0})
    assert request.kind == "candidates" and answers(request) == ["bad", "good"]


def test_numbers_and_lists_of_pandas_rows() -> None:
    rows = [("HelpSteer3", "overall_preference", 2), ("HelpSteer2 preference", "preference_strength", -1)]
    for name, key, value in (*rows, ("PKU-SafeRLHF", "better_response_id", 1)):
        assert answers(parse_record({**PAIRS[name], key: np.int64(value)})) == ["good", "bad"]
    completions = np.array([{"response": "good"}, {"response": "bad"}], object)
    assert answers(parse_record({"instruction": "Q", "completions": completions})) == ["good", "bad"]
    assert parse_record({**PAIRS["HelpSteer3"], "overall_preference": 10**400}).kind == "pair"


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("HelpSteer3", "overall_preference", "2"),
        ("HelpSteer3", "overall_preference", float("nan")),
        ("HelpSteer2 preference", "preference_strength", np.float64("nan")),
        ("PKU-SafeRLHF", "better_response_id", 2),
    ],
)
def test_what_a_data_set_does_not_have_is_named(name: str, key: str, value: object) -> None:
    with pytest.raises(RecordError, match=f"{key}: found"):
        parse_record({**PAIRS[name], key: value})


def test_transcripts_of_several_turns() -> None:
    chosen = "\n\nHuman: Q\n\nAssistant: a: b\n\nmore\n\nHuman: again\n\nAssistant: good"
    request = parse_record({"chosen": chosen, "rejected": chosen})
    turns = [Message("user", "Q"), Message("assistant", "a: b\n\nmore"), Message("user", "again")]
    assert list(request.conversations[0].messages or ())[:3] == turns
