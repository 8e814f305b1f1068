"""Flags: texts that tell what was odd about an input or its score. Each begins with its kind; summaries count kinds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from rmruntime.bundle.manifest import Format
from rmruntime.records import Request
from rmruntime.sequences import TokenSequence
from rmruntime.text.exchanges import Exchange

SPELLED = "content spells"
UNANSWERED = "no answer"
UNWRITTEN = "answer not as given"
ALIKE = "same tokens"
ZERO = "score of exactly 0"
_OTHER = ""  # every text begins with it: the kind of all other flags
# Roles that are never the assistant's; any other may be a name of the assistant.
_ASKING = frozenset(("user", "human", "prompter", "system", "developer", "tool", "function", "ipython", "observation"))
_NAMED = 4  # most answers that are named where many have the same tokens

# A summary's text after the number of records that carry a kind.
SUMMARIES: Mapping[str, str] = {
    SPELLED: "records spell special tokens",
    UNANSWERED: "records have no answer to judge",
    UNWRITTEN: "records have answers that the chat template does not write as given",
    ALIKE: "records have different answers with the same tokens",
    ZERO: "records have a score of exactly 0",
    _OTHER: "records carry another flag",
}


def kinds_of(flags: Iterable[str]) -> set[str]:
    """The kinds of some flags, which are keys of SUMMARIES.

    >>> kinds_of(["content spells <s>"])
    {'content spells'}
    """
    return {next(kind for kind in SUMMARIES if flag.startswith(kind)) for flag in flags}


def spelled_flags(spelled: Sequence[str]) -> tuple[str, ...]:
    """The flag of content that spells the special tokens `spelled`; no flag where there are none.

    >>> spelled_flags(["<s>", "</s>"])
    ('content spells <s>, </s>',)
    """
    return (f"{SPELLED} {', '.join(spelled)}",) if spelled else ()


def answer_doubts(
    exchange: Exchange, form: Format, texts: Sequence[str], clean: Callable[[str], str]
) -> tuple[str, ...]:
    """The flags of an exchange without an answer, or with one that is not in the `texts` it was laid out as.

    `clean` is the cleaning that the texts went through; its changes are not flagged.

    >>> from rmruntime.records import Message
    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("4",))
    >>> answer_doubts(exchange, Format(layout="chat"), ["User: 2 + 2? Assistant: 4"], str)
    ()
    """
    return (*_unanswered(exchange, form), *_unwritten(exchange, texts, clean))


def _unanswered(exchange: Exchange, form: Format) -> tuple[str, ...]:
    """A conversation that ends before the assistant's turn, or in an empty one."""
    if exchange.answer and not any(piece.strip() for piece in exchange.answer):
        return (f"{UNANSWERED} to judge: {exchange.answer_name} is empty",)
    last = exchange.prompt[-1].role if exchange.prompt else ""
    if exchange.answer or form.opens_reply or last.lower() not in _ASKING:
        return ()
    return (f"{UNANSWERED} to judge: the conversation ends in the {last}'s turn",)


def _unwritten(exchange: Exchange, texts: Sequence[str], clean: Callable[[str], str]) -> tuple[str, ...]:
    """The flag of an answer that is not in the tokenized text; templates may trim it."""
    answers = exchange.answer if exchange.against is None else (*exchange.answer, exchange.against)
    pieces = [clean(piece).strip() for piece in answers]
    if all(any(piece in text for text in texts) for piece in pieces):
        return ()
    return (f"{UNWRITTEN}: the chat template changes it or leaves out part of it, which the score then ignores",)


def flag_alike(
    request: Request, exchanges: Sequence[Exchange], sequences: tuple[TokenSequence, ...]
) -> tuple[TokenSequence, ...]:
    """The sequences of one record; those of different answers that have the same tokens get a flag that says so.

    `exchanges` are what the sequences were made from, in the same order.

    >>> import numpy as np
    >>> from rmruntime.records import Conversation
    >>> texts = (Conversation(text="a"), Conversation(text=" a"))
    >>> same = tuple(TokenSequence(ids=np.array([5, 6]), reads={"score": np.array([1])}) for _ in texts)
    >>> answers = [Exchange(prompt=(), answer=(c.text,), where=f"responses[{i}]") for i, c in enumerate(texts)]
    >>> flag_alike(Request(kind="candidates", conversations=texts), answers, same)[0].doubts
    ('same tokens: responses[0] and responses[1] differ only in what is not read',)
    """
    by_tokens: dict[bytes, list[int]] = {}
    for index, sequence in enumerate(sequences):
        by_tokens.setdefault(sequence.ids.tobytes(), []).append(index)
    if len(by_tokens) == len(sequences):
        return sequences
    flagged = list(sequences)
    for group in by_tokens.values():
        if len(group) > 1 and len({_source(request, exchanges, index) for index in group}) > 1:
            flag = f"{ALIKE}: {_listed([exchanges[index].where for index in group])} differ only in what is not read"
            for index in group:
                flagged[index] = replace(flagged[index], doubts=(*flagged[index].doubts, flag))
    return tuple(flagged)


def _source(request: Request, exchanges: Sequence[Exchange], index: int) -> object:
    """The user's input for a sequence: the conversation, or the exchange where there are several per conversation."""
    exchange, conversations = exchanges[index], request.conversations
    if len(conversations) == len(exchanges):
        return conversations[index]
    return exchange.prompt, exchange.answer, exchange.against


def _listed(names: Sequence[str]) -> str:
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def zero_flags(values: Sequence[float]) -> tuple[str, ...]:
    """The flag of raw scores (before any activation), one per scored position, where some are exactly 0.

    >>> zero_flags([0.5, -1.0])
    ()
    """
    count = sum(value == 0.0 for value in values)
    if not count:
        return ()
    which = f" at {count} of {len(values)} steps" if len(values) > 1 else ""
    return (
        f"{ZERO}.0{which}, before any activation: so a head without a bias scores hidden states of 0, as when "
        "activations overflow and a norm divides them away (rmexport verify tells); a ReLU in the head may give it too",
    )
