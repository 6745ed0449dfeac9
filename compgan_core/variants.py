"""The rows of the table, as data: Table 5, and the controls without which a gain means nothing."""

from __future__ import annotations

from typing import NamedTuple

from compgan_core.data.labels import Attribute
from compgan_core.views import ViewKind

REAL = "real"
"""Held-back real images, in place of a kind."""


class Kind(NamedTuple):
    """A kind of faces that a training set can be enlarged by."""

    title: str
    maker: str | None
    """The stage whose networks make them; None where no network is needed."""
    edits: Attribute | None
    """What the made face has of its reference, and not of its source."""
    like: str = ""
    """The kind whose sources and references are edited, where they are not its own."""


RIVALS = {"attgan": "AttGAN", "cyclegan": "CycleGAN", "pix2pix": "Pix2Pix", "vaegan": "VAE/GAN"}
"""Makers that the paper compares Comp-GAN with: names in the recipe -> titles."""

KINDS = {
    "pose": Kind("G(Pose)", "compgan", "pose"),
    "exp": Kind("G(Exp)", "compgan", "expression"),
    **{f"{rival}-pose": Kind(f"{title}, poses", rival, "pose", "pose") for rival, title in RIVALS.items()},
    **{f"{rival}-exp": Kind(f"{title}, expressions", rival, "expression", "exp") for rival, title in RIVALS.items()},
    "degraded": Kind("degraded copies", None, None),
    "mirrored": Kind("mirrored faces", None, "pose"),
}


class Variant(NamedTuple):
    """One row of the table."""

    title: str
    added: tuple[str, ...]
    """Of `KINDS`, or REAL."""
    view: ViewKind = "plain"


VARIANTS = {
    "plain": Variant("L.", ()),
    "degraded": Variant("L. + degraded copies (control)", ("degraded",)),
    "mirrored": Variant("L. + mirrored faces (control)", ("mirrored",)),
    "pose": Variant("L. + G(Pose)", ("pose",)),
    "front": Variant("L. + G(Pose) + Front", ("pose",), "front"),
    "combine": Variant("L. + G(Pose) + Combine", ("pose",), "combined"),
    "exp": Variant("L. + G(Exp)", ("exp",)),
    "both": Variant("L. + G(Pose) + G(Exp)", ("pose", "exp")),
    "compgan": Variant("Comp-GAN", ("pose", "exp"), "combined"),
    "oracle": Variant("L. + real images (oracle)", (REAL,)),
}
VARIANTS |= {name: Variant(f"L. + {title}", (f"{name}-pose", f"{name}-exp")) for name, title in RIVALS.items()}
TABLE_4 = ("plain", "cyclegan", "pix2pix", "vaegan", "attgan", "compgan")
TABLE_5 = ("plain", "pose", "front", "combine", "exp", "both", "compgan")
