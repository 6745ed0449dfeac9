"""What is measured of edited faces, and on which faces the judge learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_views import make_labels

from compgan_core import networks, quality, transforms
from compgan_core.compgan import CALLS, CELLS, TARGET, Tuples
from compgan_core.data.cache import Faces, write_cache
from compgan_core.data.labels import ATTRIBUTES
from compgan_core.data.splits import SplitRecipe, make_split
from compgan_core.data.tuples import TupleSampler
from compgan_core.errors import DataError
from compgan_core.nets.judge import JudgeNetRecipe
from compgan_core.randomness import generator
from compgan_core.training.runtime import Local

SIZE, N = 16, 40
LABELS = make_labels()


@pytest.mark.parametrize("task", ["ER-SS", "ER-FID", "ER-FP", "ER-FE"])
def test_the_judge_learns_from_a_balanced_half_of_the_faces_that_do_not_test(task):
    split = make_split(LABELS, SplitRecipe(task=task))
    half, others = quality.judge_rows(LABELS, split, 0)
    tests = np.concatenate([split.test_base, split.test_novel])
    both = np.concatenate([half, others])
    assert not np.isin(both, tests).any()
    assert len(np.unique(both)) == len(both) == len(LABELS) - len(tests)
    assert abs(len(half) - len(others)) <= 3
    for attribute in ATTRIBUTES:
        counts = [np.bincount(LABELS.codes(attribute)[rows]) for rows in (half, others)]
        assert np.abs(counts[0] - counts[1]).max() <= 3
    assert not np.array_equal(half, quality.judge_rows(LABELS, split, 1)[0])


def test_only_edits_of_faces_that_the_judge_did_not_learn_from_are_read():
    split = make_split(LABELS, SplitRecipe(task="ER-SS"))
    half, _ = quality.judge_rows(LABELS, split, 0)
    sampler = TupleSampler(LABELS, split.base_train, 0)
    rows = quality.Unseen(sampler, half, N).batch(0, N)
    assert rows.shape == (N, 12)
    assert not np.isin(rows[:, 0], half).any()
    with pytest.raises(DataError, match="trained on nearly all faces"):
        quality.Unseen(sampler, np.arange(len(LABELS)), 2)


def test_the_frechet_distance_is_that_of_normal_distributions():
    x = generator(0, "features").normal(size=(500, 6)) @ np.diag(range(1, 7))
    assert quality.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert quality.frechet_distance(x, x + 3) == pytest.approx(6 * 9)
    centred = x - x.mean(0)
    assert quality.frechet_distance(centred, 2 * centred) == pytest.approx(np.cov(x, rowvar=False).trace())
    turned = x @ np.linalg.qr(generator(0, "turn").normal(size=(6, 6)))[0]
    assert quality.frechet_distance(x, turned) == pytest.approx(quality.frechet_distance(turned, x))


class Made:
    """An editor that returns what it is given in turn, and notes what was wanted."""

    def __init__(self, faces):
        self.faces, self.calls = faces, []

    def edit(self, source, reference, has, wanted):
        self.calls.append((has, wanted))
        return self.faces[len(self.calls) - 1]


def read(faces_of):
    """What is read in edits that `faces_of(batch)` makes: four sets of faces."""
    rng = generator(0, "batch")
    images = torch.from_numpy(rng.uniform(-1, 1, (12, N, 3, SIZE, SIZE))).float()
    pose, expression = torch.tensor([[0], [2]]).expand(2, N), torch.tensor([[1], [0]]).expand(2, N)
    whole = Tuples(images[:4], images[4:], pose, expression, torch.from_numpy(rng.integers(0, 4, N)))

    def tuples(numbers):
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        batch = Tuples(*(t[:, first:last] for t in whole[:4]), whole.identity[first:last])
        made = Made(faces_of(batch))
        editors.update(pose=made, exp=made)
        calls.append(made.calls)
        return batch

    editors, calls = {}, []
    judge = networks.face_judge(JudgeNetRecipe(width=8, downs=2, feature=6), SIZE, LABELS, 0).eval()
    return quality.read_edits(Local(), editors, {"judge": judge, "f_cls": judge}, tuples, N), calls, judge, whole


def test_perfect_edits_are_at_no_distance_and_others_are_not():
    perfect, calls, _, _ = read(lambda batch: [batch.reals[TARGET[k]] for k in range(4)])
    figures = quality.summary(perfect)
    for name, call in quality.EDITS.items():
        assert figures[f"{name}_l1"] == figures[f"{name}_lpips_judge"] == 0
        assert figures[f"{name}_fid_judge"] == pytest.approx(0, abs=1e-6)
        assert figures[f"{name}_l1_of_source"] > 0.1 and figures[f"{name}_lpips_judge_of_source"] > 0
        has, wanted = calls[0][call]
        cell = CALLS[call].cell
        assert (wanted.pose == (2 if cell.startswith("pt") else 0)).all()
        assert (wanted.expression == (0 if cell.endswith("et") else 1)).all()
        before = CELLS[0] if CALLS[call].source < 0 else CALLS[CALLS[call].source].cell
        assert (has.pose == (2 if before.startswith("pt") else 0)).all()
    unedited = quality.summary(read(lambda batch: [batch.reals[0]] * 4)[0])
    for name in quality.EDITS:
        assert unedited[f"{name}_l1"] == pytest.approx(unedited[f"{name}_l1_of_source"])
        assert unedited[f"{name}_fid_judge"] > 1e-6


def test_synthesized_faces_show_their_labels_where_the_judge_reads_them(tmp_path):
    judge = networks.face_judge(JudgeNetRecipe(width=8, downs=2, feature=6), SIZE, LABELS, 0).eval()
    images = generator(0, "faces").integers(0, 256, (150, SIZE, SIZE, 3)).astype(np.uint8)
    faces = transforms.normalise(transforms.to_faces(images, torch.device("cpu")))
    codes = {what: logits.argmax(1).numpy() for what, logits in judge(faces)._asdict().items()}
    codes["expression"][:30] = (codes["expression"][:30] + 1) % len(LABELS.expressions)
    labels = replace(LABELS.take(np.zeros(150, int)), **{k: v.astype(LABELS.codes(k).dtype) for k, v in codes.items()})
    write_cache(images, labels, tmp_path)
    figures = quality.fidelity(Local(), judge, Faces.open(tmp_path, like=LABELS), SIZE)
    assert figures == {"identity": 100, "pose": 100, "expression": 80}


def test_what_is_preserved_is_what_the_readers_read():
    found, _, judge, whole = read(lambda batch: [batch.reals[TARGET[k]] for k in range(4)])
    table, figures = quality.preservation(found, LABELS), quality.summary(found)
    kept = quality.readings(found)
    assert kept.keys() == {f"{name}_{reader}" for name in quality.EDITS for reader in ("judge", "f_cls")}
    for name, call in quality.EDITS.items():
        assert table[name]["edits"] == sum(table[name]["edits_by_pose"].values()) == N
        logits = judge(whole.reals[TARGET[call]])
        pose = 2 if CALLS[call].cell.startswith("pt") else 0
        assert (kept[f"{name}_judge"][:, 1] == (logits.pose.argmax(1) == pose).numpy()).all()
        assert (kept[f"{name}_judge"][:, 0] == (logits.identity.argmax(1) == whole.identity).numpy()).all()
        share = 100 * (logits.pose.argmax(1) == pose).double().mean().item()
        assert table[name]["judge"]["pose"]["all"] == figures[f"{name}_judge_pose"] == pytest.approx(share)
        assert table[name]["judge"]["pose"]["by_pose"] == {LABELS.poses[pose]: pytest.approx(share)}
