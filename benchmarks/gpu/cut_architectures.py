"""Cuts the code of other GPUs out of a library with CUDA kernels: zeros in their place, which pack to nothing.

A library holds its kernels once for each architecture, in containers of the section .nv_fatbin; the driver reads the
header of every image and loads the one for its GPU. Offsets and sizes stay as they are. That a driver takes a library
of which it would load nothing else is expected, and not proven: `restore` puts the code back.

Layout: as `cuobjdump` lists it. A container is magic, version (2 bytes), header's size (2), size of the rest (8); an
image is kind (2), version (2), header's size (4), size (8) and, at byte 28, the architecture, 90 for 9.0.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTION = b".nv_fatbin"
MAGIC = b"\x50\xed\x55\xba"
_CONTAINER, _IMAGE = struct.Struct("<IHHQ"), struct.Struct("<HHIQ")
_ARCHITECTURE = 28  # bytes from an image's begin


@dataclass(frozen=True)
class Image:
    """Code for one architecture, such as 90; `offset` and `size` are of the code, without its header."""

    architecture: int
    offset: int
    size: int


def images(library: bytes | bytearray) -> Iterator[Image]:
    """All code of a library, a file of ELF in 64 bits. Raises ValueError where it has none."""
    begin, size = _section(library)
    at, end = begin, begin + size
    while at + _CONTAINER.size <= end:
        if library[at : at + 4] != MAGIC:
            at += 8
            continue
        _, _, header, rest = _CONTAINER.unpack_from(library, at)
        yield from _images_of(library, at + header, at + header + rest)
        at += header + rest


def _images_of(library: bytes | bytearray, at: int, end: int) -> Iterator[Image]:
    while at < end:
        _, _, header, size = _IMAGE.unpack_from(library, at)
        (architecture,) = struct.unpack_from("<I", library, at + _ARCHITECTURE)
        yield Image(architecture, at + header, size)
        at += header + size


def needed(architecture: int, capability: tuple[int, int]) -> bool:
    """Whether a GPU can run it: code for its major version, and no later minor one.

    >>> [needed(a, (8, 6)) for a in (75, 80, 86, 89, 90)]
    [False, True, True, False, False]
    """
    major, minor = divmod(architecture, 10)
    return major == capability[0] and minor <= capability[1]


def cut(path: Path, capability: tuple[int, int]) -> list[tuple[int, bytes]]:
    """Overwrite with zeros what a GPU of this compute capability cannot run; returns what was there, by offset.

    Raises ValueError where nothing would be left.
    """
    library = bytearray(path.read_bytes())
    found = list(images(library))
    others = [image for image in found if not needed(image.architecture, capability)]
    if len(others) == len(found):
        have = ", ".join(map(str, sorted({image.architecture for image in found})))
        raise ValueError(f"{path.name} has code for {have}, and none for compute capability {capability}")
    taken = [(image.offset, bytes(library[image.offset : image.offset + image.size])) for image in others]
    for image in others:
        library[image.offset : image.offset + image.size] = bytes(image.size)
    path.write_bytes(library)
    return taken


def restore(path: Path, taken: list[tuple[int, bytes]]) -> None:
    """Put back what `cut` returned."""
    with path.open("r+b") as file:
        for offset, code in taken:
            file.seek(offset)
            file.write(code)


def sizes(path: Path) -> dict[int, int]:
    """Bytes of code by architecture."""
    found: Counter[int] = Counter()
    for image in images(path.read_bytes()):
        found[image.architecture] += image.size
    return dict(sorted(found.items()))


def _section(library: bytes | bytearray) -> tuple[int, int]:
    """Offset and size of .nv_fatbin, from the section headers of ELF."""
    if library[:5] != b"\x7fELF\x02":
        raise ValueError("this is no library in ELF, 64 bits")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    entry, count, names_at = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + i * entry) for i in range(count)]
    names = headers[names_at][4]
    for name, _, _, _, offset, size in headers:
        if library[names + name : names + name + len(SECTION) + 1] == SECTION + b"\0":
            return offset, size
    raise ValueError(f"this library has no section {SECTION.decode()}, where CUDA kernels are")
