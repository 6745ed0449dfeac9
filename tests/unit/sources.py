"""Sources for importers: files packed in every way, and the data that lies beside the project."""

import io
import os
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import open_source

DATA = Path(os.environ.get("COMPGAN_DATA", Path(__file__).parents[3] / "shared" / "data"))
PACKINGS = ("directory", "tar", "tar.gz", "tar.xz", "zip")


def shared(name):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in {DATA}; set COMPGAN_DATA to the folder that has it")
    return open_source(DATA / name)


def pack(source, files):
    """The path `source` as an archive, by its suffix, or as a directory, with these files."""
    if source.suffix == ".zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif source.suffix in (".tar", ".gz", ".xz"):
        with tarfile.open(source, f"w:{source.suffix[1:].removesuffix('tar')}") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    return source


def source_of(path, files):
    return open_source(pack(path, files))


def split(items):
    """Faces, and how many files were skipped for each reason."""
    items = list(items)
    skipped = [item for item in items if isinstance(item, Skipped)]
    return [item for item in items if isinstance(item, Face)], Counter(item.reason for item in skipped)


def broken(items):
    """The reason of each broken file, by key."""
    return {item.key: item.reason for item in items if isinstance(item, Skipped) and item.broken}
