"""Segments put together, and ids appended to whatever is scored."""

from dataclasses import replace

import numpy as np
import pytest

from rmruntime.bundle.manifest import PositionRule
from rmruntime.errors import BundleError, InputError, InputTooLong
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from rmruntime.text.segments import JoinedSegments, Segment
from text_formats import chat_format, classifier
from tiny_tokenizer import build_tokenizer

OPTIONS = ScoreOptions()
LAST = PositionRule(rule="last")
REWARD = 7  # InternLM2's is 92527


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


def appending(tiny, *ids, **changes):
    form = replace(chat_format(tiny), append=ids, **changes)
    return RequestTokenizer(replace(classifier(tiny, form), positions={"score": LAST}), tiny.folder)


def encode(encoder, record, options=OPTIONS):
    [sequence] = encoder.encode(parse_record(record), options)
    return sequence


def arrays(*parts):
    return [np.array(part, dtype=np.int64) for part in parts]


def no_offsets(text):
    raise AssertionError("no segment is loose in part")


def test_joined():
    segments = (
        Segment(ids=(1,), fixed=True),
        Segment(text="a", token_type=1),
        Segment(text="b", token_type=2, ends_step=True),
        Segment(text="c"),
        Segment(text="d", ends_step=True),
    )
    joined = JoinedSegments(segments, arrays([1], [2, 3], [4, 5], [], [6]))
    assert joined.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert joined.types().tolist() == [0, 1, 1, 2, 2, 0]
    ends = joined.step_ends()
    assert (ends.first.tolist(), ends.last.tolist()) == ([3, 5], [4, 5])
    assert joined.spare(keep_first=False, offsets=no_offsets) == [(1, 3), (3, 5), (5, 5), (5, 6)]


def test_a_separator_without_a_token():
    joined = JoinedSegments((Segment(text="a"), Segment(text="", ends_step=True)), arrays([1], []))
    with pytest.raises(InputError, match="no token of the step separator"):
        joined.step_ends()
    assert JoinedSegments((Segment(text="a"),), arrays([1])).step_ends() is None


def test_appended_ids_are_spared():
    joined = JoinedSegments((Segment(text="a", token_type=1),), arrays([1, 2, 3]), (8, 9))
    assert joined.ids.tolist() == [1, 2, 3, 8, 9] and joined.types().tolist() == [1] * 5
    assert joined.spare(keep_first=True, offsets=no_offsets) == [(1, 3)]
    there = JoinedSegments((Segment(text="a"),), arrays([1, 8, 9]), (8, 9))
    assert there.ids.tolist() == [1, 8, 9] and there.spare(keep_first=False, offsets=no_offsets) == [(0, 1)]
    assert JoinedSegments((Segment(ids=(9,)),), arrays([9]), (8, 9)).ids.tolist() == [9, 8, 9]


def test_trap_reward_token_is_appended_unless_it_is_there(tiny):
    """InternLM2: `if input_ids[-1] != reward_token_id: append` (its modeling file, `get_score`)."""
    encoder, plain = appending(tiny, REWARD), appending(tiny)
    for record in ({"prompt": "Q", "response": "a"}, {"text": "a"}, {"input_ids": [REWARD, 3]}):
        expected = [*encode(plain, record).ids.tolist(), REWARD]
        found = encode(encoder, record)
        assert found.ids.tolist() == expected and found.reads["score"].tolist() == [len(expected) - 1]
        assert found.truncated == 0
    assert encode(encoder, {"input_ids": [3, REWARD]}).ids.tolist() == [3, REWARD]
    assert encode(appending(tiny, 5, REWARD), {"input_ids": [3, REWARD]}).ids.tolist() == [3, REWARD, 5, REWARD]


@pytest.mark.parametrize("bos", ["as-is", "one"])
def test_truncation_keeps_the_appended_token(tiny, bos):
    encoder = appending(tiny, REWARD, bos=bos)
    record = {"prompt": "Q", "response": "abcdefgh"}
    whole = encode(encoder, record).ids.tolist()
    right = encode(encoder, record, ScoreOptions(truncate="right", max_length=9))
    left = encode(encoder, record, ScoreOptions(truncate="left", max_length=9))
    assert right.ids.tolist() == [*whole[:8], REWARD]
    assert left.ids.tolist() == ([whole[0], *whole[-8:]] if bos == "one" else whole[-9:])
    assert right.reads["score"].tolist() == [8] and right.truncated == len(whole) - 9
    with pytest.raises(InputTooLong, match=f"found {len(whole)} tokens, the limit is 9"):
        encode(encoder, record, ScoreOptions(max_length=9))


def test_the_limit_counts_the_appended_token(tiny):
    encoder = appending(tiny, REWARD)
    with pytest.raises(InputTooLong, match="found 513 tokens, the limit is 512"):
        encode(encoder, {"input_ids": [1] * 512})


def test_ids_outside_the_vocabulary_are_the_bundles_fault(tiny):
    with pytest.raises(BundleError, match=r"format\.append: found \[99999\], expected ids of 0 to"):
        appending(tiny, 99999)
