"""Faces and their labels by row, as tensors on the device that trains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from compgan_core.data.cache import Faces
from compgan_core.data.labels import Rows

RESIDENT_SHARE = 0.3
"""Of a GPU's free memory, that a whole set of faces may take; 220,000 faces of 72 x 72 are 3.4 GB."""
UPLOAD_ROWS = 8192


class Feed:
    """Reads a set of faces. On a GPU that has room for all of them they are uploaded once, so that a step sends row
    numbers only; otherwise rows are copied out of the memory map, through pinned memory."""

    def __init__(self, faces: Faces, device: torch.device):
        self.device, self._faces = device, faces
        labels = faces.labels
        columns = np.stack([labels.pose, labels.expression, labels.identity]).astype(np.int64)
        self._labels = torch.from_numpy(columns).to(device)
        self._resident: Tensor | None = None
        if device.type == "cuda" and len(labels) * faces.size**2 * 3 < RESIDENT_SHARE * torch.cuda.mem_get_info()[0]:
            self._resident = torch.empty(len(labels), faces.size, faces.size, 3, dtype=torch.uint8, device=device)
            for start in range(0, len(labels), UPLOAD_ROWS):
                rows = np.arange(start, min(start + UPLOAD_ROWS, len(labels)))
                self._resident[start : start + len(rows)] = torch.from_numpy(faces.images(rows)).to(device)

    def images(self, rows: Rows) -> Tensor:
        """uint8 (n, 3, size, size)."""
        if self._resident is None:
            return to_device(self._faces.images(rows), self.device).permute(0, 3, 1, 2)
        return self._resident[to_device(rows, self.device)].permute(0, 3, 1, 2)

    def labels(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Pose, expression and identity, int64 (n,) each."""
        pose, expression, identity = self._labels[:, to_device(rows, self.device)]
        return pose, expression, identity


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device that the host does not wait for."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
