"""From stored bytes to network input and back, on the device, keyed by global sample number."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compgan_core.randomness import uniform


def to_faces(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (n, size, size, 3) -> uint8 (n, 3, size, size) on the device."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2)


def normalise(faces: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return faces.float() / 127.5 - 1


def to_bytes(faces: Tensor) -> np.ndarray:
    """float (n, 3, size, size) in [-1, 1] -> uint8 (n, size, size, 3)."""
    rounded = ((faces.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def crop_at(faces: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Each face (n, c, h, w) cropped to size x size at its own offset, int64 (n, 2): row and column."""
    span = torch.arange(size, device=faces.device)
    rows = (offsets[:, 0, None] + span)[:, None, :, None]
    columns = (offsets[:, 1, None] + span)[:, None, None, :]
    n = torch.arange(faces.shape[0], device=faces.device)[:, None, None, None]
    channels = torch.arange(faces.shape[1], device=faces.device)[None, :, None, None]
    return faces[n, channels, rows, columns]


def random_crop(faces: Tensor, size: int, seed: int, samples: Tensor) -> Tensor:
    """Crop offsets keyed by the samples' global numbers, int64 (n,) (Sec. 5.2: 144 x 144 to 128 x 128)."""
    room = faces.shape[-1] - size + 1
    offsets = (uniform(seed, "crop", samples, 2) * room).long()
    return crop_at(faces, offsets, size)


def centre_crop(faces: Tensor, size: int) -> Tensor:
    """The middle size x size of (n, c, h, w)."""
    top, left = (faces.shape[-2] - size) // 2, (faces.shape[-1] - size) // 2
    return faces[..., top : top + size, left : left + size]


def mirror(faces: Tensor, which: Tensor) -> Tensor:
    """Left and right exchanged in those faces (..., n, c, h, w) that `which`, bool (n,), says."""
    return torch.where(which[:, None, None, None], faces.flip(-1), faces)


def dropout_mask(seed: int, samples: Tensor, n: int, rate: float) -> Tensor | None:
    """Zeros and 1/(1 - rate), (batch, n); None for rate 0."""
    if rate == 0:
        return None
    return (uniform(seed, "dropout", samples, n) >= rate).float() / (1 - rate)


def degrade(faces: Tensor, seed: int, samples: Tensor) -> Tensor:
    """Shifts, blur, noise, colour and contrast changes of faces (n, 3, h, w) in [-1, 1], keyed by sample number.

    Used to make the judge robust, and as the control that sets copies of the shots beside synthesized faces.
    """
    u = uniform(seed, "degrade", samples, 12)
    n, _, height, width = faces.shape
    scale = 1 + (u[:, 0] - 0.5) * 0.12
    shift = (u[:, 1:3] - 0.5) * 0.12
    theta = torch.zeros(n, 2, 3, device=faces.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [n, 3, height, width], align_corners=False)
    faces = F.grid_sample(faces, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(faces, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = (u[:, 3] * 1.5 - 0.5).clamp(0, 1).view(n, 1, 1, 1)  # a third stay sharp
    faces = faces + amount * (blurred - faces)
    gain = 1 + (u[:, 4:7] - 0.5).view(n, 3, 1, 1) * 0.3
    bias = (u[:, 7:10] - 0.5).view(n, 3, 1, 1) * 0.3
    sigma = (u[:, 10] * 0.2 - 0.05).clamp(min=0).view(n, 1, 1, 1)
    noise = uniform(seed, "noise", samples, 3 * height * width).view(n, 3, height, width)
    noise = (noise - 0.5) * 3.4641  # a uniform variable of unit variance
    return (faces * gain + bias + sigma * noise).clamp(-1, 1)
