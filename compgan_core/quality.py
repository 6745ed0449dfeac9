"""How well the generators edit: what the judge reads in edited faces, and their distance to the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compgan_core import transforms
from compgan_core.compgan import CALLS, TARGET, Tuples
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Labels
from compgan_core.editors import Editors, Looks
from compgan_core.nets.classifier import Logits
from compgan_core.pictures import face_grid
from compgan_core.randomness import uniform
from compgan_core.synthesize import load
from compgan_core.training.runtime import Runtime, over_workers

EDITS = {"P": 0, "E": 1, "PE": 2, "EP": 3}
"""Edits by the generator call of Algorithm 1 that makes them: pose, expression, both in either order."""
MADE = range(4)
"""Those calls, each after the one whose face it edits."""
CHUNK = 16


def judge_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(nine tenths the judge trains on, one tenth that tells its ceiling), drawn by seed from all rows."""
    u = uniform(seed, "judge", torch.arange(n), 1)[:, 0].numpy()
    return np.flatnonzero(u >= 0.1), np.flatnonzero(u < 0.1)


def ceiling(judge: nn.Module, faces: Faces, rows: np.ndarray, size: int, device: torch.device) -> dict[str, float]:
    """Shares the judge reads right on real faces it was not trained on, as they are and after a 3 x 3 blur."""
    hits = torch.zeros(2, 3)
    with torch.inference_mode():
        for part in np.array_split(rows, -(-len(rows) // 64)):
            x = load(faces, part, size, device)
            labels = (faces.labels.identity, faces.labels.pose, faces.labels.expression)
            truth = [torch.from_numpy(v[part]).long().to(device) for v in labels]
            for i, seen in enumerate((x, _blur(x))):
                hits[i] += _hits(judge(seen), *truth).sum(1).cpu()
    sharp, blurred = (hits / max(len(rows), 1) * 100).tolist()
    names = ("identity", "pose", "expression")
    figures = {f"real_{k}": v for k, v in zip(names, sharp, strict=True)}
    return figures | {f"blurred_{k}": v for k, v in zip(names, blurred, strict=True)}


def edits(
    runtime: Runtime, editors: Editors, readers: Mapping[str, nn.Module], tuples: Callable[[np.ndarray], Tuples], n: int
) -> dict[str, float]:
    """For `n` tuples and each of `EDITS`: percent of identity, pose and expression that each reader reads as intended,
    mean L1 to the ground truth, and the L1 of the unedited source, in units of [-1, 1] pixels.

    readers: name -> network with FaceClassifier's interface. tuples: as in `training.gan.tuples_of`.
    """

    def compute(part: slice) -> Tensor:
        batch: Tuples = tuples(np.arange(part.start, part.stop))
        fakes = edited(editors, batch)
        columns = []
        for call in EDITS.values():
            truth, meant = batch.reals[TARGET[call]], _looks(batch, CALLS[call].cell)
            for reader in readers.values():
                columns.append(_hits(reader(fakes[call]), batch.identity, *meant))
            distances = [(x - truth).abs().flatten(1).mean(1) for x in (fakes[call], batch.reals[0])]
            columns.append(torch.stack(distances))
        return torch.cat(columns).T

    with torch.inference_mode():
        means = over_workers(runtime, n, CHUNK, compute).mean(0).tolist()
    figures, values = {}, iter(means)
    for name in EDITS:
        for reader in readers:
            for what in ("identity", "pose", "expression"):
                figures[f"{name}_{reader}_{what}"] = 100 * next(values)
        figures[f"{name}_l1"] = next(values)
        figures[f"{name}_l1_of_source"] = next(values)
    return figures


def edited(editors: Editors, batch: Tuples) -> list[Tensor]:
    """The faces (batch, 3, size, size) of `EDITS`, by the number of the call."""
    fakes: list[Tensor] = []
    for call in (CALLS[i] for i in MADE):
        source = batch.reals[0] if call.source < 0 else fakes[call.source]
        has = _looks(batch, "ps_es" if call.source < 0 else CALLS[call.source].cell)
        reference, wanted = batch.references[len(fakes)], _looks(batch, call.cell)
        fakes.append(editors[call.generator].edit(source, reference, has, wanted))
    return fakes


def _looks(batch: Tuples, cell: str) -> Looks:
    """Pose and expression of a cell of each tuple."""
    return Looks(batch.pose[int(cell.startswith("pt"))], batch.expression[int(cell.endswith("et"))])


def draw_grid(editors: Editors, batch: Tuples, rows: np.ndarray, labels: Labels, path: Path) -> None:
    """Write a sheet: source, and for each of `EDITS` its reference, the edited face and the truth.

    rows: the tuples' rows (n, 12), for captions.
    """
    with torch.inference_mode():
        fakes = edited(editors, batch)
    columns = [("source", batch.reals[0], rows[:, 0], False)]
    titles = {"P": "pose edit", "E": "expression edit", "PE": "pose, then expr.", "EP": "expr., then pose"}
    for name, call in EDITS.items():
        if name != "EP":  # shares its reference with the other order
            columns.append(("reference", batch.references[call], rows[:, 4 + call], False))
        columns.append((titles[name], fakes[call], rows[:, TARGET[call]], True))
        if name != "PE":
            columns.append(("truth", batch.reals[TARGET[call]], rows[:, TARGET[call]], False))
    images = [transforms.to_bytes(faces) for _, faces, _, _ in columns]
    face_grid(
        rows=[[column[i] for column in images] for i in range(len(rows))],
        headers=[title for title, *_ in columns],
        captions=[[_caption(labels, r[i]) for _, _, r, _ in columns] for i in range(len(rows))],
        made=[made for *_, made in columns],
        path=path,
    )


def _caption(labels: Labels, row: int) -> str:
    return f"{labels.poses[labels.pose[row]]} {labels.expressions[labels.expression[row]]}"


def _hits(logits: Logits, identity: Tensor, pose: Tensor, expression: Tensor) -> Tensor:
    """(3, n): whether identity, pose and expression are read right."""
    read = (logits.identity, logits.pose, logits.expression)
    return torch.stack([(x.argmax(1) == y).float() for x, y in zip(read, (identity, pose, expression), strict=True)])


def _blur(faces: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(faces, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
