"""How peers batch: sorted by length, padded right, every sequence once and in its place."""

import numpy as np

from rmexport.bench.peers.hf_transformers_kv import prefix_length
from rmexport.bench.worker.padded import PaddedScorer, sorted_batches
from rmexport.bench.worker.scorer import Request

SEQUENCES = [[5] * 3, [6], [7] * 9, [8] * 2, [9] * 4]


def test_batches_are_rectangles_of_like_lengths() -> None:
    batches = sorted_batches(SEQUENCES, 2, 0)
    assert [batch.order for batch in batches] == [[1, 3], [0, 4], [2]]
    assert batches[0].ids == [[6, 0], [8, 8]] and batches[0].mask == [[1, 0], [1, 1]]


def test_scores_come_back_in_order_and_padding_is_counted() -> None:
    seen = []

    def logits(ids: list[list[int]], mask: list[list[int]]) -> list[float]:
        seen.append(np.array(ids).shape)
        return [float(row[0] * 100 + sum(marks)) for row, marks in zip(ids, mask, strict=True)]

    scorer = PaddedScorer(logits, batch=2, pad_id=0, precision="fp32", settings="fake")
    scores = scorer.score([Request(SEQUENCES[:2]), Request(SEQUENCES[2:])])
    assert scores.values == [503, 601, 709, 802, 904] and seen == [(2, 2), (2, 4), (1, 9)]
    assert (scores.computed, scores.padded) == (4 + 8 + 9, 2)


def test_prefixes_leave_every_sequence_a_token_of_its_own() -> None:
    assert prefix_length([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 9]]) == 2
    assert prefix_length([[1, 2], [1, 2, 3]]) == 1
    assert prefix_length([[1, 2]]) == 0 and prefix_length([[1], [1]]) == 0
