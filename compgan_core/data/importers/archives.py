"""The files of a source: a directory, or a tar, tar.gz, tar.xz or zip archive."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from compgan_core.errors import DataError

Member = tuple[str, bytes]


def files(source: Path) -> Iterator[Member]:
    """(name, content) of every file: a directory in the order of names, an archive in its own.

    Names are relative, with slashes. What macOS adds to archives is passed over. A DataError names the source if it
    is not there, is truncated, or has a member that is a link or leads out of it.
    """
    if source.is_dir():
        members = _directory(source)
    elif not source.exists():
        raise DataError(f"{source} does not exist: give a directory, or a tar, tar.gz, tar.xz or zip archive")
    else:
        members = _zip(source) if source.suffix.lower() == ".zip" else _tar(source)
    for name, content in members:
        path = PurePosixPath(name)
        if not path.name.startswith("._") and path.name != ".DS_Store" and "__MACOSX" not in path.parts:
            yield str(path), content


def find(source: Path, names: tuple[str, ...]) -> Member | None:
    """The first file with one of these base names; in a directory, only at the top."""
    if source.is_dir():
        paths = (source / name for name in names)
        return next(((path.name, path.read_bytes()) for path in paths if path.is_file()), None)
    return next((member for member in files(source) if PurePosixPath(member[0]).name in names), None)


def _directory(source: Path) -> Iterator[Member]:
    root = source.resolve()
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        if not path.resolve().is_relative_to(root):
            raise DataError(f"{path} is a link that leads out of {source}: copy the file it points to")
        yield path.relative_to(source).as_posix(), path.read_bytes()


def _tar(source: Path) -> Iterator[Member]:
    last = "none"
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                _refuse_unsafe(source, member.name, is_link=member.issym() or member.islnk())
                if member.isfile():
                    extracted = archive.extractfile(member)
                    assert extracted is not None
                    content = extracted.read()
                    last = member.name
                    yield member.name, content
            _check_end(archive)
    except (tarfile.ReadError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise _truncated(source, last, error) from error


def _check_end(archive: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, or the end of the file, for the end of the archive, which is a zero block."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("there is no end mark")
    while archive.fileobj.read(1 << 20):  # a compressed stream checks itself when it is read to its end
        pass


def _zip(source: Path) -> Iterator[Member]:
    last = "none"
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                _refuse_unsafe(source, member.filename, is_link=stat.S_ISLNK(member.external_attr >> 16))
                if not member.is_dir():
                    content = archive.read(member)
                    last = member.filename
                    yield member.filename, content
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise _truncated(source, last, error) from error


def _truncated(source: Path, last: str, error: Exception) -> DataError:
    problem = str(error).partition("\n")[0].rstrip(":")
    return DataError(
        f"{source} is truncated or damaged ({problem}); the last member read whole was {last}: fetch the archive again"
    )


def _refuse_unsafe(source: Path, name: str, is_link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if is_link:
        raise DataError(f"{source} contains the link {name}: pack the file it points to instead")
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{source} contains {name}, which leads out of the archive: pack it again without such paths")
