"""Reads members of a zip file, within limits of size, and finds the places of members that are not compressed.

Python's zipfile reads a directory and inflates a member of any size; here both have a limit, members may not overlap or
share a name, and a member's local header must agree with the directory.
"""

import os
import zipfile
from typing import BinaryIO

DIRECTORY_BYTES = 8 << 20  # most bytes of a directory, for some 90,000 members
_LOCAL_HEADER = 30  # bytes before the name in a local header (APPNOTE.TXT 4.3.7)
_UTF8 = 1 << 11  # general purpose flag: names are UTF-8
_ENCRYPTED = 1 << 0


class BrokenZip(Exception):
    """The zip file is damaged or contradicts itself."""


class _Bounded:
    """A file for zipfile that refuses to read more bytes at once than a directory may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count < 0:
            count = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if count > DIRECTORY_BYTES:
            raise BrokenZip(f"its directory has {count} bytes, expected at most {DIRECTORY_BYTES}")
        return self._file.read(max(count, 0))


class ZipMembers:
    """The members of an open zip file. Raises BrokenZip, and zipfile's own errors."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(_Bounded(file))  # it asks for no more of a file
        members = self._archive.infolist()
        self._members = {info.filename: info for info in members}
        if len(self._members) < len(members):
            raise BrokenZip("it has two members of one name")
        ordered = sorted(members, key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in ordered[1:]), self._archive.start_dir]
        self._ends = {info.filename: end for info, end in zip(ordered, ends, strict=False)}
        for info in ordered:
            if info.header_offset + _LOCAL_HEADER + info.compress_size > self._ends[info.filename]:
                raise BrokenZip(f"its member {info.filename:.100} overlaps the next, or the file's end")

    @property
    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._members)

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._members

    def read(self, name: str, *, most: int) -> bytes:
        """The content of a member of at most `most` bytes, by its header and in fact."""
        info = self._members[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
            raise BrokenZip(f"its member {name:.100} is encrypted, or compressed in an unusual way")
        if info.file_size > most:
            raise BrokenZip(f"its member {name:.100} has {info.file_size} bytes, expected at most {most}")
        with self._archive.open(info) as member:
            data = member.read(info.file_size + 1)
        if len(data) != info.file_size:
            raise BrokenZip(f"its member {name:.100} has not the {info.file_size} bytes that it states")
        return data

    def place(self, name: str) -> tuple[int, int]:
        """The byte where a member's content begins in the file, and its size; the member must not be compressed."""
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise BrokenZip(f"its member {name:.100} is compressed or encrypted; pack it again without (zip -0)")
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        stated = self._file.read(lengths[0])
        expected = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
        if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\3\4") or stated != expected:
            raise BrokenZip(f"its member {name:.100} has another local header than its directory says")
        begin = info.header_offset + _LOCAL_HEADER + sum(lengths)
        if info.compress_size != info.file_size or begin + info.file_size > self._ends[name]:
            raise BrokenZip(f"its member {name:.100} does not lie where its directory says")
        return begin, info.file_size
