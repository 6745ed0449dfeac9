"""What stages read and leave: the faces with their roles, weights and histories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from compgan_core.data.cache import Faces
from compgan_core.data.proof import leaked
from compgan_core.data.splits import ROLES, Split, SplitRecipe, make_split
from compgan_core.training.runtime import Runtime, save_state

Inputs = Mapping[str, Path]
Metrics = dict[str, float]


def split(inputs: Inputs, out: Path, runtime: Runtime, *, split: SplitRecipe) -> Metrics:
    """Which rows train and which test. Input: faces."""
    labels = Faces.open(inputs["faces"]).labels
    made = make_split(labels, split)
    if runtime.rank == 0:
        made.save(out / "split.json", labels)
    metrics: Metrics = {role: len(getattr(made, role)) for role in ROLES}
    return metrics | {"leaked": leaked(labels, made.base_train, made.test_base)}


def open_data(inputs: Inputs) -> tuple[Faces, Split]:
    """The faces and who of them trains and tests."""
    data = Faces.open(inputs["faces"])
    return data, Split.load(inputs["split"] / "split.json", data.labels)


def write_result(runtime: Runtime, out: Path, history: list[dict[str, float]], **modules: nn.Module) -> None:
    """Leave weights and a history in `out`, on rank 0."""
    if runtime.rank == 0:
        for name, module in modules.items():
            save_state(out / f"{name}.safetensors", module.state_dict())
        (out / "history.json").write_text(json.dumps(history))
