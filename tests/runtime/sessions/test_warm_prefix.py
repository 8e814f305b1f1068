"""A beginning that is computed once and stays, however little memory there is for the rest."""

from pathlib import Path

import pytest

from rmruntime import InputError, OptionError, RewardModel
from rmruntime.bundle import Bundle

SYSTEM = {"role": "system", "content": "the answer is helpful and honest because " * 8}


def cached(model: RewardModel, number: int) -> int:
    """How many tokens of a request with the system prompt are not computed."""
    prompt = [SYSTEM, {"role": "user", "content": f"What is {number} {number * 7}?"}]
    future = model.submit({"prompt": prompt, "steps": ["good " * number]})
    future.result()
    return future.statistics.cached


def token_bytes(bundle: Path) -> int:
    """Of the keys and values of one token in fp32."""
    manifest = Bundle.open(bundle).manifest
    [features] = {graph.past.features for graph in manifest.graphs if graph.past is not None}
    return 2 * 4 * manifest.backbone.num_layers * features


def test_a_system_prompt_is_not_computed_again_and_stays_until_it_is_closed(prm: Path) -> None:
    with RewardModel.load(prm, device="ort-cpu", prefix_cache=200 * token_bytes(prm)) as model:
        with model.warm([SYSTEM]) as warm:
            whole = model.statistics.computed
            assert whole == warm.tokens > 60
            for number in range(1, 12):  # of more tokens than there is space for
                assert cached(model, number) >= warm.tokens
        for number in range(30, 36):
            model.score([{"prompt": f"{number} " * 30, "steps": ["good"]}])
        assert cached(model, 2) < warm.tokens


def test_each_one_keeps_it(prm: Path) -> None:
    with RewardModel.load(prm, device="ort-cpu", prefix_cache=200 * token_bytes(prm)) as model:
        first, second = model.warm([SYSTEM]), model.warm([SYSTEM])
        first.close()
        first.close()
        for number in range(30, 36):
            assert cached(model, number) >= second.tokens
        second.close()
    second.close()  # also after the model


def test_prompts_of_every_kind_can_be_kept(prm: Path) -> None:
    question = "What is the sum of the answer? " * 4
    with RewardModel.load(prm, device="ort-cpu", prefix_cache="auto") as model:
        for messages in (question, [SYSTEM], [SYSTEM, {"role": "user", "content": question}]):
            with model.warm(messages) as warm:
                assert warm.tokens > 30
        with model.session(question) as session:
            session.append("good")
            assert session.statistics.computed < 10


def test_there_must_be_space_for_it(prm: Path) -> None:
    with RewardModel.load(prm, device="ort-cpu") as model:
        with pytest.raises(OptionError, match=r"there is no prefix cache to keep anything in \(off\): load the model"):
            model.warm([SYSTEM])
    with RewardModel.load(prm, device="ort-cpu", prefix_cache=30 * token_bytes(prm)) as model:
        with pytest.raises(OptionError, match=r"has space for \d+ of the \d+ tokens"):
            model.warm([SYSTEM])
        with pytest.raises(InputError, match="messages: found an empty list"):
            model.warm([])
        assert cached(model, 3) < 60
