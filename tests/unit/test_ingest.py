"""From source files to shards, labels and tensor caches in a store, in this process."""

from __future__ import annotations

import colorsys
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compgan_core.data.cache import Faces
from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers.archives import open_source
from compgan_core.data.importers.labelled_tree import read
from compgan_core.data.shards import read_shard
from compgan_core.data.tuples import TupleSampler
from compgan_core.errors import ConfigurationError, DataError, StorageError
from compgan_core.training.classifier import epochs_of
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.datasets import (
    add_dataset,
    dataset_names,
    find_dataset,
    remove_dataset,
    verify_dataset,
    write_figure,
    write_sheet,
)
from orchestrator.ingest import Streamed, faces_recipe, make_faces

POSES, EXPRESSIONS = ("front", "half_left"), ("awe", "joy", "rage")


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (14, 12), colour).save(buffer, "png")
    return buffer.getvalue()


def colour(n: int) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb(n * 0.618 % 1, 0.8, 0.4 + n % 5 / 9)
    return int(r * 255), int(g * 255), int(b * 255)


def some_faces(people: int = 4) -> list[Face]:
    """One face of a colour of its own in every cell."""
    cells = [(f"p{i}", p, e) for i in range(people) for p in POSES for e in EXPRESSIONS]
    return [Face(f"{i}/{p}/{e}.png", i, p, e, "", 0, png(colour(n))) for n, (i, p, e) in enumerate(cells)]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(open_store(tmp_path / "store"), NodeCache(tmp_path / "cache"))


@dataclass(frozen=True)
class Given:
    faces: list

    def __call__(self) -> list:
        return self.faces


def add(artifacts: Artifacts, faces: list, name: str = "x", rows: int = 10, **more: bool):
    return add_dataset(artifacts, Streamed(Given(faces), rows), name, source_format="test", **more)


def keys(artifacts: Artifacts, prefix: str = "") -> set[str]:
    return set(artifacts.store.keys(prefix))


def test_an_import_whose_source_fails_leaves_no_dataset(artifacts: Artifacts) -> None:
    def failing() -> Iterator[Face]:
        yield from some_faces()[:15]
        raise DataError("the archive is truncated")

    with pytest.raises(DataError, match="truncated"):
        add_dataset(artifacts, Streamed(failing, 5), "x", source_format="test")
    assert not keys(artifacts, "datasets/") and not keys(artifacts, "artifacts/dataset/")


def test_shards_that_are_there_are_not_written_again(artifacts: Artifacts) -> None:
    add(artifacts, some_faces()[:20], "first")
    before = keys(artifacts, "artifacts/shard/")
    add(artifacts, some_faces(), "second")
    after = keys(artifacts, "artifacts/shard/")
    assert before < after and len({key.split("/")[2] for key in after}) == 3


def test_a_broken_picture_stops_the_import_and_names_the_way_on(artifacts: Artifacts) -> None:
    faces = [*some_faces(), Face("bad.png", "p0", "front", "joy", "", 1, b"nothing")]
    with pytest.raises(DataError, match=r"^bad\.png: the file is not an image; .*--keep-going$"):
        add(artifacts, faces)
    assert dataset_names(artifacts.store) == []
    manifest = add(artifacts, faces, keep_going=True).manifest
    assert (manifest.read, manifest.kept, [q.key for q in manifest.quarantined]) == (25, 24, ["bad.png"])


def test_a_key_that_comes_twice_in_different_shards_stops_the_import(artifacts: Artifacts) -> None:
    faces = [*some_faces(), Face(some_faces()[0].key, "p0", "front", "joy", "", 1, png((1, 2, 3)))]
    with pytest.raises(DataError, match="lists it twice"):
        add(artifacts, faces)
    manifest = add(artifacts, faces, keep_going=True).manifest
    assert (manifest.read, manifest.kept, len(manifest.quarantined)) == (25, 24, 1)


def test_the_tensor_cache_holds_the_kept_faces_of_the_chosen_expressions(artifacts: Artifacts) -> None:
    copy = Face("zz.png", "p0", "front", "joy", "", 1, some_faces()[7].image_bytes)
    dataset = add(artifacts, [*some_faces(), copy, Skipped("readme.txt", "not an image")])
    some = make_faces(artifacts, dataset.fingerprint, faces_recipe(8, ("joy", "rage")))
    everything = make_faces(artifacts, dataset.fingerprint, faces_recipe(8, ()))
    assert Faces.open(artifacts.fetch(some)).labels.expressions == ("joy", "rage")
    faces = Faces.open(artifacts.fetch(everything))
    assert len(faces) == 24 and "zz.png" not in faces.labels.key
    assert make_faces(artifacts, dataset.fingerprint, faces_recipe(8, ())) == everything


def test_binary_attributes_are_kept_in_a_cache_of_their_own_where_they_are_asked_for(artifacts: Artifacts) -> None:
    true = [("Young",), (), ("Smiling", "Young")]
    faces = [replace(face, attributes=true[n % 3]) for n, face in enumerate(some_faces())]
    dataset = add(artifacts, faces)  # three shards, and so three parts
    plain, kept = faces_recipe(8, ()), faces_recipe(8, (), attributes=True)
    assert plain == {"stored_size": 8, "expressions": []}  # what is in a store already stays what it was
    with_them = Faces.open(artifacts.fetch(make_faces(artifacts, dataset.fingerprint, kept)))
    names, found = with_them.attributes()
    assert names == ("Smiling", "Young")
    by_key = {face.key: face.attributes for face in faces}
    assert [tuple(n for n, t in zip(names, row, strict=True) if t) for row in found] == [
        by_key[key] for key in with_them.labels.key
    ]
    assert (with_them.take(np.array([5, 2])).attributes()[1] == found[[5, 2]]).all()
    without = Faces.open(artifacts.fetch(make_faces(artifacts, dataset.fingerprint, plain)))
    assert (without.images(np.arange(24)) == with_them.images(np.arange(24))).all()


def test_faces_that_cannot_train_are_refused_before_anything_is_decoded(artifacts: Artifacts) -> None:
    dataset = add(artifacts, [face for face in some_faces() if face.pose == "front"])
    with pytest.raises(DataError, match="at least two poses"):
        make_faces(artifacts, dataset.fingerprint, faces_recipe(8, ()))
    assert not keys(artifacts, "artifacts/pixels/")


def test_removing_a_dataset_leaves_what_others_share_with_it_and_nothing_else(artifacts: Artifacts) -> None:
    empty = keys(artifacts)
    one, two = add(artifacts, some_faces()[:20], "one"), add(artifacts, some_faces(), "two")
    make_faces(artifacts, two.fingerprint, faces_recipe(8, ()))
    after_two = keys(artifacts)
    make_faces(artifacts, one.fingerprint, faces_recipe(8, ()))
    remove_dataset(artifacts, "one")
    assert verify_dataset(artifacts, two) == []
    assert {k for k in after_two if "/dataset/" not in k and "one" not in k} <= keys(artifacts)
    remove_dataset(artifacts, "two")
    assert keys(artifacts) == empty
    with pytest.raises(ConfigurationError, match="no dataset 'two'"):
        remove_dataset(artifacts, "two")


@pytest.mark.parametrize("lacking", [{}, {"identity": "", "pose": ""}, {"expression": ""}])
def test_a_sheet_and_a_figure_are_drawn_of_whatever_is_labelled(
    artifacts: Artifacts, tmp_path: Path, lacking: dict[str, str]
) -> None:
    dataset = add(artifacts, [replace(face, **lacking) for face in some_faces()])
    write_sheet(artifacts, dataset, tmp_path / "sheet.png")
    write_figure(dataset, tmp_path / "figure.png")
    colours = {colour for _, colour in Image.open(tmp_path / "sheet.png").getcolors(1 << 20)}
    shown = {face.expression: face for face in some_faces() if face.identity == "p0" and face.pose == "front"}
    assert {tuple(Image.open(io.BytesIO(face.image_bytes)).getpixel((0, 0))) for face in shown.values()} & colours


def test_two_names_for_the_same_faces_are_two_names(artifacts: Artifacts) -> None:
    add(artifacts, some_faces(), "one"), add(artifacts, some_faces(), "two")
    assert remove_dataset(artifacts, "one") == 0
    assert verify_dataset(artifacts, find_dataset(artifacts.store, "two")) == []


def test_verify_finds_a_flipped_bit_and_a_lost_shard(artifacts: Artifacts) -> None:
    dataset = add(artifacts, some_faces())
    assert verify_dataset(artifacts, dataset) == []
    first, second, _ = dataset.shards(artifacts)
    path = artifacts.store.root / first.files["faces.parquet"].key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    artifacts.store.delete(second.files["faces.parquet"].key)
    problems = verify_dataset(artifacts, dataset)
    assert "is damaged" in problems[0] and "has no object" in problems[1] and len(problems) == 2 + 20


def test_a_dataset_whose_shards_are_gone_says_so(artifacts: Artifacts) -> None:
    dataset = add(artifacts, some_faces())
    artifacts.delete(dataset.shards(artifacts)[0])
    with pytest.raises(StorageError, match="import the data again"):
        make_faces(artifacts, dataset.fingerprint, faces_recipe(8, ()))


def test_the_label_of_a_picture_survives_every_path(artifacts: Artifacts, tmp_path: Path) -> None:
    """By content: source file -> shard -> tensor cache -> the batches that train on it."""
    source = tmp_path / "source"
    label_of_hash, label_of_colour = {}, {}
    for n, face in enumerate(some_faces(6)):
        path = source / face.identity / face.pose / face.expression / f"{n}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(face.image_bytes)
        label = (face.identity, face.pose, face.expression)
        label_of_hash[hashlib.sha256(face.image_bytes).hexdigest()] = label
        label_of_colour[colour(n)] = label
    assert len(label_of_colour) == 36
    chunks = Streamed(partial(_tree, source), 9)
    dataset = add_dataset(artifacts, chunks, "tree", source_format="labelled-tree")
    in_shards = {}
    for record in dataset.shards(artifacts):
        for face in read_shard(artifacts.fetch(record) / "faces.parquet"):
            digest = hashlib.sha256(face.image_bytes).hexdigest()
            in_shards[digest] = (face.identity, face.pose, face.expression)
    assert in_shards == label_of_hash

    faces = Faces.open(artifacts.fetch(make_faces(artifacts, dataset.fingerprint, faces_recipe(10, ()))))
    labels, rows = faces.labels, np.arange(36)
    names = [*zip(*map(labels.named, ("identity", "pose", "expression")), strict=True)]
    assert {tuple(image[0, 0]): name for image, name in zip(faces.images(rows), names, strict=True)} == label_of_colour

    batch = epochs_of(faces, rows, 8, 0, torch.device("cpu"))(rows)
    pixels = ((batch.faces[:, :, 3, 4] + 1) * 127.5).round().int().tolist()
    codes = torch.stack([batch.identity, batch.pose, batch.expression], dim=1).tolist()
    for pixel, (i, p, e) in zip(pixels, codes, strict=True):
        assert label_of_colour[tuple(pixel)] == (labels.identities[i], labels.poses[p], labels.expressions[e])
    for source_row, pose_row, expression_row, both_row in TupleSampler(labels, rows, 0).batch(0, 50)[:, :4]:
        identity, pose, expression = names[source_row]
        assert names[pose_row][0] == names[expression_row][0] == names[both_row][0] == identity
        assert names[pose_row][2] == expression and names[expression_row][1] == pose
        assert names[both_row] == (identity, names[pose_row][1], names[expression_row][2])


def _tree(source: Path) -> object:
    return read(open_source(source))
