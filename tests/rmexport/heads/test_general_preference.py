"""GPM is refused with the reason, and told from OpenRLHF's value head, whose tensor has the same name."""

from pathlib import Path

import pytest

from reward_trunks import HIDDEN, normal, reward_trunk, spec_of
from rmexport.errors import UnsupportedModel


@pytest.mark.parametrize(("rows", "prompt_head"), [(6, False), (6, True), (2, True)])
def test_refused_with_the_reason(tmp_path: Path, rows: int, prompt_head: bool) -> None:
    head = {"value_head.weight": normal(rows, HIDDEN)}
    head |= {"prompt_head.weight": normal(rows // 2, HIDDEN)} if prompt_head else {}
    checkpoint = reward_trunk(tmp_path / "checkpoint", head, {})
    with pytest.raises(UnsupportedModel, match=rf"(?s){rows} rows.*skew-symmetric.*has no score.*variants"):
        spec_of(checkpoint)


def test_one_row_is_a_plain_value_head(tmp_path: Path) -> None:
    checkpoint = reward_trunk(tmp_path / "checkpoint", {"value_head.weight": normal(1, HIDDEN)}, {})
    assert spec_of(checkpoint).head_name == "openrlhf"
