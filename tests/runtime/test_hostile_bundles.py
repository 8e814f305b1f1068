"""A bundle from a stranger is refused before anything of it runs."""

import os
import resource
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from rmexport import export
from rmexport.cli import main
from rmexport.options import ExportOptions
from rmruntime import RewardModel
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_check import check_graphs
from rmruntime.errors import BundleError
from tampered_bundles import (
    RECORD,
    change_graphs,
    copied,
    graph_names,
    manifest_of,
    rewrite_file,
    small_bundle,
    without_seal,
    write_manifest,
)
from tiny_checkpoints import TinyShape, sequence_classifier


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("hostile"), layers=2, options=ExportOptions(stages=2))


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return copied(exported, tmp_path / "bundle")


def refused(folder: Path) -> str:
    """What the bundle is refused with, before an engine is loaded."""
    with pytest.raises(BundleError) as caught:
        RewardModel.load(folder, device="no engine gets this far")
    return str(caught.value)


def test_a_bundle_as_exported_is_accepted(bundle: Path) -> None:
    check_graphs(Bundle.open(bundle))
    with RewardModel.load(bundle) as model:
        model.score([RECORD])


GRAPH_VALUES = {
    "key_multiple": (-1, 0, 1, 32, 10**9, 2**63, None, "16", 16.0, True),
    "query_block": (-1, 0, 1, 64, 256, 10**9),
    "row_groups": (-1, 0, 1, 2, 10**9),
    "token_chunk": (-1, 1, 16, 10**9),
    "page_size": (-1, 16, 10**9),
    "pad_id": (-1, 1, 10**9),
    "least_reads": (-1, 0, 1, 3, 10**9),
    "attention": ("pages", "rings", 1),
    "layout": ("padded", "chat", None),
    "compute_dtype": ("fp16", "fp64", 1),
    "dialect": ("portable", "x"),
    "file": ("tokenizer.json", "../x.onnx", "/x.onnx", "x\0.onnx", "x.xml", ""),
}
BACKBONE_VALUES = {
    "hidden_size": (-1, 0, 63, 10**9),
    "num_layers": (-1, 0, 1, 3, 10**9),
    "vocab_size": (-1, 0, 1, 10**5, 10**9, 2**40),
    "max_length": (-1, 0, 1, 10**5, 10**9),
    "parameters": (-1, 10**9, 10**30),
    "rope_length": (-1, 0, 1, 10**9),
    "rope_exact": (1, "yes"),
}


@pytest.mark.parametrize("field", GRAPH_VALUES)
def test_numbers_of_a_graph(bundle: Path, field: str) -> None:
    data = manifest_of(bundle)
    before = dict(data["graphs"][0])
    for value in GRAPH_VALUES[field]:
        if value == before[field] and type(value) is type(before[field]):
            continue
        data["graphs"][0] = before | {field: value}
        write_manifest(bundle, data)
        refused(bundle)


@pytest.mark.parametrize("field", BACKBONE_VALUES)
def test_numbers_of_the_backbone(bundle: Path, field: str) -> None:
    data = manifest_of(bundle)
    before = dict(data["backbone"])
    for value in BACKBONE_VALUES[field]:
        data["backbone"] = before | {field: value}
        write_manifest(bundle, data)
        refused(bundle)


def _edit(*path: Any) -> Any:
    """A change of the manifest: the last is the value, the others lead to its place."""

    def change(data: Any) -> None:
        for step in path[:-2]:
            data = data[step]
        data[path[-2]] = path[-1]

    return change


OTHER_VALUES = {
    "position": _edit("positions", "score", {"rule": "last"}),
    "pad id": _edit("positions", "score", "pad_id", 0),
    "tokens beyond the vocabulary": _edit("positions", "score", {"rule": "marker", "tokens": [10**9]}),
    "no position": _edit("positions", {}),
    "labels": _edit("outputs", 0, "labels", ["a", "b"]),
    "output": _edit("outputs", 0, "name", "rewards"),
    "per": _edit("outputs", 0, "per", "step"),
    "score": _edit("score", "nothing"),
    "no outputs": _edit("outputs", []),
    "dtype": _edit("dtype", "fp64"),
    "bos": _edit("format", "bos", "zero"),
    "bos_id": _edit("format", "bos_id", 7),
    "append": _edit("format", "append", [3]),
    "a name of the runtime's": _edit("format", "template_variables", {"messages": ""}),
    "pair types": _edit("format", "pair_types", [1, 2]),
    "pair prefixes": _edit("format", "pair_prefixes", ["a", "b", "c"]),
    "stage order": _edit("graphs", 0, "stages", 0, "first", 1),
    "stage beyond the layers": _edit("graphs", 0, "stages", 1, "last", 5),
    "stage bytes": _edit("graphs", 0, "stages", 0, "weight_bytes", 2**45),
    "stage range": _edit("graphs", 0, "stages", 0, "ranges", 0, "offset", 2**45),
    "stage range of another file": _edit("graphs", 0, "stages", 0, "ranges", 0, "file", "tokenizer.json"),
    "quantization": _edit("quantization", {"scheme": "int4", "parameters": 1, "block_size": 0}),
    "file size": _edit("files", 0, "size", -1),
    "file hash": _edit("files", 0, "sha256", "x"),
    "file name": _edit("files", 0, "name", "*/_ORT_MEM_ADDR_/*"),
    "schema": _edit("schema_version", 0),
    "schema, a truth": _edit("schema_version", True),
    "a lone surrogate": _edit("created_by", "\ud800"),
    "a huge number": _edit("files", 0, "size", 10**4000),
}


@pytest.mark.parametrize("change", OTHER_VALUES.values(), ids=OTHER_VALUES.keys())
def test_every_other_value(bundle: Path, change: Any) -> None:
    data = manifest_of(bundle)
    change(data)
    try:
        write_manifest(bundle, data)
    except UnicodeEncodeError:
        return  # it cannot even be written
    refused(bundle)


def test_graphs_changed_for_one_another(bundle: Path) -> None:
    data = manifest_of(bundle)
    first, second = data["graphs"][0], data["graphs"][1]
    first["file"], second["file"] = second["file"], first["file"]
    write_manifest(bundle, data)
    assert "it was written with graph" in refused(bundle)


def test_stages_changed_for_one_another(bundle: Path) -> None:
    data = manifest_of(bundle)
    first, second = data["graphs"][0]["stages"]
    first["file"], second["file"] = second["file"], first["file"]
    write_manifest(bundle, data)
    refused(bundle)


def test_bundles_of_older_versions_load_and_are_checked_against_their_graphs(bundle: Path) -> None:
    change_graphs(bundle, without_seal)
    with RewardModel.load(bundle) as model:
        model.score([RECORD])
    for change in (_edit("graphs", 0, "row_groups", 2), _edit("backbone", "vocab_size", 10**6)):
        data = manifest_of(bundle)
        change(data)
        write_manifest(bundle, data)
        refused(bundle)


def test_absurd_sizes_take_no_memory(bundle: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for field in ("key_multiple", "query_block", "row_groups", "token_chunk", "page_size"):
        data = manifest_of(bundle)
        for graph in data["graphs"]:
            graph[field] = 10**9
        write_manifest(bundle, data)
        refused(bundle)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kilobytes


def test_copied_weights_are_read_only_and_links_are_the_users_own(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint", TinyShape(num_hidden_layers=1)).folder
    source = checkpoint / "model.safetensors"
    source.chmod(0o644)
    export(str(checkpoint), tmp_path / "link", ExportOptions(weights="link"))
    assert source.stat().st_mode & 0o777 == 0o644
    for _ in range(2):  # the second replaces the first
        export(str(checkpoint), tmp_path / "copy", ExportOptions(dtype="bf16", overwrite=True))
        [weights] = (tmp_path / "copy").glob("*.safetensors")
        assert weights.stat().st_mode & 0o222 == 0
    assert source.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("how", ["rewritten", "touched", "replaced", "removed"])
def test_changed_weights_are_an_error_before_scoring(exported: Path, tmp_path: Path, how: str) -> None:
    bundle = copied(exported, tmp_path / "bundle")
    [weights] = bundle.glob("*.safetensors")
    raw = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(raw)
    with RewardModel.load(bundle) as model:
        expected = model.score([RECORD])
        assert model.score([RECORD]) == expected
        if how == "touched":
            os.utime(weights, ns=(1, 1))
        elif how == "removed":
            weights.unlink()
        elif how == "replaced":
            (bundle / "new").write_bytes(raw)
            os.replace(bundle / "new", weights)
        else:
            stamp = weights.stat()
            with weights.open("r+b") as file:
                file.write(raw)
            os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
        with pytest.raises(BundleError, match="was changed while it was loaded"):
            model.score([RECORD])


LOCATIONS = (
    "/etc/hostname",
    "../checkpoint/model.safetensors",
    "./model.safetensors",
    "tokenizer.json",
    "manifest.json",
    "*/_ORT_MEM_ADDR_/*",
    "nothing.safetensors",
    "model.safetensors\0",
    "",
)


def _external(location: str, offset: str = "0", length: str = "4") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="stolen", data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=1)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _subgraph(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["stolen"], ["y"])], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))


def _deep(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [])
    outer = helper.make_graph([helper.make_node("Loop", ["a", "b"], ["y"], body=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("Scan", ["x"], ["z"], body=outer, num_scan_inputs=1))


PLACES = {
    "initializer": lambda model, tensor: model.graph.initializer.append(tensor),
    "constant": lambda model, tensor: model.graph.node.append(helper.make_node("Constant", [], ["z"], value=tensor)),
    "list of tensors": lambda model, tensor: model.graph.node.append(helper.make_node("X", [], ["z"], values=[tensor])),
    "sparse initializer": lambda model, tensor: model.graph.sparse_initializer.add().values.CopyFrom(tensor),
    "sparse indices": lambda model, tensor: model.graph.sparse_initializer.add().indices.CopyFrom(tensor),
    "subgraph": _subgraph,
    "subgraph of a subgraph": _deep,
    "function": lambda model, tensor: model.functions.add(name="f", domain="").node.append(
        helper.make_node("Constant", [], ["z"], value=tensor)
    ),
    "training": lambda model, tensor: model.training_info.add().initialization.initializer.append(tensor),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_outside_the_weights(bundle: Path, place: str) -> None:
    change_graphs(bundle, lambda model: PLACES[place](model, _external("/etc/hostname")))
    refused(bundle)


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations(bundle: Path, location: str) -> None:
    change_graphs(bundle, lambda model: model.graph.initializer.append(_external(location)))
    assert "none of the manifest's weights" in refused(bundle)


@pytest.mark.parametrize(
    ("offset", "length"),
    [("-8", "4"), ("0", "999999999999"), ("999999999999", "4"), ("0x0", "4"), (" 0", "4"), ("0", "8"), ("", "4")],
)
def test_offsets_and_lengths(bundle: Path, offset: str, length: str) -> None:
    [weights] = [path.name for path in bundle.glob("*.safetensors")]
    change_graphs(bundle, lambda model: model.graph.initializer.append(_external(weights, offset, length)))
    assert "stolen" in refused(bundle)


def test_entries_that_readers_read_differently(bundle: Path) -> None:
    [weights] = [path.name for path in bundle.glob("*.safetensors")]
    for key, value in (("location", "/etc/hostname"), ("basepath", "/etc"), ("offset", "8")):
        for first in (True, False):
            tensor = _external(weights)
            entry = onnx.StringStringEntryProto(key=key, value=value)
            entries = [entry, *tensor.external_data] if first else [*tensor.external_data, entry]
            del tensor.external_data[:]
            tensor.external_data.extend(entries)
            folder = copied(bundle, bundle.with_name(f"{key}-{first}"))
            change_graphs(folder, lambda model, own=tensor: model.graph.initializer.append(own))
            refused(folder)


def _field(number: int, raw: bytes) -> bytes:
    size, length = len(raw), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + raw


def test_messages_in_parts_and_of_odd_bytes(bundle: Path) -> None:
    """What stands in two parts is one to every parser; what only some of them take is refused."""
    stolen = onnx.GraphProto(initializer=[_external("/etc/hostname")]).SerializeToString()
    value = _field(1, b"location") + _field(2, b"/etc/hostname") + bytes([2 << 3 | 1]) + b"model.st"
    odd = _field(5, _field(8, b"stolen") + bytes([1 << 3, 1, 2 << 3, 1, 14 << 3, 1]) + _field(13, value))
    for more in (
        _field(7, stolen),
        _field(7, odd),
        b"\xff" * 12,
        b"\x3b\x3c",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x00",
        b"\x38\x80",
    ):
        folder = copied(bundle, bundle.with_name(f"odd-{more[:4].hex()}-{len(more)}"))
        for name in graph_names(folder):
            rewrite_file(folder, name, (folder / name).read_bytes() + more)
        refused(folder)


def test_graphs_within_graphs_without_end(bundle: Path) -> None:
    inner = b""
    for _ in range(200):
        inner = _field(1, _field(4, b"If") + _field(5, _field(1, b"g") + _field(6, inner)))
    for name in graph_names(bundle):
        rewrite_file(bundle, name, (bundle / name).read_bytes() + _field(7, inner))
    assert "graphs within graphs" in refused(bundle)


@pytest.mark.parametrize(
    ("domain", "op_type"), [("evil.ops", "X"), ("com.microsoft", "EPContext"), ("ai.onnx.ml", "X")]
)
def test_operators_of_others(bundle: Path, domain: str, op_type: str) -> None:
    change_graphs(bundle, lambda model: model.graph.node.append(helper.make_node(op_type, [], ["z"], domain=domain)))
    assert "which no engine here may run" in refused(bundle)


def test_a_graph_in_another_format(bundle: Path) -> None:
    for name in graph_names(bundle):
        rewrite_file(bundle, name, b"<?xml version='1.0'?><net name='x' version='11'><layers/></net>")
    assert "it is not an ONNX model" in refused(bundle)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "chat_template.jinja", "a graph", "weights"])
@pytest.mark.parametrize("made", [_pipe, _link_to_zero, _folder, _large])
def test_only_regular_files_inside_the_folder(
    bundle: Path, name: str, made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    [weights] = [path.name for path in bundle.glob("*.safetensors")]
    path = bundle / {"a graph": graph_names(bundle)[0], "weights": weights}.get(name, name)
    path.unlink()
    made(path)
    with pytest.raises(BundleError):
        Bundle.open(bundle)
    assert main(["inspect", str(bundle)]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_files_as_large_as_the_manifest_says_are_bounded_too(bundle: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        folder = copied(bundle, bundle.with_name(name))
        (folder / name).unlink()
        _large(folder / name)
        data = manifest_of(folder)
        for record in data["files"]:
            if record["name"] == name:
                record["size"] = 1 << 40
        write_manifest(folder, data)
        assert "more than the" in refused(folder)
