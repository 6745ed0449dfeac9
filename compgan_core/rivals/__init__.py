"""The generators that the paper compares Comp-GAN with, behind one interface (`base`).

AttGAN [52], CycleGAN [49], Pix2Pix [48] and VAE/GAN [50], after their authors' code.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from compgan_core.rivals.attgan import AttGAN, AttGANRecipe
from compgan_core.rivals.base import Domain, Rival
from compgan_core.rivals.cyclegan import CycleGAN, CycleGANRecipe
from compgan_core.rivals.pix2pix import Pix2Pix, Pix2PixRecipe
from compgan_core.rivals.vaegan import VAEGAN, VAEGANRecipe

RivalRecipe = Annotated[AttGANRecipe | CycleGANRecipe | Pix2PixRecipe | VAEGANRecipe, Field(discriminator="name")]

RIVALS: dict[type, Any] = {
    AttGANRecipe: AttGAN,
    CycleGANRecipe: CycleGAN,
    Pix2PixRecipe: Pix2Pix,
    VAEGANRecipe: VAEGAN,
}


def make_rival(recipe: RivalRecipe, domain: Domain, seed: int) -> Rival:
    """The rival of a recipe, its first weights drawn by seed."""
    return RIVALS[type(recipe)](recipe, domain, seed)
