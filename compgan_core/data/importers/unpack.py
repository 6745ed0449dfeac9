"""What tarfile and zipfile leave to their users: to stay within bounds of memory, and to notice missing members."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from typing import BinaryIO

PIECE_BYTES = 1 << 20
XZ_BYTES = 256 << 20  # `xz -9` needs 65 MiB to unpack; a file can claim 4 GiB


def decompressed(packed: BinaryIO) -> BinaryIO | gzip.GzipFile:
    """The content of an open file, which may be gzip or xz."""
    magic = packed.read(6)
    packed.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=packed)
    return io.BufferedReader(_Xz(packed)) if magic == b"\xfd7zXZ\0" else packed


class Forward:
    """A file as tarfile needs it. Only a header can ask for more than a piece, and no honest one does."""

    def __init__(self, file: BinaryIO | gzip.GzipFile):
        self._file, self._position = file, 0

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= PIECE_BYTES:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if self._file.seekable():
            self._position = self._file.seek(position)
        while self._position < position and self.read(min(PIECE_BYTES, position - self._position)):
            pass


def check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, or the end of the file, for the end of the archive, which is a zero block."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("there is no end mark")
    while piece := tar.fileobj.read(PIECE_BYTES):  # a compressed stream checks itself when it is read to its end
        if piece.strip(b"\0"):
            raise tarfile.ReadError("there is more after its end mark")


def check_count(archive: zipfile.ZipFile) -> None:
    """zipfile takes a list of members of which only the end is found for a shorter one."""
    assert archive.fp is not None
    end = archive.fp.seek(0, io.SEEK_END)
    archive.fp.seek(max(0, end - zipfile.ZIP_MAX_COMMENT - 22))
    record = archive.fp.read().rpartition(b"PK\5\6")[2]
    declared, found = int.from_bytes(record[6:8], "little"), len(archive.infolist())
    if declared not in (0xFFFF, found) or not found:
        raise zipfile.BadZipFile(f"it declares {declared} members and lists {found}")


class _Xz(io.RawIOBase):
    """As lzma.open, which cannot bound the memory that a file claims for its dictionary."""

    def __init__(self, packed: BinaryIO):
        self._packed, self._decoder = packed, lzma.LZMADecompressor(memlimit=XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data and (fed := self._next_input()) is not None:
            data = self._decoder.decompress(fed, max_length=len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next_input(self) -> bytes | None:
        """What the decoder wants next, perhaps nothing; None at the end."""
        if not (self._decoder.eof or self._decoder.needs_input):
            return b""
        packed = self._decoder.unused_data or self._packed.read(io.DEFAULT_BUFFER_SIZE)
        if not self._decoder.eof and not packed:
            raise EOFError("the compressed data end early")
        if self._decoder.eof:  # padding and another stream may follow
            packed = packed.lstrip(b"\0")
            if not packed:
                return None
            self._decoder = lzma.LZMADecompressor(memlimit=XZ_BYTES)
        return packed
