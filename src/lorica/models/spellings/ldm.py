"""The LDM (SGM) spelling of a Stable Diffusion UNet, whose numbers run over all blocks of a half."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lorica.models.original import original_names
from lorica.models.spellings.part import Part, Shape, Table
from lorica.models.spellings.rules import clash

_MARKS = ("down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in")


class LDM:
    """The names in the original checkpoints of Stable Diffusion: :mod:`lorica.models.original`."""

    kind, name = "unet", "ldm"

    def fits(self, paths: Collection[str]) -> bool:
        """Tell whether the component is a UNet like Stable Diffusion's."""
        return all(mark in paths for mark in _MARKS)

    def table(self, shapes: Mapping[str, Shape]) -> Table:
        """Map every foreign path to the one module it stands for."""
        table: Table = {}
        for path, foreign in original_names(shapes.keys()).items():
            if table.setdefault(foreign, (Part(path),)) != (Part(path),):
                raise clash(foreign, table[foreign], (Part(path),))
        return table
