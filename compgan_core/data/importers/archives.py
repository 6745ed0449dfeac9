"""The files of a source: a directory, or a tar, tar.gz, tar.xz or zip archive. They are only ever read into memory."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from compgan_core.data.importers.names import CLIPS, PICTURES, TABLES, base, printable, suffix
from compgan_core.data.importers.unpack import PIECE_BYTES, Forward, check_count, check_end, decompressed
from compgan_core.errors import DataError

Member = tuple[str, bytes]
Wanted = Callable[[str], bool]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
PICTURE_BYTES = 64 << 20
TABLE_BYTES = 1 << 30

# What tarfile, zipfile and the decompressors raise on damaged files, documented or not.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RecursionError,
)


class Source(Protocol):
    """Where an importer reads from."""

    @property
    def name(self) -> str:
        """For messages."""

    def files(self) -> Iterator[Member]:
        """(name, content) of every file, always in the same order.

        Names are relative, with slashes, and lead nowhere else. What macOS adds to archives is passed over.
        """

    def find(self, *names: str) -> Member | None:
        """The file nearest to the top with one of these base names."""


def open_source(path: Path) -> Source:
    """The files of a directory or an archive, or one table by itself. Picklable: it holds a path, not an open file.

    An archive inside a directory is read as the folder it unpacks to, unless that folder lies beside it. A picture of
    more than 64 MiB, or a table or a clip of more than 1 GiB, is refused; other files that large are passed over.

    Raises:
        DataError: the source is not there, is truncated or damaged, or has a member that is a link, a device, or
            leads out of it. At once, or from an iterator.
    """
    if path.is_dir():
        return Directory(path)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {problem}: give a directory, or a tar, tar.gz, tar.xz or zip archive")
    return Table(path) if suffix(path.name) in TABLES else _open_archive(path)


@dataclass(frozen=True)
class Local(ABC):
    """A source on this machine."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def files(self) -> Iterator[Member]:
        return self.select(lambda name: True)

    def find(self, *names: str) -> Member | None:
        found: Member | None = None
        for member in self.select(lambda name: base(name) in names):
            if found is None or member[0].count("/") < found[0].count("/"):
                found = member
            if "/" not in found[0]:
                break
        return found

    @abstractmethod
    def select(self, wanted: Wanted) -> Iterator[Member]:
        """As `files`, but only those whose name is wanted; the others are not read."""


class Table(Local):
    """One table."""

    def select(self, wanted: Wanted) -> Iterator[Member]:
        with _explained():
            if wanted(self.path.name):
                yield self.path.name, _read_file(self.path, self.path.name, self.name)


class Directory(Local):
    """A directory: the files at its top, then each folder, in the order of names."""

    def select(self, wanted: Wanted) -> Iterator[Member]:
        with _explained():
            for path in _walk(self.path, self.path.resolve()):
                name = safe_name(path.relative_to(self.path).as_posix(), self.name)
                if name.lower().endswith(ARCHIVES):
                    yield from unpacked(name, path, wanted)
                elif can_matter(name, path.stat().st_size) and wanted(name):
                    yield name, _read_file(path, name, self.name)


class Tar(Local):
    """A tar archive, plain or compressed, in its own order."""

    def select(self, wanted: Wanted) -> Iterator[Member]:
        last = "none"
        try:
            with self.path.open("rb") as file, tarfile.open(fileobj=Forward(decompressed(file)), mode="r:") as tar:  # type: ignore[call-overload]
                while member := tar.next():
                    tar.members.clear()  # tarfile remembers every member it has met
                    name = self._check(member)
                    if can_matter(name, member.size) and wanted(name):
                        content = _read_bounded(tar.extractfile(member), name, self.name)
                        last = name
                        yield name, content
                check_end(tar)
        except _DAMAGE as error:
            raise _damaged(self.name, last, error) from error

    def _check(self, member: tarfile.TarInfo) -> str:
        """The name of a file; empty for a folder."""
        if member.size < 0:
            raise tarfile.ReadError("a header declares a negative size")
        if member.isdir():
            return ""
        if not member.isreg() or member.issparse():
            raise _special(self.name, member.name, member.issym() or member.islnk())
        return safe_name(member.name, self.name)


class Zip(Local):
    """A zip archive, in its own order."""

    def select(self, wanted: Wanted) -> Iterator[Member]:
        last = "none"
        try:
            with zipfile.ZipFile(self.path) as archive:
                check_count(archive)
                for member in archive.infolist():
                    name = self._check(member)
                    if can_matter(name, member.file_size) and wanted(name):
                        with archive.open(member) as file:
                            content = _read_bounded(file, name, self.name)
                        last = name
                        yield name, content
        except _DAMAGE as error:
            raise _damaged(self.name, last, error) from error

    def _check(self, member: zipfile.ZipInfo) -> str:
        """The name of a file; empty for a folder."""
        if member.filename.endswith("/") and not member.file_size:
            return ""
        if (kind := stat.S_IFMT(member.external_attr >> 16)) not in (0, stat.S_IFREG):
            raise _special(self.name, member.filename, stat.S_ISLNK(kind))
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            name = printable(member.filename)
            raise DataError(f"{self.name} contains {name}, encrypted or packed in a rare way: unpack it first")
        return safe_name(member.orig_filename, self.name)


def unpacked(name: str, path: Path, wanted: Wanted = lambda name: True) -> Iterator[Member]:
    """The files of the archive at `path`, called `name` in its source, as if it had been unpacked there.

    None if its folder lies beside it. What already is in a folder of the archive's name is not put into another.
    """
    ending = next(ending for ending in ARCHIVES if name.lower().endswith(ending))
    parent, slash, stem = name[: -len(ending)].rpartition("/")
    if (path.parent / stem).is_dir():
        return

    def outer(inner: str) -> str:
        return parent + slash + (inner if inner.startswith(f"{stem}/") else f"{stem}/{inner}")

    for inner, content in _open_archive(path).select(lambda inner: wanted(outer(inner))):
        yield outer(inner), content


def safe_name(name: str, source: str) -> str:
    """The name of a file of a source, tidied; empty if it is junk. A DataError if it leads out of the source."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.name:
        raise DataError(f"{source} contains {name!r}, which leads out of the archive: pack it again without such names")
    return "" if is_junk(str(path)) else printable(str(path))


def is_junk(name: str) -> bool:
    """Whether macOS added the file."""
    return base(name).startswith("._") or base(name) == ".DS_Store" or "__MACOSX" in name.split("/")


def can_matter(name: str, size_bytes: int) -> bool:
    """Whether an importer may want a file: not if it is huge, and neither a picture, a table nor a clip."""
    return name != "" and (size_bytes <= PICTURE_BYTES or suffix(name) in PICTURES | TABLES | CLIPS)


def _open_archive(path: Path) -> Tar | Zip:
    return Zip(path) if suffix(path.name) == ".zip" else Tar(path)


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: (entry.is_dir(follow_symlinks=False), entry.name))
    for entry in entries:
        path, is_link = Path(entry.path), entry.is_symlink()
        if is_link and not Path(os.path.realpath(path)).is_relative_to(root):
            raise DataError(f"{printable(entry.path)} is a link that leads out of {root}: copy the file it points to")
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path, root)
        elif path.is_file() if is_link else entry.is_file():
            yield path
        elif not path.is_dir():
            raise _special(str(root), entry.path, is_link)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): check its permissions") from error


def _read_file(path: Path, name: str, source: str) -> bytes:
    with path.open("rb") as file:
        return _read_bounded(file, name, source)


def _read_bounded(file: IO[bytes] | None, name: str, source: str) -> bytes:
    """All of a file, a piece at a time. A DataError if it is larger than any picture or table should be."""
    assert file is not None
    limit = TABLE_BYTES if suffix(name) in TABLES | CLIPS else PICTURE_BYTES
    pieces, size = [], 0
    while piece := file.read(PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise DataError(f"{source} contains {name}, which has more than {limit >> 20} MiB: leave it out")
    return b"".join(pieces)


def _damaged(source: str, last: str, error: Exception) -> DataError:
    problem = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    return DataError(
        f"{source} is truncated or damaged ({problem}); the last member read whole was {last}: fetch the archive again"
    )


def _special(source: str, name: str, is_link: bool) -> DataError:
    if is_link:
        return DataError(f"{source} contains the link {printable(name)}: pack the file it points to instead")
    return DataError(f"{source} contains {printable(name)}, which is neither a plain file nor a folder: take it out")
