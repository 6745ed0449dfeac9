"""Synthesis: which face is edited after which reference, one seed for each image, and the editing itself.

Image i of a category depends on (seed, draw of the shots, category, i) alone. So a set of 10 is a prefix of a set of
1,000, and the set is the same on any number of workers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from compgan_core import transforms
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Attribute, Labels, Rows
from compgan_core.data.splits import Split
from compgan_core.editors import Editor, Looks
from compgan_core.errors import DataError
from compgan_core.randomness import generator
from compgan_core.training.runtime import Runtime, over_workers

CHUNK = 32  # images a generator call; part of what is drawn, see `over_workers`


class SynthesisRecipe(BaseModel):
    """How many faces to draw, and how many of them to use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(10, ge=0)
    """Faces used for each novel category (each category of the edited attribute where none is novel)."""
    pool: int = Field(1000, ge=0)
    """Faces drawn for each category; every smaller count is a prefix."""


class Edits(NamedTuple):
    """What to synthesize: rows of the data set, and the labels that the results carry (paper-wise: identity of the
    source, edited attribute of the reference)."""

    source: Rows
    """int64 (n,)"""
    reference: Rows
    """int64 (n,); the source itself where the kind needs no reference."""
    labels: Labels
    """`frame` is the number of the image within its category, so `frame < count` selects a prefix."""


def plan_edits(
    kind: str, edits: Attribute | None, labels: Labels, split: Split, shots: np.ndarray, pool: int, seed: int, draw: int
) -> Edits:
    """`pool` edits for each category. kind names the draws; edits: what changes, None for copies of the source.

    Novel categories of the edited attribute: any base face after a shot. Novel categories of another attribute: a shot
    after any base face. No novel category: any base face after a base face of that category.
    """
    attribute = (split.novel_attribute if len(shots) else None) or edits or "expression"
    values, base = labels.codes(attribute), split.base_train
    of = shots if len(shots) else base
    source, reference, number = [], [], []
    for category in np.unique(values[of]):
        examples = of[values[of] == category]
        for i in range(pool):
            rng = generator(seed, f"synthesize {kind}", draw, int(category), i)
            example, other = rng.choice(examples), rng.choice(base)
            if edits is None:
                other = example
            after_example = edits == attribute
            source.append(other if after_example else example)
            reference.append(example if after_example else other)
            number.append(i)
    rows = np.array(source, dtype=np.int64), np.array(reference, dtype=np.int64)
    changed: dict[Attribute, np.ndarray] = {edits: labels.codes(edits)[rows[1]]} if edits else {}
    return Edits(*rows, _labels(labels, *rows, np.array(number, dtype=np.int32), changed))


def all_of_reference(edits: Edits, labels: Labels) -> Edits:
    """The same edits by a generator that takes pose and expression from the reference, whichever is to change."""
    pose, expression = labels.pose[edits.reference], labels.expression[edits.reference]
    return edits._replace(labels=replace(edits.labels, pose=pose, expression=expression))


def plan_mirrored(labels: Labels, split: Split, pool: int, seed: int, draw: int) -> Edits:
    """Up to `pool` base faces of the pose that is the mirror image of the novel one, as faces of the novel one.

    Raises DataError where there are none.
    """
    novel = split.novel_categories[0] if split.novel_attribute == "pose" else ""
    base, other = split.base_train, mirror_of(novel)
    of = base[labels.pose[base] == labels.poses.index(other)] if other in labels.poses else base[:0]
    if not len(of):
        raise DataError(
            f"no face that trains {split.recipe.task} is the mirror image of a novel pose: leave 'mirrored' out of "
            "variants"
        )
    rows = generator(seed, "synthesize mirrored", draw).permutation(of)[:pool]
    changed: dict[Attribute, np.ndarray] = {"pose": np.full(len(rows), labels.poses.index(novel), labels.pose.dtype)}
    return Edits(rows, rows, _labels(labels, rows, rows, np.arange(len(rows), dtype=np.int32), changed))


def mirror_of(pose: str) -> str:
    """The pose of a face's mirror image: `half_right` of `half_left`; itself where the name tells no side."""
    swapped = {"left": "right", "right": "left"}
    return re.sub("left|right", lambda found: swapped[found[0]], pose)


Make = Callable[[Tensor, Edits, slice], Tensor]
"""make(sources, plan, rows): the faces (n, 3, size, size) of these rows of a plan, from their sources."""


def edited(editor: Editor, faces: Faces, size: int) -> Make:
    """What an editor makes after the references of the plan."""

    def make(source: Tensor, edits: Edits, rows: slice) -> Tensor:
        has = looks(faces.labels, edits.source[rows], source.device)
        wanted = looks(edits.labels, rows, source.device)
        return editor.edit(source, load(faces, edits.reference[rows], size, source.device), has, wanted)

    return make


def degraded(seed: int) -> Make:
    """Shifted, blurred, noisy copies, off in colour."""

    def make(source: Tensor, edits: Edits, rows: slice) -> Tensor:
        return transforms.degrade(source, seed, torch.arange(rows.start, rows.stop, device=source.device))

    return make


def mirrored(source: Tensor, edits: Edits, rows: slice) -> Tensor:
    """Left and right exchanged."""
    return source.flip(-1)


def synthesize(runtime: Runtime, make: Make, faces: Faces, edits: Edits, size: int) -> np.ndarray:
    """The made faces, uint8 (n, size, size, 3), the same on every worker."""

    def compute(rows: slice) -> Tensor:
        made = make(load(faces, edits.source[rows], size, runtime.device), edits, rows)
        return torch.from_numpy(transforms.to_bytes(made)).to(runtime.device)

    with torch.inference_mode():
        return over_workers(runtime, len(edits.source), CHUNK, compute).cpu().numpy()


def load(faces: Faces, rows: np.ndarray, size: int, device: torch.device) -> Tensor:
    """These rows, centre-cropped, float (n, 3, size, size) in [-1, 1]."""
    return transforms.normalise(transforms.centre_crop(transforms.to_faces(faces.images(rows), device), size))


def looks(labels: Labels, rows: Rows | slice, device: torch.device) -> Looks:
    """Pose and expression of these rows."""
    return Looks(*(torch.from_numpy(codes[rows]).long().to(device) for codes in (labels.pose, labels.expression)))


def _labels(
    labels: Labels, source: Rows, reference: Rows, number: np.ndarray, changed: Mapping[Attribute, np.ndarray]
) -> Labels:
    pairs = zip(labels.key[source], labels.key[reference], strict=True)
    changes: dict[str, Any] = {
        **dict[str, Any](changed.items()),
        "key": np.array([f"{i:06d} {a} > {b}" for i, (a, b) in enumerate(pairs)]),
        "frame": number,
        "sequence": np.full(len(source), ""),
    }
    return replace(labels.take(source), **changes)
