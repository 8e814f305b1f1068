"""SmolLM2-135M as a reranker: a recipe of separately tokenized pieces on published weights and their tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from real_models import JUDGE, RUNS, real_checkpoint, real_pairs, runs_here
from rmexport import ExportOptions, export
from rmexport.verify.options import VerifyOptions
from rmexport.verify.report import table
from rmexport.verify.run import verify
from rmruntime import RewardModel, ScoreOptions
from rmruntime.records import parse_record

pytestmark = pytest.mark.real
RECIPE = Path(__file__).parent.parent / "support" / "relevance_judge.json"
QUERY = "Who wrote Faust?"
DOCUMENTS = [
    "Faust is a tragic play in two parts by Johann Wolfgang von Goethe.",
    "The play was written by Goethe.\n",
    "Berlin had 3,520,031 inhabitants in 2015.",
    "Das Drama „Faust“ schrieb Goethe – 1808. 🙂",
    "",
]


def bundle_of(real_models: Any, dtype: Any) -> Path:
    def make(folder: Path) -> None:
        folder.rmdir()
        export(str(real_checkpoint(JUDGE)), folder, ExportOptions(dtype=dtype, recipe=str(RECIPE)))

    made: Path = real_models.made_once(f"reranker-{dtype}", make)
    return made


def queries(real_models: Any) -> Path:
    """Questions of the example with two passages each."""
    records = [
        {"query": pair["prompt"], "documents": [pair["chosen"], pair["rejected"]]}
        for pair in real_pairs(24, single=True)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)

    def write(folder: Path) -> None:
        (folder / "queries.jsonl").write_text(text)

    folder: Path = real_models.made_once("reranker-queries", write)
    return folder / "queries.jsonl"


@pytest.mark.parametrize(("dtype", "engine", "precision"), RUNS)
def test_parity(real_models: Any, dtype: str, engine: str, precision: Any) -> None:
    """The project's own gate; and documents score bitwise the same alone and beside others."""
    if not runs_here(engine, precision):
        pytest.skip(f"{engine} has no {precision} products on this processor")
    bundle = bundle_of(real_models, dtype)
    options = VerifyOptions(
        data=queries(real_models),
        device=engine,
        precision=precision,
        reference_cache=str(real_models.made_once("references", lambda folder: None)),
        write=False,
    )
    report = verify(bundle, str(real_checkpoint(JUDGE)), options)
    assert report.passed, table(report)
    with RewardModel.load(bundle, device=engine, precision=precision) as model:
        together = model.rank(QUERY, DOCUMENTS)
        assert [model.rank(QUERY, [one.document])[0].score for one in together] == [one.score for one in together]


def test_the_tokens_are_those_of_the_pieces(real_models: Any) -> None:
    """A full stop and the line end after it are one token in whole texts, and two where a piece ends between them."""
    tokenizer = AutoTokenizer.from_pretrained(real_checkpoint(JUDGE))
    request = parse_record({"query": QUERY, "documents": DOCUMENTS, "instruction": "Be strict."})
    with RewardModel.load(bundle_of(real_models, "bf16")) as model:
        [sequences] = model.encode([request], ScoreOptions())
        [cut] = model.encode(
            [parse_record({"query": QUERY, "document": "long " * 3000})], ScoreOptions(truncate="right", max_length=512)
        )
    parts = ("<|im_start|>user\nBe strict.\nQuestion: Who wrote Faust?\n", "Passage: {}")
    end = "\nDoes the passage answer the question? Answer Yes or No.<|im_end|>\n<|im_start|>assistant\n"
    for document, sequence in zip(DOCUMENTS, sequences, strict=True):  # type: ignore[arg-type] # no error
        pieces = (parts[0], parts[1].format(document), end)
        assert sequence.ids.tolist() == [i for p in pieces for i in tokenizer.encode(p, add_special_tokens=False)]
    kept = tokenizer.decode(cut[0].ids)  # type: ignore[index] # no error
    assert kept.endswith(end) and len(cut[0].ids) == 512  # type: ignore[index]


def test_the_query_is_shared(real_models: Any) -> None:
    """What is before the document is computed once for all of them."""
    request = parse_record({"query": QUERY, "documents": DOCUMENTS})
    with RewardModel.load(bundle_of(real_models, "bf16"), device="ort-cpu") as model:
        statistics = model.run([request], ScoreOptions()).statistics
    assert statistics.computed < statistics.given - 4 * 15
