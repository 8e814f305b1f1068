"""How this checkpoint's conversations become tokens: the manifest's Format from template, tokenizer and recipe."""

from rmexport.checkpoint import TokenizerFiles
from rmexport.errors import OptionError
from rmexport.options import ExportOptions
from rmexport.prompt.query_document import QueryDocument, probe_query_document
from rmexport.prompt.recipe import PLAIN, Recipe
from rmexport.prompt.template_probe import ENDINGS, TemplateProbe
from rmexport.prompt.unread_answers import unread_notes
from rmruntime.bundle.manifest import BosPolicy, Format

CHAT_TEMPLATE = "chat_template.jinja"


def read_format(
    text: TemplateProbe,
    tokenizer: TokenizerFiles,
    recipe: Recipe | None,
    options: ExportOptions,
    append: tuple[int, ...] = (),
) -> tuple[Format, tuple[str, ...]]:
    """The format, and notes for the user where the checkpoint's files leave room for doubt.

    `append` are the ids that the head wants after every conversation. Raises CheckpointError for a chat template that
    cannot write a user and an assistant turn, OptionError for a recipe that appends other text than the head.
    """
    known = recipe or PLAIN
    asked = _append(text, known)
    if append and asked and asked != append:
        raise OptionError(
            f"recipe {known.name!r} appends {known.append!r}, but the head appends the token ids {list(append)} of "
            "config.json: take `append` out of the recipe"
        )
    judged = probe_query_document(text, known)
    if judged is None and known.layout != "separated_steps":  # which renders the prompt alone
        text.user_turn_end()
    if known.preference_template is not None:
        text.check_comparison(known.preference_template)
    begins = _begins_with_bos(text, tokenizer, judged)
    if known.takes_instruction or known.question is not None:
        text.check_instruction(known.question)
    bos, note = _bos(text, tokenizer, known, options, begins=begins)
    joiner = options.step_joiner if options.step_joiner is not None else known.step_joiner
    layout = Format(
        layout=known.layout,
        template=None if known.pieces else CHAT_TEMPLATE,
        template_variables=tokenizer.special_tokens,
        pinned_date=options.pinned_date,
        generation_prompt=known.generation_prompt,
        system=known.system if judged is None or judged.takes_instruction else None,
        bos=bos,
        bos_id=_bos_id(text, tokenizer),
        text_bos=begins,
        append=append or asked,
        unit=known.unit,
        response_joiner=known.response_joiner,
        reply=known.reply,
        remove=known.remove,
        step_separators=known.step_separators,
        step_joiner=joiner or "",
        step_tag=known.step_tag,
        step_separator=known.step_separator,
        preference_template=known.preference_template,
        pieces=known.pieces,
        takes_instruction=known.takes_instruction or known.question is not None
        if judged is None
        else judged.takes_instruction,
        question=known.question,
        opens_reply=judged is None and _opens_reply(text, known),
    )
    return layout, (*note, *unread_notes(text, layout))


def _append(text: TemplateProbe, recipe: Recipe) -> tuple[int, ...]:
    """The ids of the text that the recipe puts after every conversation."""
    if recipe.append is None:
        return ()
    before = [ending if text.template is None else text.render("alpha", ending) for ending in ENDINGS]
    return text.pattern(recipe.append, before=before)


def _opens_reply(text: TemplateProbe, recipe: Recipe) -> bool:
    """Whether a conversation without an answer is what this recipe judges.

    This is so where the head reads the reply that the model would write, and where the recipe's own template opens the
    assistant's turn after a user's.
    """
    if recipe.generation_prompt or recipe.tokens or len(recipe.token_ids) > 1:
        return True
    return recipe.template is not None and text.opens_reply()


def _bos_id(text: TemplateProbe, tokenizer: TokenizerFiles) -> int | None:
    token = tokenizer.special_tokens.get("bos_token")
    found: int | None = text.tokenizer.token_to_id(token) if token else None
    return found


def _begins_with_bos(text: TemplateProbe, tokenizer: TokenizerFiles, judged: QueryDocument | None) -> bool:
    """Whether the template, or the first piece, writes a BOS in front."""
    token = tokenizer.special_tokens.get("bos_token")
    return bool(token) and (judged.text if judged else text.render("a", "b")).startswith(str(token))


def _bos(
    text: TemplateProbe, tokenizer: TokenizerFiles, recipe: Recipe, options: ExportOptions, *, begins: bool
) -> tuple[BosPolicy, tuple[str, ...]]:
    """As `apply_chat_template(tokenize=True)` does, unless an option or a recipe sets another policy."""
    token = tokenizer.special_tokens.get("bos_token")
    if options.bos or recipe.bos:
        return options.bos or recipe.bos or "as-is", ()
    if tokenizer.bos_added_by_tokenizer and not begins:
        return "as-is", (
            f"the chat template writes no {token}, the tokenizer would add one to plain text: none is used, as "
            "apply_chat_template does; --bos one puts one in front, as text-then-tokenize pipelines do",
        )
    if token and begins and recipe.layout != "query_document" and text.render("a", "b").startswith(token * 2):
        return "as-is", (f"the chat template writes {token!r} twice in front, and both stay; --bos one leaves one",)
    return "as-is", ()
