"""Traps of how training code saves a model: wrappers in names, PEFT before its merge, quantized and doubled files."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conversations import ragged_records
from lora_adapters import adapter_of, random
from rmexport import CheckpointError, ExportOptions, export
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.spec import read_spec
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from tiny_checkpoints import TinyCheckpoint, sequence_classifier

RECORDS = ragged_records(3, seed=23)
Tensors = dict[str, torch.Tensor]
Q_PROJ = "self_attn.q_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return sequence_classifier(tmp_path_factory.mktemp("plain") / "checkpoint")


def tensors_of(checkpoint: TinyCheckpoint) -> Tensors:
    return load_file(checkpoint.folder / "model.safetensors")


def saved(plain: TinyCheckpoint, folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """The checkpoint's other files beside other tensors."""
    folder.mkdir(parents=True)
    for file in plain.folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | config))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def assert_same(found: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found.tensors) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found.read(name), value.numpy(), err_msg=name)


def bare(name: str) -> str:
    return name.removeprefix("model.")


WRAPPERS: dict[str, Callable[[str], str]] = {
    **{
        prefix: lambda name, prefix=prefix: prefix + name  # type: ignore[misc] # bound at once
        for prefix in (
            "model.",
            "_orig_mod.",
            "module.",
            "_fsdp_wrapped_module.",
            "base_model.model.",
            "pretrained_model.",
            "model._orig_mod.",
            "model.model.",
            "module.module.",
            "module._orig_mod.base_model.model.",
            "_fsdp_wrapped_module._orig_mod.model.",
            "_forward_module.module.",
            "model.module.",
            "model.base_model.model.",
            "model.pretrained_model.module.",
        )
    },
    "FSDP within": lambda name: re.sub(r"(layers\.\d+\.)", r"\1_fsdp_wrapped_module.", name),
    "checkpointing within": lambda name: "module." + re.sub(r"(layers\.\d+\.)", r"\1_checkpoint_wrapped_module.", name),
    "compiled within": lambda name: name.replace("mlp.", "mlp._orig_mod.").replace("model.", "model._orig_mod.", 1),
    "DDP within": lambda name: name.replace("model.", "model.module.", 1),
    "the backbone alone": lambda name: name if name == "score.weight" else f"module.{name}",
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_wrappers_around_tensor_names(plain: TinyCheckpoint, tmp_path: Path, wrap: Callable[[str], str]) -> None:
    """They were found for the backbone and not for the head; now for both, and a note tells them."""
    tensors = tensors_of(plain)
    folder = saved(plain, tmp_path / "c", {wrap(name): value for name, value in tensors.items()})
    checkpoint = open_checkpoint(str(folder))
    assert_same(checkpoint, tensors)
    spec = read_spec(checkpoint, ExportOptions())
    assert spec.head_name == "sequence_classification"
    assert any("without the wrappers that they were saved in" in note for note in spec.notes)


def test_a_wrapped_backbone_of_its_own_class(plain: TinyCheckpoint, tmp_path: Path) -> None:
    """`model.` may also be where a class of one's own keeps a bare backbone and the head."""
    tensors = {f"model.{bare(name)}": value for name, value in tensors_of(plain).items()}
    spec = read_spec(open_checkpoint(str(saved(plain, tmp_path / "c", tensors))), ExportOptions())
    assert spec.head_name == "sequence_classification"


def test_names_that_only_look_wrapped_stay(plain: TinyCheckpoint, tmp_path: Path) -> None:
    tensors = {name: value for name, value in tensors_of(plain).items() if name != "score.weight"}
    checkpoint = open_checkpoint(str(saved(plain, tmp_path / "c", tensors)))  # all begin with "model."
    assert_same(checkpoint, tensors)
    assert not checkpoint.notes


def test_wrapped_checkpoints_score_and_verify(plain: TinyCheckpoint, tmp_path: Path, scored: Any) -> None:
    """Pickles too, and transformers gets the right names."""
    expected = scored(plain, RECORDS)
    tensors = {f"module._orig_mod.{name}": value for name, value in tensors_of(plain).items()}
    folder = saved(plain, tmp_path / "c", tensors)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert scored(TinyCheckpoint(folder, plain.tokenizer, plain.model), RECORDS) == expected
    options = VerifyOptions(conversations=4, device="ort-cpu", write=False)
    assert verify(tmp_path / "bundle", str(folder), options).passed


def test_wrapped_shards_can_be_linked(plain: TinyCheckpoint, tmp_path: Path) -> None:
    tensors = {f"module.{name}": value for name, value in tensors_of(plain).items()}
    folder = saved(plain, tmp_path / "c", tensors)
    export(str(folder), tmp_path / "bundle", ExportOptions(weights="link"))
    assert (tmp_path / "bundle" / "model.safetensors").samefile(folder / "model.safetensors")


def test_two_tensors_of_one_name_without_wrappers(plain: TinyCheckpoint, tmp_path: Path) -> None:
    tensors = tensors_of(plain)
    folder = saved(plain, tmp_path / "c", tensors | {"module.score.weight": tensors["score.weight"] + 1})
    with pytest.raises(CheckpointError, match=r"module\.score\.weight and score\.weight"):
        open_checkpoint(str(folder))


def test_wrappers_around_an_adapter_and_a_side_file(plain: TinyCheckpoint, tmp_path: Path) -> None:
    low = {f"model.layers.0.{Q_PROJ}.lora_{part}.weight": random(*shape, seed=3) for part, shape in SHAPES.items()}
    expected = open_checkpoint(str(adapter_of(tmp_path / "a", plain.folder, low)))
    folder = adapter_of(tmp_path / "b", plain.folder, {})
    wrapped = {f"_orig_mod.module.base_model.model.{name}": value for name, value in low.items()}
    save_file(wrapped, folder / "adapter_model.safetensors")
    found = open_checkpoint(str(folder))
    for name in expected.tensors:
        np.testing.assert_array_equal(found.read(name), expected.read(name))
    assert any("_orig_mod., base_model.model., module." in note for note in found.notes)
    save_file({"module.v_head.summary.weight": torch.ones(1, 64)}, folder / "value_head.safetensors")
    assert "v_head.summary.weight" in open_checkpoint(str(folder)).tensors


def test_unknown_wrappers_are_listed_as_they_are(plain: TinyCheckpoint, tmp_path: Path) -> None:
    tensors = {f"inner.{name}": value for name, value in tensors_of(plain).items()}
    folder = saved(plain, tmp_path / "c", tensors)
    export(str(folder), tmp_path / "bundle")  # one layer of one row, and a backbone that is where its embedding is
    del tensors["inner.model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"inner\.model\.layers\.0\.mlp\.up_proj\.weight"):
        export(str(saved(plain, tmp_path / "d", tensors)), tmp_path / "other")


SHAPES = {"A": (4, 64), "B": (64, 4)}
ALPHA = {"peft_type": "LORA", "r": 4, "lora_alpha": 6}


def unmerged(tensors: Tensors, prefix: str = "base_model.model.", adapter: str = "default") -> Tensors:
    """The state dict of a PEFT model: a layer with an update, the head trained whole."""
    whole: Tensors = {}
    for name, value in tensors.items():
        stem = name.removesuffix("weight")
        if name.endswith(f"{Q_PROJ}.weight"):
            whole[f"{stem}base_layer.weight"] = value
            whole |= {f"{stem}lora_{part}.{adapter}.weight": random(*shape, seed=5) for part, shape in SHAPES.items()}
        elif name == "score.weight":
            whole[f"score.modules_to_save.{adapter}.weight"] = value
            whole["score.original_module.weight"] = torch.zeros_like(value)
        else:
            whole[name] = value
    return {f"{prefix}{name}": value for name, value in whole.items()}


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "module.base_model.model."])
@pytest.mark.parametrize("adapter", ["default", "reward"])
def test_unmerged_peft_is_merged_by_its_config(
    plain: TinyCheckpoint, tmp_path: Path, prefix: str, adapter: str
) -> None:
    tensors = tensors_of(plain)
    folder = saved(plain, tmp_path / "c", unmerged(tensors, prefix, adapter))
    (folder / "adapter_config.json").write_text(json.dumps(ALPHA))
    checkpoint = open_checkpoint(str(folder))
    assert set(checkpoint.tensors) == set(tensors)
    delta = 6 / 4 * (random(64, 4, seed=5).double() @ random(4, 64, seed=5).double())
    for name, value in tensors.items():
        wanted = value.double() + delta if name.endswith(f"{Q_PROJ}.weight") else value.double()
        np.testing.assert_allclose(checkpoint.read(name), wanted.numpy(), rtol=1e-6, atol=1e-5, err_msg=name)
    assert "adapter_config.json" in {record.name for record in checkpoint.source_files}
    assert any("was not merged" in note for note in checkpoint.notes)
    manifest = export(str(folder), tmp_path / "bundle")
    assert manifest.head == "sequence_classification"


def test_unmerged_peft_without_its_config_says_lora(plain: TinyCheckpoint, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "c", unmerged(tensors_of(plain)))
    with pytest.raises(CheckpointError, match=r"LoRA.*never merged.*lora_A.*lora_alpha.*adapter_config\.json.*merge"):
        open_checkpoint(str(folder))


def test_unmerged_peft_of_several_adapters(plain: TinyCheckpoint, tmp_path: Path) -> None:
    both = unmerged(tensors_of(plain)) | unmerged(tensors_of(plain), adapter="other")
    folder = saved(plain, tmp_path / "c", both)
    (folder / "adapter_config.json").write_text(json.dumps(ALPHA))
    with pytest.raises(CheckpointError, match=r"LoRA adapters default, other.*merge"):
        open_checkpoint(str(folder))


def test_a_head_that_peft_saved_whole(plain: TinyCheckpoint, tmp_path: Path) -> None:
    """Without any update nothing has to be known of a scale; the head is the trained one."""
    tensors = tensors_of(plain)
    whole = {name: value for name, value in tensors.items() if name != "score.weight"}
    whole["score.modules_to_save.default.weight"] = tensors["score.weight"]
    whole["score.original_module.weight"] = torch.zeros(1, 64)
    checkpoint = open_checkpoint(str(saved(plain, tmp_path / "c", whole)))
    assert_same(checkpoint, tensors)
    assert any("score.weight taken as trained" in note for note in checkpoint.notes)


def _gptq(stem: str, weight: torch.Tensor) -> Tensors:
    words = torch.zeros(weight.shape[1] // 8, weight.shape[0], dtype=torch.int32)
    return {f"{stem}qweight": words, f"{stem}qzeros": words[:1].clone(), f"{stem}scales": weight[:1].clone(),
            f"{stem}g_idx": torch.zeros(weight.shape[1], dtype=torch.int32)}  # fmt: skip


def _awq(stem: str, weight: torch.Tensor) -> Tensors:
    return {name: value for name, value in _gptq(stem, weight).items() if not name.endswith("g_idx")}


def _fp8(stem: str, weight: torch.Tensor) -> Tensors:
    return {f"{stem}weight": weight.to(torch.float8_e4m3fn), f"{stem}weight_scale_inv": torch.ones(1, 1)}


def _fp8_cast(stem: str, weight: torch.Tensor) -> Tensors:
    return {f"{stem}weight": weight.to(torch.float8_e5m2)}


def _int8(stem: str, weight: torch.Tensor) -> Tensors:
    return {f"{stem}weight": weight.to(torch.int8), f"{stem}SCB": torch.ones(weight.shape[0])}


def _nf4(stem: str, weight: torch.Tensor) -> Tensors:
    packed = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
    return {f"{stem}weight": packed, f"{stem}weight.absmax": torch.ones(8), f"{stem}weight.quant_map": torch.ones(16)}


def _packed(stem: str, weight: torch.Tensor) -> Tensors:
    return {f"{stem}weight_packed": torch.zeros(8, 8, dtype=torch.int32), f"{stem}weight_scale": torch.ones(8, 1)}


def _hqq(stem: str, weight: torch.Tensor) -> Tensors:
    return {f"{stem}W_q": torch.zeros(8, 8, dtype=torch.uint8), f"{stem}scale": torch.ones(8)}


def _integers(stem: str, weight: torch.Tensor) -> Tensors:
    return {f"{stem}weight": weight.to(torch.int8)}


QUANTIZED = [
    (_gptq, "GPTQ"), (_awq, "AWQ"), (_fp8, "fp8"), (_fp8_cast, "fp8"), (_int8, "bitsandbytes"), (_nf4, "bitsandbytes"),
    (_packed, "compressed-tensors"), (_hqq, "HQQ"), (_integers, "integers"),
]  # fmt: skip


@pytest.mark.parametrize(("quantize", "method"), QUANTIZED)
def test_quantized_tensors_that_the_config_does_not_mention(
    plain: TinyCheckpoint, tmp_path: Path, quantize: Callable[[str, torch.Tensor], Tensors], method: str
) -> None:
    stored: Tensors = {}
    for name, value in tensors_of(plain).items():
        stored |= quantize(name.removesuffix("weight"), value) if "_proj" in name else {name: value}
    folder = saved(plain, tmp_path / "c", stored)
    with pytest.raises(CheckpointError, match=rf"is quantized: .*{method}.*_proj.*no quantization_config.*dequantize"):
        read_spec(open_checkpoint(str(folder)), ExportOptions())


def test_a_stale_quantization_config_means_nothing(plain: TinyCheckpoint, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "c", tensors_of(plain), quantization_config={"quant_method": "awq"})
    read_spec(open_checkpoint(str(folder)), ExportOptions())


def test_a_whole_file_beside_an_index_of_other_shards(plain: TinyCheckpoint, tmp_path: Path) -> None:
    tensors = tensors_of(plain)
    folder = saved(plain, tmp_path / "c", tensors)
    shard = "model-00001-of-00001.safetensors"
    save_file({name: value + 1 for name, value in tensors.items()}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, shard)}))
    checkpoint = open_checkpoint(str(folder))
    assert_same(checkpoint, tensors)
    [note] = checkpoint.notes
    assert "those of model.safetensors, as transformers chooses" in note and shard in note and index.name in note
    (folder / shard).unlink()  # merged once, and the index left
    [note] = open_checkpoint(str(folder)).notes
    assert index.name in note
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}))
    assert not open_checkpoint(str(folder)).notes
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*tensors, "other.weight"], "model.safetensors")}))
    with pytest.raises(CheckpointError, match=r"do not hold: other\.weight"):
        open_checkpoint(str(folder))


OTHERS = ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.safetensors", "consolidated.00.pth")


@pytest.mark.parametrize("other", OTHERS)
def test_other_weights_in_the_folder_are_noted(plain: TinyCheckpoint, tmp_path: Path, other: str) -> None:
    folder = saved(plain, tmp_path / "c", tensors_of(plain))
    (folder / other).write_bytes(b"")
    (folder / "training_args.bin").write_bytes(b"")
    [note] = open_checkpoint(str(folder)).notes
    assert note.endswith(f"not read: {other}")


def test_an_index_that_names_a_tensor_twice(plain: TinyCheckpoint, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "c", tensors_of(plain))
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = '{"weight_map": {"score.weight": "a.safetensors", "score.weight": "b.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"'score\.weight' twice"):
        open_checkpoint(str(folder))
