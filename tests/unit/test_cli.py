from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from compgan_core.errors import CapacityError, ConfigurationError, DataError, DivergenceError, StorageError
from orchestrator.cli import app

HEAVY = ("torch", "ray", "deepspeed", "pyarrow", "numpy", "boto3", "s3fs", "rich", "matplotlib")
DATA = ("import", "prepare", "synth", "show", "split", "verify", "ls", "rm")
HELP = [
    [],
    ["sweep"],
    ["sweep", "show"],
    ["train"],
    ["plan"],
    ["demo"],
    ["doctor"],
    ["store", "serve"],
    *(["data", name] for name in DATA),
]


class Orch:
    """`orch` in this process, on a store of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]):
        self.patch, self.capture = patch, capture

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        self.patch.setattr(sys, "argv", ["orch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(ended.value.code or 0), *self.capture.readouterr()


@pytest.fixture
def orch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Orch:
    monkeypatch.setenv("COMPGAN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COMPGAN_CACHE", str(tmp_path / "cache"))
    return Orch(monkeypatch, capsys)


def colour(number: int) -> tuple[int, int, int]:
    return 30 * number, 255 - 30 * number, 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two people x two poses x two expressions, all different."""
    for number, cell in enumerate(f"{i}/{p}/{e}" for i in "ab" for p in ("front", "left") for e in ("joy", "rage")):
        path = tmp_path / "tree" / cell / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), colour(number)).save(path)
    return tmp_path / "tree"


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_comes_at_once(command: list[str]) -> None:
    code = (
        "import sys; from orchestrator.cli.app import main\n"
        f"sys.argv = ['orch', *{command}, '--help']\n"
        "try: main()\n"
        f"finally: print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith(" ".join(["Usage: orch", *command]))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError, 2),
        (DataError, 2),
        (StorageError, 3),
        (CapacityError, 4),
        (DivergenceError, 6),
        (ZeroDivisionError, 70),
        (KeyboardInterrupt, 130),
    ],
)
def test_exit_code_and_one_sentence_tell_the_kind_of_failure(
    orch: Orch, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def fail(*_: object) -> None:
        raise error("it went wrong")

    monkeypatch.setattr("orchestrator.datasets.find_dataset", fail)
    got, out, err = orch("data", "show", "faces")
    assert (got, out) == (code, "")
    assert "Traceback" not in err and len(err.splitlines()) <= 1
    assert code == 130 or "it went wrong" in err
    assert ("orch --debug data show faces" in err) == (code == 70)


def test_debug_shows_the_traceback_and_keeps_the_exit_code(orch: Orch) -> None:
    code, _, err = orch("--debug", "data", "show", "faces")
    assert code == 2
    assert err.startswith("Traceback") and "ConfigurationError: there is no dataset 'faces'" in err


@pytest.mark.parametrize("arguments", [["data", "shwo"], ["train", "--data", "x"], ["doctor", "--no-such-option"]])
def test_misuse_exits_with_2_and_says_where_help_is(orch: Orch, arguments: list[str]) -> None:
    code, _, err = orch(*arguments)
    assert code == 2 and "--help" in err


def test_an_import_can_be_shown_and_listed_as_json(orch: Orch, tree: Path) -> None:
    code, out, _ = orch("data", "import", "labelled-tree", tree, "--name", "faces", "--json")
    imported = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (imported["kept"], imported["counts"]["pose"]) == (8, {"front": 4, "left": 4})
    _, out, _ = orch("data", "show", "faces", "--json")
    assert json.loads(out.splitlines()[-1]) == imported
    _, out, _ = orch("data", "ls", "--json")
    row = {"name": "faces", "format": "labelled-tree", "faces": 8, "identities": 2, "poses": 2, "expressions": 2}
    assert json.loads(out.splitlines()[-1])["datasets"] == [row]


def test_a_person_gets_tables_and_no_json(orch: Orch, tree: Path) -> None:
    orch("data", "import", "labelled-tree", tree, "--name", "faces")
    code, out, err = orch("data", "show", "faces")
    assert (code, err) == (0, "")
    assert out.startswith("faces (labelled-tree): 8 faces of 2 identities\n")
    assert ["rage", "4"] in [line.split() for line in out.splitlines()]


def test_the_sheet_shows_every_cell_of_a_small_dataset(orch: Orch, tree: Path, tmp_path: Path) -> None:
    orch("data", "import", "labelled-tree", tree, "--name", "faces")
    code, _, _ = orch("data", "show", "faces", "--sheet", tmp_path / "sheet.png")
    shown = {pixel for _, pixel in Image.open(tmp_path / "sheet.png").convert("RGB").getcolors(1 << 20)}
    assert code == 0
    assert {colour(number) for number in range(8)} <= shown


def test_an_unknown_dataset_is_answered_with_the_nearest_names(orch: Orch, tree: Path) -> None:
    _, _, err = orch("data", "show", "faces")
    assert "none was imported yet" in err
    orch("data", "import", "labelled-tree", tree, "--name", "faces")
    code, _, err = orch("data", "show", "facse")
    assert code == 2
    assert err.endswith("there is no dataset 'facse' in " + str(tree.parent / "store") + ": did you mean faces?\n")


def test_a_used_name_comes_to_mean_the_new_faces_and_the_old_ones_stay(orch: Orch, tree: Path) -> None:
    first = json.loads(orch("data", "import", "labelled-tree", tree, "--name", "faces", "--json")[1])
    next(tree.rglob("*.png")).unlink()
    second = json.loads(orch("data", "import", "labelled-tree", tree, "--name", "faces", "--json")[1])
    assert (first["kept"], second["kept"]) == (8, 7)
    assert json.loads(orch("data", "show", "faces", "--json")[1]) == second
    records = (tree.parent / "store/artifacts/dataset").glob("*/record.json")
    assert {path.parent.name for path in records} == {first["fingerprint"], second["fingerprint"]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["labeled-tree", "x", "--name", "n"], "there is no format 'labeled-tree': did you mean labelled-tree?"),
        (["labelled-tree", "--name", "n"], "labelled-tree needs a source"),
        (["procedural", "x", "--name", "n"], "procedural makes its own faces and reads no source"),
        (["labelled-tree", "nowhere", "--name", "n"], "nowhere does not exist"),
        (["labelled-tree", ".", "--name", "../n"], "'../n' cannot be the name of a dataset"),
    ],
)
def test_an_import_that_cannot_be_says_so_and_stores_nothing(
    orch: Orch, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    code, _, err = orch("data", "import", *arguments)
    assert code == 2 and sentence in err and len(err.splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_broken_image_stops_an_import_unless_told_to_go_on(orch: Orch, tree: Path) -> None:
    (tree / "a/front/joy/0.png").write_bytes(b"not a picture")
    code, _, err = orch("data", "import", "labelled-tree", tree, "--name", "faces")
    assert code == 2 and "a/front/joy/0.png: the file is not an image" in err
    assert orch("data", "show", "faces")[0] == 2
    code, out, _ = orch("data", "import", "labelled-tree", tree, "--name", "faces", "--keep-going")
    assert code == 0 and "quarantined: a/front/joy/0.png: the file is not an image" in out


def test_doctor_reports_each_check_and_fails_with_the_first_failure(orch: Orch, tmp_path: Path) -> None:
    code, out, _ = orch("doctor", "--json")
    facts = json.loads(out.splitlines()[-1])
    assert (code, facts["ok"]) == (0, True)
    (tmp_path / "file").touch()
    code, out, err = orch("doctor", "--json", "--store", tmp_path / "file")
    facts = json.loads(out.splitlines()[-1])
    assert (code, facts["ok"]) == (3, False)
    assert [check["check"] for check in facts["checks"] if not check["ok"]] == ["store"]
    assert "TO DO  store" in err


def test_doctor_wants_both_checksum_variables_to_agree(orch: Orch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.delenv("AWS_RESPONSE_CHECKSUM_VALIDATION", raising=False)
    code, out, _ = orch("doctor")
    assert code == 2 and "AWS_RESPONSE_CHECKSUM_VALIDATION must agree" in out
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    assert orch("doctor")[0] == 0
