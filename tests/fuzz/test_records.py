"""Records of any bytes: each is scored or has an error of its own, and none costs another."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexport import export
from rmruntime.cluster.blocks import cut_blocks, read_block
from rmruntime.errors import InputError, RecordError
from rmruntime.options import ScoreOptions
from rmruntime.records import Request, parse_record
from rmruntime.records.keys import KNOWN_KEYS
from rmruntime.records.reader import read_records
from rmruntime.records.writer import open_writer
from rmruntime.reward_model import RewardModel
from rmruntime.score_file import score_records
from seeded_fuzz import seeded
from tiny_checkpoints import sequence_classifier

SETTINGS = seeded(50)
FEW = seeded(20)
GOOD = b'{"id": "good", "prompt": "a", "response": "b"}'

texts = st.text(st.characters(codec=None), max_size=6)  # with halves of surrogate pairs
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.just(2**63), st.just(10**4000))
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", ""]) | texts, "content": texts | scalars})
values = st.recursive(
    scalars | turns, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2)
)
keys = st.sampled_from([*sorted(KNOWN_KEYS), "respnse", "chosen_model"]) | texts
objects = st.dictionaries(keys, values, max_size=5)
spoiled = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" "))
lines = spoiled | objects.map(lambda value: json.dumps(value).encode()) | st.just(GOOD)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardModel]:
    folder = tmp_path_factory.mktemp("records")
    export(str(sequence_classifier(folder / "c").folder), folder / "b")
    with RewardModel.load(folder / "b", device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def told(records: Iterable[tuple[int, Request | InputError]]) -> list[tuple[int, Any]]:
    return [(number, str(record) if isinstance(record, InputError) else record) for number, record in records]


@SETTINGS
@given(objects)
def test_an_object_is_a_request_or_a_record_error(value: dict[str, Any]) -> None:
    try:
        request = parse_record(value)
    except RecordError as error:
        assert len(str(error)) < 2000
        str(error).encode()
    else:
        json.dumps(request.id, allow_nan=False, ensure_ascii=False).encode()
        for conversation in request.conversations:
            for message in conversation.messages or ():
                (message.role + message.content).encode()


@SETTINGS
@given(st.lists(lines, max_size=6), st.sampled_from(["in.jsonl", "in.json", "in"]))
def test_lines_cost_each_other_nothing(place: Path, given_lines: list[bytes], name: str) -> None:
    (place / name).write_bytes(b"\n".join([GOOD, *given_lines, GOOD]))
    found = dict(read_records(place / name))
    assert set(found) == {i for i, line in enumerate([GOOD, *given_lines, GOOD]) if line.strip()}
    for number, line in enumerate([GOOD, *given_lines, GOOD]):
        if line == GOOD:
            assert isinstance(found[number], Request)


@SETTINGS
@given(st.lists(objects | scalars, max_size=6))
def test_an_array_is_its_items(place: Path, items: list[Any]) -> None:
    texts = [json.dumps(item) for item in items]
    (place / "in.json").write_text("[" + ",\n ".join(texts) + "]")
    (place / "in.jsonl").write_text("".join(text + "\n" for text in texts))
    array, by_line = (told(read_records(place / name)) for name in ("in.json", "in.jsonl"))
    assert [(number, _of(record)) for number, record in array] == [(number, _of(record)) for number, record in by_line]


def _of(record: Any) -> Any:
    """Without the words that name the place."""
    return record.partition("): ")[2] if isinstance(record, str) else record


@SETTINGS
@given(st.lists(lines, max_size=6), st.sampled_from([b"\n", b","]), st.booleans(), st.integers(1, 4))
def test_blocks_hold_what_the_file_holds(
    place: Path, parts: list[bytes], joint: bytes, opened: bool, size: int
) -> None:
    path = place / "blocks.json"
    path.write_bytes((b"[" if opened else b"") + joint.join(parts) + b"]")
    blocks = list(cut_blocks([path], size))
    assert [record for block in blocks for record in told(read_block(block, path))] == told(read_records(path))


@FEW
@given(st.lists(lines, max_size=4), st.sampled_from(["out.jsonl", "out.parquet"]))
def test_every_good_record_is_scored(model: RewardModel, place: Path, given_lines: list[bytes], name: str) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (place / "in.jsonl").write_bytes(b"\n".join([GOOD, *given_lines, GOOD]))
    with open_writer(place / name) as writer:
        records = read_records(place / "in.jsonl")
        summary = score_records(model, records, writer, ScoreOptions(), on_error="skip")
    if name.endswith(".parquet"):
        rows = parquet.read_table(place / name).to_pylist()
    else:
        rows = [json.loads(line) for line in (place / name).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == summary.records == 2 + sum(bool(line.strip()) for line in given_lines)
    assert rows[0]["score"] == rows[-1]["score"] and isinstance(rows[0]["score"], float)
