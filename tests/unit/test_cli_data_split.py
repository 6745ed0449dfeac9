"""`orch data split`: what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from compgan_core.data.face import Face
from orchestrator.artifacts.artifacts import Artifacts
from orchestrator.artifacts.node_cache import NodeCache
from orchestrator.artifacts.store import open_store
from orchestrator.cli import app
from orchestrator.datasets import add_dataset
from orchestrator.ingest import Streamed

Split = Callable[..., tuple[int, str, str]]
POSES = ("front", "half_left", "half_right", "bird")


def faces(identities: tuple[str, ...]) -> Iterator[Face]:
    """Two frames of a recording of every expression, from four sides; every tenth face tests."""
    cells = product(identities, POSES, ("awe", "calm", "envy", "joy", "rage"), range(2))
    for n, (identity, pose, expression, frame) in enumerate(cells):
        png = io.BytesIO()
        Image.new("RGB", (8, 8), (n, 255 - n, 7 * len(identities))).save(png, "png")
        key, clip = f"{identity}/{pose}/{expression}/{frame}", f"{identity}{expression}"
        yield Face(key, identity, pose, expression, clip, frame, png.getvalue(), "train" if n % 10 else "test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faces` of five people, and `anyone`, whose identity is not known."""
    path = tmp_path_factory.mktemp("split")
    artifacts = Artifacts(open_store(path / "store"), NodeCache(path / "cache"))
    for name, identities in (("faces", ("ann", "bob", "cid", "dan", "eve")), ("anyone", ("",))):
        add_dataset(artifacts, Streamed(lambda of=identities: faces(of)), name, source_format="made", here_only=True)
    return path


@pytest.fixture
def split(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Split:
    """(exit code, stdout, stderr) of the command."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("COMPGAN_STORE", str(store / "store"))
        monkeypatch.setenv("COMPGAN_CACHE", str(store / "cache"))
        monkeypatch.setattr(sys, "argv", ["orch", "data", "split", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def facts(split: Split, *arguments: object) -> dict:
    code, out, _ = split(*arguments, "--json")
    assert code == 0
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("task", "novel", "trains"),
    [("ER-SS", 0, 0), ("ER-FID", 1, 3), ("ER-ZID", 1, 0), ("ER-FP", 1, 3), ("ER-ZP", 1, 0), ("ER-FE", 1, 3)],
)
def test_each_task_is_counted_with_k_novel_faces_per_category_or_none(
    split: Split, task: str, novel: int, trains: int
) -> None:
    proof = facts(split, "faces", "--task", task, "--shots", 3)["proof"]
    roles = proof["roles"]
    assert sum(role["faces"] for role in roles.values()) == 200
    assert len(proof["novel_categories"]) == novel and roles["novel_train"]["faces"] == trains
    for role in ("novel_train", "novel_unused", "test_novel"):
        assert {*roles[role]["by_category"]} <= {*proof["novel_categories"]}
    assert (roles["test_novel"]["faces"] > 0) == (novel > 0)
    assert (
        max(off for role in ("base_train", "test_base", "test_novel") for off in roles[role]["imbalance"].values()) < 1
    )


def test_a_person_reads_counts_and_what_was_proved(split: Split) -> None:
    code, out, err = split("faces", "--task", "ER-FE", "--shots", 2)
    assert (code, err) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    assert "ER-FE on faces, seed 0; shots: 2 per category, draw 0" in lines
    assert "proved: of the novel faces, exactly 2 per category train, 2 in all" in lines
    assert "proved: no face has two roles, and together they hold all 200 faces that have the labels it takes" in lines
    assert "chance: 1/5 = 20.00%" in lines
    assert [line for line in lines if line.startswith("warning: ") and "recordings that also train" in line]
    assert ["envy", "novel", "2", "0", "8", "30"] in [line.split() for line in lines]
    assert ["base_train", "115"] == next(line for line in lines if line.startswith("base_train")).split()[:2]


def test_grouping_by_recording_ends_the_leak(split: Split) -> None:
    leaky = facts(split, "faces", "--task", "ER-SS")["proof"]
    apart = facts(split, "faces", "--task", "ER-SS", "--set", "split.group_by_sequence=true")["proof"]
    assert (leaky["recordings"], apart["recordings"]) == (25, 25)
    assert leaky["leaked"] > 0 == apart["leaked"]


def test_options_are_those_of_training(split: Split) -> None:
    chosen = facts(split, "faces", "--task", "ER-ZID", "--set", "split.novel_ids=2", "--set", "faces.max_expressions=3")
    assert len(chosen["proof"]["novel_categories"]) == 2 and chosen["proof"]["classes"] == 3
    each = facts(split, "faces", "--task", "ER-FP", "--shots", 2, "--set", "shots_per=category_x_expression")
    assert each["proof"]["roles"]["novel_train"]["faces"] == 10
    other = facts(split, "faces", "--task", "ER-FP", "--shots", 2, "--draw", 1)
    assert (other["draw"], other["shots"]) == (1, 2)


def test_a_supervised_split_needs_expressions_only(split: Split) -> None:
    proof = facts(split, "anyone", "--supervised", "random", "--set", "test=10")["proof"]
    assert [role["faces"] for role in proof["roles"].values()] == [27, 3, 10]
    own = facts(split, "faces", "--supervised", "partition")["proof"]["roles"]
    assert (own["train"]["faces"], own["validation"]["faces"], own["test"]["faces"]) == (180, 0, 20)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["faces"], "say which split to make: with --task ER-FE, for example, or with --supervised random"),
        (["faces", "--task", "ER-SS", "--supervised", "random"], "say which split to make"),
        (["anyone", "--task", "ER-FID"], "no face says its identity"),
        (["faces", "--task", "ER-FID", "--preset", "f2ed"], "ER-FID sets 21 identities apart as novel and needs two"),
        (["faces", "--task", "ER-FE", "--shots", "99"], "99 shots were asked for"),
        (["faces", "--task", "ER-FID", "--set", "novel_ids=1"], "did you mean split.novel_ids"),
        (["faces", "--supervised", "fer"], "there is no supervised split 'fer'"),
        (["anyone", "--supervised", "jaffe"], "the one_each split needs faces with an expression and an identity"),
    ],
)
def test_what_cannot_be_split_is_one_sentence_and_exit_code_2(
    split: Split, arguments: list[str], sentence: str
) -> None:
    code, out, err = split(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and sentence in err
