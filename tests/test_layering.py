"""Dependency direction: rmexport -> rmruntime and never back; heavy imports in their one file; siblings apart."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPORT, RUNTIME = ROOT / "rmexport", ROOT / "runtime" / "rmruntime"

# What rmruntime may import besides the standard library and itself. Engines are imported by name, inside load().
RUNTIME_MAY = {"numpy", "tokenizers", "jinja2", "tqdm", "pyarrow"}
HEAVY_IN = {
    "torch": {
        "rmexport/reference.py",
        "rmexport/reference_backbone.py",
        "rmexport/encoders/classifier.py",
        "rmexport/encoders/reference.py",
        "rmexport/checkpoint/torch_shards.py",
    },
    "transformers": {
        "rmexport/reference.py",
        "rmexport/reference_backbone.py",
        "rmexport/encoders/classifier.py",
        "rmexport/checkpoint/convert_tokenizer.py",
    },
}
# Lowest first: a module imports only from its own line and those above it.
EXPORT_LAYERS = (
    {"errors", "options", "version", "interruption", "unfinished_folder", "processor", "reference_pass"},
    {"progress"},
    {"checkpoint", "recipe", "label_names", "chat_text", "tensor_parts", "quantization"},
    {"graph", "score_position"},
    {"feed_forward"},
    {"dialects", "families", "heads"},
    {"format", "unread_answers", "weights", "binding"},
    {"spec", "bundle_writer", "encoders", "stages"},
    {"description", "reference_backbone", "reference_key"},
    {"parity", "reference_cache"},
    {"soundness"},
    {
        "export",
        "reference",
        "quality",
        "verification_set",
        "verification_input",
        "inspection",
        "difference",
    },
    {"unquantized", "yardstick"},
    {"verify", "compile"},
    {"bench"},
    {"cli", "__main__", "__init__"},
)
AXES = (
    "rmexport/families",
    "rmexport/heads",
    "rmexport/dialects",
    "rmexport/bench/peers",
    "runtime/rmruntime/backends",
    "runtime/rmruntime/layouts",
)


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(RUNTIME), ids=relative)
def test_the_runtime_imports_only_its_few_dependencies(path: Path) -> None:
    import sys

    top = {name.partition(".")[0] for name in imports(path)}
    assert top - set(sys.stdlib_module_names) - {"rmruntime"} <= RUNTIME_MAY


@pytest.mark.parametrize("path", sources(EXPORT), ids=relative)
def test_torch_and_transformers_stay_in_their_files(path: Path) -> None:
    top = {name.partition(".")[0] for name in imports(path)}
    for package, allowed in HEAVY_IN.items():
        assert package not in top or relative(path) in allowed


def layer_of(part: str) -> int:
    return next(i for i, names in enumerate(EXPORT_LAYERS) if part in names)


@pytest.mark.parametrize("path", sources(EXPORT), ids=relative)
def test_export_layers_point_downwards(path: Path) -> None:
    own = path.relative_to(EXPORT).parts[0].removesuffix(".py")
    for name in imports(path):
        parts = name.split(".")
        if (
            parts[0] == "rmexport"
            and len(parts) > 1
            and (EXPORT / parts[1]).with_suffix(".py").exists() | (EXPORT / parts[1]).is_dir()
        ):
            assert layer_of(parts[1]) <= layer_of(own), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("folder", AXES)
def test_choices_are_named_in_their_own_file_only(folder: str) -> None:
    """Families, heads, dialects, backends and layouts are found by discovery: no other source imports one."""
    modules = {p.stem for p in (ROOT / folder).glob("*.py")} - {"__init__", "base"}
    assert modules
    package = folder.removeprefix("runtime/").replace("/", ".")
    for path in sources(EXPORT) + sources(RUNTIME):
        for name in imports(path):
            assert not any(name == f"{package}.{m}" or name.startswith(f"{package}.{m}.") for m in modules), (
                f"{relative(path)} imports {name}"
            )


@pytest.mark.parametrize("path", sources(EXPORT) + sources(RUNTIME), ids=relative)
def test_sizes(path: Path) -> None:
    """Files of at most 500 lines, functions of at most 60, and no drawers."""
    text = path.read_text()
    assert text.count("\n") <= 500
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


def test_the_graph_layer_knows_no_family_and_no_engine_by_name() -> None:
    for path in sources(EXPORT / "graph"):
        assert "llama" not in {n.id.lower() for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
