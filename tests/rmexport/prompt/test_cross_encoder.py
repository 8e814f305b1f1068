"""Sentence Transformers' CrossEncoder files, as its documentation shows them, against its own way to a score.

Source: huggingface/sentence-transformers, docs/cross_encoder/usage/custom_models.rst; base/modules/transformer.py
(`preprocess`), cross_encoder/modules/logit_score.py and cross_encoder/model.py (`predict`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from conversations import ragged_records
from reward_trunks import HIDDEN, TOLERANCE, check_gate, normal
from rmexport import ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import CheckpointError, ExportError, UnsupportedModel
from rmexport.spec import read_spec
from rmruntime import InputError, RewardModel, Score
from tiny_checkpoints import TinyCheckpoint, causal_lm, sequence_classifier
from tiny_tokenizer import BOS

TASK = "Given a web search query, retrieve relevant passages"
TEMPLATE = (
    "<Instruct>: {{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default('None') "
    "}}\n<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n<Document>: "
    "{{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|eot_id|>"
    "{% if add_generation_prompt %}assistant\n\n{% endif %}"
)
BASE = "sentence_transformers.base.modules"
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
ROLES = {"text": {"method": "forward"}, "message": {"method": "forward", "format": "flat"}}
QUERY = "What is the sum of 1 and 2?"
DOCUMENTS = [record["response"] for record in ragged_records(17)]


def write_files(
    folder: Path,
    modules: Sequence[tuple[str, str]],
    settings: Mapping[str, Any] | None = None,
    transformer: Mapping[str, Any] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    template: str = TEMPLATE,
) -> None:
    """modules.json and the others; `modules` are types and folders, `configs` those of modules by folder."""
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    own = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(own | dict(settings or {})))
    task = {"transformer_task": "text-generation", "modality_config": ROLES}
    (folder / "sentence_bert_config.json").write_text(json.dumps(task | dict(transformer or {})))
    for path, config in (configs or {}).items():
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)


def logit_score(folder: Path, true: int = 7, false: int | None = 9, **more: Any) -> None:
    modules = [(f"{BASE}.transformer.Transformer", ""), (LOGIT_SCORE, "1_LogitScore")]
    configs = {"1_LogitScore": {"true_token_id": true, "false_token_id": false, "module_input_name": "causal_logits"}}
    write_files(folder, modules, configs=configs, **more)


def dense(folder: Path, pooling: Any = "lasttoken", bias: bool = False, **more: Any) -> dict[str, torch.Tensor]:
    """Transformer, Pooling and Dense; returns the layer's tensors."""
    modules = [(f"{BASE}.transformer.Transformer", ""), (POOLING, "1_Pooling"), (f"{BASE}.dense.Dense", "2_Dense")]
    layer = {"in_features": HIDDEN, "out_features": 1, "bias": bias, "module_output_name": "scores"}
    layer |= {"activation_function": "torch.nn.modules.linear.Identity", "module_input_name": "sentence_embedding"}
    pooled = {"pooling_mode": pooling, "embedding_dimension": HIDDEN}
    write_files(folder, modules, configs={"1_Pooling": pooled, "2_Dense": layer}, **more)
    tensors = {"linear.weight": normal(1, HIDDEN, seed=5)} | ({"linear.bias": torch.tensor([-2.5])} if bias else {})
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    return tensors


def role_ids(checkpoint: TinyCheckpoint, prompt: str | None, document: str, **template: Any) -> list[int]:
    """`pair_to_messages`, `prepend_prompt_to_messages`, `apply_chat_template`."""
    messages = [{"role": "query", "content": QUERY}, {"role": "document", "content": document}]
    messages = [{"role": "system", "content": prompt}, *messages] if prompt else messages
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, **template)["input_ids"]
    return ids


def causal_logits(checkpoint: TinyCheckpoint, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = checkpoint.model(torch.tensor([list(ids)])).logits[0, -1]
    return logits


def check_scores(checkpoint: TinyCheckpoint, bundle: Path, expected: Sequence[float], **record: Any) -> None:
    """In batches of several sizes, the first bitwise as alone."""
    export(str(checkpoint.folder), bundle)
    assert np.std(expected) > 0.01
    with RewardModel.load(bundle, device="ort-cpu") as model:
        [[alone]] = model.score([{"query": QUERY, "documents": DOCUMENTS[:1], **record}])  # type: ignore[misc] # a list
        for count in (1, 3, 8, 17):
            [found] = model.score([{"query": QUERY, "documents": DOCUMENTS[:count], **record}])
            assert isinstance(found, list) and isinstance(alone, Score)
            assert found[0].value == alone.value
            np.testing.assert_allclose([score.value or 0.0 for score in found], expected[:count], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("activation", "prompt", "generation"),
    [("linear.Identity", None, False), ("activation.Sigmoid", TASK, True), (None, TASK, False)],
)
def test_logit_score(tmp_path: Path, activation: str | None, prompt: str | None, generation: bool) -> None:
    """`logit[true] - logit[false]`, then the activation, which is a sigmoid where none is stated."""
    checkpoint = causal_lm(tmp_path / "checkpoint")
    settings = {"prompts": {"web": TASK}, "default_prompt_name": "web" if prompt else None}
    settings["activation_fn"] = activation and f"torch.nn.modules.{activation}"
    transformer = {"processing_kwargs": {"chat_template": {"add_generation_prompt": generation}}}
    logit_score(checkpoint.folder, settings=settings, transformer=transformer)
    expected = []
    for document in DOCUMENTS:
        logits = causal_logits(checkpoint, role_ids(checkpoint, prompt, document, add_generation_prompt=generation))
        odds = logits[7] - logits[9]
        expected.append((odds if activation == "linear.Identity" else odds.sigmoid()).item())
    check_scores(checkpoint, tmp_path / "bundle", expected)


def test_one_token_and_an_instruction_of_the_record(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    logit_score(checkpoint.folder, false=None)
    ids = [role_ids(checkpoint, "Prefer news.", document) for document in DOCUMENTS]
    expected = [causal_logits(checkpoint, row)[7].item() for row in ids]
    check_scores(checkpoint, tmp_path / "bundle", expected, instruction="Prefer news.")


@pytest.mark.parametrize("bias", [False, True])
def test_dense_on_the_last_token(tmp_path: Path, bias: bool) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    layer = dense(checkpoint.folder, bias=bias, settings={"activation_fn": "torch.nn.modules.activation.Sigmoid"})
    expected = []
    for document in DOCUMENTS:
        with torch.no_grad():
            ids = torch.tensor([role_ids(checkpoint, None, document)])
            state = checkpoint.model.base_model(input_ids=ids).last_hidden_state[0, -1]
        value = torch.nn.functional.linear(state, layer["linear.weight"], layer.get("linear.bias"))
        expected.append(value.sigmoid().item())
    check_scores(checkpoint, tmp_path / "bundle", expected)
    names = {file.name for file in open_checkpoint(str(checkpoint.folder)).source_files}
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"} <= names


@pytest.mark.ladder
@pytest.mark.parametrize("weights", ["copy", "link"])
def test_dense_passes_the_gate(tmp_path: Path, weights: Any) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint", dtype=torch.bfloat16)
    dense(checkpoint.folder)
    export(str(checkpoint.folder), tmp_path / weights, ExportOptions(weights=weights))
    check_gate(checkpoint, tmp_path / "bundle", "bf16")


@pytest.mark.parametrize("activation", ["linear.Identity", "activation.Sigmoid"])
def test_a_classifier_of_its_own(tmp_path: Path, activation: str) -> None:
    """transformers' pooling: the last token that is not padding."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    settings = {"activation_fn": f"torch.nn.modules.{activation}"}
    transformer = {"transformer_task": "sequence-classification"}
    write_files(checkpoint.folder, [(f"{BASE}.transformer.Transformer", "")], settings, transformer)
    expected = []
    for document in DOCUMENTS:
        with torch.no_grad():
            logit = checkpoint.model(torch.tensor([role_ids(checkpoint, None, document)])).logits[0, 0]
        expected.append((logit.sigmoid() if "Sigmoid" in activation else logit).item())
    check_scores(checkpoint, tmp_path / "bundle", expected)


def test_a_pair_without_roles(tmp_path: Path) -> None:
    """The text modality: `tokenizer(query, document)`, the prompt before the query; here nothing is put around them."""
    checkpoint = causal_lm(tmp_path / "checkpoint")
    raw = json.loads((checkpoint.folder / "tokenizer.json").read_text())
    (checkpoint.folder / "tokenizer.json").write_text(json.dumps(raw | {"post_processor": None}))
    settings = {"prompts": {"web": "Query: "}, "default_prompt_name": "web"}
    logit_score(checkpoint.folder, settings=settings, transformer={"modality_config": {"text": {"method": "forward"}}})
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    expected = []
    for document in DOCUMENTS:
        ids = [t for part in (f"Query: {QUERY}", document) for t in tokenizer.encode(part, add_special_tokens=False)]
        logits = causal_logits(checkpoint, ids)
        expected.append((logits[7] - logits[9]).item())
    check_scores(checkpoint, tmp_path / "bundle", expected)


def test_what_the_files_decide_is_told(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    logit_score(checkpoint.folder, settings={"prompts": {"web": TASK}, "default_prompt_name": "web"})
    spec = read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions())
    assert spec.recipe is not None and spec.recipe.name == "sentence-transformers"
    assert (spec.head_name, spec.score, spec.format.layout) == ("token_logits", "logit", "query_document")
    assert (spec.format.system, spec.format.takes_instruction) == (TASK, True)
    own = {"name": "own", "description": "d", "head": "token_logits", "token_ids": [5], "layout": "query_document"}
    (tmp_path / "own.json").write_text(json.dumps(own))
    asked = read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions(recipe=str(tmp_path / "own.json")))
    assert asked.recipe is not None and (asked.recipe.name, asked.score) == ("own", "score")  # the user's own choice


def test_a_template_without_a_system_turn_takes_no_instruction(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    settings = {"prompts": {"web": TASK}, "default_prompt_name": "web"}
    logit_score(checkpoint.folder, settings=settings, template=TEMPLATE.partition("\n")[2])
    export(str(checkpoint.folder), tmp_path / "bundle")
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        assert model.manifest.format.system is None
        with pytest.raises(InputError, match="found an instruction"):
            model.rank("a", ["b"], instruction="c")


def test_other_models_of_sentence_transformers_are_left_alone(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    modules = [(f"{BASE}.transformer.Transformer", ""), (POOLING, "1_Pooling")]
    template = (checkpoint.folder / "chat_template.jinja").read_text()
    write_files(checkpoint.folder, modules, {"model_type": "SentenceTransformer"}, template=template)
    spec = read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions())
    assert (spec.recipe, spec.format.layout) == (None, "chat")


def broken(folder: Path, file: str, **changes: Any) -> None:
    raw = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(raw | changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "mean"}, r"pooling_mode 'mean' \(expected 'lasttoken'\)"),
        ("2_Dense/config.json", {"out_features": 3}, r"out_features 3 \(expected 1\)"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Tanh"}, "activation_function 'Tanh'"),
        ("2_Dense/config.json", {"use_residual": True}, r"use_residual True \(expected False\)"),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.Tanh"}, "activation_fn 'torch.nn.Tanh'"),
        ("config_sentence_transformers.json", {"default_prompt_name": "web"}, "default prompt 'web' and no text"),
        ("sentence_bert_config.json", {"modality_config": {"message": {"format": "structured"}}}, "only flat text"),
        ("sentence_bert_config.json", {"processing_kwargs": {"chat_template": {"enable_thinking": False}}},
         "not supported: enable_thinking"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused(tmp_path: Path, file: str, changes: Any, message: str) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    dense(checkpoint.folder)
    broken(checkpoint.folder, file, **changes)
    with pytest.raises(ExportError, match=message):
        read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions())


def test_special_tokens_around_a_pair_are_refused(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    logit_score(checkpoint.folder, transformer={"modality_config": {}})
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    ids = [(BOS, checkpoint.tokenizer.bos_id)]
    pair = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=ids)
    tokenizer.post_processor = pair
    tokenizer.save(str(checkpoint.folder / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match="special tokens of its own around them"):
        read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions())


def test_modules_that_are_not_known(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    write_files(checkpoint.folder, [(f"{BASE}.transformer.Transformer", ""), ("own.module.Temperature", "1_Own")])
    with pytest.raises(UnsupportedModel, match=r"has the modules Transformer, Temperature, .*--recipe"):
        read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions())
    (checkpoint.folder / "modules.json").write_text('[{"type": "a", "path": "../other"}]')
    with pytest.raises(CheckpointError, match=r"names the folder '\.\./other', expected a plain name"):
        open_checkpoint(str(checkpoint.folder))
    (checkpoint.folder / "modules.json").write_text("{}x")
    with pytest.raises(CheckpointError, match="is no list of modules"):
        open_checkpoint(str(checkpoint.folder))


def test_a_sigmoid_over_one_token(tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "checkpoint")
    logit_score(checkpoint.folder, false=None, settings={"activation_fn": None})
    ids = [role_ids(checkpoint, None, document) for document in DOCUMENTS]
    logits = [causal_logits(checkpoint, row)[7] for row in ids]
    check_scores(checkpoint, tmp_path / "bundle", [logit.sigmoid().item() for logit in logits])
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        assert any("the sigmoid of the logit of" in note for note in model.manifest.notes)
        [[found]] = model.score([{"query": QUERY, "documents": DOCUMENTS[:1]}])  # type: ignore[misc] # a list
    assert isinstance(found, Score) and found.logit == pytest.approx(logits[0].item(), abs=TOLERANCE)
