"""The rerankers' recipes against the published way of building their input, and of reading the logits after it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conversations import ragged_records
from family_checkpoints import command_records
from reward_trunks import TOLERANCE, check_gate, tokenizer_of
from rmexport import ExportOptions, export
from rmexport.bench.options import BenchOptions
from rmexport.bench.workload import make_workload
from rmexport.errors import CheckpointError, OptionError
from rmexport.prompt.recipe import recipes
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from rmruntime import RewardModel, ScoreOptions
from rmruntime.bundle import Bundle
from rmruntime.records import parse_record
from tiny_checkpoints import TinyCheckpoint, TinyShape, causal_lm, sequence_classifier
from tiny_tokenizer import BOS

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"
QUESTION = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
EXPERT = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 "
    "for not relevant, 1 for relevant).\nRelevance:"
)
COUNTS = (1, 3, 8, 17)
YES, NO = 7, 9  # ids in the tiny vocabulary, in place of the published ones

Ids = list[int]
Build = Callable[[Any, str, str, str | None], Ids]


def plain(tokenizer: Any, text: str) -> Ids:
    ids: Ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def qwen3(tokenizer: Any, query: str, document: str, instruction: str | None) -> Ids:
    """QwenLM/Qwen3-Embedding, README: `prefix_tokens + body + suffix_tokens`."""
    prefix = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    body = f"<Instruct>: {instruction or TASK}\n<Query>: {query}\n<Document>: {document}"
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return plain(tokenizer, prefix) + plain(tokenizer, body) + plain(tokenizer, suffix)


def mxbai(tokenizer: Any, query: str, document: str, instruction: str | None) -> Ids:
    """mixedbread-ai/mxbai-rerank, mxbai_rerank_v2.py: `prepare_inputs` and `concat_input_ids`."""
    prefix = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
    )
    asked = "\n".join([f"instruction: {instruction}", f"query: {query}"] if instruction else [f"query: {query}"])
    parts = (prefix, asked, "\n", f"document: {document}", "\n", EXPERT, "<|im_end|>\n<|im_start|>assistant\n")
    return [token for part in parts for token in plain(tokenizer, part)]


def bge(tokenizer: Any, query: str, document: str, instruction: str | None) -> Ids:
    """FlagOpen/FlagEmbedding, inference/reranker/decoder_only/base.py."""
    parts = (f"A: {query}", "\n", f"B: {document}", "\n", QUESTION)
    return [tokenizer.bos_token_id, *(token for part in parts for token in plain(tokenizer, part))]


def zerank(tokenizer: Any, query: str, document: str, instruction: str | None) -> Ids:
    """vLLM's zerank2.jinja."""
    if instruction:
        query = f"<query>{query}</query>\n<instruction>{instruction}</instruction>"
    return plain(
        tokenizer,
        f"<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n{document}<|im_end|>\n<|im_start|>assistant\n",
    )


def ctxl_text(query: str, document: str, instruction: str | None) -> str:
    asked = f"{query} {instruction}" if instruction else query
    return (
        "Check whether a given document contains information helpful to answer the query.\n"
        f"<Document> {document}\n<Query> {asked} ??"
    )


def ctxl(tokenizer: Any, query: str, document: str, instruction: str | None) -> Ids:
    """The model card; Qwen's tokenizer adds nothing to a text."""
    return plain(tokenizer, ctxl_text(query, document, instruction))


def ctxl_6b(tokenizer: Any, query: str, document: str, instruction: str | None) -> Ids:
    """The same; Mistral's tokenizer adds a BOS."""
    ids: Ids = tokenizer(ctxl_text(query, document, instruction))["input_ids"]
    return ids


# The published input, the rows of the lm_head, and whether they take an instruction.
MODELS: dict[str, tuple[Build, tuple[int, ...], bool]] = {
    "qwen3-reranker": (qwen3, (YES, NO), True),
    "mxbai-rerank-v2": (mxbai, (YES, NO), True),
    "zerank-2": (zerank, (YES,), True),
    "bge-reranker-v2-gemma": (bge, (YES,), False),
    "ctxl-rerank-v2": (ctxl, (YES,), True),
    "ctxl-rerank-v2-6b": (ctxl_6b, (YES,), True),
}


def own_recipe(folder: Path, name: str, ids: Sequence[int]) -> str:
    """The built-in recipe with ids of the tiny vocabulary, and the tiny tokenizer's BOS in place of Gemma's."""
    fields = asdict(recipes()[name]) | {"tokens": [], "token_ids": list(ids)}
    fields["pieces"] = [BOS if piece == "<bos>" else piece for piece in fields["pieces"]]
    (folder / f"{name}.json").write_text(json.dumps(fields))
    return str(folder / f"{name}.json")


def texts(count: int, seed: int = 0) -> list[str]:
    return [record["response"] + ("." if i % 2 else "") for i, record in enumerate(ragged_records(count, seed))]


def last_logits(checkpoint: TinyCheckpoint, ids: Sequence[int]) -> torch.Tensor:
    """[vocabulary]"""
    with torch.no_grad():
        logits: torch.Tensor = checkpoint.model(torch.tensor([list(ids)])).logits[0, -1]
    return logits


def published_score(name: str, logits: torch.Tensor, rows: Sequence[int]) -> float:
    """P(yes), the log-odds, or the one logit."""
    if name == "qwen3-reranker":
        return logits[[rows[1], rows[0]]].log_softmax(0)[1].exp().item()  # as the README has it
    return (logits[rows[0]] - logits[rows[1]] if len(rows) > 1 else logits[rows[0]]).item()


@pytest.mark.parametrize("name", MODELS)
def test_published_input_and_score(tmp_path: Path, name: str) -> None:
    build, rows, instructed = MODELS[name]
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(max_position_embeddings=2048))
    tokenizer = tokenizer_of(checkpoint.folder)
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=own_recipe(tmp_path, name, rows)))
    documents, instructions = texts(max(COUNTS)), [None, "Prefer news.\n"] if instructed else [None]
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        for query, instruction in [(q, i) for q in ("What is 1 + 2?", "é 東🙂\n", "Why.. \n\n ") for i in instructions]:
            record: dict[str, Any] = {"query": query, "documents": documents, "instruction": instruction}
            ids = [build(tokenizer, query, document, instruction) for document in documents]
            [sequences] = model.encode([parse_record(record)], ScoreOptions())
            assert [sequence.ids.tolist() for sequence in sequences] == ids  # type: ignore[union-attr] # no error
            expected = [published_score(name, last_logits(checkpoint, row), rows) for row in ids]
            assert np.std(expected) > 0.01
            alone = model.score([{"query": query, "document": documents[0], "instruction": instruction}])
            for count in COUNTS:
                [found] = model.score([record | {"documents": documents[:count]}])
                values = [score.value for score in found]  # type: ignore[union-attr] # a list
                assert values[0] == alone[0].value  # type: ignore[union-attr] # bitwise, whatever else is in the batch
                np.testing.assert_allclose(np.array(values, float), expected[:count], atol=TOLERANCE)
    [written] = command_records(tmp_path / "bundle", [record], "ort-cpu")
    assert written["scores"] == values


def test_qwen3_as_a_classifier(tmp_path: Path) -> None:
    """One row, read at the last token that is not padding; its score is a raw logit."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint", TinyShape(max_position_embeddings=2048))
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="qwen3-reranker-seq-cls"))
    documents = texts(8)
    expected = []
    for document in documents:
        ids = qwen3(tokenizer_of(checkpoint.folder), "What?", document, None)
        with torch.no_grad():
            expected.append(checkpoint.model(torch.tensor([ids])).logits[0, 0].item())
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        [found] = model.score([{"query": "What?", "documents": documents}])
    np.testing.assert_allclose([score.value for score in found], expected, atol=TOLERANCE)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mxbai-rerank-v2", pytest.param("qwen3-reranker", marks=pytest.mark.ladder)])
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp16", marks=pytest.mark.ladder)])
def test_parity_gate(tmp_path: Path, name: str, dtype: str) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(max_position_embeddings=2048))
    check_gate(checkpoint, tmp_path / "bundle", dtype, own_recipe(tmp_path, name, MODELS[name][1]))


def test_the_query_is_computed_once(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(max_position_embeddings=2048))
    export(
        str(checkpoint.folder),
        tmp_path / "bundle",
        ExportOptions(recipe=own_recipe(tmp_path, "qwen3-reranker", (YES, NO))),
    )
    request = parse_record({"query": "What is 1 + 2? " * 20, "documents": ["a", "b c", "d"]})
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        statistics = model.run([request], ScoreOptions()).statistics
        [sequences] = model.encode([request], ScoreOptions())
    lengths = [len(sequence.ids) for sequence in sequences]  # type: ignore[union-attr] # no error
    shared = next(
        i
        for i, row in enumerate(zip(*(s.ids.tolist() for s in sequences), strict=False))
        if len(set(row)) > 1  # type: ignore[union-attr]
    )
    assert statistics.given == sum(lengths) and statistics.computed == sum(lengths) - 2 * shared
    assert shared > 300


def test_verify_and_bench_take_queries(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint", TinyShape(max_position_embeddings=2048))
    recipe = own_recipe(tmp_path, "mxbai-rerank-v2", (YES, NO))
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=recipe))
    records = [
        {"query": f"What is {i}?", "documents": texts(4, seed=i), "instruction": "Prefer news."} for i in range(3)
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = verify(
        tmp_path / "bundle",
        str(checkpoint.folder),
        VerifyOptions(data=tmp_path / "queries.jsonl", device="ort-cpu", reference_cache="off"),
    )
    assert report.passed and report.sequences == 12
    workload = make_workload(Bundle.open(tmp_path / "bundle"), BenchOptions(workload=tmp_path / "queries.jsonl"))
    ids = [
        mxbai(tokenizer_of(checkpoint.folder), r["query"], d, "Prefer news.") for r in records for d in r["documents"]
    ]
    assert [list(sequence) for sequence in workload.sequences] == ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pieces": ["{{ query }}"]}, "pieces: the text leaves out the document"),
        ({"pieces": ["{{ querry }}", "{{ document }}"]}, "pieces: the text leaves out the query"),
        ({"pieces": ["{{ query }}", "{{ document | trim }}"]}, "changes the document"),
        ({"pieces": ["{{ query }}", "{{ document }}{{ document }}"]}, "changes the document"),
        ({"pieces": ["{{ query }", "{{ document }}"]}, "pieces: the text of a query and a document cannot be written"),
        ({"template": "{{ messages }}"}, "has pieces and a template"),
        ({"append": "!"}, "has layout query_document and append, which only chat"),
        ({"layout": "chat"}, "has layout chat and pieces, which only query_document reads"),
        ({"token_ids": [YES]}, "has score_output 'logit', which its head does not have: expected one of score"),
    ],
)
def test_recipes_that_cannot_be_meant(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    path = Path(own_recipe(tmp_path, "mxbai-rerank-v2", (YES, NO)))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(OptionError, match=message):
        export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=str(path)))


def test_a_chat_template_without_the_roles_is_refused(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    (checkpoint.folder / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    path = Path(own_recipe(tmp_path, "mxbai-rerank-v2", (YES, NO)))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pieces": []}))
    with pytest.raises(CheckpointError, match="leaves out the query and the document"):
        export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe=str(path)))
