"""The losses of Sec. 4.3 as pure functions, and their two weighted sums, Eq. (12) and (13).

Norms are means over pixels (as in pix2pix and AttGAN); the sums over generated faces that the paper writes are sums.
Faces and maps come stacked: the first axis of `fakes` is the generator call of Algorithm 1, in the order of
`compgan.CALLS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

TERMS = ("exp", "pose", "id", "con", "recon", "loop", "adv")
"""The seven losses by the subscripts of Eq. (12) and (13)."""

CLASSIFIER_TERMS = ("exp", "pose", "id")


class Weights(BaseModel):
    """The weights of one generator's loss; 0 switches a term off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exp: float
    pose: float
    id: float
    con: float
    recon: float
    loop: float
    adv: float


LAMBDA = Weights(exp=20, pose=20, id=10, con=30, recon=15, loop=10, adv=1)
"""Eq. (12), G(Pose), Sec. 5.2."""
MU = Weights(exp=30, pose=10, id=15, con=40, recon=15, loop=10, adv=1)
"""Eq. (13), G(Exp), Sec. 5.2."""


def prediction_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. (1), (2) and (3): cross-entropy of F_cls, summed over the eight generated faces, mean over the batch.

    logits: (8, batch, classes); labels: int64 (8, batch), negative where the class is unknown.
    """
    known = labels >= 0
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.clamp(min=0).flatten(), reduction="none")
    return (loss.view_as(labels) * known).sum() / labels.shape[1]


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Eq. (4), (8) and (10): mean absolute difference of each pair of stacks (n, batch, ...), summed over n."""
    return (a.float() - b.float()).abs().mean() * a.shape[0]


def perceptual_loss(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Eq. (5) and (9): `l1` summed over the four pooled maps of F_cls; each map (n, batch, c, h, w)."""
    return torch.stack([l1(a, b) for a, b in zip(maps, targets, strict=True)]).sum()


def construction_loss(
    fakes: Tensor, reals: Tensor, maps: Sequence[Tensor], real_maps: Sequence[Tensor], gamma1: float, gamma2: float
) -> Tensor:
    """Eq. (6), and Eq. (7) on the faces of the last two steps: gamma1 * pixels + gamma2 * perceptual.

    fakes, reals: (4, batch, 3, h, w). Row 2 of Eq. (5) is read as (it, pt, et), as in Eq. (4).
    """
    return gamma1 * l1(fakes, reals) + gamma2 * perceptual_loss(maps, real_maps)


def loop_loss(branch_a: Tensor, branch_b: Tensor) -> Tensor:
    """Eq. (10): both branches' faces of the same cell, (2, batch, 3, h, w) each, (pt, es) and (ps, et)."""
    return l1(branch_a, branch_b)


def generator_adversarial_loss(fake_logits: Tensor) -> Tensor:
    """Eq. (11) for the generators, non-saturating: -log D(fake), summed over the faces, mean over the batch.

    fake_logits: (8, batch).
    """
    return F.softplus(-fake_logits.float()).mean() * fake_logits.shape[0]


def real_loss(logits: Tensor) -> Tensor:
    """-log D, mean over logits of any shape: how little a discriminator takes these for real."""
    return F.softplus(-logits.float()).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Eq. (11) for D: -log D(real) - log(1 - D(fake)), means over all faces of any shape."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def weighted_sum(
    terms: Mapping[str, Tensor], weights: Weights, classifier: float | Tensor, adversarial: float | Tensor
) -> Tensor:
    """Eq. (12) or (13). classifier, adversarial: present multipliers of those two groups of terms (see `compgan`).

    A term whose weight or multiplier is the number 0 is left out; a multiplier that is a tensor is never looked at.
    """
    total = terms["con"].new_zeros(())
    for name in TERMS:
        group = classifier if name in CLASSIFIER_TERMS else adversarial if name == "adv" else 1.0
        weight = getattr(weights, name)
        if weight and (isinstance(group, Tensor) or group):
            total = total + weight * group * terms[name]
    return total
