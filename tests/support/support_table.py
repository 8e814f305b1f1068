"""The support tables of README.md, made from the code and its tests: `python tests/support/support_table.py` writes
them.

tests/test_support_table.py fails where README.md and the code say different things.
"""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from transformers import CONFIG_MAPPING

from rmexport.checkpoint.rope_config import KINDS
from rmexport.dialects import dialects
from rmexport.encoders.spec import ARCHITECTURES
from rmexport.encoders.store import COMPUTE_DTYPE, DIALECT
from rmexport.families import Family, families
from rmexport.heads import HeadKind, RefusedHead, ScoringHead, heads
from rmexport.prompt.recipe import recipes
from rmruntime.backends import backends

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
TESTS = ROOT / "tests" / "rmexport"
BUNDLE_DTYPES = ("bf16", "fp16", "fp32")
# Words of a test by which it compares scores in fp32, and by which it runs the parity gate.
SCORES = ("check_scores(", "assert_scores_follow(", "check_head(", "check_steps(", "assert_allclose(")
GATE = ("check_parity_gate(", "assert_gate_passes(", "check_gate(")
# Heads whose scores and parity gate are in other tests than their own: in those of a family, and in those of `verify`.
SCORES_ELSEWHERE = {"mean_classification": "families/test_llama_bidirectional.py"}
GATE_ELSEWHERE = SCORES_ELSEWHERE | {
    "sequence_classification": "families/test_llama.py",
    "gated_objectives": "verify/test_verify.py",
}

Rows = Iterable[Sequence[str]]


def table(header: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(names: Iterable[str]) -> str:
    """Names in code spans."""
    return ", ".join(f"`{name}`" for name in names)


def prose(text: str) -> str:
    """Text outside code spans that is not taken for HTML."""
    parts = text.split("`")
    return "`".join(part.replace("<", "\\<") if i % 2 == 0 else part for i, part in enumerate(parts))


def summary(module: Any) -> str:
    """The first paragraph of a module's docstring, without the name of the file that it follows."""
    text = " ".join((module.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
    return prose(re.sub(r" \((transformers' )?modeling_\w+\.py\)$", "", text))


def name_of(module: Any) -> str:
    """A module's file name."""
    return str(module.__name__.rpartition(".")[2])


def says(test: str, words: Sequence[str]) -> bool:
    """Whether the test file below tests/rmexport has one of `words`."""
    path = TESTS / test
    return path.is_file() and any(word in path.read_text() for word in words)


def family_modules() -> dict[ModuleType, Family]:
    """The module of every family, by name."""
    found = {sys.modules[family.read_config.__module__]: family for family in families().values()}
    return {module: found[module] for module in sorted(found, key=name_of)}


def family_rows() -> Rows:
    for module, family in family_modules().items():
        known = any(kind in CONFIG_MAPPING for kind in family.model_types)
        against = "transformers" if known else "its published code, written in PyTorch"
        yield f"`{name_of(module)}`", code(family.model_types), summary(module), against


def module_of(head: HeadKind) -> ModuleType:
    """The module that states a head."""
    return sys.modules[head.claims.__module__]


def supported_heads() -> list[ScoringHead]:
    """Heads that give a score, by name."""
    return sorted((head for head in heads().values() if isinstance(head, ScoringHead)), key=lambda head: head.name)


def refused_heads() -> list[RefusedHead]:
    """Heads that are recognised and refused."""
    return sorted((head for head in heads().values() if isinstance(head, RefusedHead)), key=lambda head: head.name)


def head_rows() -> Rows:
    for head in supported_heads():
        named = code(recipe.name for recipe in recipes().values() if recipe.head == head.name) or "none needed"
        test = f"[its test](tests/rmexport/heads/test_{name_of(module_of(head))}.py)"
        yield f"`{head.name}`", summary(module_of(head)), gives(head), named, test


def gives(head: ScoringHead) -> str:
    """What `build` of the class that it reads says of its outputs, without their shapes."""
    build = get_type_hints(head.read)["return"].build
    text = " ".join((build.__doc__ or "").split()).rstrip(".")
    return prose(re.sub(r" \[P[^\]]*\]", "", text))


def refused_rows() -> Rows:
    for head in refused_heads():
        yield f"`{head.name}`", summary(module_of(head)).removesuffix("; not supported")


def dialect_rows() -> Rows:
    for name, dialect in sorted(dialects().items()):
        computes = [" or ".join(dialect.compute_dtypes(dtype)) for dtype in BUNDLE_DTYPES]
        yield f"`{name}`", *_runs(name), *computes
    yield f"`{DIALECT}` (encoders)", *_runs(DIALECT), *[COMPUTE_DTYPE] * len(BUNDLE_DTYPES)


def _runs(dialect: str) -> tuple[str, str, str]:
    """The backends of a dialect, the names that `--device` has for them, and their extras."""
    reading = [module for _, module in sorted(backends().items()) if dialect in module.DIALECTS]
    if not reading:
        return "none in this release", "", ""
    general = dict.fromkeys(["auto", *(device for module in reading for device in module.DEVICES)])
    names = [module.NAME for module in reading]
    return code(names), code([*general, *names]), code(module.EXTRA for module in reading)


def known_checkpoints() -> Mapping[str, Any]:
    """What tests/rmexport/test_published_zoo.py expects of each published repository."""
    spec = importlib.util.spec_from_file_location("published_zoo", TESTS / "test_published_zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: facts for name, facts in module.FOUND.items() if "/" in name}


def checkpoint_list() -> str:
    """Published repositories by head."""
    known = known_checkpoints()
    by_head = {head: [name for name, facts in known.items() if facts.head == head] for head in sorted(heads())}
    return "\n".join(f"- `{head}`: {code(names)}" for head, names in by_head.items() if names)


def recipe_rows() -> Rows:
    for recipe in recipes().values():
        yield f"`{recipe.name}`", f"`{recipe.head}`" if recipe.head else "by tensors", prose(recipe.description)


def repository_list() -> str:
    """The repositories that each recipe is chosen for."""
    return "\n".join(f"- `{recipe.name}`: {code(recipe.repos)}" for recipe in recipes().values() if recipe.repos)


def support_tables() -> str:
    """Families, heads, encoders, dialects, and what is refused."""
    parts = [
        "### Families",
        "Found by `model_type`. Each is compared on random weights in the published layout: scores in fp32 from every "
        "engine (at most 1e-4 off), and the [parity gate](#parity-gate-and-numerics) in bf16 and fp16.",
        table(("family", "`model_type`", "what it is", "compared with"), family_rows()),
        f"Rope kinds: {code(KINDS)}.",
        "### Heads",
        "Found by the tensors that are there, or named by a recipe. Each is compared on random weights with the "
        "published formula, in fp32 (at most 1e-4 off), and by the parity gate in bf16 and fp16.",
        table(("head", "what it is", "gives", "recipes", "verified by"), head_rows()),
        "Of these checkpoints the tests have the published configuration, tensor names and shapes, and check that each "
        "ends in this head:",
        checkpoint_list(),
        "Recognised, and refused with the reason, because one conversation alone has no score:",
        table(("head", "what it is"), refused_rows()),
        "### Encoders",
        "transformers' own `*ForSequenceClassification` of these types, traced by optimum-onnx (extra `optimum`) and "
        f"compared with transformers: {code(sorted(ARCHITECTURES))}.",
        "### Dialects and backends",
        "A dialect is a kind of graph, a backend is what runs it. The last columns say what the graphs compute in.",
        table(
            ("dialect", "backend", "`--device`", "extra", *(f"{dtype} bundle" for dtype in BUNDLE_DTYPES)),
            dialect_rows(),
        ),
    ]
    return "\n\n".join(parts)


def recipe_tables() -> str:
    """The built-in recipes and their repositories."""
    header = ("recipe", "head", "what it says")
    return "\n\n".join([table(header, recipe_rows()), "Chosen unasked for", repository_list()])


BLOCKS: Mapping[str, Callable[[], str]] = {"support": support_tables, "recipes": recipe_tables}


def markers(block: str) -> tuple[str, str]:
    """What stands before and behind a generated block."""
    return f"<!-- {block}: written by tests/support/support_table.py -->", f"<!-- {block}: end -->"


def with_tables(text: str) -> str:
    """README.md's text with the tables as the code has them; both markers of every block must be there once."""
    for block, make in BLOCKS.items():
        begin, end = markers(block)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        assert found and closed, f"README.md lacks {begin} or {end}"
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
