"""vLLM's pooling runner: all requests at once, which it batches itself; prefix caching within a pass."""

import importlib
from collections.abc import Sequence
from typing import Any

from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores

NAME = "vllm"
PACKAGES = ("vllm",)
DISTRIBUTIONS = ("vllm", "torch", "transformers")
DTYPES = ("bf16", "fp32", "fp16")
HEADS = ("sequence_classification",)
BUDGETS = {True: 4096, False: 16384}  # tokens, on CPUs and elsewhere: as our own engines have them
VLLM_NAMES = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The classifier in `dtype`; vLLM has no setting for threads here."""
    vllm: Any = importlib.import_module("vllm")
    model = vllm.LLM(
        model=folder, runner="pooling", convert="classify", dtype=VLLM_NAMES[dtype], enable_prefix_caching=True
    )
    return VllmScorer(model, vllm.PoolingParams(use_activation=False), dtype, options)


class VllmScorer:
    """Raw logits of token prompts."""

    def __init__(self, model: Any, pooling: Any, dtype: str, options: LoadOptions) -> None:
        self._model, self._pooling, self._label = model, pooling, options.label
        self.precision, self.budget = dtype, options.max_batch_tokens or BUDGETS[options.device == "cpu"]
        self.settings = (
            f"{dtype}, LLM(runner='pooling', convert='classify'), prefix cache emptied between passes, from ids"
        )

    def weight(self, request: Request) -> int:
        return request.tokens

    def score(self, requests: Sequence[Request]) -> Scores:
        prompts = [{"prompt_token_ids": list(ids)} for request in requests for ids in request.sequences]
        outputs = self._model.classify(prompts, pooling_params=self._pooling, use_tqdm=False)
        return Scores([float(output.outputs.probs[self._label]) for output in outputs])

    def reset(self) -> None:
        self._model.reset_prefix_cache()
