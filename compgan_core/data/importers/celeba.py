"""CelebA (Liu et al., 2015): 202,599 aligned photographs 178 x 218 of 10,177 people, 40 attributes, `000001.jpg`.

Beside img_align_celeba.zip, or the folder it unpacks to, lie the lists that label it. Terms: non-commercial research,
no redistribution, identities on request (mmlab.ie.cuhk.edu.hk/projects/CelebA.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from compgan_core.data.face import Face, Partition, Skipped
from compgan_core.data.importers.archives import Source
from compgan_core.data.importers.names import base, stray
from compgan_core.errors import DataError

_PICTURE = re.compile(r"(\d{6})\.(jpg|png)", re.IGNORECASE)
_PARTITIONS: dict[str, Partition] = {"0": "train", "1": "validation", "2": "test"}


@dataclass(frozen=True)
class _List:
    """A list, as text or as the CSV that mirrors make of it."""

    header: list[str]
    """The words of the last line before the first picture."""
    lines: dict[str, str]
    """What is said of a picture, by its number."""

    def words(self, number: str) -> list[str]:
        return self.lines.get(number, "").split()


def read(source: Source) -> Iterator[Face | Skipped]:
    """The aligned faces. There is no expression and no pose; what the attribute list says with 1 is an attribute.

    Each of list_attr_celeba, identity_CelebA and list_eval_partition may be missing, but not all. What they say of
    pictures that are not there is counted.
    """
    attributes, identities, partitions = lists = [
        _read_list(source, name) for name in ("list_attr_celeba", "identity_CelebA", "list_eval_partition")
    ]
    if not any(table.lines for table in lists):
        raise DataError(f"{source.name} has none of the lists of CelebA, such as list_attr_celeba.txt: put them there")
    absent = set().union(*(table.lines for table in lists))
    for name, image in source.files():
        key, match = base(name), _PICTURE.fullmatch(base(name))
        if match is None:
            yield stray(key, "named like 000001.jpg")
        elif "img_celeba" in name.split("/"):
            yield Skipped(name, "not aligned")
        else:
            absent.discard(match[1])
            words = [table.words(match[1]) for table in (attributes, identities, partitions)]
            yield _face(key, image, attributes.header, *words)
    for number in sorted(absent):
        yield Skipped(number, "listed, but there is no picture")


def _face(
    key: str, image: bytes, names: list[str], signs: list[str], identity: list[str], partition: list[str]
) -> Face | Skipped:
    if signs and (len(signs) != len(names) or not set(signs) <= {"1", "-1"}):
        return Skipped(key, f"list_attr_celeba does not say 1 or -1 of its {len(names)} attributes", broken=True)
    if identity and not (len(identity) == 1 and identity[0].isascii() and identity[0].isdecimal()):
        return Skipped(key, f"its identity is {' '.join(identity)[:20]!r}, not a number", broken=True)
    if partition and not (len(partition) == 1 and partition[0] in _PARTITIONS):
        return Skipped(key, f"its partition is {' '.join(partition)[:20]!r}, not 0, 1 or 2", broken=True)
    true = tuple(name for name, sign in zip(names, signs, strict=False) if sign == "1")
    side = _PARTITIONS[partition[0]] if partition else ""
    return Face(key, "".join(identity), "", "", "", 0, image, side, true)


def _read_list(source: Source, name: str) -> _List:
    found = source.find(f"{name}.txt", f"{name}.csv")
    header: list[str] = []
    lines: dict[str, str] = {}
    for line in found[1].decode("utf-8-sig", errors="replace").splitlines() if found else ():
        picture, *rest = line.replace(",", " ").split(maxsplit=1) or [""]
        if match := _PICTURE.fullmatch(picture):
            lines[match[1]] = "".join(rest)
        elif not lines:
            header = [word for word in line.replace(",", " ").split() if word != "image_id"]
    return _List(header, lines)
