"""Questions that the exporter asks a checkpoint's tokenizer and chat template before it writes a bundle."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jinja2
import jinja2.nodes
from tokenizers import Tokenizer

from rmexport.errors import CheckpointError, OptionError
from rmruntime.errors import BundleError, InputError
from rmruntime.text.chat_template import ChatTemplate
from rmruntime.text.tokenizer import ids_between
from rmruntime.text.tokenizer_file import TokenizerFault, open_tokenizer, panics_caught

_USER, _REPLY, _OTHER_REPLY = "alpha", "omega", "delta"  # probe contents: plain words that no template writes itself

_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # a tag that only transformers knows
# How messages and steps end: in a letter, in a digit, in a full stop.
ENDINGS = ("alpha", "is 7", "omega.")

# Ids of the published Llama-3 vocabulary that scoring code hard-codes (ArmoRM's gate pattern, RLHFlow's '+' and '-').
_LLAMA3_MARK = ("<|begin_of_text|>", 128000)
_LLAMA3_PUBLISHED = {
    "+": (10,),
    "-": (12,),
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n": (128009, 128006, 78191, 128007, 271),
}


@dataclass(frozen=True, kw_only=True)
class TemplateProbe:
    """A tokenizer.json and the chat template beside it."""

    tokenizer_json: bytes
    template: str | None
    variables: Mapping[str, str]
    pinned_date: str

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, special tokens in text recognised, none added. Raises CheckpointError where it is unfit."""
        try:
            return open_tokenizer(self.tokenizer_json)
        except TokenizerFault as error:
            raise CheckpointError(f"tokenizer.json cannot be used: {error}") from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without added special tokens."""
        try:
            with panics_caught():
                return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        except TokenizerFault as error:
            raise CheckpointError(f"tokenizer.json cannot tokenize {text!r}: {error}") from error

    def pattern(self, text: str, before: Sequence[str] = ENDINGS, after: Sequence[str] = ("",)) -> tuple[int, ...]:
        """The ids that `text` has after each of `before` and before each of `after`, by which it can be found.

        They may differ from those that it has alone. Raises CheckpointError where they depend on the neighbours, or
        where neighbours and text have a token in common.
        """
        found = {(a, b): ids_between(self.encode, text, a, b) for a in before for b in after}
        first = next(iter(found.values()))
        for (a, b), ids in found.items():
            if not ids or ids != first:
                raise CheckpointError(
                    f"{text!r} cannot be found by its tokens: between {a[-20:]!r} and {b[:20]!r} this tokenizer makes "
                    f"{list(self.encode(a + text + b))} of them, alone {list(self.encode(text))}; expected the same "
                    "tokens for it everywhere. Use a text that the tokenizer keeps apart, such as a special token"
                )
        return first or ()

    def single_token(self, text: str) -> int:
        """The id of a text that must be one token; raises CheckpointError when it is several."""
        ids = self.encode(text)
        if len(ids) != 1:
            raise CheckpointError(f"{text!r} must be one token for this head, this tokenizer makes it {list(ids)}")
        return ids[0]

    def render(self, user: str, reply: str) -> str:
        """One user turn and one assistant turn through the template."""
        if self.template is None:
            raise CheckpointError(
                "the checkpoint has no chat template; add chat_template.jinja, or a template in tokenizer_config.json"
            )
        try:
            template = ChatTemplate(self.template, self.variables, self.pinned_date)
            return template.render([{"role": "user", "content": user}, {"role": "assistant", "content": reply}])
        except (BundleError, InputError) as error:
            raise CheckpointError(f"the chat template cannot render a user and an assistant turn: {error}") from error

    def user_turn_end(self) -> str:
        """The text between a user's message and the assistant's: the close of one turn and the header of the next.

        Raises CheckpointError for a template that drops one of the two turns.
        """
        text = self.render(_USER, _REPLY)
        start, end = text.find(_USER), text.rfind(_REPLY)
        if start < 0 or end < start:
            raise CheckpointError("the chat template does not write both the user's and the assistant's turn")
        return text[start + len(_USER) : end]

    def turn_end(self, reply: str) -> str:
        """The text that the template writes after an assistant's message that ends in `reply`.

        Raises CheckpointError where it does not write `reply` as it is given, once.
        """
        text = self.render(_USER, reply)
        if text.count(reply) != 1:
            raise CheckpointError(
                f"the chat template writes {reply!r} {text.count(reply)} time(s) in {text!r}, expected it once, as "
                "given, because it is looked for there"
            )
        return text[text.find(reply) + len(reply) :]

    def opens_reply(self) -> bool:
        """Whether the template opens the assistant's turn after a lone user's turn."""
        opening = self.user_turn_end().rstrip()
        asked = self.rendered([{"role": "user", "content": _USER}])
        return bool(opening.strip()) and asked is not None and asked.rstrip().endswith(_USER + opening)

    def rendered(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """`messages` through the template, None where it refuses them."""
        try:
            return ChatTemplate(self.template or "", self.variables, self.pinned_date).render(messages)
        except (BundleError, InputError):
            return None

    def literals(self) -> tuple[str, ...]:
        """The text constants in the template's expressions, by which it may split messages."""
        source = _GENERATION.sub("", self.template or "")
        try:
            tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
        except jinja2.TemplateError:
            return ()
        found = (node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str))
        return tuple(dict.fromkeys(text for text in found if text.strip()))

    def check_comparison(self, source: str) -> None:
        """Raises OptionError for a recipe's `preference_template` that leaves out the prompt or an answer.

        Jinja writes nothing for a name that it does not know, and the scores would look no different.
        """
        prompt, answers = [{"role": "user", "content": _USER}], {"a": _REPLY, "b": _OTHER_REPLY}
        try:
            shown = ChatTemplate(source, self.variables, self.pinned_date).render(prompt, values=answers)
        except (BundleError, InputError) as error:
            raise OptionError(f"the recipe's preference_template cannot be rendered: {error}") from error
        told = {_USER: "the prompt's turns (messages)", _REPLY: "the answer a", _OTHER_REPLY: "the answer b"}
        if missing := [name for probe, name in told.items() if probe not in shown]:
            raise OptionError(
                f"the recipe's preference_template leaves out {' and '.join(missing)}: it is Jinja text over messages, "
                "a and b, and has to write all of them"
            )

    def check_instruction(self, question: str | None) -> None:
        """Raises OptionError for a template or a question that does not write the instruction that it is to take."""
        values, written = {"instruction": _REPLY}, ""
        turns = [{"role": "system", "content": _REPLY}, {"role": "user", "content": _USER}]
        try:
            if question is None:
                written = self.rendered([*turns, {"role": "assistant", "content": _OTHER_REPLY}]) or ""
            else:
                written = ChatTemplate(question, self.variables, self.pinned_date).render([], values=values)
        except (BundleError, InputError) as error:
            raise OptionError(f"the recipe's question cannot be rendered: {error}") from error
        if _REPLY not in written:
            raise OptionError(
                "the recipe takes an instruction, which its "
                + ("template does not write: it is the system turn" if question is None else "question does not write")
            )

    def check_published(self, text: str) -> None:
        """Assert ids that published scoring code hard-codes, where the vocabulary is the published one.

        Raises CheckpointError when this tokenizer disagrees.
        """
        mark, mark_id = _LLAMA3_MARK
        if self.tokenizer.token_to_id(mark) != mark_id or text not in _LLAMA3_PUBLISHED:
            return
        if (found := self.encode(text)) != _LLAMA3_PUBLISHED[text]:
            raise CheckpointError(
                f"{text!r} is tokenized as {list(found)}, the published scoring code expects "
                f"{list(_LLAMA3_PUBLISHED[text])}: tokenizer.json is not the published one"
            )
