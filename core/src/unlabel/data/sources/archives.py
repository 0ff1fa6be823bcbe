"""Members of zip and tar archives, listed once, read by position, never unpacked.

Nothing is ever written under a member's name, so that names which lead out of an archive lead nowhere. Sizes that an
archive declares are checked before memory is taken, and no member yields more than it declared.
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unlabel.data.sources.names import Names, is_hidden, printable
from unlabel.data.sources.reading import Handles, bounded
from unlabel.errors import BadSample, UsageError

__all__ = ["ZipMembers", "tar_members", "zip_members"]


class ZipMembers:
    """A source: members of a zip archive, stored or deflated, read by their position in the file.

    The directory of the archive is read once; loader processes get the positions as arrays instead of
    reading it again (a million members take seconds and half a gigabyte in `zipfile`).
    """

    def __init__(self, path: Path, members: Sequence[zipfile.ZipInfo]):
        self.path, self.names = str(path), Names([member.filename for member in members])
        self.offsets = np.array([member.header_offset for member in members], np.int64)
        self.sizes = np.array([member.compress_size for member in members], np.int64)
        self.lengths = np.array([member.file_size for member in members], np.int64)
        self.checksums = np.array([member.CRC for member in members], np.uint32)
        self.methods = np.array([member.compress_type for member in members], np.uint8)
        self.handles = Handles()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return printable(f"{self.path}/{self.names[index]}")

    def prepare(self) -> None:
        """Nothing has to be."""

    def read(self, index: int) -> bytes:
        start, length = int(self.offsets[index]), bounded(int(self.lengths[index]))
        local = self.handles.read(self.path, start, 30)
        if len(local) < 30 or not local.startswith(b"PK\x03\x04"):
            raise BadSample("damaged zip archive: no member where the directory says")
        name, extra = struct.unpack("<HH", local[26:30])
        content = self.handles.read(self.path, start + 30 + name + extra, int(self.sizes[index]))
        if self.methods[index] == zipfile.ZIP_DEFLATED:
            content = _inflated(content, length)
        if zlib.crc32(content) != self.checksums[index]:
            raise BadSample("damaged zip member (wrong checksum)")
        return content


def _inflated(content: bytes, length: int) -> bytes:
    """A deflated member of the declared length; BadSample if it is damaged, or longer."""
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        inflated = unpacker.decompress(content, length + 1)  # of no more than one byte too many
    except zlib.error as error:
        raise BadSample(f"damaged zip member ({error})") from error
    if len(inflated) > length:
        raise BadSample(f"damaged zip member (longer than the {length:,} bytes it declares)")
    if not unpacker.eof:
        raise BadSample("damaged zip member (truncated)")
    return inflated


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """The files of a zip archive that can be read, hidden ones and macOS's extras left out, in order of their names.

    Raises:
        UsageError: no zip archive, encrypted, or compressed in a way other than deflate.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UsageError(f"{path} is not a readable zip archive ({error}); was it copied completely?") from error
    for member in members:
        member.filename = member.filename.replace("\\", "/")  # some Windows programs write it so
        if member.flag_bits & 1:
            raise UsageError(f"{path} is encrypted ({member.filename}): unpack it first")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{path} is compressed with method {member.compress_type}, not deflate: unpack it first")
    visible = [member for member in members if not any(map(is_hidden, member.filename.split("/")))]
    return sorted(visible, key=lambda member: member.filename)


def tar_members(path: Path, file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the content, size) of the files in a tar, hidden ones left out.

    Args:
        path: for messages.
        file: the archive, open; nobody else moves in it meanwhile.

    Raises:
        UsageError: it is compressed, or damaged, at the place where that shows.
    """
    head = file.read(6)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise UsageError(f"{path} is compressed; shards are read at random positions: decompress it first (gunzip)")
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isreg() and not any(map(is_hidden, member.name.split("/"))):
                    yield member.name, member.offset_data, member.size
                archive.members.clear()  # type: ignore[attr-defined]  # or a million of them would be kept
            end = archive.offset
    except tarfile.TarError as error:
        raise UsageError(f"{path} is not an intact tar file ({error}); was it copied completely?") from error
    file.seek(end)
    block = file.read(512)  # tarfile takes a broken or cut header for the end
    if 0 < len(block) < 512:
        raise UsageError(f"{path} is not an intact tar file (it ends within a header); was it copied completely?")
    if block.strip(b"\0"):
        raise UsageError(f"{path} is damaged at byte {end}: no tar header where one should be")
