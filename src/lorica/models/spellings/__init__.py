"""Other programs' names for a model's modules, made from the model's own paths and looked up: never parsed."""

from __future__ import annotations

from collections.abc import Mapping

from lorica.models.folding import Shape
from lorica.models.spellings.ldm import LDM
from lorica.models.spellings.part import Part, Spelling, Table
from lorica.models.spellings.rules import Rules, clash

_FILES = (
    "flux.bfl", "sd3.native", "auraflow.native", "lumina2.native", "z_image.native", "pixart.native", "sana.native",
    "stable_cascade_prior.native", "stable_cascade_prior.comfy", "stable_cascade_decoder.native",
    "stable_cascade_decoder.comfy",
    "wan.native", "hunyuan_video.native", "ltx_video.native", "cogvideox.native",
)  # fmt: skip
SPELLINGS: dict[str, Spelling] = {"unet.ldm": LDM(), **{file: Rules(file) for file in _FILES}}


def spellings_of(shapes: Mapping[str, Shape]) -> dict[str, Spelling]:
    """Spellings of the modules of one component, by name; most components have one or none."""
    return {spelling.name: spelling for spelling in SPELLINGS.values() if spelling.fits(shapes)}


def foreign_names(shapes: Mapping[str, Shape]) -> Table:
    """Every foreign path that any spelling has for the modules of one component, with its parts.

    Raises:
        FormatError: if a foreign path stands for two modules, or is the component's own path of another, naming both.
    """
    table: Table = {}
    for spelling in spellings_of(shapes).values():
        for foreign, parts in spelling.table(shapes).items():
            if table.setdefault(foreign, parts) != parts:
                raise clash(foreign, table[foreign], parts)
            if foreign in shapes and parts != (Part(foreign),):
                raise clash(foreign, (Part(foreign),), parts)
    return table


__all__ = ["SPELLINGS", "Part", "Spelling", "Table", "foreign_names", "spellings_of"]
