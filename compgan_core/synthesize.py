"""Synthesis: which face is edited after which reference, one seed for each image, and the editing itself.

Image i of a category depends on (seed, draw of the shots, category, i) alone. So a set of 10 is a prefix of a set of
1,000, and the set is the same on any number of workers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from compgan_core import transforms
from compgan_core.compgan import CompGAN
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Attribute, Labels, Rows
from compgan_core.data.splits import Split
from compgan_core.randomness import generator
from compgan_core.training.runtime import Runtime, over_workers

Kind = Literal["exp", "pose", "degraded"]
EDITED: dict[str, Attribute] = {"exp": "expression", "pose": "pose"}
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


def plan_edits(kind: Kind, labels: Labels, split: Split, shots: np.ndarray, pool: int, seed: int, draw: int) -> Edits:
    """`pool` edits for each category.

    Novel categories of the edited attribute: any base face after a shot. Novel categories of another attribute: a shot
    after any base face. No novel category: any base face after a base face of that category.
    """
    edited = EDITED.get(kind)
    attribute = (split.novel_attribute if len(shots) else None) or edited or "expression"
    values, base = labels.codes(attribute), split.base_train
    of = shots if len(shots) else base
    source, reference, number = [], [], []
    for category in np.unique(values[of]):
        examples = of[values[of] == category]
        for i in range(pool):
            rng = generator(seed, f"synthesize {kind}", draw, int(category), i)
            example, other = rng.choice(examples), rng.choice(base)
            if kind == "degraded":
                other = example
            after_example = edited == attribute
            source.append(other if after_example else example)
            reference.append(example if after_example else other)
            number.append(i)
    rows = np.array(source, dtype=np.int64), np.array(reference, dtype=np.int64)
    return Edits(*rows, _labels(labels, *rows, edited, np.array(number, dtype=np.int32)))


def synthesize(
    runtime: Runtime, kind: Kind, gan: CompGAN | None, faces: Faces, edits: Edits, size: int, seed: int
) -> np.ndarray:
    """The edited faces, uint8 (n, size, size, 3), the same on every worker. Degraded copies need no `gan`."""
    network = getattr(gan, kind) if gan else None

    def compute(rows: slice) -> Tensor:
        source = load(faces, edits.source[rows], size, runtime.device)
        if network is None:
            numbers = torch.arange(rows.start, rows.stop, device=runtime.device)
            made = transforms.degrade(source, seed, numbers)
        else:
            made = network(source, load(faces, edits.reference[rows], size, runtime.device))
        return torch.from_numpy(transforms.to_bytes(made)).to(runtime.device)

    with torch.inference_mode():
        return over_workers(runtime, len(edits.source), CHUNK, compute).cpu().numpy()


def load(faces: Faces, rows: np.ndarray, size: int, device: torch.device) -> Tensor:
    """These rows, centre-cropped, float (n, 3, size, size) in [-1, 1]."""
    return transforms.normalise(transforms.centre_crop(transforms.to_faces(faces.images(rows), device), size))


def _labels(labels: Labels, source: Rows, reference: Rows, edited: Attribute | None, number: np.ndarray) -> Labels:
    pairs = zip(labels.key[source], labels.key[reference], strict=True)
    changes: dict[str, Any] = {
        "key": np.array([f"{i:06d} {a} > {b}" for i, (a, b) in enumerate(pairs)]),
        "frame": number,
        "sequence": np.full(len(source), ""),
    }
    if edited:
        changes[edited] = labels.codes(edited)[reference]
    return replace(labels.take(source), **changes)
