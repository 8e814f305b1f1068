"""Encoder checkpoints and their bundles, all made by one process with optimum-onnx and the transformers it takes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, processors

from tiny_tokenizer import build_tokenizer

HERE = Path(__file__).parent
OPTIMUM = Path(sys.prefix) / ".optimum"
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 160,
}
DEBERTA = SIZES | {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
# v3 shares the projections of keys and positions and normalizes the table of positions, in logarithmic buckets
DEBERTA_V3 = DEBERTA | {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}
MODERNBERT = SIZES | {"model_type": "modernbert", "local_attention": 16, "global_attn_every_n_layers": 2}
ROBERTA = SIZES | {"max_position_embeddings": 162, "type_vocab_size": 1}
DISTILBERT = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 160}
LABELS = {"id2label": {"0": "bad", "1": "fair", "2": "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
FP32, BF16, FP16 = ({"dtype": dtype} for dtype in ("fp32", "bf16", "fp16"))

JOBS: dict[str, dict[str, Any]] = {
    "deberta-v3": {"config": DEBERTA_V3, "bundles": {"fp32": FP32, "bf16": BF16, "fp16": FP16}, "bin": True},
    "deberta-v2": {"config": DEBERTA, "bundles": {"fp32": FP32}},
    "modernbert-cls": {"config": MODERNBERT | {"classifier_pooling": "cls"}, "bundles": {"fp32": FP32, "bf16": BF16}},
    "modernbert-mean": {"config": MODERNBERT | {"classifier_pooling": "mean"}, "bundles": {"fp32": FP32}},
    "bert": {"config": SIZES | {"model_type": "bert"}, "bundles": {"fp32": FP32, "fp16": FP16}},
    "roberta": {"config": ROBERTA | {"model_type": "roberta"}, "bundles": {"fp32": FP32, "bf16": BF16}},
    "xlm-roberta": {"config": ROBERTA | {"model_type": "xlm-roberta"}, "bundles": {"fp32": FP32}},
    "electra": {"config": SIZES | {"model_type": "electra", "embedding_size": 32}, "bundles": {"fp32": FP32}},
    "distilbert": {"config": DISTILBERT | {"model_type": "distilbert"}, "bundles": {"fp32": FP32}},
    "labels": {
        "config": SIZES | {"model_type": "bert"} | LABELS,
        "bundles": {"good": FP32 | {"score_label": "good"}, "all": FP32},
    },
}
# ids and token types that any of the checkpoints takes
REFERENCE = [[[5, 17, 250, 9], [0, 0, 1, 1]], [[30] * 40, [0] * 40]]
MATRIX = "bert.encoder.layer.1.output.dense.weight"
HARMLESS = ["bert.embeddings.position_ids", "cls.predictions.bias"]
COPIES: list[dict[str, Any]] = [
    {"name": "lacking", "like": "bert", "without": [MATRIX], "bundles": {"fp32": FP32}},
    {"name": "foreign", "like": "bert", "added": ["regression_layer.weight"], "bundles": {"fp32": FP32}},
    {"name": "pretrained", "like": "bert", "added": HARMLESS, "bundles": {"fp32": FP32 | {"hash": True}}},
    {"name": "large", "like": "bert", "enlarged": [MATRIX], "bundles": {"fp16": FP16}},
    {
        # optimum's own switch for what it does with models of more than 2 GB
        "name": "external", "like": "modernbert-cls", "bundles": {"fp32": FP32},
        "environment": {"FORCE_ONNX_EXTERNAL_DATA": "1"},
    },
    {"name": "transformers-5", "bundles": {"auto": {}}},
]  # fmt: skip
SEPARATED = "[CLS] $A [SEP] $B:{0} [SEP]:{0}"
PAIRS = {
    "roberta": "<s> $A </s> </s> $B </s>",
    "xlm-roberta": "<s> $A </s> </s> $B </s>",
    "modernbert-cls": SEPARATED.format(0),
    "modernbert-mean": SEPARATED.format(0),
}


def write_pair_tokenizer(folder: Path, pair: str = SEPARATED.format(1)) -> dict[str, int]:
    """The tiny tokenizer with a pair format in its post-processor; returns what config.json says of it."""
    build_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parts = [part.partition(":")[0] for part in pair.split()]
    names = sorted({part for part in parts if not part.startswith("$")})
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (*names, "<pad>")])
    special = [(name, tokenizer.token_to_id(name)) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{parts[0]} $A {parts[-1]}", pair=pair, special_tokens=special
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": tokenizer.token_to_id("<pad>")}


def save_modernbert(folder: Path) -> None:
    """As transformers 5 saves it: the rotary bases stand where the older one that traces does not look."""
    ids = write_pair_tokenizer(folder, SEPARATED.format(0))
    kinds = {"full_attention": 500.0, "sliding_attention": 20.0}
    rope = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in kinds.items()}
    fields = {k: v for k, v in MODERNBERT.items() if k != "model_type"} | {"num_hidden_layers": 3}
    special = {"bos_token_id": 5, "eos_token_id": 6, "cls_token_id": 5, "sep_token_id": 6}
    config = transformers.ModernBertConfig(**fields, **special, **ids, rope_parameters=rope, num_labels=1)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    model.save_pretrained(folder)


def run_exports(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Run jobs of export_encoders.py in `folder`."""
    if not OPTIMUM.is_dir():
        pytest.fail(f"{OPTIMUM} is missing: optimum-onnx and its transformers; run ./scripts/install")
    paths = os.pathsep.join((str(OPTIMUM), str(HERE.parents[2]), str(HERE.parents[2] / "runtime")))
    done = subprocess.run(
        [sys.executable, str(HERE / "export_encoders.py"), str(folder)],
        input=json.dumps(jobs),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr and not done.stdout, done  # the tracer's chatter is no user's business


@pytest.fixture(scope="session")
def encoders(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A folder with the checkpoint of every job under its name, and its bundles under NAME.BUNDLE."""
    return made_once("encoders", make_encoders)


def make_encoders(folder: Path) -> None:
    jobs = []
    for name, job in JOBS.items():
        (folder / name).mkdir()
        ids = write_pair_tokenizer(folder / name, PAIRS.get(name, SEPARATED.format(1)))
        if name.endswith("roberta"):  # whose positions begin behind the pad id
            ids["pad_token_id"] = 1
        labels = {} if "id2label" in job["config"] else {"num_labels": 1}
        reference = {"reference": REFERENCE} if labels else {}
        jobs.append(job | reference | {"name": name, "config": {**labels, **job["config"], **ids}})
    save_modernbert(folder / "transformers-5")
    run_exports(folder, jobs + COPIES)


@pytest.fixture
def pair_tokenizer() -> Callable[..., dict[str, int]]:
    """`write_pair_tokenizer`, for tests, which cannot import this file."""
    return write_pair_tokenizer
