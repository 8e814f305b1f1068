"""transformers as an expert uses it for best-of-N: computes the common prefix once, and repeats its KV cache."""

import importlib
from collections.abc import Sequence
from typing import Any

from rmexport.bench.worker.padded import PaddedScorer, Rows, pad
from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores
from rmexport.bench.worker.torch_model import load_classifier, pad_id_of

NAME = "transformers-kv"
INSTALLED_AS = "transformers"
PACKAGES = ("torch", "transformers")
DISTRIBUTIONS = ("torch", "transformers")
DTYPES = ("bf16", "fp32", "fp16")
HEADS = ("sequence_classification",)
WORTH_CACHING = 16  # tokens; for a shorter prefix the second call costs more than it saves


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The classifier in `dtype`."""
    model = load_classifier(folder, dtype, threads, options)
    return PrefixScorer(model, pad_id_of(model, options), dtype, options)


class PrefixScorer:
    """Requests of several sequences go through the cache, the others in padded batches."""

    def __init__(self, model: Any, pad_id: int, dtype: str, options: LoadOptions) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._model, self._pad_id, self._label = model, pad_id, options.label
        self._plain = PaddedScorer(self._logits, batch=options.batch, pad_id=pad_id, precision=dtype, settings=dtype)
        self.budget, self.precision = options.batch, dtype
        self.settings = (
            f"{dtype}, sdpa (eager with a softcap), KV cache of each request's prefix repeated, "
            f"batches of {self.budget}, from ids"
        )

    def weight(self, request: Request) -> int:
        return len(request.sequences)

    def score(self, requests: Sequence[Request]) -> Scores:
        shared = [prefix_length(request.sequences) >= WORTH_CACHING for request in requests]
        alone = self._plain.score([r for r, one in zip(requests, shared, strict=True) if not one])
        values, rest = [], iter(alone.values)
        computed = alone.computed or 0
        for request, through_cache in zip(requests, shared, strict=True):
            if through_cache:
                found, tokens = self._score_group(request.sequences)
                computed += tokens
            else:
                found = [next(rest) for _ in request.sequences]
            values += found
        return Scores(values, computed)

    def reset(self) -> None:
        pass

    def _score_group(self, sequences: Sequence[Sequence[int]]) -> tuple[list[float], int]:
        """The scores of sequences with a common prefix, and how many tokens were computed for them."""
        length = prefix_length(sequences)
        with self._torch.inference_mode():
            prefix = self._torch.tensor([sequences[0][:length]], device=self._model.device)
            cache = self._model.base_model(prefix, use_cache=True).past_key_values
        values, computed = [0.0] * len(sequences), length
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(order), self.budget):
            batch = pad([ids[length:] for ids in sequences], order[start : start + self.budget], self._pad_id)
            mask = [[1] * length + row for row in batch.mask]
            for i, value in zip(batch.order, self._logits(batch.ids, mask, repeated(cache, len(mask))), strict=True):
                values[i] = value
            computed += len(batch.ids) * len(batch.ids[0])
        return values, computed

    def _logits(self, ids: Rows, mask: Rows, cache: Any = None) -> list[float]:
        rows = [self._torch.tensor(values, device=self._model.device) for values in (ids, mask)]
        with self._torch.inference_mode():
            found = self._model(
                rows[0], attention_mask=rows[1], past_key_values=cache, use_cache=cache is not None
            ).logits[:, self._label]
        return [float(value) for value in found.float().tolist()]


def prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences have in common at their beginning, without the last token of any; 0 for one alone.

    >>> prefix_length([[5, 6, 7], [5, 6, 8, 9]]), prefix_length([[5, 6, 7]])
    (2, 0)
    """
    if len(sequences) < 2:
        return 0
    first, last = (
        min(map(tuple, sequences)),
        max(map(tuple, sequences)),
    )  # in lexicographic order, what these share all share
    length = 0
    limit = min(map(len, sequences)) - 1
    while length < limit and first[length] == last[length]:
        length += 1
    return length


def repeated(cache: Any, count: int) -> Any:
    """A copy of the cache for `count` rows; a copy, because the forward pass appends to the cache that it gets."""
    import copy

    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(count)
    return own
