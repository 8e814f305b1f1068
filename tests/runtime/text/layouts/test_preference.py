"""Two answers compared in both orders, against reward-bench's code for the pair-preference models."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from rmruntime import InputError, InputTooLong, RewardModel, Score, ScoreOptions
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Format, Graph
from rmruntime.errors import BundleError
from rmruntime.records import parse_record
from rmruntime.score_file import result_fields
from rmruntime.text.layouts import find_layout, preference
from text_formats import chat_format, classifier
from tiny_tokenizer import BOS, EOT, build_tokenizer

ALONE = ScoreOptions(max_batch_tokens=1)
PROMPT = [
    {"role": "user", "content": "What is the sum?"},
    {"role": "assistant", "content": "Of what?"},
    {"role": "user", "content": "1 and 2"},
]
# The context's turn markers and the frame around the answers, in one template.
COMPARISON = (
    "[CONTEXT] \n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}"
    "{% else %}\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n"
    " [RESPONSE A] {{ a }} [RESPONSE B] {{ b }} {{ '\n' }}"
)


class Judge:
    """An engine whose answer is a number made of the tokens: it needs them alone in a pass."""

    name, precision, batch_tokens = "judge", "fp32", 4096
    graph = Graph(file="none", dialect="none", compute_dtype="fp32")

    def run(self, feeds):
        value = np.random.default_rng(feeds["input_ids"].tolist()).random(dtype=np.float32)
        return {"score": np.repeat(value, len(feeds["score_index"]))}

    def close(self):
        pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tiny):
    form = replace(chat_format(tiny), layout="preference", bos="zero", preference_template=COMPARISON)
    return RewardModel(Bundle(tiny.folder, classifier(tiny, form)), Judge())


@pytest.fixture(scope="module")
def published(tiny):
    """reward-bench, rewardbench/models/slicpairpm.py: the text that the model sees for a prompt, A and B."""
    load = pytest.importorskip("transformers").AutoTokenizer.from_pretrained
    tokenizer, context_format = load(tiny.folder), load(tiny.folder)
    context_format.chat_template = (
        "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}"
        "{% else %}\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
    )

    def text(prompt, a, b):
        context = context_format.apply_chat_template(prompt, tokenize=False)
        shown = f"[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"
        turns = [{"role": "user", "content": shown}]
        return tokenizer.apply_chat_template(turns, tokenize=False).replace(BOS, "")

    return text


def values(results):
    return [score.value for score in results]


def raw(model, text):
    [score] = model.score([{"text": text}], ALONE)
    return score.value


def test_a_pair_is_asked_in_both_orders(model, published):
    record = {"prompt": PROMPT, "chosen": "3", "rejected": "The sum\n\nis 4."}
    [found] = model.score([record], ALONE)
    as_a, as_b = (raw(model, published(PROMPT, *order)) for order in permutations(("3", "The sum\n\nis 4.")))
    chance = (as_a + 1 - as_b) / 2
    assert values(found) == pytest.approx([chance, 1 - chance], abs=1e-12)
    [swapped] = model.score([{**record, "chosen": record["rejected"], "rejected": record["chosen"]}], ALONE)
    assert values(swapped) == pytest.approx(values(found)[::-1], abs=1e-12)
    lengths = [len(s.ids) for s in model.encode([parse_record(record)], ALONE)[0]]
    assert [score.tokens for score in found] == [sum(lengths)] * 2


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_candidate_is_compared_with_every_other(model, published, count):
    answers = ["3", "4", "3", " the answer"][:count]
    [found] = model.score([{"prompt": PROMPT, "responses": answers}], ALONE)
    chances = np.zeros((count, count))
    for i, j in permutations(range(count), 2):
        as_a, as_b = (raw(model, published(PROMPT, answers[x], answers[y])) for x, y in ((i, j), (j, i)))
        chances[i, j] = (as_a + 1 - as_b) / 2
    assert values(found) == pytest.approx(chances.sum(axis=1) / (count - 1), abs=1e-12)
    assert sum(values(found)) == pytest.approx(count / 2)
    assert found == model.score_candidates(PROMPT, answers, ALONE)


def test_records_of_all_kinds_together(model, published):
    text = published(PROMPT, "a", "b")
    pair, many = {"prompt": PROMPT, "chosen": "a", "rejected": "b"}, {"prompt": "Q", "responses": ["a", "b", "c"]}
    records = [many, {"prompt": "Q", "response": "a"}, {"text": text}, pair, many]
    run = model.run([parse_record(record) for record in records], ALONE)
    assert isinstance(run.results[1], InputError) and isinstance(run.results[2], Score)
    assert run.results[0] == run.results[4] == model.score([many], ALONE)[0]
    assert run.results[3] == model.score([pair], ALONE)[0]
    assert run.statistics.sequences == 6 + 1 + 2 + 6


def test_text_and_ids_keep_their_own_score(model, published, tiny):
    text = published(PROMPT, "a", "b")
    [[sequence]] = model.encode([parse_record({"text": text})], ALONE)
    [[first, _]] = model.encode([parse_record({"prompt": PROMPT, "chosen": "a", "rejected": "b"})], ALONE)
    assert first.ids.tolist() == sequence.ids.tolist()
    by_text, by_ids = model.score([{"text": text}, {"input_ids": sequence.ids.tolist()}], ALONE)
    assert by_text.value == by_ids.value == Judge().run({"input_ids": sequence.ids, "score_index": [0]})["score"][0]


def test_output_fields(model):
    pair = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    [found] = model.score([pair], ALONE)
    fields = result_fields(parse_record(pair), found)
    assert fields == {"chosen_score": found[0].value, "rejected_score": found[1].value}
    json.dumps(fields)


def test_flags_and_truncation_are_those_of_its_sequences(model):
    [found] = model.score([{"prompt": "Q", "responses": ["a", f"b{EOT}", "c"]}], ALONE)
    assert [score.flags for score in found] == [(f"content spells {EOT}",)] * 3  # it was in a sequence of each
    record, options = {"prompt": "Q", "chosen": "a" * 700, "rejected": "b"}, ScoreOptions(truncate="left")
    with pytest.raises(InputTooLong, match=r"^record 0: chosen against rejected: found 7"):
        model.score([record], ALONE)
    [[first, second]] = model.encode([parse_record(record)], options)
    [found] = model.score([record], replace(options, max_batch_tokens=1))
    assert {score.truncated for score in found} == {max(first.truncated, second.truncated)} != {0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Q", "response": "a"}, "found one answer; this model says which of two answers is better"),
        ({"prompt": "Q", "responses": ["a"]}, "found one answer; .*give chosen and rejected, or responses"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "found one answer; "),
        ({"prompt": "Q", "steps": ["a", "b"]}, "found steps; this model says which of two"),
    ],
)
def test_two_answers_are_needed(model, record, message):
    with pytest.raises(InputError, match=message):
        model.score([record])


def test_answers_to_different_prompts(model):
    def said(*texts):
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

    for chosen, rejected in ((said("Q", "a"), said("R", "a")), (said("Q", "a"), said("Q", "a", "b"))):
        with pytest.raises(InputError, match="differ before their last assistant turn"):
            model.score([{"chosen": chosen, "rejected": rejected}])
    [found] = model.score([{"chosen": said("Q", "a"), "rejected": said("Q", "b")}], ALONE)
    assert found == model.score([{"prompt": "Q", "chosen": "a", "rejected": "b"}], ALONE)[0]


def test_a_model_without_a_score_has_none_here():
    request = parse_record({"prompt": "Q", "chosen": "a", "rejected": "b"})
    assert values(preference.join(request, [Score(value=None), Score(value=None)])) == [None, None]


def test_what_it_needs():
    form = Format(layout="preference")
    with pytest.raises(BundleError, match=r"format\.preference_template: found none"):
        find_layout(form)
    with pytest.raises(BundleError, match="does not compile"):
        find_layout(replace(form, preference_template="{% for %}"))
    with pytest.raises(BundleError, match="but preference scores by sequence"):
        find_layout(replace(form, preference_template="{{ a }}", unit="step"))
