"""Finds the reads of a sequence: for every position role, the tokens whose hidden state its head takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmruntime.errors import InputError
from rmruntime.manifest import PositionRule
from rmruntime.positions import check_spelling, dependence, describe, find_positions
from rmruntime.sequences import Ints
from rmruntime.truncation import Cut

Rules = Mapping[str, PositionRule]
Reads = dict[str, Ints]


@dataclass(frozen=True)
class StepEnds:
    """First and last token [P] of what closes each step, where the layout put the sequence together from parts."""

    first: Ints
    last: Ints


def find_reads(
    rules: Rules, ids: Ints, expected: int | None, ends: StepEnds | None = None, texts: Sequence[str] = ()
) -> Reads:
    """Positions [P] of every role in `ids` [L], the same P for all; a role with one position has it repeated.

    `expected` is what P must be (None: whatever the text holds); `ends` is what the rule `step_end` reads; `texts`
    are what `ids` were made of, as far as they are text. Raises InputError for another number, and where `texts` spell
    a marker otherwise: a message that spells the pattern would otherwise be scored in place of the answer.
    """
    found = {role: _found(rule, ids, ends) for role, rule in rules.items()}
    count = max(map(len, found.values()))
    for role, positions in found.items():
        if len(positions) not in (1, count) or count != (expected or count):
            raise InputError(
                f"found {len(positions)} place(s) where {role} is read ({describe(rules[role])}), expected "
                f"{expected or f'{count}, as for another role'}; does a message spell it, or a special token, or make "
                "other tokens of it with the characters beside it?"
            )
        check_spelling(rules[role], positions, texts)
    return {role: _repeated(positions, count) for role, positions in found.items()}


def cut_reads(rules: Rules, reads: Reads, ids: Ints, cut: Cut, ends: StepEnds | None = None) -> Reads:
    """Where `reads` of `ids` [L] lie after `cut`; rules without a pattern look again at what is left.

    Raises InputError when the cut removes a token that a read depends on: another one must not take its place.
    """
    kept = cut.keep(ids)
    return {role: _moved(role, rule, reads[role], kept, cut, ends) for role, rule in rules.items()}


def _found(rule: PositionRule, ids: Ints, ends: StepEnds | None) -> Ints:
    return ends.last if ends is not None and rule.rule == "step_end" else find_positions(rule, ids)


def _moved(role: str, rule: PositionRule, positions: Ints, kept: Ints, cut: Cut, ends: StepEnds | None) -> Ints:
    needed = _needed(rule, positions, ends)
    if needed is None:
        return _repeated(find_positions(rule, kept), len(positions))
    if not cut.holds(*needed):
        raise InputError(
            f"truncation to {len(kept)} tokens cuts off {describe(rule)}, where {role} is read; "
            "shorten the conversation, or truncate on the other side"
        )
    return cut.shift(positions)


def _needed(rule: PositionRule, positions: Ints, ends: StepEnds | None) -> tuple[Ints, Ints] | None:
    """The first and the last token that each position depends on, None for rules that look again after a cut."""
    if ends is not None and rule.rule == "step_end":
        return ends.first, ends.last
    span = dependence(rule)
    return None if span is None else (positions + span[0], positions + span[1])


def _repeated(positions: Ints, count: int) -> Ints:
    return positions if len(positions) == count else np.repeat(positions, count)
