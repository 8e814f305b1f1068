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
        "rmexport/verify/reference.py",
        "rmexport/verify/reference_backbone.py",
        "rmexport/encoders/classifier.py",
        "rmexport/verify/encoder_reference.py",
        "rmexport/checkpoint/torch_shards.py",
    },
    "transformers": {
        "rmexport/verify/reference.py",
        "rmexport/verify/reference_backbone.py",
        "rmexport/encoders/classifier.py",
        "rmexport/checkpoint/convert_tokenizer.py",
    },
}
# Lowest first: a module imports only from its own line and those above it.
EXPORT_LAYERS = (
    {"errors", "options", "version"},
    {"output"},
    {"checkpoint"},
    {"prompt", "weights"},
    {"graph"},
    {"dialects", "families", "heads"},
    {"spec"},
    {"encoders"},
    {"arguments", "export"},
    {"compile", "diff", "inspection", "verify"},
    {"bench"},
    {"__init__", "__main__", "cli"},
)
RUNTIME_LAYERS = (
    {"errors", "modules", "version"},
    {"bundle", "commands", "devices", "engine_choice", "option_checks", "options", "sequences"},
    {"records"},
    {"backends", "scores", "text"},
    {"executors"},
    {"batching"},
    {"sessions"},
    {"reward_model"},
    {"score_file"},
    {"cluster", "serve"},
    {"__init__", "cli"},
)
AXES = (
    "rmexport/families",
    "rmexport/heads",
    "rmexport/dialects",
    "rmexport/bench/peers",
    "runtime/rmruntime/backends",
    "runtime/rmruntime/text/layouts",
    "runtime/rmruntime/serve/protocols",
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


def test_only_commands_draw_bars() -> None:
    """What they call takes callbacks."""
    drawing = {"rmexport/output/progress.py", "runtime/rmruntime/commands/progress_bars.py"}
    for path in sources(EXPORT) + sources(RUNTIME):
        if path.name != "cli.py" and relative(path) not in drawing:
            assert "tqdm" not in {name.partition(".")[0] for name in imports(path)}, relative(path)


def layer_of(layers: tuple[set[str], ...], part: str) -> int:
    return next(i for i, names in enumerate(layers) if part in names)


@pytest.mark.parametrize("path", sources(EXPORT) + sources(RUNTIME), ids=relative)
def test_layers_point_downwards(path: Path) -> None:
    top, layers = (EXPORT, EXPORT_LAYERS) if path.is_relative_to(EXPORT) else (RUNTIME, RUNTIME_LAYERS)
    own = layer_of(layers, path.relative_to(top).parts[0].removesuffix(".py"))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == top.name and len(parts) > 1:
            if (top / parts[1]).with_suffix(".py").exists() or (top / parts[1]).is_dir():
                assert layer_of(layers, parts[1]) <= own, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("top", [EXPORT, RUNTIME], ids=relative)
def test_few_modules_are_loose(top: Path) -> None:
    """Entry points, options and errors lie at the top; everything else in the folder of its stage."""
    assert len(list(top.glob("*.py"))) <= 12


def test_private_names_are_imported_within_their_folder_only() -> None:
    """So are the helpers of choices, such as `backends/_ort_io_binding.py`."""
    for path in sources(EXPORT) + sources(RUNTIME):
        for name in imports(path):
            *package, last = name.split(".")
            if package and package[0] in (EXPORT.name, RUNTIME.name) and last.startswith("_") and last != "__version__":
                assert path.parent.name == package[-1], f"{relative(path)} imports {name}"


@pytest.mark.parametrize("folder", AXES)
def test_choices_are_named_in_their_own_file_only(folder: str) -> None:
    """Families, heads, dialects, backends and layouts are found by discovery: no other source imports one."""
    modules = {p.stem for p in (ROOT / folder).glob("[!_]*.py")} - {"base"}
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


def test_one_writer_and_one_reader_of_safetensors_headers() -> None:
    named = {relative(path) for path in sources(EXPORT) + sources(RUNTIME) if "data_offsets" in path.read_text()}
    assert named == {
        "rmexport/weights/safetensors_layout.py",
        "runtime/rmruntime/bundle/safetensors_header.py",
    }


def test_the_graph_layer_knows_no_family_and_no_engine_by_name() -> None:
    for path in sources(EXPORT / "graph"):
        assert "llama" not in {n.id.lower() for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
