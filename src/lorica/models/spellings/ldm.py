"""The LDM (SGM) spelling of a Stable Diffusion UNet: module names in the original checkpoints.

Original checkpoints number all blocks of a half in one sequence: a resnet and its attention are ``input_blocks.4.0``
and ``input_blocks.4.1``. Kohya's scripts write files for Stable Diffusion XL in these names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from lorica.models.folding import Shape
from lorica.models.spellings.part import Part, Table
from lorica.models.spellings.rules import clash

_MARKS = ("down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in")
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_IN_MIDDLE = re.compile(r"mid_block\.(?P<place>(?P<kind>resnets|attentions)\.\d+)\.(?P<inner>.+)")
_IN_LEVEL = re.compile(
    r"(?P<half>down|up)_blocks\.(?P<level>\d+)\.(?P<kind>resnets|attentions)\.(?P<index>\d+)\.(?P<inner>.+)"
)
_BETWEEN = re.compile(r"(?P<half>down|up)_blocks\.(?P<level>\d+)\.(down|up)samplers\.0\.conv")


class LDM:
    """The names in the original checkpoints of Stable Diffusion."""

    kind, name = "unet", "ldm"

    def fits(self, paths: Collection[str]) -> bool:
        """Whether the component is a UNet like Stable Diffusion's."""
        return all(mark in paths for mark in _MARKS)

    def table(self, shapes: Mapping[str, Shape]) -> Table:
        """Every foreign path with the one module that it stands for."""
        table: Table = {}
        for path, foreign in original_names(shapes.keys()).items():
            if table.setdefault(foreign, (Part(path),)) != (Part(path),):
                raise clash(foreign, table[foreign], (Part(path),))
        return table


def original_names(paths: Collection[str]) -> dict[str, str]:
    """Map the diffusers paths of a UNet's modules to their original names; paths of other models give nothing."""
    resnets = len({path.split(".")[3] for path in paths if path.startswith("down_blocks.0.resnets.")})
    if not resnets:
        return {}
    attended = {path.split(".")[1] for path in paths if path.startswith("up_blocks.") and ".attentions." in path}
    names = {
        path: _SINGLE.get(path) or _middle(path) or _level(path, resnets) or _between(path, resnets, attended)
        for path in paths
    }
    return {path: name for path, name in names.items() if name}


def _middle(path: str) -> str | None:
    match = _IN_MIDDLE.fullmatch(path)
    if not match or match["place"] not in _MIDDLE:
        return None
    inner = _inner(match["kind"], match["inner"])
    return inner and f"middle_block.{_MIDDLE[match['place']]}.{inner}"


def _level(path: str, resnets: int) -> str | None:
    """Original name of a module in a resnet or attention of a down block or up block."""
    match = _IN_LEVEL.fullmatch(path)
    inner = match and _inner(match["kind"], match["inner"])
    if not match or not inner:
        return None
    row = int(match["level"]) * (resnets + 1) + int(match["index"])
    block = f"input_blocks.{row + 1}" if match["half"] == "down" else f"output_blocks.{row}"
    return f"{block}.{'0' if match['kind'] == 'resnets' else '1'}.{inner}"


def _between(path: str, resnets: int, attended: Collection[str]) -> str | None:
    """Original name of a down- or upsampler, which comes after the attention where its block has one."""
    match = _BETWEEN.fullmatch(path)
    if not match:
        return None
    start = int(match["level"]) * (resnets + 1)
    if match["half"] == "down":
        return f"input_blocks.{start + resnets + 1}.0.op"
    return f"output_blocks.{start + resnets}.{2 if match['level'] in attended else 1}.conv"


def _inner(kind: str, inner: str) -> str | None:
    return _IN_RESNET.get(inner) if kind == "resnets" else inner
