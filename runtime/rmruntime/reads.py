"""Finds the reads of a sequence: for every position role, the tokens whose hidden state its head takes."""

from collections.abc import Mapping

import numpy as np

from rmruntime.errors import InputError
from rmruntime.manifest import PositionRule
from rmruntime.positions import dependence, describe, find_positions
from rmruntime.sequences import Ints
from rmruntime.truncation import Cut

Rules = Mapping[str, PositionRule]
Reads = dict[str, Ints]


def find_reads(rules: Rules, ids: Ints, expected: int | None) -> Reads:
    """Positions [P] of every role in `ids` [L], the same P for all; a role with one position has it repeated.

    `expected` is what P must be (None: whatever the text holds). Raises InputError for another number: a message that
    spells the pattern would otherwise be scored in place of the answer.
    """
    found = {role: find_positions(rule, ids) for role, rule in rules.items()}
    count = max(map(len, found.values()))
    for role, positions in found.items():
        if len(positions) not in (1, count) or count != (expected or count):
            raise InputError(
                f"found {len(positions)} place(s) where {role} is read ({describe(rules[role])}), expected "
                f"{expected or f'{count}, as for another role'}; does a message spell it, or a special token?"
            )
    return {role: _repeated(positions, count) for role, positions in found.items()}


def cut_reads(rules: Rules, reads: Reads, ids: Ints, cut: Cut) -> Reads:
    """Where `reads` of `ids` [L] lie after `cut`; rules that look at the end alone look at the new end.

    Raises InputError when the cut removes a token that a read depends on: another one must not take its place.
    """
    kept = cut.keep(ids)
    return {role: _moved(role, rule, reads[role], kept, cut) for role, rule in rules.items()}


def _moved(role: str, rule: PositionRule, positions: Ints, kept: Ints, cut: Cut) -> Ints:
    span = dependence(rule)
    if span is None:
        return _repeated(find_positions(rule, kept), len(positions))
    if not cut.holds(positions + span[0], positions + span[1]):
        raise InputError(
            f"truncation to {len(kept)} tokens cuts off {describe(rule)}, where {role} is read; "
            "shorten the conversation, or truncate on the other side"
        )
    return cut.shift(positions)


def _repeated(positions: Ints, count: int) -> Ints:
    return positions if len(positions) == count else np.repeat(positions, count)
