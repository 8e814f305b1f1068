"""Published reward models at their real size, without weights: what `inspect` says of them, and their graphs' sizes.

Parameter counts are the published ones, less an lm_head that no score reads; 1 % lets heads and added tokens pass.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from published_backbones import backbone
from published_checkpoints import CHECKPOINTS, Published, write_checkpoint, write_published
from published_tokenizers import INSTRUCT
from rmexport import ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.cli import main
from rmexport.dialects import dialects
from rmexport.errors import CheckpointError
from rmexport.families import family_of
from rmexport.heads.gated_objectives import PUBLISHED_OBJECTIVES
from rmexport.inspection.facts import inspect
from rmexport.spec import ModelSpec, build_graph, read_spec
from rmexport.weights.weight_spec import WeightLocation
from sparse_checkpoints import disk_usage, free_of_sparse_files, write_sparse

CHAT, CHAT_ONE_BOS = "chat, BOS as-is, a sequence at a time", "chat, BOS one, a sequence at a time"
SEPARATED = "separated_steps, BOS as-is, a step at a time"
STEP_END = {"score": "step_end"}
EXTRA_0 = {"score": "marker ('<extra_0>' = [151651])"}
NO_PAD = "last_not_pad (pad id {})".format
FIRST_PAD = "before_first_pad (pad id {})".format
SCORE = ("score per sequence",)
PROBABILITY = ("score per sequence", "logit per sequence")
STEPS = ("score per step", "logit per step")
GATE = "pattern_start ({!r} = [128009, 128006, 78191, 128007, 271])".format(
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA_GATE = "pattern_start ({!r} = [107, 108, 106, 2516, 108])".format("<end_of_turn>\n<start_of_turn>model\n")
URM_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def labelled(*names: str) -> tuple[str, ...]:
    """The outputs of a head with several named values."""
    return (*SCORE, *(f"{kind} per sequence: {', '.join(names)}" for kind in ("rewards", "gating")))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What `inspect` must say. `because` is part of why it is this head; `billions` of parameters."""

    family: str
    billions: float
    head: str = "sequence_classification"
    because: str = "the checkpoint has score.weight"
    recipe: str | None = None
    dtype: str = "bf16"
    format: str = CHAT
    positions: Mapping[str, str] = field(default_factory=lambda: {"score": "last"})
    outputs: tuple[str, ...] = SCORE


def plain(family: str, billions: float, pad: int, **more: Any) -> Facts:
    """transformers' classifier, found by its tensor."""
    return Facts(family=family, billions=billions, positions={"score": NO_PAD(pad)}, **more)


def known(recipe: str, family: str, billions: float, **more: Any) -> Facts:
    """Chosen by the repository's name."""
    because = f"the recipe {recipe} says so"
    return Facts(family=family, billions=billions, recipe=recipe, **{"because": because, **more})


def one_bos(recipe: str, family: str, billions: float, pad: int = 128256) -> Facts:
    """transformers' classifier, whose published code leaves one BOS."""
    return known(recipe, family, billions, format=CHAT_ONE_BOS, positions={"score": NO_PAD(pad)})


def qrm(billions: float) -> Facts:
    """Both have ArmoRM's objectives and pattern, and its class's name."""
    positions = {"score": FIRST_PAD(128256), "gate": GATE}
    outputs = labelled(*PUBLISHED_OBJECTIVES)
    return known("qrm", "llama", billions, head="quantile_gated", positions=positions, outputs=outputs)


def urm(billions: float) -> Facts:
    return known("urm", "llama", billions, head="uncertainty_weighted", outputs=labelled(*URM_ATTRIBUTES))


def math_prm(billions: float) -> Facts:
    form = "tagged_steps, BOS as-is, a step at a time"
    recipe, head = "qwen2.5-math-prm", "process_reward"
    return known(recipe, "qwen2", billions, head=head, format=form, positions=EXTRA_0, outputs=STEPS)


def reranker(recipe: str, family: str, billions: float, **more: Any) -> Facts:
    """A causal LM, or its copy as a classifier, whose text is put together from pieces."""
    form = "query_document, BOS as-is, a sequence at a time"
    return known(recipe, family, billions, format=form, **{"head": "token_logits", **more})


FOUND = {
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": one_bos("skywork", "llama", 7.505),
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": one_bos("skywork-v2", "llama", 7.505),
    "Skywork/Skywork-Reward-V2-Llama-3.2-1B": one_bos("skywork-v2", "llama", 1.236),
    "Skywork/Skywork-Reward-V2-Llama-3.2-3B": one_bos("skywork-v2", "llama", 3.213),
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": plain("qwen3", 0.596, 151643),
    "Skywork/Skywork-Reward-V2-Qwen3-1.7B": plain("qwen3", 1.721, 151643),
    "Skywork/Skywork-Reward-V2-Qwen3-4B": plain("qwen3", 4.022, 151643),
    "Skywork/Skywork-Reward-V2-Qwen3-8B": plain("qwen3", 7.568, 151643),
    "Skywork/Skywork-Reward-Gemma-2-27B-v0.2": one_bos("skywork", "gemma2", 27.227, 0),
    # pad is eos, and config.json has the keys of a value head that is not there
    "Ray2333/GRM-Gemma2-2B-rewardmodel-ft": plain("gemma2", 2.614, 1, dtype="fp16"),
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": one_bos("fsfairx", "llama", 7.505),
    "NCSOFT/Llama-3-OffsetBias-RM-8B": one_bos("fsfairx", "llama", 7.505),
    "weqweasdas/RM-Mistral-7B": one_bos("fsfairx", "mistral", 7.111, 32000),
    "weqweasdas/RM-Gemma-2B": one_bos("fsfairx", "gemma", 2.506, 256000),
    "weqweasdas/RM-Gemma-7B": one_bos("fsfairx", "gemma", 8.538, 256000),
    "allenai/OLMo-2-1124-7B-RM": plain("olmo2", 6.888, 100277),
    "allenai/OLMo-2-1124-13B-RM": plain("olmo2", 13.202, 100277),
    "trl-lib/Qwen2-0.5B-Reward": plain("qwen2", 0.494, 151645),
    "trl-gemma-3-1b": plain("gemma3_text", 1.0, 0),
    "trl-gemma-3-4b": plain("gemma3_text", 3.88, 0),
    "trl-gemma-3-27b": plain("gemma3_text", 27.009, 0),
    "trl-phi-3-mini": plain("phi3", 3.722, 32000),
    "trl-mixtral-8x7b": plain("mixtral", 46.572, 2),
    "trl-qwen3-30b-a3b": plain("qwen3_moe", 30.221, 151643),
    "nicolinho/QRM-Llama3-8B": qrm(7.505),
    "nicolinho/QRM-Llama3.1-8B": qrm(7.505),
    "nicolinho/QRM-Gemma-2-27B": known(
        "qrm-gemma-2", "gemma2", 27.2, head="quantile_gated", format=CHAT_ONE_BOS,
        positions={"score": FIRST_PAD(0), "gate": GEMMA_GATE},
        outputs=labelled(*(f"objective_{i}" for i in range(5))),
    ),
    "LxzGordon/URM-LLaMa-3-8B": urm(7.539),
    "LxzGordon/URM-LLaMa-3.1-8B": urm(7.539),
    "Ray2333/GRM-llama3-8B-sftreg": Facts(
        family="llama", billions=7.509, head="value_head", because="v_head.summary.0.weight"
    ),
    "Ray2333/GRM-Gemma-2B-sftreg": Facts(
        family="gemma", billions=2.508, head="value_head", because="v_head.summary.0.weight"
    ),
    "infly/INF-ORM-Llama3.1-70B": Facts(
        family="llama", billions=69.57, head="feed_forward_score", because="score.0.bias, score.0.weight",
        positions={"score": FIRST_PAD(128256)},
    ),
    "ShikaiChen/LDL-Reward-Gemma-2-27B-v0.1": Facts(
        family="gemma2", billions=27.3, head="label_distribution", because="gating_layer.network.0.weight",
        positions={"score": FIRST_PAD(0)}, outputs=labelled(*(f"objective_{i}" for i in range(22))),
    ),
    "Qwen/Qwen2.5-Math-PRM-7B": math_prm(7.083),
    "Qwen/Qwen2.5-Math-7B-PRM800K": math_prm(7.083),
    "Qwen/Qwen2.5-Math-PRM-72B": math_prm(71.527),
    "Qwen/WorldPM-72B": Facts(
        family="qwen2", billions=71.527, head="feed_forward_score", because="score.0.bias, score.0.weight"
    ),
    "Nexusflow/Athene-RM-8B": known("athene", "llama", 7.505, head="one_row"),
    "Qwen/Qwen2.5-Math-RM-72B": Facts(
        family="qwen2", billions=71.527, head="feed_forward_score", because="score.0.bias, score.0.weight"
    ),
    "internlm/internlm2-1_8b-reward": known(
        "internlm2-reward", "internlm2", 1.7, head="internlm2_reward", dtype="fp16"
    ),
    "internlm/internlm2-7b-reward": known(
        "internlm2-reward", "internlm2", 7.359, head="internlm2_reward", dtype="fp16"
    ),
    "internlm/internlm2-20b-reward": known(
        "internlm2-reward", "internlm2", 19.293, head="internlm2_reward", dtype="fp16"
    ),
    "openbmb/UltraRM-13b": known("ultrarm", "llama", 12.852, head="regression_head", format=CHAT_ONE_BOS),
    "openbmb/Eurus-RM-7b": known("eurus", "mistral", 7.111, head="regression_head", format=CHAT_ONE_BOS),
    "berkeley-nest/Starling-RM-7B-alpha": Facts(
        family="llama", billions=6.607, head="starling", because="v_head.weight", positions={"score": FIRST_PAD(0)}
    ),
    "Nexusflow/Starling-RM-34B": Facts(
        family="llama", billions=33.93, head="starling", because="v_head.weight", positions={"score": FIRST_PAD(0)}
    ),
    "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5": known(
        "open-assistant", "gpt_neox", 1.311, head="open_assistant", dtype="fp16"
    ),
    "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1": known(
        "open-assistant", "gpt_neox", 6.65, head="open_assistant", dtype="fp16"
    ),
    "PKU-Alignment/beaver-7b-v1.0-reward": known("beaver", "llama", 6.607, head="safe_rlhf", format=CHAT_ONE_BOS),
    "PKU-Alignment/beaver-7b-v1.0-cost": known("beaver-cost", "llama", 6.607, head="safe_rlhf", format=CHAT_ONE_BOS),
    "openrlhf": Facts(
        family="llama", billions=7.505, head="openrlhf",
        because="score.weight, value_head_prefix in config.json (more than sequence_classification accounts for)",
    ),
    "openrlhf-old": Facts(family="llama", billions=7.505, head="openrlhf", because="value_head.weight"),
    "verl": Facts(
        family="qwen2", billions=7.071, head="token_value", because="Qwen2ForTokenClassification in config.json"
    ),
    "peiyi9979/math-shepherd-mistral-7b-prm": known(
        "math-shepherd", "mistral", 7.111, head="token_logits", dtype="fp16", outputs=STEPS,
        format="tagged_steps, BOS one, a step at a time", positions={"score": "marker (' ки' = [220, 12902])"},
    ),
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B": known(
        "skywork-o1-prm", "qwen2", 1.544, head="value_head", format=SEPARATED, positions=STEP_END, outputs=STEPS
    ),
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B": known(
        "skywork-o1-prm", "qwen2", 7.071, head="value_head", format=SEPARATED, positions=STEP_END, outputs=STEPS
    ),
    "RLHFlow/pair-preference-model-LLaMA3-8B": known(
        "pair-preference", "llama", 7.505, head="token_logits", outputs=PROBABILITY,
        format="preference, BOS zero, a sequence at a time",
    ),
    "nvidia/Llama-3.1-Nemotron-70B-Reward-HF": known("nemotron", "llama", 69.503, head="token_logits"),
    "nvidia/Llama-3.3-Nemotron-70B-Reward": known(
        "nemotron-3.3", "llama", 69.503, head="token_logits", format="chat, BOS zero, a sequence at a time"
    ),
    "UW-Madison-Lee-Lab/VersaPRM": known(
        "versaprm", "llama", 7.505, head="token_logits", outputs=STEPS,
        format="tagged_steps, BOS one, a step at a time", positions={"score": "marker (' \\n\\n\\n\\n' = [23535])"},
    ),
    "Skywork/Skywork-VL-Reward-7B": Facts(
        family="qwen2_5_vl", billions=7.071, head="value_head", because="v_head.summary.weight"
    ),
    "TIGER-Lab/AceCodeRM-7B": Facts(family="qwen2", billions=7.071, head="value_head", because="v_head.summary.weight"),
    "jinachris/PURE-PRM-7B": known(
        "trl-prm", "qwen2", 7.071, head="token_classification", format=SEPARATED, positions=STEP_END, outputs=STEPS
    ),
    "trl-prm": known(
        "trl-prm", "qwen2", 0.494, head="token_classification", because="Qwen2ForTokenClassification in config.json",
        format=SEPARATED, positions=STEP_END, outputs=STEPS,
    ),
    "trl-value-head": Facts(family="qwen2", billions=71.46, head="value_head", because="v_head.summary.weight"),
    "llama-factory": Facts(family="llama", billions=7.505, head="value_head", because="v_head.summary.weight"),
    "Qwen/Qwen3-Reranker-0.6B": reranker("qwen3-reranker", "qwen3", 0.596, outputs=PROBABILITY),
    "Qwen/Qwen3-Reranker-4B": reranker("qwen3-reranker", "qwen3", 4.022, outputs=PROBABILITY),
    "Qwen/Qwen3-Reranker-8B": reranker("qwen3-reranker", "qwen3", 7.568, outputs=PROBABILITY),
    "tomaarsen/Qwen3-Reranker-0.6B-seq-cls": reranker(
        "qwen3-reranker-seq-cls", "qwen3", 0.596, head="sequence_classification", positions={"score": NO_PAD(151643)}
    ),
    "mixedbread-ai/mxbai-rerank-base-v2": reranker("mxbai-rerank-v2", "qwen2", 0.494, outputs=PROBABILITY),
    "mixedbread-ai/mxbai-rerank-large-v2": reranker("mxbai-rerank-v2", "qwen2", 1.544, outputs=PROBABILITY),
    "zeroentropy/zerank-2": reranker("zerank-2", "qwen3", 4.022),
    "BAAI/bge-reranker-v2-gemma": reranker("bge-reranker-v2-gemma", "gemma", 2.506, dtype="fp32"),
    "OpenAssistant/reward-model-deberta-v3-large-v2": Facts(
        family="deberta-v2", billions=0.435, because="architecture DebertaV2ForSequenceClassification", dtype="fp32",
        format="text_pair, BOS as-is, a sequence at a time",
    ),
    "modernbert-large": Facts(
        family="modernbert", billions=0.396, because="architecture ModernBertForSequenceClassification", dtype="fp32",
        format="text_pair, BOS as-is, a sequence at a time",
    ),
}  # fmt: skip
REFUSED = {
    "general-preference/GPM-Llama-3.1-8B": "value_head.weight has 6 rows.*an answer alone has no score",
    "llm-blender/PairRM-hf": "PairRM.*two candidates.*alone has no score",
    "internlm/POLAR-7B": "POLAR.*reference answer.*--recipe internlm2-reward",
    "IDEA-CCNL/Ziya-LLaMA-7B-Reward": "LlamaRewardModel.*value_head.weight.*regression_head.*--recipe",
    "causal-lm-without-a-name": "lm_head.weight.*--recipe.*math-shepherd.*nemotron.*rlhflow-prm",
}
# The largest of every family, in one dialect, with the kB of graph that a layer may have: experts have more to say.
LARGEST = {
    "infly/INF-ORM-Llama3.1-70B": ("openvino", 10),
    "openbmb/Eurus-RM-7b": ("ort-cpu", 10),
    "Qwen/Qwen2.5-Math-PRM-72B": ("ort-cpu", 10),
    "Skywork/Skywork-Reward-V2-Qwen3-8B": ("openvino", 10),
    "weqweasdas/RM-Gemma-7B": ("ort-cpu", 10),
    "Skywork/Skywork-Reward-Gemma-2-27B-v0.2": ("portable", 10),
    "trl-gemma-3-27b": ("openvino", 10),
    "allenai/OLMo-2-1124-13B-RM": ("openvino", 10),
    "trl-phi-3-mini": ("portable", 10),
    "internlm/internlm2-20b-reward": ("ort-cpu", 10),
    "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1": ("openvino", 10),
    "trl-mixtral-8x7b": ("openvino", 16),
    "trl-qwen3-30b-a3b": ("portable", 16),
}
# What the name of the repository is not needed for: the tensors alone say which head it is.
BY_TENSORS = {
    "Skywork/Skywork-Reward-Gemma-2-27B-v0.2": ("sequence_classification", None),
    "nicolinho/QRM-Llama3.1-8B": ("quantile_gated", "qrm"),
    "LxzGordon/URM-LLaMa-3.1-8B": ("uncertainty_weighted", None),
    "Qwen/Qwen2.5-Math-PRM-7B": ("process_reward", "qwen2.5-math-prm"),
    "internlm/internlm2-1_8b-reward": ("internlm2_reward", None),
    "openbmb/UltraRM-13b": ("regression_head", None),
    "openbmb/Eurus-RM-7b": ("regression_head", None),
    "PKU-Alignment/beaver-7b-v1.0-cost": ("safe_rlhf", None),
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B": ("value_head", None),
    "jinachris/PURE-PRM-7B": ("token_classification", "trl-prm"),
}


def written(tmp_path: Path, published: str | Published) -> str:
    """The checkpoint's folder, named as in the Hub's cache where it is given by name; sparse files cost nothing."""
    tmp_path.mkdir(exist_ok=True)
    if free_of_sparse_files(tmp_path):
        pytest.skip("this file system has no sparse files")
    folder = tmp_path
    if isinstance(published, str):
        folder = write_published(tmp_path, published)
    else:
        write_checkpoint(tmp_path, published)
    assert disk_usage(folder) < 10_000_000
    return str(folder)


def spec_of(folder: str, recipe: str | None = None) -> ModelSpec:
    return read_spec(open_checkpoint(folder), ExportOptions(recipe=recipe))


def config_of(name: str) -> Any:
    """The family's Config out of the published config.json."""
    config = CHECKPOINTS[name].config
    return family_of(config).read_config(config)


def shallow(name: str) -> Published:
    """Two layers of full width."""
    return replace(CHECKPOINTS[name], config=CHECKPOINTS[name].config | {"num_hidden_layers": 2})


def test_every_checkpoint_is_expected_somewhere() -> None:
    assert set(CHECKPOINTS) == set(FOUND) | set(REFUSED)
    others = {"deberta-v2", "modernbert", "gemma3", "qwen2_5_vl"}  # encoders, and the text of what sees images
    decoders = {CHECKPOINTS[name].config["model_type"] for name in FOUND} - others
    assert {CHECKPOINTS[name].config["model_type"] for name in LARGEST} == decoders


@pytest.mark.parametrize("name", FOUND)
def test_inspect(tmp_path: Path, name: str) -> None:
    """Opening also binds: a tensor that is missing, unexpected or of another shape is an error."""
    expected, facts = FOUND[name], inspect(written(tmp_path, name), ExportOptions())
    assert facts["repo"] == (name if "/" in name else None)
    for key in ("family", "head", "recipe", "dtype", "format", "positions"):
        assert facts[key] == getattr(expected, key), key
    assert facts["outputs"] == list(expected.outputs)
    assert expected.because in facts["because"]["head"]
    assert CHECKPOINTS[name].config["model_type"] in facts["because"]["family"]
    assert facts["parameters"] == pytest.approx(expected.billions * 1e9, rel=0.01)


def test_the_command_prints_what_it_decided_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", written(tmp_path, "nicolinho/QRM-Llama3.1-8B")]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    printed = {line[0]: line[1] for line in lines if len(line) == 2}
    assert (printed["repo"], printed["family"]) == ("nicolinho/QRM-Llama3.1-8B", "llama")
    assert (printed["head"], printed["recipe"]) == ("quantile_gated", "qrm")
    assert printed["positions"] == "score: before_first_pad (pad id 128256)"
    assert printed["gate:"] == GATE
    assert printed["because"] == "family: config.json has model_type 'llama'"
    assert printed["head:"] == "the recipe qrm says so"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["inspect", written(tmp_path, name)]) == 2
    assert re.search(f"(?s)^error: .*{REFUSED[name]}", capsys.readouterr().err)


@pytest.mark.parametrize("name", BY_TENSORS)
def test_a_local_copy_without_its_name(tmp_path: Path, name: str) -> None:
    published = shallow(name)
    copy = replace(published, text=replace(published.text, template=published.text.template or INSTRUCT))
    facts = inspect(written(tmp_path, copy), ExportOptions())
    assert (facts["repo"], facts["head"], facts["recipe"]) == (None, *BY_TENSORS[name])
    assert facts["because"]["head"].startswith("the checkpoint has ")


@pytest.mark.parametrize("name", LARGEST)
def test_tensors_bind_exactly(tmp_path: Path, name: str) -> None:
    """Every tensor of a layer is needed, and nothing else may be there."""
    published = shallow(name)
    own = {key: entry for key, entry in published.inventory().items() if ".layers.1." in key}
    needed = own.keys() - published.buffers.keys()
    folder = Path(written(tmp_path, published))
    inventory = {key: entry for key, entry in published.inventory().items() if key not in own}
    for file in folder.glob("*.safetensors"):
        file.unlink()
    write_sparse(folder, published.config, inventory | {"model.layers.2.extra.weight": ("BF16", (1,))})
    with pytest.raises(CheckpointError, match=rf"(?s)missing tensors \({len(needed)}\).*unexpected tensors \(1\)"):
        spec_of(str(folder))


@pytest.mark.parametrize("name", [name for name in LARGEST if "internlm2" not in name])  # which transformers lacks
def test_the_inventory_is_that_of_transformers(name: str) -> None:
    """Names and shapes of our layouts against the classes themselves."""
    config = shallow(name).config
    config |= {"model_type": config["model_type"].removesuffix("_reward_model"), "num_labels": 1}
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config))
    theirs = {key: tuple(value.shape) for key, value in model.base_model.state_dict().items()}
    ours = {key.partition(".")[2]: shape for key, shape in backbone(config)}
    if "experts" in str(list(ours)):  # transformers 5 keeps all experts of a layer in two tensors
        assert sum(map(math.prod, ours.values())) == sum(map(math.prod, theirs.values()))
        ours = {key: shape for key, shape in ours.items() if ".mlp." not in key and "_moe." not in key}
        theirs = {key: shape for key, shape in theirs.items() if ".mlp." not in key}
    assert ours == theirs


@pytest.mark.parametrize("name", ["OpenAssistant/reward-model-deberta-v3-large-v2", "modernbert-large"])
def test_the_inventory_of_encoders_is_that_of_transformers(name: str) -> None:
    published = CHECKPOINTS[name]
    with torch.device("meta"):
        config = AutoConfig.for_model(**published.config | {"num_labels": 1})
        model = AutoModelForSequenceClassification.from_config(config)
    theirs = {key: tuple(value.shape) for key, value in model.named_parameters()}
    assert {key: shape for key, (_, shape) in published.inventory().items()} == theirs


@pytest.mark.ladder
@pytest.mark.parametrize("name", LARGEST)
def test_size_of_the_graph(tmp_path: Path, name: str) -> None:
    dialect, kilobytes = LARGEST[name]
    spec = spec_of(written(tmp_path, name))
    locations = {
        tensor.name: WeightLocation("model.safetensors", 1 << 40, 1 << 30, tensor.dtype, tensor.shape)
        for tensor in spec.weights
    }
    words = dialects()[dialect]
    model = build_graph(words, words.compute_dtypes(spec.dtype)[0], spec, locations).model(dialect)
    size = len(ir.to_proto(model).SerializeToString())
    assert 3_000 < size / spec.config.num_hidden_layers < 1000 * kilobytes


@pytest.mark.parametrize("name", ["llama-factory", "berkeley-nest/Starling-RM-7B-alpha"])
def test_links_shards_whose_backbone_has_its_own_place(tmp_path: Path, name: str) -> None:
    """A head in a file of its own; a backbone under `transformer.`."""
    folder = written(tmp_path / "checkpoint", name)
    manifest = export(folder, tmp_path / "bundle", ExportOptions(weights="link"))
    assert manifest.backbone.parameters == pytest.approx(FOUND[name].billions * 1e9, rel=0.01)
    assert disk_usage(tmp_path / "bundle") < 20_000_000


@pytest.mark.parametrize(
    ("name", "window", "layers"),
    [
        ("openbmb/Eurus-RM-7b", 4096, range(32)),
        ("trl-phi-3-mini", 2047, range(32)),
        ("Qwen/Qwen2.5-Math-PRM-72B", None, ()),  # config.json states one that use_sliding_window turns off
        ("trl-mixtral-8x7b", None, ()),
        ("Skywork/Skywork-Reward-Gemma-2-27B-v0.2", 4096, range(0, 46, 2)),
        ("Skywork/Skywork-VL-Reward-7B", None, ()),
        ("trl-gemma-3-1b", 512, [i for i in range(26) if i % 6 != 5]),
    ],
)
def test_sliding_windows(name: str, window: int | None, layers: Sequence[int]) -> None:
    found = config_of(name).windows
    assert [i for i, size in enumerate(found) if size is not None] == list(layers)
    assert {size for size in found if size is not None} == ({window} if layers else set())


@pytest.mark.parametrize(
    ("name", "theta", "factor", "partial"),
    [
        ("Skywork/Skywork-Reward-V2-Llama-3.2-1B", 500_000, 32, 1),
        ("infly/INF-ORM-Llama3.1-70B", 500_000, 8, 1),
        ("sfairXC/FsfairX-LLaMA3-RM-v0.1", 500_000, None, 1),
        ("PKU-Alignment/beaver-7b-v1.0-cost", 10_000, None, 1),
        ("Nexusflow/Starling-RM-34B", 5_000_000, None, 1),
        ("Qwen/Qwen2.5-Math-PRM-7B", 10_000, None, 1),
        ("internlm/internlm2-20b-reward", 1_000_000, None, 1),
        ("OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1", 10_000, None, 0.25),
    ],
)
def test_ropes(name: str, theta: float, factor: float | None, partial: float) -> None:
    [rope] = set(config_of(name).ropes)
    assert (rope.theta, rope.factor, rope.partial) == (theta, factor, partial)


def test_ropes_of_gemma3_by_kind_of_layer() -> None:
    ropes = config_of("trl-gemma-3-27b").ropes
    assert [(rope.theta, rope.factor) for rope in ropes[4:6]] == [(10_000, None), (1_000_000, 8)]


def test_scales_of_gemma2() -> None:
    config = config_of("Skywork/Skywork-Reward-Gemma-2-27B-v0.2")
    assert (config.attention_scale, config.softcap) == (pytest.approx(1 / 12), 50)
    assert config.embedding_scale == pytest.approx(4608**0.5)


def test_internlm2_ends_in_its_reward_token(tmp_path: Path) -> None:
    assert spec_of(written(tmp_path, "internlm/internlm2-1_8b-reward")).format.append == (92527,)


def test_athene_ends_in_its_classification_token(tmp_path: Path) -> None:
    assert spec_of(written(tmp_path, "Nexusflow/Athene-RM-8B")).format.append == (128003,)


def test_openrlhf_is_normalised_when_asked(tmp_path: Path) -> None:
    folder = written(tmp_path, "openrlhf")
    assert any("openrlhf-normalized" in note for note in spec_of(folder).notes)
    head = spec_of(folder, "openrlhf-normalized").head
    assert (head.mean, head.std) == (1.5, 3.0)


def test_a_pad_token_that_is_eos_is_noted(tmp_path: Path) -> None:
    notes = spec_of(written(tmp_path, shallow("Ray2333/GRM-Gemma2-2B-rewardmodel-ft"))).notes
    assert "config.json has pad_token_id 1, the tokenizer's pad_token is 0" in notes
