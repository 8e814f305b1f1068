"""README.md and the pages of contributors say what the code does: examples run, tables match, recipes' files work."""

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

import rmexport
import rmruntime
from asgi_client import AsgiClient
from conversations import ragged_records
from reward_trunks import spec_of
from rmexport import cli, dialects, export, families, heads
from rmexport.bench import peers as bench_peers
from rmexport.bench.options import SCENARIOS
from rmexport.bench.peers import peers
from rmexport.bench.profiles import PROFILES
from rmexport.graph.dialect import Dialect
from rmexport.options import ExportOptions
from rmexport.prompt.recipe import Recipe, recipe_for
from rmruntime import RewardModel, Score, ScoreOptions, backends
from rmruntime.bundle.manifest import LayoutName
from rmruntime.cli import add_rank_arguments, add_score_arguments
from rmruntime.commands.engine_arguments import add_engine_arguments
from rmruntime.records import parse_record
from rmruntime.records.requests import IGNORED_KEYS
from rmruntime.score_file import result_fields
from rmruntime.serve import app, protocols
from rmruntime.serve.arguments import add_serve_arguments
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.text.layouts.base import Layout
from tiny_checkpoints import gated

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING, BENCH = ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/bench.md"))
RECIPES = {file.stem: file.read_text() for file in sorted((ROOT / "docs" / "contributing").glob("*.md"))}
PAGES = (README, CONTRIBUTING, (ROOT / "runtime" / "README.md").read_text(), BENCH, *RECIPES.values())
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"`([\w/.-]+)`:?\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = ROOT / "examples" / "armorm-tiny"


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def section(title: str, page: str = README) -> str:
    """What stands under a heading of a page, by default the README, down to the next one of its level or above."""
    [(level, start)] = [(m[1], m.end()) for m in re.finditer(rf"^(#+) {re.escape(title)}$", page, re.MULTILINE)]
    return re.split(rf"^#{{1,{len(level)}}} ", page[start:], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row that begins with a code span."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def table(title: str, heading: str, page: str = README) -> list[list[str]]:
    """The rows of the table under `title` whose header begins with `heading`."""
    tables = re.split(r"\n\n+", section(title, page))
    return rows(next(text for text in tables if text.startswith(f"| {heading} |")))


# Commands


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, under the name that people type."""
    [commands] = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    score = argparse.ArgumentParser("rmruntime score")
    add_score_arguments(score)
    rank = argparse.ArgumentParser("rmruntime rank")
    add_rank_arguments(rank)
    serve = argparse.ArgumentParser("rmruntime serve")
    add_serve_arguments(serve)
    runtime = {"rmruntime score": score, "rmruntime rank": rank, "rmruntime serve": serve}
    return {f"rmexport {name}": parser for name, parser in commands.choices.items()} | runtime


def commands() -> Iterator[list[str]]:
    """Every command line in the fenced blocks of all pages, without comments."""
    for page in PAGES:
        typed = "".join(blocks(page, "bash")) + "\n".join(
            line[2:] for body in blocks(page, "console") for line in body.splitlines() if line.startswith("$ ")
        )
        for line in typed.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    actions = [action for action in parser._actions if action.dest != "help"]
    return {action.option_strings[-1]: action for action in actions if action.option_strings}


def test_every_command_line_parses() -> None:
    typed = list(commands())
    for words in typed:
        if words[0] in ("rmexport", "rmruntime"):
            parsers()[" ".join(words[:2])].parse_args(words[2:])
        elif words[0].startswith("./"):
            assert (ROOT / words[0]).is_file(), words[0]
        elif words[0] == "curl":
            assert words[2].startswith("localhost:8000/"), words  # where `rmruntime serve` listens
        else:
            assert words[:2] == ["pip", "install"], words
    assert {"export", "verify", "score", "inspect"} <= {words[1] for words in typed if words[0] == "rmexport"}


@pytest.mark.parametrize("command", [name for name in parsers() if name.startswith("rmexport")])
def test_every_option_is_in_its_commands_table_and_no_other(command: str) -> None:
    known = options(parsers()[command])
    said = {re.findall(r"--[a-z-]+", cells[0])[0]: cells for cells in rows(section(f"`{command}`"))}
    assert said.keys() == known.keys()
    for name, action in known.items():
        assert all(choice in said[name][0] for choice in action.choices or ()), name
        if action.default and not said[name][1].startswith("as for"):
            default = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            assert default in said[name][1], name


def test_every_option_of_the_server_is_in_its_table() -> None:
    engine = argparse.ArgumentParser()
    add_engine_arguments(engine)
    own = options(parsers()["rmruntime serve"]).keys() - options(engine).keys()
    assert own == set(re.findall(r"--[a-z-]+", "".join(c[0] for c in rows(section("`rmruntime serve`"))))) - set(
        options(engine)
    )


@pytest.mark.parametrize("command", ["score", "rank"])
def test_both_commands_are_the_same(command: str) -> None:
    assert options(parsers()[f"rmexport {command}"]).keys() == options(parsers()[f"rmruntime {command}"]).keys()


def test_no_page_names_an_unknown_option() -> None:
    known = {name for parser in parsers().values() for name in options(parser)}
    known |= {"--version", "--all", "--real", "--cuda-stub"}  # all but the first are of ./scripts/test
    for page in PAGES:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) <= known


# Examples


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's examples find what they name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    export(str(EXAMPLE), folder / "bundle", ExportOptions(dtype="bf16"))
    return folder


@pytest.mark.parametrize("code", [code for page in (PAGES[0], PAGES[2]) for code in blocks(page, "python")])
def test_python_examples_run(place: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.chdir(place)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_input_records_parse() -> None:
    records = [json.loads(line) for body in blocks(section("Input records"), "json") for line in body.splitlines()]
    assert {parse_record(record).kind for record in records} == {"single", "candidates", "documents", "pair", "steps"}
    keys = {frozenset(record) - {"id"} for record in records}
    assert {frozenset({"text"}), frozenset({"input_ids"}), frozenset({"messages"})} <= keys
    assert all(f"`{key}`" in section("Input records") for key in IGNORED_KEYS)


def test_the_examples_output_record_is_what_it_gives(place: Path) -> None:
    """Its keys and labels; the values are those of the run that it was pasted from."""
    text = section("Output records")
    [given] = [json.loads(span) for span in re.findall(r"`(\{.*\})`", text)]
    said = next(json.loads(body) for body in blocks(text, "json"))
    with RewardModel.load(place / "bundle") as model:
        [result] = model.score([given])
    found = {"id": given["id"], **result_fields(parse_record(given), result)}
    assert _shape(found) == _shape(said)


def _shape(value: Any) -> Any:
    """A result without its numbers."""
    return {key: _shape(item) for key, item in value.items()} if isinstance(value, dict) else type(value)


def test_output_records_show_every_field() -> None:
    single = {"score", "rewards", "gating", "logit", "step_scores", "step_logits", "truncated", "flags", "error"}
    pair = {f"{side}_{key}" for side in ("chosen", "rejected") for key in ("score", "logit")}
    lines = [line for body in blocks(section("Output records"), "json") for line in body.splitlines()]
    assert {key for line in lines for key in json.loads(line)} == single | pair | {"id", "scores"}


# Tables


def test_the_arithmetic_table_matches_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each backend says on a processor with bf16 products; an empty answer is an error to the user."""
    lines = section("What is supported").splitlines()
    named = [line for line in lines if line.startswith(tuple(f"| {name} " for name in backends.backends()))]
    said = [[cell.strip() for cell in line.strip("|").split("|")] for line in named]
    assert {row[0] for row in said} == set(backends.backends())
    monkeypatch.setattr(backends.backends()["openvino"], "has_bf16", lambda: True)
    for name, bundles, *cells in said:
        for dtype in ("bf16", "fp32", "fp16") if bundles == "any" else bundles.split(", "):
            for precision, cell in zip(("auto", "fp32", "bf16", "fp16"), cells, strict=True):
                given = backends.backends()[name].compute_dtypes(dtype, precision)
                assert bool(given) == (cell != "an error"), (name, dtype, precision)
                if given and precision == "auto":
                    assert cell.startswith(given[0])


def test_the_pages_of_the_benchmark_list_what_there_is() -> None:
    assert {spans(row[0])[0] for row in table("Workloads", "profile", BENCH)} == set(PROFILES)
    assert {spans(row[0])[0] for row in table("Scenarios", "scenario", BENCH)} == set(SCENARIOS)
    listed = {spans(row[0])[0]: row for row in table("Peers", "peer", BENCH)}
    modules = {name: module for name, module in peers().items() if name != "bundle"}
    assert listed.keys() == modules.keys() | {"bundle:PATH"}
    assert all(listed[name][2] == ", ".join(module.DTYPES) for name, module in modules.items())
    said = {cells[0].split()[0].strip("`"): set(spans(cells[1])) for cells in rows(section("`rmexport bench`"))}
    assert modules.keys() < said["--peer"] and set(PROFILES) < said["--profile"]
    assert set(SCENARIOS) == said["--scenario"]


def test_every_field_of_a_recipe_is_explained() -> None:
    fields = {s for row in table("Recipes", "field") for s in spans(row[0])}
    assert fields == {field.name for field in dataclasses.fields(Recipe)}
    said = {spans(row[0])[0]: set(spans(row[1])) for row in table("Recipes", "field")}
    for name in ("layout", "unit", "bos", "position", "activation"):
        assert choices(Recipe, name) <= said[name], name


def test_the_fields_of_heads_name_those_that_heed_them() -> None:
    said = {spans(row[0])[0]: row[1] for row in table("Recipes", "field")} | {"token_ids": "`token_logits`"}
    for field in set(heads.HEAD_FIELDS) - {"position"}:
        heeding = {name for name, head in heads.heads().items() if field in head.recipe_fields}
        assert heeding == set(spans(said[field])) & heads.heads().keys(), field


def test_every_layout_is_explained() -> None:
    explained = {spans(row[0])[0] for row in table("How conversations become tokens", "layout")}
    assert explained == set(get_args(LayoutName))


def choices(of: type, name: str) -> set[str]:
    """What a field of a dataclass may say, where it is one of some words."""
    hint = get_type_hints(of)[name]
    return {word for part in (hint, *get_args(hint)) for word in get_args(part) if isinstance(word, str)}


def test_the_recipe_example_is_one(tmp_path: Path) -> None:
    [body] = blocks(section("Recipes"), "json")
    (tmp_path / "mine.json").write_text(body)
    recipe = recipe_for(str(tmp_path / "mine.json"), None)
    assert recipe is not None and recipe.head in heads.heads()


def test_extras_exist_and_are_all_mentioned() -> None:
    declared: set[str] = set()
    for file in (ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml"):
        declared |= set(tomllib.loads(file.read_text())["project"]["optional-dependencies"])
    assert {spans(row[0])[0] for row in table("Install", "extra")} <= declared
    assert all(f"`{extra}`" in section("Install") for extra in declared)


def test_python_reference_matches_the_code() -> None:
    assert {s for row in table("`rmruntime`", "field") for s in spans(row[0])} == _fields(Score)
    for name, said in re.findall(r"^\| `(?:rm|RewardModel)\.(\w+)\((.*?)\)` \|", section("`rmruntime`"), re.MULTILINE):
        parameters = list(inspect.signature(getattr(RewardModel, name)).parameters)
        assert [p.partition("=")[0] for p in said.split(", ") if p not in ("", "*")] == [
            p for p in parameters if p != "self"
        ], name
    for options_class, title in ((ScoreOptions, "`rmruntime`"), (ExportOptions, "`rmexport`")):
        said = re.search(rf"`{options_class.__name__}\((.*?)\)`", section(title), re.DOTALL)
        assert said is not None
        call = ast.parse(f"f({' '.join(said[1].split())})", mode="eval").body
        assert isinstance(call, ast.Call)
        given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        assert given == dataclasses.asdict(options_class())
    for module in (rmexport, rmruntime):
        tree = (importlib.import_module(f"{module.__name__}.errors").__doc__ or "").partition("\n\n")[2].strip()
        assert tree in README


def _fields(value: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(value)}


def test_links_lead_somewhere() -> None:
    titles = [re.sub(r"[^\w\s-]", "", t).strip().lower() for t in re.findall(r"^#+ (.*)$", README, re.MULTILINE)]
    slugs = {title.replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)\s]+)\)", README):
        assert target[1:] in slugs if target.startswith("#") else (ROOT / target).exists(), target
    for folder, pages in {"docs": [BENCH], "": [CONTRIBUTING], "docs/contributing": RECIPES.values()}.items():
        for target in re.findall(r"\]\(([^)#\s]+)", "".join(pages)):
            assert (ROOT / folder / target).exists(), target


def test_contributing_is_short_and_names_every_recipe() -> None:
    assert len(CONTRIBUTING.splitlines()) <= 150
    linked = re.findall(r"\[(.*)\]\(docs/contributing/(\w+)\.md\)", CONTRIBUTING)
    assert {name: title for title, name in linked} == {name: f"Add a {name}" for name in RECIPES}
    assert all(text.startswith(f"# Add a {name}\n") for name, text in RECIPES.items())


def test_contributing_names_what_modules_must_and_may_have() -> None:
    assert {"Family", *_fields(families.Family)} == contract("family")
    parts = {"ScoringHead", *_fields(heads.ScoringHead), "Head", *_fields(heads.Head)}
    assert parts | {"build", "reference"} == contract("head")
    assert {"Layout", *_fields(Layout)} == contract("layout")
    assert {"Protocol", *_fields(Protocol), "Route", *_fields(Route)} == contract("protocol")
    operations = {name for name, value in vars(Dialect).items() if callable(value) or name == "compute_dtypes"}
    spelled = {name for name in operations if not name.startswith("_")} - {"matrix"}  # which no dialect has to spell
    assert {*Dialect.__annotations__, *spelled} == contract("dialect")


def contract(recipe: str) -> set[str]:
    """The names that the tables of a page of docs/contributing explain."""
    named = [span for row in rows(RECIPES[recipe]) for span in spans(row[0])]
    return {span.partition("(")[0] for span in named}


# The files of docs/contributing, put where discovery finds them


class Page:
    """Adds files of docs/contributing to the packages they are for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.files = dict(NAMED_FILE.findall("\n".join(RECIPES.values())))
        self._names: list[str] = []

    def add(self, path: str, package: ModuleType) -> None:
        """Write the file of this path and let `package` find it, before a file of its own of that name."""
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.files[path])
        self._monkeypatch.setattr(package, "__path__", [str(file.parent), *package.__path__])
        name = f"{package.__name__}.{file.stem}"
        self._monkeypatch.delitem(sys.modules, name, raising=False)
        self._names.append(name)
        forget()

    def remove(self) -> None:
        self._monkeypatch.undo()
        for name in self._names:
            sys.modules.pop(name, None)
        forget()

    def test_module(self, path: str) -> ModuleType:
        """A test file of the page."""
        (self._folder / Path(path).name).write_text(self.files[path])
        spec = importlib.util.spec_from_file_location(Path(path).stem, self._folder / Path(path).name)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def forget() -> None:
    for found in (
        families.families,
        heads.heads,
        dialects.dialects,
        backends.backends,
        peers,
        protocols.find_protocols,
    ):
        found.cache_clear()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    added = Page(tmp_path / "page", monkeypatch)
    yield added
    added.remove()


def test_the_family_works(page: Page, tmp_path: Path) -> None:
    page.add("rmexport/families/arcee.py", families)
    tests = page.test_module("tests/rmexport/families/test_arcee.py")
    tests.test_scores(tmp_path / "fp32", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True})


@pytest.mark.ladder
def test_the_family_passes_the_gate(page: Page, tmp_path: Path) -> None:
    page.add("rmexport/families/arcee.py", families)
    tests = page.test_module("tests/rmexport/families/test_arcee.py")
    tests.test_parity_gate(tmp_path / "bf16", "bf16")


def test_the_head_works(page: Page, tmp_path: Path) -> None:
    page.add("rmexport/heads/ensemble.py", heads)
    tests = page.test_module("tests/rmexport/heads/test_ensemble.py")
    tests.test_the_lowest_reward(tmp_path / "found")
    tests.test_a_member_is_missing(tmp_path / "missing")


@pytest.mark.ladder
def test_the_head_passes_the_gate(page: Page, tmp_path: Path) -> None:
    page.add("rmexport/heads/ensemble.py", heads)
    tests = page.test_module("tests/rmexport/heads/test_ensemble.py")
    tests.test_parity_gate(tmp_path / "bf16", "bf16")


def test_the_recipe_works(page: Page, tmp_path: Path) -> None:
    """It finds the head that is added above, and says what its file says."""
    page.add("rmexport/heads/ensemble.py", heads)
    path = "rmexport/recipes/my-ensemble.json"
    (tmp_path / "recipe.json").write_text(page.files[path])
    tests = page.test_module("tests/rmexport/heads/test_ensemble.py")
    spec = spec_of(tests.checkpoint_in(tmp_path / "checkpoint"), str(tmp_path / "recipe.json"))
    assert spec.recipe is not None and spec.recipe.name == Path(path).stem
    assert (spec.head_name, spec.format.bos) == ("ensemble", "one")


def test_the_dialect_works(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard ops only, so ONNX Runtime computes the same scores from its graph."""
    page.add("rmexport/dialects/head_rows.py", dialects)
    export(str(gated(tmp_path / "checkpoint").folder), tmp_path / "bundle")
    records = ragged_records(6)
    expected = RewardModel.load(tmp_path / "bundle", device="ort-cpu").score(records)
    monkeypatch.setattr(backends.backends()["ort-cpu"], "DIALECTS", ("head-rows",))
    found = RewardModel.load(tmp_path / "bundle", device="ort-cpu").score(records)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Score) and isinstance(other, Score)
        assert one.value == pytest.approx(other.value, abs=1e-5)


def test_the_backend_works(page: Page, tmp_path: Path) -> None:
    page.add("runtime/rmruntime/backends/onnx_reference.py", backends)
    export(str(gated(tmp_path / "checkpoint").folder), tmp_path / "bundle")
    module = backends.backends()["onnx-reference"]
    assert all(hasattr(module, name) for name in ("DEVICES", "PRIORITY", "PACKAGE", "EXTRA", "DIALECTS", "load"))
    records = ragged_records(6)
    with RewardModel.load(tmp_path / "bundle", device="onnx-reference") as model:
        found, precision = model.score(records), model.precision
    expected = RewardModel.load(tmp_path / "bundle", device="ort-cpu").score(records)
    assert precision == "fp32"
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Score) and isinstance(other, Score)
        assert one.value == pytest.approx(other.value, abs=1e-5)


def test_the_protocol_works(page: Page, place: Path) -> None:
    page.add("runtime/rmruntime/serve/protocols/preferred.py", protocols)
    tests = page.test_module("tests/runtime/serve/protocols/test_preferred.py")
    with RewardModel.load(place / "bundle", device="ort-cpu") as model:
        client = AsgiClient(app(model))
        tests.test_the_better_answer(client)
        tests.test_a_missing_field(client)
        client.close()


@pytest.mark.ladder
def test_the_peer_works(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page.add("rmexport/bench/peers/hf_transformers_one_by_one.py", bench_peers)
    page.test_module("tests/rmexport/bench/test_one_by_one.py").test_gives_the_bundles_scores(tmp_path, monkeypatch)
