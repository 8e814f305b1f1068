"""The probes of bench_gpu.py compute what torch does, so that a difference on a GPU is the kernel's."""

import pytest
import torch
from gpu.ceilings import measure
from gpu.fp8_probes import fp8
from gpu.operator_probes import PAGES, VARIANTS, Ragged, attention, fused, linear
from gpu.packed_probes import Prologue, packed
from gpu.plan import SMOKE
from gpu.probe_graph import ProbeGraph
from gpu.tensorrt_probe import probe


def test_products_are_torchs() -> None:
    found = [*linear(SMOKE), *fused(SMOKE)]
    assert [r["variant"] for r in found] == ["Gemm", "MatMul"] * 3 + ["separate", "fused"] * 2
    for record in found:
        assert record["max_abs"] < 1e-5 and record["seconds"] > 0, record


def test_attention_variants_agree() -> None:
    """All but PagedAttention, which has 16-bit kernels for CUDA alone: that it is refused is said, not raised.

    On the CPU there is no kernel to pin, and what is pinned is the same.
    """
    found = {r["variant"]: r for r in attention(SMOKE)}
    assert set(found) == set(VARIANTS)
    for page in PAGES:
        refused = found.pop(f"PagedAttention, pages of {page}")
        assert "PagedAttention" in refused["message"] and "seconds" not in refused
    for record in found.values():
        assert record["max_abs"] < 1e-5 and record["flops"] > 0, record


def test_what_cuda_alone_has_is_refused_in_words() -> None:
    """Products in fp8, and pages with norms and rotary embeddings inside."""
    found = [*fp8(SMOKE), *packed(SMOKE)]
    assert len(found) == 3 * 3 + 2
    for record in found:
        if record["variant"] == "Gemm":
            assert record["max_abs"] < 1e-5 and record["flops"] > 0, record
        else:
            assert "seconds" not in record and record["message"], record


def test_a_prologue_norms_heads_and_turns_them_by_their_positions() -> None:
    prologue = Prologue(SMOKE)
    (q, k, v), (raw, _, values) = prologue.packed, prologue.raw
    assert torch.equal(v, values) and q.shape == raw.shape and k.shape == prologue.raw[1].shape
    begin = prologue.lengths[0]  # a second sequence begins, at position 0: nothing is turned
    heads = raw[begin].view(-1, prologue.size)
    normed = torch.nn.functional.rms_norm(heads, (prologue.size,), prologue.weights[0], 1e-6)
    assert torch.allclose(q[begin].view(-1, prologue.size), normed, atol=1e-6)
    second = q[begin + 1].view(-1, 2, prologue.size // 2)[0, :, 0]  # one radian
    base = torch.nn.functional.rms_norm(
        raw[begin + 1].view(-1, prologue.size)[0], (prologue.size,), prologue.weights[0], 1e-6
    ).view(2, -1)[:, 0]
    turned = torch.tensor([base[0] * 0.5403023 - base[1] * 0.841471, base[1] * 0.5403023 + base[0] * 0.841471])
    assert torch.allclose(second, turned, atol=1e-5)


def test_a_wrong_answer_would_show() -> None:
    ragged = Ragged(SMOKE)
    expected = ragged.expected()
    assert ragged.difference(expected) == 0.0
    assert ragged.difference(expected.roll(1, 0)) > 0.1
    assert ragged.flops == sum(2 * n * n * 64 for n in ragged.lengths)  # 4 heads of 16


def test_a_graph_reads_and_writes_torchs_buffers() -> None:
    graph = ProbeGraph("cpu")
    x = torch.tensor([1.0, 2.0, 3.0])
    [y] = graph.ops("Add", [graph.input("x", x), graph.input("one", torch.ones(3))])
    result = graph.output(y, torch.zeros(3))
    assert graph.seconds() > 0
    assert result.tolist() == [2.0, 3.0, 4.0]


def test_a_provider_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself would go on with another, after a warning."""
    graph = ProbeGraph("cuda")
    [y] = graph.ops("Neg", [graph.input("x", torch.ones(3))])
    graph.output(y, torch.zeros(3))
    monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda self: ["CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.SessionOptions.add_session_config_entry", lambda *_: None)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="CUDAExecutionProvider cannot be loaded"):
        graph.seconds()


def test_ceilings_are_of_the_layers_products() -> None:
    found = measure(SMOKE)
    assert found["sizes"]["qkv fused"] == (16, 64, 128) and found["sizes"]["down_proj"] == (16, 96, 64)
    assert found["best"] == max(found["gemm"].values()) > 0 and found["copy"] > 0


def test_a_library_that_is_missing_is_an_answer() -> None:
    found = probe("no_such_library")
    assert found["reached"] is None and "no_such_library" in found["message"]
