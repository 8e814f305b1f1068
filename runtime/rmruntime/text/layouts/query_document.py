"""Rerankers that judge a document for a query: pieces tokenized by themselves, of which only the document may be cut.

The prompt's user turn is the query, its system turn the instruction, the answer the document. Published code builds the
ids of these models from parts: QwenLM/Qwen3-Embedding's README (prefix, body, suffix), mixedbread-ai/mxbai-rerank,
mxbai_rerank_v2.py, and FlagOpen/FlagEmbedding, inference/reranker/decoder_only/base.py (every part and line end).
Without pieces the chat template renders messages of the roles system, query and document, as Sentence Transformers does
(base/modality.py, `pair_to_messages`).
"""

from functools import lru_cache

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message
from rmruntime.text.chat_template import ChatTemplate
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Piece, Turns
from rmruntime.text.segments import PLACEHOLDER, Segment

KEPT = 512  # rendered pieces: those of a query are the same for all of its documents


def check(form: Format) -> None:
    """Raises BundleError for a format with neither pieces nor a chat template, and for pieces that do not compile.

    >>> check(Format(layout="query_document", pieces=("{{ query }}", "{{ document }}")))
    """
    if not form.pieces and form.template is None:
        raise BundleError(
            "format.pieces: found none and no template, query_document needs one of them; export the bundle again"
        )
    for piece in form.pieces:
        _template(piece)


def lay_out(exchange: Exchange, form: Format) -> tuple[Piece, ...]:
    """The segments of the pieces, or the turns for the template.

    Raises InputError unless the exchange is one user turn with an answer, after a system turn where the model takes
    instructions.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("4",))
    >>> form = Format(layout="query_document", pieces=("Query: {{ query }}", "Document: {{ document }}."))
    >>> [(segment.text, segment.fixed, segment.loose) for segment in lay_out(exchange, form)]
    [('Query: 2 + 2?', True, None), ('Document: 4.', False, (10, 11))]
    """
    roles = [message.role for message in exchange.prompt]
    if roles not in (["user"], ["system", "user"]) or not exchange.answer:
        found = roles + ["assistant"] * bool(exchange.answer)
        raise InputError(
            f"found the turns {', '.join(found)}; this model judges a document for a query: expected query and "
            "documents (or an optional system turn, one user turn and one assistant turn)"
        )
    if len(roles) > 1 and not form.takes_instruction:
        raise InputError("found an instruction (a system turn), which this model does not take; leave it out")
    [document], query = exchange.answer, exchange.prompt[-1].content
    if not form.pieces:
        system = exchange.prompt[:-1]
        turns = (*system, Message("query", query), Message("document", document))
        return (Turns(turns, form.generation_prompt, loose=len(turns) - 1),)
    instruction = exchange.prompt[0].content if len(roles) > 1 else ""
    if PLACEHOLDER in query + instruction:
        raise InputError(f"found the private characters {PLACEHOLDER!a} in the query; take them out")
    parts = [rendered_piece(piece, query, instruction) for piece in form.pieces]
    return tuple([_segment(part, document) for part in parts if part != [""]])


@lru_cache(maxsize=KEPT)
def rendered_piece(piece: str, query: str, instruction: str) -> list[str]:
    """The texts before and after the document; of a piece without the document its one text.

    >>> rendered_piece("Document: {{ document }}.", "2 + 2?", "")
    ['Document: ', '.']
    """
    values = {"query": query, "instruction": instruction, "document": PLACEHOLDER}
    turns = [{"role": "query", "content": query}, {"role": "system", "content": instruction}]
    return _template(piece).render(turns, values=values).split(PLACEHOLDER)


def _template(piece: str) -> ChatTemplate:
    # Jinja drops a line end at the end of a template, and some pieces are nothing else.
    return ChatTemplate(piece + "{{ '' }}", {}, None)


def _segment(part: list[str], document: str) -> Segment:
    text = document.join(part)
    if len(part) == 1:
        return Segment(text, fixed=True)
    return Segment(text, loose=(len(part[0]), len(text) - len(part[-1])))


LAYOUT = Layout(
    name="query_document",
    units=("sequence",),
    check=check,
    lay_out=lay_out,
)
