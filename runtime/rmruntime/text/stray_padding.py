"""Refuses input_ids in which callers left padding, which would be scored as text."""

from typing import NamedTuple, NoReturn, Self

from rmruntime.bundle.manifest import Manifest
from rmruntime.errors import InputError
from rmruntime.text.tokenizer import Tokenizer


class Padding(NamedTuple):
    """The ids that count as padding; one `bos` in front and one `eos` at the end are text even where they are pad ids.

    `last_is_read`: a position rule scores the last token, whatever it is, so padding after the text matters.
    """

    ids: frozenset[int]
    bos: int | None
    eos: int | None
    last_is_read: bool

    @classmethod
    def of(cls, manifest: Manifest, tokenizer: Tokenizer) -> Self:
        """The pad ids of the position rules, of padded graphs, and of the tokenizer."""
        named = manifest.format.template_variables
        pad, eos = (_special_id(tokenizer, named.get(name)) for name in ("pad_token", "eos_token"))
        rules = manifest.positions.values()
        fillers = (graph.pad_id for graph in manifest.graphs if graph.layout == "padded")
        found = (pad, *(rule.pad_id for rule in rules), *fillers)
        pads = frozenset(token for token in found if token is not None)
        return cls(pads, manifest.format.bos_id, eos, any(rule.rule == "last" for rule in rules))

    def check(self, ids: tuple[int, ...]) -> None:
        """Raises InputError for padded ids: their attention mask is not given, so padding would be scored as text.

        >>> Padding(ids=frozenset([0]), bos=None, eos=None, last_is_read=True).check((5, 6, 7))
        """
        front = self._count(ids, spared=self.bos)
        if front:
            self._refuse(ids[0], front, "in front")
        back = self._count(ids[::-1], spared=self.eos) if self.last_is_read else 0
        if back:
            self._refuse(ids[-1], back, "at the end")

    def _count(self, ids: tuple[int, ...], spared: int | None) -> int:
        if ids[0] not in self.ids:
            return 0
        found = next((i for i, token in enumerate(ids) if token not in self.ids), None)
        if found is None:
            raise InputError(
                f"every one of the {len(ids)} tokens is the pad token {ids[0]}, so none can be scored; "
                "give ids without padding"
            )
        return found - 1 if ids[found - 1] == spared else found

    def _refuse(self, pad: int, count: int, where: str) -> NoReturn:
        raise InputError(
            f"input_ids: found {count} pad token(s) {where} (id {pad}), expected none: give each sequence without the "
            "padding that its attention mask hid, or it would be scored as text"
        )


def _special_id(tokenizer: Tokenizer, text: str | None) -> int | None:
    """The id of a special token's text, None where it is not a single token."""
    if not text:
        return None
    ids = tokenizer.encode(text)
    return int(ids[0]) if len(ids) == 1 else None
