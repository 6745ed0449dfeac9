"""Guards of what SECURITY.md promises, where no other test does it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from orchestrator.prepare.media import Unusable, read_photograph

ROOT = Path(__file__).parents[2]
SOURCES = [path for name in ("compgan_core", "orchestrator", "jobs") for path in (ROOT / name).rglob("*.py")]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LOADERS = {"load", "full_load", "unsafe_load", "load_all", "full_load_all", "unsafe_load_all"}


def forbidden(tree: ast.AST) -> list[str]:
    """What in a module could run code out of data."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            module, _, function = name.rpartition(".")
            if (
                name in ("eval", "exec", "os.system", "os.popen")
                or keywords.get("shell") == "True"
                or keywords.get("allow_pickle") == "True"
                or (name == "torch.load" and keywords.get("weights_only") != "True")
                or (module == "yaml" and function in LOADERS)
                or (name == "Environment" and keywords.get("autoescape") != "True")
                or (name == "Image.open" and "formats" not in keywords)
            ):
                found.append(ast.unparse(node))
    return found


def test_nothing_is_unpickled_or_evaluated_and_pictures_are_of_known_formats_only() -> None:
    assert len(SOURCES) > 100
    assert {str(path): found for path in SOURCES if (found := forbidden(ast.parse(path.read_text())))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, yaml.Loader)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "Image.open(path)",
        "Environment(loader=loader)",
        "eval(text)",
    ],
)
def test_the_guard_sees_what_it_is_for(code: str) -> None:
    assert forbidden(ast.parse(code))


def test_a_photograph_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript, whatever its file is called, to Ghostscript."""
    ghostscript, started = tmp_path / "gs", tmp_path / "started"
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(Unusable, match="not an image"):
        read_photograph(postscript)
    assert not started.exists()
