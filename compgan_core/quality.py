"""How well generators edit: what a judge, and the classifier that supervised them, read in edited faces; and how far
the faces are from the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compgan_core import transforms
from compgan_core.compgan import CALLS, EXPRESSION_OF_CALL, POSE_OF_CALL, TARGET, Tuples
from compgan_core.data.balance import draw
from compgan_core.data.cache import Faces
from compgan_core.data.labels import Labels, Rows
from compgan_core.data.splits import Split
from compgan_core.editors import Editors, Looks
from compgan_core.errors import DataError
from compgan_core.nets.classifier import Logits
from compgan_core.nets.judge import Judge
from compgan_core.pictures import face_grid
from compgan_core.randomness import generator
from compgan_core.synthesize import load
from compgan_core.training.classifier import FaceReader
from compgan_core.training.gan import Sampler
from compgan_core.training.runtime import Runtime, over_workers

EDITS = {"P": 0, "E": 1, "PE": 2, "EP": 3}
"""Edits by the generator call of Algorithm 1 that makes them: pose, expression, both in either order."""
READ = ("identity", "pose", "expression")
CHUNK = 16
SHOWN_IDENTITIES, SHOWN_EDITS = 9, 20  # of Fig. 18; how many edits it shows is not said


def judge_rows(labels: Labels, split: Split, seed: int) -> tuple[Rows, Rows]:
    """(half of the faces that do not test, the others), balanced over identity, pose and expression.

    The judge learns from the former; the others tell its ceiling, and their edits are what it judges.
    """
    rows = np.sort(np.concatenate([split.base_train, split.base_validation, split.novel_pool]))
    half = np.sort(draw(labels, rows, 0.5, generator(seed, "judge")))
    return half, np.setdiff1d(rows, half)


class Unseen:
    """The first tuples of a sampler whose sources a judge was not trained on. Raises DataError if there are too few."""

    def __init__(self, sampler: Sampler, seen: Rows, n: int):
        found, start = np.empty((0, 12), np.int64), 0
        while len(found) < n:
            rows = sampler.batch(start, n)
            found, start = np.concatenate([found, rows[~np.isin(rows[:, 0], seen)]]), start + n
            if start > 100 * n:
                raise DataError(
                    f"the judge was trained on nearly all faces that could be edited: {len(found)} of {n} edits were "
                    "found that start from others; import more faces"
                )
        self._rows = found[:n]

    def batch(self, start: int, n: int) -> Rows:
        return self._rows[start : start + n]


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
    figures = {f"real_{k}": v for k, v in zip(READ, sharp, strict=True)}
    return figures | {f"blurred_{k}": v for k, v in zip(READ, blurred, strict=True)}


def fidelity(runtime: Runtime, judge: nn.Module, made: Faces, size: int) -> dict[str, float]:
    """Percent of synthesized faces in which the judge reads the identity, pose and expression of their labels, which
    is what they teach. Collective.

    Half of their sources trained the judge, so identities are read a little too well, of all kinds of faces alike.
    """
    codes = np.stack([made.labels.identity, made.labels.pose, made.labels.expression])
    truth = torch.from_numpy(codes).long().to(runtime.device)

    def compute(rows: slice) -> Tensor:
        faces = load(made, np.arange(rows.start, rows.stop), size, runtime.device)
        return _hits(judge(faces), *truth[:, rows]).T

    with torch.inference_mode():
        hits = over_workers(runtime, len(made.labels), 64, compute)
    return {what: _percent(hits[:, i]) for i, what in enumerate(READ)}


def edited(editors: Editors, batch: Tuples) -> list[Tensor]:
    """The faces (n, 3, size, size) of each of `EDITS`, as Algorithm 1 makes them."""
    made: list[Tensor] = []
    has = [Looks(batch.pose[0], batch.expression[0])]  # of the source, and then of each made face
    for k, call in enumerate(CALLS[: len(EDITS)]):
        source = batch.reals[0] if call.source < 0 else made[call.source]
        wanted = _wanted(batch, k)
        made.append(editors[call.generator].edit(source, batch.references[k], has[call.source + 1], wanted))
        has.append(wanted)
    return made


class Read(NamedTuple):
    """What was read in the edits of one kind, a row an edit."""

    wanted: Tensor
    """int64 (n, 3): identity, pose and expression, as in `READ`."""
    hits: Mapping[str, Tensor]
    """Reader -> bool (n, 3): what it reads as wanted."""
    distances: Tensor
    """(n, 4): L1 to the truth, of the edited face and of the unedited source; `lpips_judge` of both."""
    fid_judge: float


def read_edits(
    runtime: Runtime,
    editors: Editors,
    readers: Mapping[str, FaceReader],
    tuples: Callable[[np.ndarray], Tuples],
    n: int,
) -> dict[str, Read]:
    """For `n` tuples and each of `EDITS`. Collective.

    readers: name -> network with FaceClassifier's interface, among them "judge".
    tuples: as of `training.gan.tuples_of`.
    """
    judge = readers["judge"]
    assert isinstance(judge, Judge)
    width = 0

    def compute(part: slice) -> Tensor:
        nonlocal width
        batch: Tuples = tuples(np.arange(part.start, part.stop))
        columns = []
        for k, faces in enumerate(edited(editors, batch)):
            truth, source, wanted = batch.reals[TARGET[k]], batch.reals[0], _wanted(batch, k)
            codes = torch.stack([batch.identity, wanted.pose, wanted.expression], dim=1)
            columns.append(codes.double())
            for reader in readers.values():
                columns.append(_hits(reader(faces), *codes.T).T.double())
            distances = [(x - truth).abs().flatten(1).mean(1) for x in (faces, source)]
            distances += [perceptual_distance(judge, x, truth) for x in (faces, source)]
            columns.append(torch.stack(distances, dim=1).double())
            features = [judge.features(x).double() for x in (faces, truth)]
            width = features[0].shape[1]
            columns += features
        return torch.cat(columns, dim=1)

    with torch.inference_mode():
        table = over_workers(runtime, n, CHUNK, compute).cpu()
    widths = [3, *(3 for _ in readers), 4, width, width]
    found = {}
    for name, columns in zip(EDITS, table.split(sum(widths), dim=1), strict=True):
        wanted, *hits, distances, made, true = columns.split(widths, dim=1)
        read = {reader: hit.bool() for reader, hit in zip(readers, hits, strict=True)}
        found[name] = Read(wanted.long(), read, distances, frechet_distance(made.numpy(), true.numpy()))
    return found


def summary(edits: Mapping[str, Read]) -> dict[str, float]:
    """The figures of the record: percent read as wanted, L1 in units of [-1, 1] pixels, FID and LPIPS on the judge."""
    figures: dict[str, float] = {}
    for name, read in edits.items():
        for reader, hits in read.hits.items():
            figures |= {f"{name}_{reader}_{what}": _percent(hits[:, i]) for i, what in enumerate(READ)}
        distances = ("l1", "l1_of_source", "lpips_judge", "lpips_judge_of_source")
        figures |= {f"{name}_{of}": float(mean) for of, mean in zip(distances, read.distances.mean(0), strict=True)}
        figures[f"{name}_fid_judge"] = read.fid_judge
    return figures


def readings(edits: Mapping[str, Read]) -> dict[str, np.ndarray]:
    """`E_judge` and the like -> bool (n, 3): what was read as wanted, by edit and reader, with the columns of `READ`.

    Row i is tuple i in each, and for every generator of a split, so that two generators can be compared in pairs.
    """
    return {f"{name}_{by}": hits.numpy() for name, read in edits.items() for by, hits in read.hits.items()}


def preservation(edits: Mapping[str, Read], labels: Labels) -> dict[str, Any]:
    """Percent read as wanted, over all edits and by the pose and the expression that was wanted (Figs. 13-15).

    "f_cls" is the paper's own way: the classifier that supervised the generators reads what they made.
    """
    groups = {"by_pose": (1, labels.poses), "by_expression": (2, labels.expressions)}
    found: dict[str, Any] = {}
    for name, read in edits.items():
        found[name] = {"edits": len(read.wanted)}
        for by, (column, names) in groups.items():
            counts = read.wanted[:, column].bincount(minlength=len(names)).tolist()
            found[name][f"edits_{by}"] = dict(zip(names, counts, strict=True))
        for reader, hits in read.hits.items():
            for i, what in enumerate(READ):
                shares: dict[str, Any] = {"all": _percent(hits[:, i])}
                for by, (column, names) in groups.items():
                    of = {n: hits[read.wanted[:, column] == code, i] for code, n in enumerate(names)}
                    shares[by] = {n: _percent(hit) for n, hit in of.items() if len(hit)}
                found[name].setdefault(reader, {})[what] = shares
    return found


def perceptual_distance(judge: Judge, a: Tensor, b: Tensor) -> Tensor:
    """(n,) LPIPS of faces on the judge's maps, without learned weights: squared differences of maps with unit channel
    vectors, averaged over places and summed over layers (Zhang et al. 2018, Eq. 1)."""
    distance = torch.zeros(len(a), device=a.device)
    for x, y in zip(judge.maps(a), judge.maps(b), strict=True):
        difference = F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)
        distance = distance + difference.square().sum(1).mean((1, 2))
    return distance


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the normal distributions that fit two sets of features (n, width).

    As FID (Heusel et al. 2017). It has a bias that falls with n: compare sets of one size only.
    """
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    spread = sum(np.trace(c) for c in covariances) - 2 * cross
    return float(np.square(a.mean(0) - b.mean(0)).sum() + spread)


def identity_features(
    editors: Editors, reader: FaceReader, faces: Faces, rows: Rows, size: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """The features of up to 9 faces of different people, and of 20 edits of each by either generator (Fig. 18).

    rows: to draw the faces and the references from. Returns identity (people,), source (people, width), and pose and
    exp (people, 20, width).
    """
    rng, labels = generator(seed, "identities"), faces.labels
    people = rng.permutation(np.unique(labels.identity[rows]))[:SHOWN_IDENTITIES]
    chosen = np.array([rng.choice(rows[labels.identity[rows] == person]) for person in people])
    references = rng.choice(rows, (len(people), SHOWN_EDITS))

    def codes(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).long().to(device)

    with torch.inference_mode():
        sources = load(faces, chosen, size, device)
        found = {"identity": codes(labels.identity[chosen]), "source": reader.features(sources)}
        for changes, editor in editors.items():
            made = []
            for row, source, others in zip(chosen, sources, references, strict=True):
                has = Looks(codes(labels.pose[others * 0 + row]), codes(labels.expression[others * 0 + row]))
                pose = codes(labels.pose[others]) if changes == "pose" else has.pose
                expression = codes(labels.expression[others]) if changes == "exp" else has.expression
                after = load(faces, others, size, device)
                many = source.expand_as(after)
                made.append(reader.features(editor.edit(many, after, has, Looks(pose, expression))))
            found[changes] = torch.stack(made)
    return found


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


def _wanted(batch: Tuples, call: int) -> Looks:
    return Looks(batch.pose[POSE_OF_CALL[call]], batch.expression[EXPRESSION_OF_CALL[call]])


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())


def _hits(logits: Logits, identity: Tensor, pose: Tensor, expression: Tensor) -> Tensor:
    """(3, n): whether identity, pose and expression are read right."""
    read = (logits.identity, logits.pose, logits.expression)
    return torch.stack([(x.argmax(1) == y).float() for x, y in zip(read, (identity, pose, expression), strict=True)])


def _blur(faces: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(faces, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
