"""Seeded damage to files, for fuzzing."""

import random
import re
import tarfile
from collections.abc import Iterator

EXTREMES = [
    value.to_bytes(width, order, signed=True)
    for width in (2, 4, 8)
    for order in ("little", "big")
    for value in (0, 1, -1, 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1)))
]
NUMBERS = (b"", b"0", b"-1", b"1.5", b"nan", b"1e9", b"99999999999999999999", b"\xd9\xa3", b"9" * 300)


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` copies of the data, each with one to four changes."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = data
        for _ in range(rng.choice((1, 1, 2, 4))):
            changed = rng.choice(KINDS)(changed, rng)
        yield changed


def damaged_tars(tar: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The same for a tar, where half of the changes are to fields of headers whose checksum is then put right."""
    rng = random.Random(seed)
    for changed in damaged(tar, count, seed + 1):
        yield _edit_header(tar, rng) if rng.random() < 0.5 else changed


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes(b ^ 1 << rng.randrange(8) for b in data[at : at + 1]) + data[at + 1 :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.randint(1, 5) + data[end:]


def _splice(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[start:end] + data[at + end - start :]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice((rng.randbytes(end - start), bytes(end - start))) + data[end:]


def _extreme(data: bytes, rng: random.Random) -> bytes:
    at, value = rng.randrange(len(data) + 1), rng.choice(EXTREMES)
    return data[:at] + value + data[at + len(value) :]


def _number(data: bytes, rng: random.Random) -> bytes:
    numbers = list(re.finditer(rb"\d+", data))
    if not numbers:
        return data
    number = rng.choice(numbers)
    return data[: number.start()] + rng.choice(NUMBERS) + data[number.end() :]


KINDS = (_flip, _flip, _truncate, _cut, _repeat, _splice, _noise, _extreme, _extreme, _number)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 64, 512, 4096)))


FIELDS = ((0, 100), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155), (482, 13), (0, 512))
VALUES = (b"../../evil", b"/etc/evil", b"a\0b", b"77777777777", b"-7", b"\x80" + bytes(11), b"\xff" * 12, b"\xff\xfe")
TYPES = b"0123456789gxXLKSDMNVA\0"


def _edit_header(tar: bytes, rng: random.Random) -> bytes:
    """Change fields of a header; another may become the first header of what was a file's content."""
    at = rng.randrange(len(tar) // 512) * 512
    header = bytearray(tar[at : at + 512])
    for _ in range(rng.randint(1, 3)):
        start, length = rng.choice(FIELDS)
        if length == 1:
            value = bytes([rng.choice(TYPES)])
        else:
            value = rng.choice((*VALUES, rng.randbytes(length), b"%o" % rng.randrange(1 << rng.randrange(1, 62))))
        header[start : start + length] = value[:length].ljust(length, b"\0")
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return tar[:at] + bytes(header) + tar[at + 512 :]
