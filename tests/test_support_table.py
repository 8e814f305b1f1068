"""README.md's support tables are what the code says; `python tests/support/support_table.py` writes them."""

from rmexport.heads import heads
from support_table import (
    GATE,
    GATE_ELSEWHERE,
    README,
    SCORES,
    SCORES_ELSEWHERE,
    family_modules,
    known_checkpoints,
    module_of,
    name_of,
    refused_heads,
    says,
    supported_heads,
    with_tables,
)


def test_readme_says_what_the_code_does() -> None:
    text = README.read_text()
    assert text == with_tables(text), "run: python tests/support/support_table.py"


def test_every_family_is_compared_and_gated() -> None:
    for module in family_modules():
        test = f"families/test_{name_of(module)}.py"
        assert says(test, SCORES) and says(test, GATE), test


def test_every_head_is_compared_and_gated() -> None:
    for head in supported_heads():
        test = f"heads/test_{name_of(module_of(head))}.py"
        assert says(SCORES_ELSEWHERE.get(head.name, test), SCORES), test
        elsewhere = GATE_ELSEWHERE.get(head.name)
        assert says(test, GATE) or (elsewhere and says(elsewhere, (*GATE, "verify("))), test


def test_every_refused_head_is_tested() -> None:
    for head in refused_heads():
        assert says(f"heads/test_{name_of(module_of(head))}.py", ("UnsupportedModel",)), head.name


def test_known_checkpoints_end_in_heads_that_there_are() -> None:
    known = known_checkpoints()
    assert len(known) > 40
    assert {facts.head for facts in known.values()} <= set(heads())
