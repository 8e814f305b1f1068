"""Which token a head reads: as the recipe states, else as its layout or the head's published code implies."""

from typing import Literal

from rmexport.errors import CheckpointError
from rmexport.prompt.recipe import Recipe
from rmexport.prompt.template_probe import TemplateProbe
from rmruntime.bundle.manifest import PositionRule

EndRule = Literal["last", "last_not_pad", "before_first_pad"]


def score_position(
    recipe: Recipe | None, text: TemplateProbe, pad_id: int | None, default: EndRule, *, step_joiner: str | None = None
) -> PositionRule:
    """The rule of the score's position; `default` is the head's own where it judges whole conversations.

    The rules that look for padding become `last` where there is no `pad_id`. `step_joiner` overrides the recipe's.
    Raises CheckpointError for a tag or reply that the tokenizer merges with the text beside it.

    >>> text = TemplateProbe(tokenizer_json=b"", template=None, variables={}, pinned_date="2024-07-26")
    >>> score_position(None, text, pad_id=0, default="last_not_pad").rule
    'last_not_pad'
    >>> score_position(None, text, pad_id=None, default="last_not_pad").rule
    'last'
    """
    layout = recipe.layout if recipe else "chat"
    if recipe and layout == "graded_turns":
        return _before_reply(text, recipe.reply or "")
    if recipe and layout == "tagged_steps":
        return _behind_steps(text, recipe.step_tag or "", step_joiner or recipe.step_joiner or "")
    if recipe and layout == "separated_steps":
        return PositionRule(rule="step_end")
    rule = recipe.position if recipe and recipe.position else default
    if rule == "last" or pad_id is None:
        return PositionRule(rule="last")
    return PositionRule(rule=rule, pad_id=pad_id)


def prompt_end(text: TemplateProbe) -> PositionRule:
    """Where gates read: the first token of the last close of a user's turn and header of the assistant's.

    Raises CheckpointError where a published vocabulary makes other ids of it than scoring code expects.
    """
    header = text.user_turn_end()
    text.check_published(header)
    return PositionRule(rule="pattern_start", tokens=text.pattern(header, after=("Omega", "7")), text=header)


def _behind_steps(text: TemplateProbe, tag: str, joiner: str) -> PositionRule:
    """The last token of each tag, found by all its tokens: between a step and the next, and before the turn's end."""
    if tag in text.render("alpha", "omega"):
        raise CheckpointError(f"the chat template itself writes the steps' tag {tag!r}: it would be read there too")
    endings = [text.turn_end(f"Step {word}{tag}") for word in ("alpha", "7")]
    after = (f"{joiner}Omega", f"{joiner}7", *dict.fromkeys(endings))
    return PositionRule(rule="marker", tokens=text.pattern(tag, after=after), text=tag)


def _before_reply(text: TemplateProbe, reply: str) -> PositionRule:
    opening = text.user_turn_end()
    pattern, end = opening + reply, text.turn_end(reply)
    tokens, before = text.pattern(pattern, after=(end,)), text.pattern(opening)
    if tokens[: len(before)] != before:
        raise CheckpointError(f"the reply {reply!r} merges with the assistant header when tokenized: {tokens}")
    if len(tokens) != len(before) + 1:
        raise CheckpointError(
            f"{reply!r} must be one token for this head, this tokenizer makes it {list(tokens[len(before) :])}"
        )
    return PositionRule(rule="before_marker", tokens=tokens, text=pattern)
