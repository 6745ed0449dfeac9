"""What a training step is fed with: rows as tensors, from the memory map or resident on a GPU, and graphs of a step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_faces import DRAWN

from compgan_core.data.cache import Faces, decode_part, finish_cache
from compgan_core.data.tuples import Ahead, TupleSampler
from compgan_core.training.feed import Feed
from compgan_core.training.gan import tuples_of
from compgan_core.training.graphed import graphed
from compgan_core.training.loop import Update

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    drawn = [*DRAWN()]
    finish_cache(tmp_path, 16, [decode_part(iter(drawn), len(drawn), 16, tmp_path / "0.arrow")])
    return Faces.open(tmp_path)


@pytest.mark.parametrize("device", DEVICES)
def test_a_feed_gives_the_images_and_labels_of_the_rows_in_their_order(faces: Faces, device: str) -> None:
    rows = np.array([5, 0, 35, 5])
    feed = Feed(faces, torch.device(device))
    expected = torch.from_numpy(np.ascontiguousarray(faces.images(rows))).permute(0, 3, 1, 2)
    assert torch.equal(feed.images(rows).cpu(), expected)
    assert len({image.numpy().tobytes() for image in expected}) == 3
    labels = faces.labels
    for found, column in zip(feed.labels(rows), (labels.pose, labels.expression, labels.identity), strict=True):
        assert found.tolist() == column[rows].tolist() and found.dtype == torch.int64


@pytest.mark.parametrize(("first", "n"), [(0, 3), (5, 4), (13, 8), (2, 20)])
def test_asking_ahead_gives_the_same_samples_in_any_order(first: int, n: int) -> None:
    def batch(start: int, n: int) -> np.ndarray:
        return np.arange(start, start + n)[:, None] * 100 + np.arange(12)

    ahead = Ahead(batch, samples=8)
    for start, count in [(0, 2), (first, n), (1, 2), (first + n, 1)]:
        assert np.array_equal(ahead.batch(start, count), batch(start, count))


def test_of_a_mirrored_tuple_all_images_are_mirrored_and_labels_stay_whoever_holds_it(faces: Faces) -> None:
    sampler = TupleSampler(faces.labels, np.arange(len(faces)), 0)
    plain, half = (tuples_of(faces, sampler, 16, 0, torch.device("cpu"), mirror) for mirror in (0.0, 0.5))
    straight, mixed, numbers = plain(np.arange(64)), half(np.arange(64)), np.arange(20, 50)
    assert straight.mirrored is None and mixed.mirrored is not None
    assert 16 < int(mixed.mirrored.sum()) < 48
    assert torch.equal(mixed.pose, straight.pose) and torch.equal(mixed.expression, straight.expression)
    for found, was in ((mixed.reals, straight.reals), (mixed.references, straight.references)):
        assert torch.equal(found, torch.where(mixed.mirrored[:, None, None, None], was.flip(-1), was))
    part = half(numbers)
    assert part.mirrored is not None and torch.equal(part.mirrored, mixed.mirrored[20:50])
    assert torch.equal(part.references, mixed.references[:, 20:50])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_recorded_step_follows_its_inputs_and_weights() -> None:
    weight = torch.ones(3, device="cuda")
    compute = graphed(lambda x: Update({"sum": (weight * x).sum()}, {"x": [weight * 2]}), weight.device)
    for scale, x in [(1.0, 1.0), (1.0, 4.0), (3.0, 4.0)]:
        weight.fill_(scale)
        update = compute(torch.full((3,), x, device="cuda"))
        assert update.metrics["sum"].item() == 3 * scale * x and update.gradients["x"][0].tolist() == [2 * scale] * 3


def test_on_a_cpu_a_step_is_called_as_it_is() -> None:
    def compute(x: torch.Tensor) -> Update:
        return Update({"sum": x.sum()}, {})

    assert graphed(compute, torch.device("cpu")) is compute
