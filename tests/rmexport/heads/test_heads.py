"""What every head module is: one that reads a frozen head, or one that is known and refused."""

import dataclasses
from typing import Any, get_type_hints

import pytest

from rmexport.heads import Candidate, Head, HeadFacts, RefusedHead, heads


@pytest.mark.parametrize("name", sorted(heads()))
def test_a_module_reads_a_frozen_head_of_its_own_settings(name: str) -> None:
    head = heads()[name]
    if isinstance(head, RefusedHead):
        assert get_type_hints(head.refuse)["candidate"] is get_type_hints(head.claims)["candidate"] is Candidate
        return
    hints = get_type_hints(head.read)
    assert hints["facts"] is get_type_hints(head.claims)["facts"] is HeadFacts
    assert issubclass(hints["return"], Head) and hints["return"].__dataclass_params__.frozen
    assert Any not in get_type_hints(hints["return"]).values()


def test_facts_are_never_half_built() -> None:
    """No field of what heads see has a default that stands for not yet known."""
    for facts in (Candidate, HeadFacts):
        assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(facts))
