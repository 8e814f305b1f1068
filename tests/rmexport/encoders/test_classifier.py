"""transformers' classifier gets the weights by their names without wrappers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from rmexport.checkpoint import open_checkpoint
from rmexport.encoders.classifier import load_classifier
from tiny_tokenizer import build_tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_wrapped_names_of_an_encoder(tmp_path: Path, wrapper: str, dtype: torch.dtype) -> None:
    tokenizer = build_tokenizer(tmp_path / "c")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = BertForSequenceClassification(BertConfig(vocab_size=tokenizer.vocab_size, num_labels=1, **sizes))
    model.to(dtype).save_pretrained(tmp_path / "c")
    path = tmp_path / "c" / "model.safetensors"
    save_file({f"{wrapper}{name}": value for name, value in load_file(path).items()}, path)
    checkpoint = open_checkpoint(str(tmp_path / "c"))
    assert len(checkpoint.notes) == bool(wrapper)
    found = load_classifier(checkpoint, 1, "fp32").state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value.float(), rtol=0, atol=0)
