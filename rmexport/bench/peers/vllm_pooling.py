"""vLLM's pooling runner in one process: all requests at once, which it batches itself; prefix caching within a pass."""

import importlib
from collections.abc import Sequence
from typing import Any

from rmexport.bench.peers import _vllm
from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores

NAME = "vllm"
PACKAGES, DISTRIBUTIONS, DTYPES, HEADS = _vllm.PACKAGES, _vllm.DISTRIBUTIONS, _vllm.DTYPES, _vllm.HEADS
BUDGETS = {True: 4096, False: 16384}  # tokens, on CPUs and elsewhere: as our own engines have them


def environment(python: str, threads: int) -> dict[str, str]:
    """One process: with several, vLLM keeps a core for its scheduler alone, which is half of a machine of two."""
    return _vllm.process_environment(python, threads) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The classifier in `dtype`; threads are what `environment` has set."""
    vllm: Any = importlib.import_module("vllm")
    arguments = _vllm.engine_arguments(dtype, options)
    model = vllm.LLM(model=folder, **arguments)
    return VllmScorer(model, vllm.PoolingParams(use_activation=False), dtype, options, _vllm.described(arguments))


class VllmScorer:
    """Raw logits of token prompts."""

    def __init__(self, model: Any, pooling: Any, dtype: str, options: LoadOptions, settings: str) -> None:
        self._model, self._pooling, self._label = model, pooling, options.label
        self.precision, self.budget = dtype, options.max_batch_tokens or BUDGETS[options.device == "cpu"]
        self.settings = f"LLM.classify: {settings}; prefix cache emptied between passes, from token ids"

    def weight(self, request: Request) -> int:
        return request.tokens

    def score(self, requests: Sequence[Request]) -> Scores:
        prompts = [{"prompt_token_ids": list(ids)} for request in requests for ids in request.sequences]
        outputs = self._model.classify(prompts, pooling_params=self._pooling, use_tqdm=False)
        cached = sum(output.num_cached_tokens or 0 for output in outputs)
        values = [float(output.outputs.probs[self._label]) for output in outputs]
        return Scores(values, sum(request.tokens for request in requests) - cached, 0)

    def reset(self) -> None:
        """Raises RuntimeError when the cache could not be emptied: then the next pass would be timed half done."""
        if not self._model.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")
