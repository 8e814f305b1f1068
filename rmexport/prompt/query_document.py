"""Checks what a reranker's pieces, or a chat template over the roles system, query and document, write of the three."""

from dataclasses import dataclass

from rmexport.errors import CheckpointError, OptionError
from rmexport.prompt.recipe import Recipe
from rmexport.prompt.template_probe import TemplateProbe
from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message
from rmruntime.text.chat_template import ChatTemplate
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts import find_layout
from rmruntime.text.layouts.base import Piece, Turns

_QUERY, _INSTRUCTION = "Where does the heron nest?", "Prefer field notes."
_DOCUMENT = "By the weir. "  # with a blank at the end, which some templates trim
_DOCUMENTS = ("", " upstream\n", _DOCUMENT)


@dataclass(frozen=True)
class QueryDocument:
    """The text of a query and a document, and whether an instruction would be in it."""

    text: str
    takes_instruction: bool


def probe_query_document(text: TemplateProbe, recipe: Recipe) -> QueryDocument | None:
    """What a recipe of the layout query_document writes; None for one of another layout.

    Raises OptionError for pieces that leave out the query or the document, or that change the document, and
    CheckpointError for a chat template that leaves one of them out.
    """
    if recipe.layout != "query_document":
        return None
    form = Format(
        layout=recipe.layout,
        template=None if recipe.pieces or text.template is None else "chat_template.jinja",
        template_variables=text.variables,
        pieces=recipe.pieces,
        generation_prompt=recipe.generation_prompt,
        takes_instruction=True,
    )
    try:
        plain, instructed = (_written(text, form, system) for system in ((), (Message("system", _INSTRUCTION),)))
    except (BundleError, InputError) as error:
        raise _refusal(recipe, f"the text of a query and a document cannot be written: {error}") from error
    missing = [name for name, part in (("query", _QUERY), ("document", _DOCUMENT.strip())) if part not in plain]
    if missing:
        raise _refusal(recipe, f"the text leaves out the {' and the '.join(missing)}, expected both in it")
    _check_document(recipe)
    return QueryDocument(plain, takes_instruction=_INSTRUCTION in instructed)


def _written(text: TemplateProbe, form: Format, system: tuple[Message, ...]) -> str:
    exchange = Exchange(prompt=(*system, Message("user", _QUERY)), answer=(_DOCUMENT,))
    return "".join(_text_of(text, piece) for piece in find_layout(form).lay_out(exchange, form))


def _text_of(text: TemplateProbe, piece: Piece) -> str:
    if not isinstance(piece, Turns):
        return piece.text
    template = ChatTemplate(text.template or "", text.variables, text.pinned_date)
    return template.render([turn.as_turn() for turn in piece.messages], piece.generation_prompt)


def _check_document(recipe: Recipe) -> None:
    """Raises OptionError for a piece that does more with the document than write it: it is set in as it is given."""
    for piece in recipe.pieces:
        template = ChatTemplate(piece, {}, None)
        written = [
            template.render([], values={"query": _QUERY, "instruction": "", "document": document})
            for document in _DOCUMENTS
        ]
        without = written[0]
        places = [place for place in range(len(without) + 1) if _inserted(without, place, written)]
        if len(set(written)) > 1 and not places:
            raise OptionError(
                f"recipe {recipe.name!r}: the piece {piece!r} changes the document, expected it written once, as it "
                "is: {{ document }}"
            )


def _inserted(without: str, place: int, written: list[str]) -> bool:
    """Whether all texts are `without` with the document at `place`."""
    return all(
        text == without[:place] + document + without[place:] for text, document in zip(written, _DOCUMENTS, strict=True)
    )


def _refusal(recipe: Recipe, what: str) -> CheckpointError | OptionError:
    if recipe.pieces or recipe.template is not None:
        return OptionError(f"recipe {recipe.name!r}, {'pieces' if recipe.pieces else 'template'}: {what}")
    return CheckpointError(
        f"the chat template, over the roles system, query and document: {what}; give a recipe with pieces"
    )
