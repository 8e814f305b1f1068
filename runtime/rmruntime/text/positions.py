"""Executes position rules: which tokens of a sequence a head scores, before and after truncation.

A role is a name that a head has for such a position, such as "score" or "gate"; the manifest has a rule for each. The
positions found for the roles of a sequence are its `reads`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmruntime.bundle.manifest import PositionRule
from rmruntime.errors import BundleError, InputError
from rmruntime.sequences import Ints
from rmruntime.text.tokenizer import ids_between
from rmruntime.text.truncation import Cut

_MARKER_RULES = ("marker", "before_marker")
_PATTERN_RULES = (*_MARKER_RULES, "pattern_start")
_PAD_RULES = ("last_not_pad", "before_first_pad")


def find_pattern(ids: Ints, tokens: tuple[int, ...]) -> Ints:
    """Positions [n] where the run `tokens` begins in `ids` [L], ascending, overlapping occurrences included.

    >>> find_pattern(np.array([5, 1, 2, 1, 2]), (1, 2)).tolist()
    [1, 3]
    """
    # A search in bytes is one call; comparing arrays takes one call per token, too slow for short conversations.
    text, pattern = ids.tobytes(), np.array(tokens, dtype=np.int64).tobytes()
    found: list[int] = []
    place = text.find(pattern)
    while place >= 0:
        if place % ids.itemsize == 0:  # else it begins within a token
            found.append(place // ids.itemsize)
        place = text.find(pattern, place + 1)
    return np.array(found, dtype=np.int64)


def find_positions(rule: PositionRule, ids: Ints) -> Ints:
    """Positions [P] that `rule` finds in `ids` [L], L >= 1; P is 1 except for the marker rules and `every`.

    Raises InputError when there is none, saying which pattern is absent, and for the rule `step_end`, which needs the
    text's parts: ids alone do not tell where steps end.

    >>> find_positions(PositionRule(rule="marker", tokens=(1, 2)), np.array([5, 1, 2, 1, 2])).tolist()
    [2, 4]
    """
    if rule.rule == "every":
        return np.arange(len(ids), dtype=np.int64)
    if rule.rule == "last":
        return np.array([len(ids) - 1], dtype=np.int64)
    if rule.rule == "last_not_pad":
        return _last_not_pad(ids, rule.pad_id)
    if rule.rule == "before_first_pad":
        return _before_first_pad(ids, rule.pad_id)
    if rule.rule == "step_end":
        raise InputError("a text or input_ids record does not say where its steps end; give prompt and steps")
    starts = find_pattern(ids, rule.tokens)
    if not len(starts):
        raise InputError(
            f"found no {describe(rule)} among the {len(ids)} tokens, expected it in every conversation; is the text "
            "rendered with this model's chat template?"
        )
    if rule.rule == "pattern_start":
        return starts[-1:]
    positions = starts + len(rule.tokens) - (1 if rule.rule == "marker" else 2)
    if positions[0] < 0:
        raise InputError(f"found {describe(rule)} as the first token, expected a token before it to read")
    return positions


def check_spelling(rule: PositionRule, found: Ints, texts: Sequence[str]) -> None:
    """Raises InputError where `texts` spell a marker more often than its tokens were found, at `found` [P].

    Characters beside a marker can change its tokens, so that it is not found; the steps would then get each other's
    scores. Two markers that overlap are refused too, because only one of them can be meant.

    >>> rule = PositionRule(rule="marker", tokens=(7,), text="<step>")
    >>> check_spelling(rule, np.array([3]), ["Add. <step> Carry. <step>"])
    Traceback (most recent call last):
    rmruntime.errors.InputError: the text spells '<step>' 2 time(s), but only 1 of them ...
    """
    if rule.rule not in _MARKER_RULES or not rule.text:
        return
    spelled = sum(map(len, (_occurrences(rule.text, text) for text in texts)))
    if spelled > len(found):
        raise InputError(
            f"the text spells {describe(rule)} {spelled} time(s), but only {len(found)} of them have the tokens "
            f"{list(rule.tokens)} that are read: characters beside the others change their tokens; change these "
            "characters, such as the end of the step"
        )
    if len(found) > 1 and int(np.diff(found).min()) < len(rule.tokens):
        raise InputError(f"found two places of {describe(rule)} that overlap, expected them apart; separate them")


def _occurrences(part: str, text: str) -> list[int]:
    """Where `part` begins in `text`, overlapping occurrences included."""
    places: list[int] = []
    place = text.find(part)
    while place >= 0:
        places.append(place)
        place = text.find(part, place + 1)
    return places


def check_whole_patterns(rules: Mapping[str, PositionRule], encode: Callable[[str], Sequence[int]]) -> None:
    """Raises BundleError for a marker rule with only the last of its text's tokens, as older exporters wrote it.

    `encode` returns the ids of a text.

    >>> rules = {"score": PositionRule(rule="marker", tokens=(2,), text="12")}
    >>> check_whole_patterns(rules, lambda text: [int(c) if c.isdigit() else 0 for c in text])
    Traceback (most recent call last):
    rmruntime.errors.BundleError: positions.score: found the tokens [2], expected all of '12', [1, 2]: ...
    """
    for role, rule in rules.items():
        if rule.rule != "marker" or not rule.text or not rule.tokens:
            continue
        whole = ids_between(encode, rule.text, before="a")
        if whole is not None and len(whole) > len(rule.tokens) and whole[-len(rule.tokens) :] == rule.tokens:
            raise BundleError(
                f"positions.{role}: found the tokens {list(rule.tokens)}, expected all of {rule.text!r}, "
                f"{list(whole)}: other text that ends alike would be read too; export the bundle again"
            )


def dependence(rule: PositionRule) -> tuple[int, int] | None:
    """The first and last token that a position depends on, relative to it; None for rules without a pattern.

    A cut that removes one of these tokens must be refused, because the rule would find another place. Rules without a
    pattern are applied again to the tokens that a cut leaves, as in code that truncates before it pads.

    >>> dependence(PositionRule(rule="marker", tokens=(1, 2)))
    (-1, 0)
    """
    size = len(rule.tokens)
    spans = {"marker": (1 - size, 0), "before_marker": (min(2 - size, 0), 1), "pattern_start": (0, size - 1)}
    return spans.get(rule.rule)


def check_rules(rules: Mapping[str, PositionRule]) -> None:
    """Raises BundleError for a rule that cannot be executed: no pattern, or no pad id where it needs one.

    >>> check_rules({"score": PositionRule(rule="marker")})
    Traceback (most recent call last):
    rmruntime.errors.BundleError: positions.score: the rule marker has no tokens; export the bundle again
    """
    if not rules:
        raise BundleError("positions: found no role, expected at least one; export the bundle again")
    for role, rule in rules.items():
        if rule.rule in _PATTERN_RULES and not rule.tokens:
            raise BundleError(f"positions.{role}: the rule {rule.rule} has no tokens; export the bundle again")
        if rule.rule in _PAD_RULES and rule.pad_id is None:
            raise BundleError(f"positions.{role}: the rule {rule.rule} has no pad_id; export the bundle again")


def describe(rule: PositionRule) -> str:
    """The rule's target, named for messages.

    >>> describe(PositionRule(rule="marker", tokens=(1, 2)))
    'the token pattern [1, 2]'
    """
    if rule.rule == "step_end":
        return "the end of a step"
    if rule.text:
        return repr(rule.text)
    return f"the token pattern {list(rule.tokens)}" if rule.tokens else f"the rule {rule.rule}"


def _last_not_pad(ids: Ints, pad_id: int | None) -> Ints:
    # transformers >= 4.49 scores the rightmost token that is not the pad id, be it a real token or padding.
    others = np.flatnonzero(ids != pad_id)
    if not len(others):
        raise InputError(
            f"every one of the {len(ids)} tokens is the pad token {pad_id}, so none can be scored; "
            "give ids without padding"
        )
    return others[-1:]


def _before_first_pad(ids: Ints, pad_id: int | None) -> Ints:
    # transformers <= 4.48 scores the token before the first pad id, be that padding or a real token.
    pads = np.flatnonzero(ids == pad_id)
    if not len(pads):
        return np.array([len(ids) - 1], dtype=np.int64)
    if pads[0] == 0:
        raise InputError(
            f"the first of the {len(ids)} tokens is the pad token {pad_id}, so none before it can be scored; "
            "give ids without padding"
        )
    return pads[:1] - 1


Rules = Mapping[str, PositionRule]
Reads = dict[str, Ints]


@dataclass(frozen=True)
class StepEnds:
    """First and last token [P] of each step's separator, known where the layout joins the sequence from parts."""

    first: Ints
    last: Ints


def find_reads(
    rules: Rules, ids: Ints, expected: int | None, ends: StepEnds | None = None, texts: Sequence[str] = ()
) -> Reads:
    """Positions [P] of every role in `ids` [L], the same P for all; a role with one position has it repeated.

    `expected` is the P that is required (None: any); `ends` are the steps' ends, for the rule `step_end`; `texts` are
    the texts among the parts that `ids` were made from. Raises InputError for another P, because a message may spell
    the pattern and would be scored in place of the answer, and as `check_spelling` does.

    >>> rules = {"score": PositionRule(rule="last"), "gate": PositionRule(rule="pattern_start", tokens=(8, 9))}
    >>> {role: places.tolist() for role, places in find_reads(rules, np.array([4, 8, 9, 5]), 1).items()}
    {'score': [3], 'gate': [1]}
    """
    found = {role: _found(rule, ids, ends) for role, rule in rules.items()}
    if any(rule.rule == "every" for rule in rules.values()):
        expected = None
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
    """The positions `reads` of `ids` [L] as they are after `cut`; rules without a pattern are applied again.

    Raises InputError when the cut removes a token that a position depends on: another must not take its place.

    >>> ids, cut = np.array([4, 8, 9, 5]), Cut(removed=((0, 1),))
    >>> cut_reads({"score": PositionRule(rule="last")}, {"score": np.array([3])}, ids, cut)["score"].tolist()
    [2]
    """
    kept = cut.keep(ids)
    return {role: _moved(role, rule, reads[role], kept, cut, ends) for role, rule in rules.items()}


def _found(rule: PositionRule, ids: Ints, ends: StepEnds | None) -> Ints:
    return ends.last if ends is not None and rule.rule == "step_end" else find_positions(rule, ids)


def _moved(role: str, rule: PositionRule, positions: Ints, kept: Ints, cut: Cut, ends: StepEnds | None) -> Ints:
    needed = _needed(rule, positions, ends)
    if rule.rule == "every":
        return find_positions(rule, kept)
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
