"""One module a format, each with a `read` that yields faces, and the files it skips with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import cmu_faces, labelled_tree, procedural

FORMATS: dict[str, Callable[..., Iterator[Face | Skipped]]] = {
    "cmu-faces": cmu_faces.read,
    "labelled-tree": labelled_tree.read,
    "procedural": procedural.read,  # takes no source
}
