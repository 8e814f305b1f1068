"""Reads the pickles that torch.save writes, within limits: no code runs, and a small file takes little memory and time.

Python's own unpickler allocates whatever a pickle demands (a memo of 2^27 entries for 5 bytes), and copies, compares
and hashes at its command. This one has only the opcodes that plain tensors need. Values are None, booleans, numbers,
text, tuples, lists, dictionaries with keys of text or integers, and objects that the caller makes for known names.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MAX_TEXT = 1 << 16  # bytes of one text
MAX_LONG = 16  # bytes of one integer; the magic number of torch's old format has 10
MAX_STACK = 100_000  # values on the stack; picklers move at most 1000 at a time into a list or dictionary
MAX_DEPTH = 100  # marks that are open at the same time
MAX_GAP = 1000  # memo entries left out; picklers number them one after another

Known = Mapping[tuple[str, str], Any]  # (module, name) -> its value; callables take the tuple of their arguments


class BrokenPickle(Exception):
    """The pickle is damaged, or exceeds a limit that no checkpoint's reaches."""


class ForeignPickle(Exception):
    """The pickle has something that plain tensors do not need."""


class PickleMachine:
    """Loads a pickle from the current position of `file`, which is then after the pickle.

    `known` are the names that it may refer to, `persistent` returns the value of a persistent identifier, `opcodes` is
    the most opcodes. Raises BrokenPickle and ForeignPickle, also from `load`.

    >>> import io, pickle
    >>> PickleMachine(io.BytesIO(pickle.dumps({"a": [1, 2]})), {}, str, opcodes=100).load()
    {'a': [1, 2]}
    """

    def __init__(self, file: BinaryIO, known: Known, persistent: Callable[[Any], Any], *, opcodes: int) -> None:
        self._file, self._known, self._persistent, self._opcodes = file, known, persistent, opcodes
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the pickle."""
        for _ in range(self._opcodes):
            code = self._read(1)
            if code == b".":
                return self._pop()
            step = _STEPS.get(code)
            if step is None:
                raise ForeignPickle(f"it has the pickle opcode 0x{code.hex()}")
            step(self)
            if len(self._stack) > MAX_STACK or len(self._marked) > MAX_DEPTH:
                raise BrokenPickle("its pickle stacks more values than any checkpoint's")
        raise BrokenPickle(f"its pickle has more than {self._opcodes} opcodes")

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise BrokenPickle("its pickle ends too early")
        return data

    def _number(self, count: int) -> int:
        return int.from_bytes(self._read(count), "little")

    def _pop(self) -> Any:
        if not self._stack:
            raise BrokenPickle("its pickle takes a value that is not there")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise BrokenPickle("its pickle reads a value that is not there")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        if not self._marked:
            raise BrokenPickle("its pickle closes what was not opened")
        items, self._stack = self._stack, self._marked.pop()
        return items

    def constant(self, value: Any) -> None:
        """Push an immutable value."""
        self._stack.append(value)

    def mark(self) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def skip(self, count: int) -> None:
        """Skip the bytes of an argument that is not needed, such as the protocol's number or a frame's length."""
        self._read(count)

    def integer(self, count: int, *, signed: bool = False) -> None:
        self._stack.append(int.from_bytes(self._read(count), "little", signed=signed))

    def long(self, width: int) -> None:
        if (count := self._number(width)) > MAX_LONG:
            raise BrokenPickle(f"its pickle has an integer of {count} bytes")
        self.integer(count, signed=True)

    def double(self) -> None:
        self._stack.append(struct.unpack(">d", self._read(8))[0])

    def text(self, width: int) -> None:
        if (count := self._number(width)) > MAX_TEXT:
            raise BrokenPickle(f"its pickle has a text of {count} bytes")
        self._stack.append(_decoded(self._read(count)))

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def marked_tuple(self) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def empty(self, kind: Callable[[], Any]) -> None:
        self._stack.append(kind())

    def append(self) -> None:
        value = self._pop()
        self._list().append(value)

    def appends(self) -> None:
        items = self._pop_mark()
        self._list().extend(items)

    def set_item(self) -> None:
        value = self._pop()
        self._put(self._pop(), value)

    def set_items(self) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise BrokenPickle("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._put(key, value)

    def put(self, width: int) -> None:
        index = self._number(width)
        if index > len(self._memo) + MAX_GAP:  # an own number for each value, as any pickler gives
            raise BrokenPickle(f"its pickle numbers a value {index} after {len(self._memo)} values")
        self._memo[index] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, width: int) -> None:
        index = self._number(width)
        if index not in self._memo:
            raise BrokenPickle(f"its pickle refers to value {index}, which is not there")
        self._stack.append(self._memo[index])

    def name(self) -> None:
        self._find(*(_decoded(self._line()) for _ in range(2)))

    def stacked_name(self) -> None:
        name, module = self._pop(), self._pop()
        self._find(module, name)

    def persistent_id(self) -> None:
        self._stack.append(self._persistent(self._pop()))

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not callable(function) or not isinstance(arguments, tuple):
            raise BrokenPickle("its pickle calls what is no function")
        self._stack.append(function(arguments))

    def build(self) -> None:
        """Drop the state that is set on a state dict (its attribute `_metadata`), because nothing reads it."""
        self._pop()
        if not isinstance(self._top(), dict):
            raise BrokenPickle("its pickle gives a state to what has none")

    def _line(self) -> bytes:
        line = self._file.readline(MAX_TEXT)
        if not line.endswith(b"\n"):
            raise BrokenPickle("its pickle ends within a name")
        return line[:-1]

    def _find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BrokenPickle("its pickle refers to what is no name")
        if (module, name) not in self._known:
            raise ForeignPickle(f"it refers to {module:.100}.{name:.100}")
        self._stack.append(self._known[module, name])

    def _list(self) -> list[Any]:
        found = self._top()
        if not isinstance(found, list):
            raise BrokenPickle("its pickle appends to what is no list")
        return found

    def _put(self, key: Any, value: Any) -> None:
        target = self._top()
        if not isinstance(target, dict):
            raise BrokenPickle("its pickle sets an item of what is no dictionary")
        if not isinstance(key, str | int):  # to hash nested tuples can take forever
            raise ForeignPickle(f"it has a dictionary with a key that is a {type(key).__name__}")
        target[key] = value


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BrokenPickle("its pickle has a text that is no UTF-8") from error


# By opcode, as Python's pickle.py names them.
_STEPS: Mapping[bytes, Callable[[PickleMachine], None]] = {
    b"\x80": lambda m: m.skip(1),  # PROTO
    b"\x95": lambda m: m.skip(8),  # FRAME
    b"(": PickleMachine.mark,
    b"}": lambda m: m.empty(dict),
    b"]": lambda m: m.empty(list),
    b")": lambda m: m.constant(()),
    b"t": PickleMachine.marked_tuple,
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"N": lambda m: m.constant(None),
    b"\x88": lambda m: m.constant(True),
    b"\x89": lambda m: m.constant(False),
    b"K": lambda m: m.integer(1),  # BININT1
    b"M": lambda m: m.integer(2),  # BININT2
    b"J": lambda m: m.integer(4, signed=True),  # BININT
    b"\x8a": lambda m: m.long(1),  # LONG1
    b"\x8b": lambda m: m.long(4),  # LONG4
    b"G": PickleMachine.double,
    b"\x8c": lambda m: m.text(1),  # SHORT_BINUNICODE
    b"X": lambda m: m.text(4),  # BINUNICODE
    b"\x8d": lambda m: m.text(8),  # BINUNICODE8
    b"U": lambda m: m.text(1),  # SHORT_BINSTRING, of Python 2
    b"T": lambda m: m.text(4),  # BINSTRING
    b"q": lambda m: m.put(1),  # BINPUT
    b"r": lambda m: m.put(4),  # LONG_BINPUT
    b"\x94": PickleMachine.memoize,
    b"h": lambda m: m.get(1),  # BINGET
    b"j": lambda m: m.get(4),  # LONG_BINGET
    b"a": PickleMachine.append,
    b"e": PickleMachine.appends,
    b"s": PickleMachine.set_item,
    b"u": PickleMachine.set_items,
    b"c": PickleMachine.name,  # GLOBAL
    b"\x93": PickleMachine.stacked_name,  # STACK_GLOBAL
    b"Q": PickleMachine.persistent_id,
    b"R": PickleMachine.reduce,
    b"b": PickleMachine.build,
}
