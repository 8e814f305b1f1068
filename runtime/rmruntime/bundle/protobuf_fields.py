"""Reads the fields of a protobuf message as engines' own parsers do, and raises where those parsers may differ.

Submessages stay bytes until a caller reads their fields. Groups, which ONNX does not use, are errors, and so is every
number that is too large for its field: some parsers cut such numbers off, others refuse them.
"""

from collections.abc import Iterator, Sequence

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Message = bytes | memoryview
Value = int | Message | None  # a whole number; bytes; None for numbers of a fixed size, which no caller needs
Field = tuple[int, int, Value]  # number, wire type, value
_FIXED = {FIXED64: 8, FIXED32: 4}
_LARGEST_LENGTH = (1 << 31) - 1


class WireError(ValueError):
    """Not a protobuf message, or one that different parsers would read differently."""


def read_fields(data: Message) -> Iterator[Field]:
    """Every field of a message, in its order; bytes and submessages have the type of `data`. Raises WireError.

    >>> list(read_fields(bytes.fromhex("0805")))
    [(1, 0, 5)]
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at) if data[at] > 0x7F else (data[at], at + 1)  # most are short: no call for them
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"field number {number}")
        if kind == BYTES:
            length, at = _varint(data, at) if at == end or data[at] > 0x7F else (data[at], at + 1)
            if length > _LARGEST_LENGTH or length > end - at:
                raise WireError(f"a field of {length} bytes, {end - at} are left")
            yield number, kind, data[at : at + length]
            at += length
        elif kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
        elif kind in _FIXED:
            if _FIXED[kind] > end - at:
                raise WireError(f"a number of {_FIXED[kind]} bytes, {end - at} are left")
            yield number, kind, None
            at += _FIXED[kind]
        else:
            raise WireError(f"wire type {kind} of field {number}")


def _varint(data: Message, at: int) -> tuple[int, int]:
    """The number that begins at the byte `at`, and the byte after it."""
    try:
        byte = data[at]
        if byte < 0x80:
            return byte, at + 1
        value, shift = byte & 0x7F, 7
        while shift < 64:
            at += 1
            byte = data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64 or (byte == 0 and shift):
                    raise WireError("a number that is longer than it has to be, or than 64 bits")
                return value, at + 1
            shift += 7
    except IndexError:
        raise WireError("a number that is cut off") from None
    raise WireError("a number of more than 64 bits")


def as_message(value: Value) -> Message:
    """A submessage's or a text's bytes. Raises WireError for a number.

    >>> as_message(b"ab")
    b'ab'
    """
    if not isinstance(value, (bytes, memoryview)):
        raise WireError("a number where a message or a text belongs")
    return value


def as_number(value: Value) -> int:
    """A whole number, negative ones too. Raises WireError for bytes.

    >>> as_number((1 << 64) - 1)
    -1
    """
    if not isinstance(value, int):
        raise WireError("bytes where a number belongs")
    return value - (1 << 64) if value >> 63 else value


def as_text(value: Value) -> str:
    """A text. Raises WireError for bytes that are not UTF-8.

    >>> as_text(b"Add")
    'Add'
    """
    try:
        return bytes(as_message(value)).decode()
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None


def as_numbers(kind: int, value: Value) -> list[int]:
    """The numbers of a repeated field, which are written one by one or packed into bytes; `kind` is the wire type.

    >>> as_numbers(BYTES, bytes([1, 2]))
    [1, 2]
    """
    if kind == VARINT:
        return [as_number(value)]
    data, at, numbers = as_message(value), 0, []
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(as_number(number))
    return numbers


def merged(parts: Sequence[Message]) -> Message:
    """The one submessage that `parts` form: parsers join the occurrences of a field that should be there once.

    >>> merged([b"a", b"b"])
    b'ab'
    """
    return parts[0] if len(parts) == 1 else b"".join(parts)
