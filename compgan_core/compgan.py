"""Comp-GAN: Algorithm 1, its seven losses, and the two gradients of Eq. (12) and (13).

Both generators stand in one graph, but each minimises its own weighted sum of the same seven losses. So the gradient
of G(Pose) is taken from the lambda sum with respect to the parameters of G(Pose) only, and that of G(Exp) from the mu
sum with respect to those of G(Exp) only: one forward pass, two backward passes to the
inputs, each weight gradient once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compgan_core import losses, transforms
from compgan_core.losses import Weights
from compgan_core.nets.classifier import FaceClassifier, Logits
from compgan_core.training.runtime import trainable
from compgan_core.training.stopwatch import grad

# The four cells of a tuple that belong to the target identity i_t, and the four that the paper writes: a cell is
# (pose, expression), each either of the source ("s") or of the target ("t").
CELLS = ("ps_es", "pt_es", "ps_et", "pt_et")


class Call(NamedTuple):
    """One generator call of Algorithm 1."""

    generator: Literal["pose", "exp"]
    source: int
    """Which earlier call's face is edited; -1 is the source image (it, ps, es)."""
    cell: str
    """What comes out; the reference carries the same pose and expression."""


# Algorithm 1 (and Fig. 7), steps 1 to 4, branches a and b. Column k of a tuple's references belongs to call k.
CALLS = (
    Call("pose", -1, "pt_es"),  # 1a
    Call("exp", -1, "ps_et"),  # 1b
    Call("exp", 0, "pt_et"),  # 2a
    Call("pose", 1, "pt_et"),  # 2b
    Call("pose", 2, "ps_et"),  # 3a
    Call("exp", 3, "pt_es"),  # 3b
    Call("exp", 4, "ps_es"),  # 4a
    Call("pose", 5, "ps_es"),  # 4b
)
TARGET = [CELLS.index(call.cell) for call in CALLS]
POSE_OF_CALL = [int(call.cell.startswith("pt")) for call in CALLS]  # 0: of the source, 1: of the target
EXPRESSION_OF_CALL = [int(call.cell.endswith("et")) for call in CALLS]
CONSTRUCTED = slice(0, 4)  # steps 1 and 2: Eq. (4), (5)
RECONSTRUCTED = slice(4, 8)  # steps 3 and 4: Eq. (8), (9)
LOOP_A, LOOP_B = [0, 4], [5, 1]  # (pt, es) and (ps, et) of branches a and b: Eq. (10)


class Tuples(NamedTuple):
    """A batch for Algorithm 1."""

    reals: Tensor
    """(4, batch, 3, size, size): the cells of the target identity, in the order of `CELLS`; the first is the source."""
    references: Tensor
    """(8, batch, 3, size, size): one reference for each of `CALLS`, all of another identity."""
    pose: Tensor
    """int64 (2, batch): p_s and p_t."""
    expression: Tensor
    """int64 (2, batch): e_s and e_t."""
    identity: Tensor
    """int64 (batch,): i_t."""
    mirrored: Tensor | None = None
    """bool (batch,): whose images are all mirror images, labels as they were; None for no one's."""

    @property
    def tensors(self) -> list[Tensor]:
        """The fields that there are."""
        return [x for x in self if x is not None]

    def unmirrored(self, faces: Tensor) -> Tensor:
        """Faces (n, batch, 3, h, w) of these tuples, as they would be had none been mirrored."""
        return faces if self.mirrored is None else transforms.mirror(faces, self.mirrored)


class CompGAN(nn.Module):
    """G(Pose) and G(Exp), which may be one and the same."""

    def __init__(self, pose: nn.Module, exp: nn.Module):
        super().__init__()
        self.pose, self.exp = pose, exp
        self.recompute = False
        """Whether a call keeps its faces only, and computes its activations again on the way back."""

    @property
    def shared(self) -> bool:
        """Whether one generator does both edits."""
        return self.pose is self.exp

    def forward(self, source: Tensor, references: Tensor) -> Tensor:
        """Algorithm 1. source: (batch, 3, h, w); references: (8, batch, 3, h, w). Returns fakes of the same shape."""
        fakes: list[Tensor] = []
        for call, reference in zip(CALLS, references, strict=True):
            generator = self.pose if call.generator == "pose" else self.exp
            given = source if call.source < 0 else fakes[call.source]
            if self.recompute:
                fakes.append(checkpoint(generator, given, reference, use_reentrant=False, preserve_rng_state=False))
            else:
                fakes.append(generator(given, reference))
        return torch.cat(fakes).unflatten(0, (len(CALLS), -1))  # unlike stack, keeps their memory format


def generator_terms(
    fakes: Tensor,
    batch: Tuples,
    classifier: FaceClassifier,
    adversarial: Tensor,
    gamma1: float = 1.0,
    gamma2: float = 0.1,
    blur: bool = False,
) -> dict[str, Tensor]:
    """The seven losses of one batch of fakes (8, batch, 3, h, w), by the names of `losses.TERMS`.

    classifier: F_cls, frozen (its parameters get no gradient from these losses). adversarial: that term, from
    `against_discriminator`. blur: F_cls looks at `soften`ed faces.
    """

    def view(faces: Tensor) -> Tensor:
        faces = batch.unmirrored(faces)  # F_cls may never have seen a mirrored pose, and the labels are not of it
        return soften(faces) if blur else faces.contiguous()

    maps, logits = _unstacked(classifier, view(fakes))
    with torch.no_grad():
        real_maps, _ = _unstacked(classifier, view(batch.reals))

    def against_truth(calls: slice) -> Tensor:
        truth = TARGET[calls]
        real = _rows(batch.reals, truth), [_rows(m, truth) for m in real_maps]
        return losses.construction_loss(fakes[calls], real[0], [m[calls] for m in maps], real[1], gamma1, gamma2)

    return {
        "exp": losses.prediction_loss(logits.expression, _rows(batch.expression, EXPRESSION_OF_CALL)),
        "pose": losses.prediction_loss(logits.pose, _rows(batch.pose, POSE_OF_CALL)),
        "id": losses.prediction_loss(logits.identity, batch.identity.expand(len(CALLS), -1)),
        "con": against_truth(CONSTRUCTED),
        "recon": against_truth(RECONSTRUCTED),
        "loop": losses.loop_loss(_rows(fakes, LOOP_A), _rows(fakes, LOOP_B)),
        "adv": adversarial,
    }


def generator_gradients(
    terms: dict[str, Tensor],
    gan: CompGAN,
    lambda_: Weights,
    mu: Weights,
    classifier: float | Tensor = 1.0,
    adversarial: float | Tensor = 1.0,
) -> tuple[list[Tensor], list[Tensor]]:
    """Eq. (12) with respect to G(Pose) and Eq. (13) with respect to G(Exp): (pose gradients, exp gradients).

    A shared generator gets the gradient of their mean, as the former.
    """
    loss_pose = losses.weighted_sum(terms, lambda_, classifier, adversarial)
    loss_exp = losses.weighted_sum(terms, mu, classifier, adversarial)
    if gan.shared:
        return list(grad((loss_pose + loss_exp) / 2, trainable(gan.pose))), []
    pose = grad(loss_pose, trainable(gan.pose), retain_graph=True)
    exp = grad(loss_exp, trainable(gan.exp))
    return list(pose), list(exp)


class Against(NamedTuple):
    """What one pass of D over real and generated faces gives."""

    term: Tensor
    """Eq. (11) for the generators; its derivative by the faces is known, so using it twice costs D nothing."""
    loss: Tensor
    """Eq. (11) for D, detached."""
    gradients: list[Tensor]
    """Of that, by D's parameters, fakes detached."""
    real: Tensor
    """D(real), the mean chance of being real that D gives real faces; detached."""
    fake: Tensor
    """D(fake)."""


def against_discriminator(
    fakes: Tensor,
    batch: Tuples,
    discriminator: nn.Module,
    autocast: AbstractContextManager[object] | None = None,
) -> Against:
    """Both sides of Eq. (11). Real faces are the four cells of the target identity. autocast: around the pass of D."""
    seen = fakes.detach().requires_grad_()
    with autocast or nullcontext():
        logits = discriminator(torch.cat([batch.reals.flatten(0, 1), seen.flatten(0, 1)]))
    real, fake = logits.split([4 * fakes.shape[1], len(CALLS) * fakes.shape[1]])
    term = losses.generator_adversarial_loss(fake.view(len(CALLS), -1))
    loss = losses.discriminator_loss(real, fake)
    (slope,) = grad(term, seen, retain_graph=True)
    gradients = grad(loss, trainable(discriminator))
    real, fake = (x.detach().float().sigmoid().mean() for x in (real, fake))
    return Against(_Known.apply(fakes, term.detach(), slope), loss.detach(), list(gradients), real, fake)


class _Known(torch.autograd.Function):
    """A value whose derivative by `x` has been computed already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return outputs[0] * slope, None, None


def soften(faces: Tensor) -> Tensor:
    """Faces (..., h, w) under the binomial filter [1 2 1] / 4 in both directions.

    It passes nothing of the two-pixel patterns that transposed convolutions make most easily and that fool F_cls best.
    """
    padded = F.pad(faces.flatten(0, -4), (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return ((rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16).view_as(faces)


def _rows(x: Tensor, rows: list[int]) -> Tensor:
    """x[rows], without a list of row numbers that would have to reach the device, and in x's memory format."""
    return torch.cat([x[row] for row in rows]).unflatten(0, (len(rows), -1))


def _unstacked(classifier: FaceClassifier, faces: Tensor) -> tuple[list[Tensor], Logits]:
    """`maps_and_logits` of stacked faces (n, batch, 3, h, w), with the stack's two axes put back."""
    n = faces.shape[0]
    maps, logits = classifier.maps_and_logits(faces.flatten(0, 1))
    split = [m.unflatten(0, (n, -1)) for m in maps]
    return split, Logits(*(x.unflatten(0, (n, -1)) for x in logits))
