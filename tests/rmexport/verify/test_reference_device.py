"""Where the reference is computed: the devices' names, what a missing GPU says, and that no tensor is left behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rmexport import ExportOptions, VerificationError
from rmexport.checkpoint import open_checkpoint
from rmexport.cli import main
from rmexport.spec import read_spec
from rmexport.verify.reference import CPU, _full_precision, _head_weights, reference_device, reference_of, versions
from rmexport.verify.reference_backbone import ReferenceBackbone
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import TinyCheckpoint, TinyShape, gated, sequence_classifier

META = torch.device("meta")  # a device of its own: torch refuses to mix its tensors with the CPU's


def sequences_of(lengths: tuple[int, ...], roles: tuple[str, ...] = ("score",)) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(
            ids=rng.integers(0, 40, length), reads={role: np.array([length - 1 - i]) for i, role in enumerate(roles)}
        )
        for length in lengths
    ]


def test_the_cpu_is_the_default_and_has_a_name() -> None:
    assert reference_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "meta", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(VerificationError, match="expected cpu, cuda or cuda:N"):
        reference_device(name)


def test_gpus_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert reference_device("cuda") == torch.device("cuda")
    assert reference_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(VerificationError, match=r"'cuda:2': torch .* sees 2 CUDA devices"):
        reference_device("cuda:2")


def test_without_a_gpu_verify_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the bundle is opened, which here is not even there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["verify", str(tmp_path / "b"), "--checkpoint", str(tmp_path / "c"), "--reference-device", "cuda"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "'cuda'" in message and "sees 0 CUDA devices" in message and "leave the reference on the cpu" in message


@pytest.mark.parametrize(
    "rope", [{}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}], ids=["plain", "linear"]
)
@pytest.mark.parametrize("make", [sequence_classifier, gated], ids=["linear head", "gated head"])
def test_nothing_stays_on_the_cpu(
    tmp_path: Path, make: Callable[..., TinyCheckpoint], rope: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding, rotary buffers, masks, layers, reads and heads: torch refuses to mix devices, and META is one."""
    # A tensor there has no values, and these would read some.
    monkeypatch.setattr("rmexport.verify.reference_backbone._Peak.magnitude", 0.0)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    checkpoint = open_checkpoint(str(make(tmp_path / "c", TinyShape(extra=rope)).folder))
    spec = read_spec(checkpoint, ExportOptions())
    roles = tuple(spec.head.positions)
    with torch.inference_mode():
        backbone = ReferenceBackbone(checkpoint, spec, torch.float32, META)
        hidden, _ = backbone.hidden_states(sequences_of((5, 9), roles))
        outputs = spec.head.reference(hidden, _head_weights(checkpoint, spec, torch.float32, META))
    assert set(hidden) == set(roles) and outputs["score"].shape[0] == 2
    assert {x.device for x in (*hidden.values(), *outputs.values())} == {META}


@pytest.fixture
def tf32() -> Iterator[None]:
    """As a user may have set it: torch.backends refuses what monkeypatch does."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_fp32_on_a_gpu_is_fp32() -> None:
    """The switches of torch, which need no GPU to be turned, and are turned back even by an error."""
    products = torch.backends.cuda.matmul
    with pytest.raises(ZeroDivisionError), _full_precision("fp32", torch.device("cuda")):
        assert not products.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.math_sdp_enabled() and not torch.backends.cuda.flash_sdp_enabled()
        raise ZeroDivisionError
    assert products.allow_tf32 and torch.backends.cudnn.allow_tf32 and torch.backends.cuda.flash_sdp_enabled()
    with _full_precision("bf16", torch.device("cuda")):  # as from_pretrained(dtype=...) would run there
        assert products.allow_tf32


def test_encoders_are_computed_on_the_cpu() -> None:
    checkpoint: Any = SimpleNamespace(config={"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    with pytest.raises(VerificationError, match="an encoder is computed on the cpu only"):
        reference_of(checkpoint, ExportOptions(), torch.device("cuda"))


def test_reports_say_where_the_reference_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions()["reference_device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    assert versions(torch.device("cuda:1"))["reference_device"] == "cuda:1 (A GPU)"
