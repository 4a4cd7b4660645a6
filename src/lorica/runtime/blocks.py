"""Lists of strengths, one number for each block of a model.

A UNet takes the lists of A1111's LoRA-block-weight: 17 or 26 numbers for SD 1.x and 2.x, 12 or 20 for SDXL. The first
is for the text encoders, the rest for the input blocks, the middle and the output blocks. The short lists name the
blocks with attention; the other blocks are then off, as there. Layers in no block (time embedding, last convolution)
stay at 1.

A transformer takes one number for each block of a kind, by the block's index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lorica.errors import ConfigError

LAYERS = 2  # resnets of a down block of every UNet that these lists are for; an up block has one more
_UNET_LAYER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|motion_modules|\w*samplers)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class BlockList:
    """What the numbers of a list stand for.

    Args:
        family: whose UNet it fits, for messages.
        levels: how many down blocks, and up blocks, that UNet has.
        inputs: the input blocks that the list names, by their number in the original layout.
        outputs: the output blocks that it names.
    """

    family: str
    levels: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


LAYOUTS: dict[int, BlockList] = {
    12: BlockList("SDXL", 3, (4, 5, 7, 8), tuple(range(6))),
    17: BlockList("SD 1.x and 2.x", 4, (1, 2, 4, 5, 7, 8), tuple(range(3, 12))),
    20: BlockList("SDXL", 3, tuple(range(9)), tuple(range(9))),
    26: BlockList("SD 1.x and 2.x", 4, tuple(range(12)), tuple(range(12))),
}

# Layers that only one of the two has: a list for the other would be applied to the wrong blocks.
_ONLY_IN: Mapping[int, tuple[str, ...]] = {
    3: ("up_blocks.0.attentions.",),
    4: ("down_blocks.3.", "up_blocks.3.", "down_blocks.0.attentions."),
}


def is_block_weights(values: object) -> bool:
    """Whether a value has the length of a LoRA-block-weight list."""
    return isinstance(values, (list, tuple)) and len(values) in LAYOUTS


def by_unet_block(values: Sequence[float], paths: Iterable[str]) -> dict[str, float]:
    """Return the strength of each layer of a UNet from a list of 12, 17, 20 or 26 numbers.

    Raises:
        ConfigError: if the list is for the UNet of another family.
    """
    layout, known = LAYOUTS[len(values)], list(paths)
    for levels, marks in _ONLY_IN.items():
        found = next((path for path in known if path.startswith(marks)), None)
        if found is not None and levels != layout.levels:
            raise ConfigError(
                f"a list of {len(values)} block weights is for {layout.family}, but the adapter has {found}, which "
                f"only {next(other.family for other in LAYOUTS.values() if other.levels == levels)} has: give it "
                f"{' or '.join(str(size) for size, other in LAYOUTS.items() if other.levels == levels)} numbers."
            )
    numbers = iter(values[1:])
    inputs = dict(zip(layout.inputs, numbers, strict=False))
    middle = next(numbers)
    outputs = dict(zip(layout.outputs, numbers, strict=False))
    return {path: _in_unet(path, inputs, middle, outputs) for path in known}


def _in_unet(path: str, inputs: Mapping[int, float], middle: float, outputs: Mapping[int, float]) -> float:
    if path.startswith("mid_block."):
        return middle
    if path == "conv_in":
        return inputs.get(0, 0.0)
    found = _UNET_LAYER.match(path + ".")
    if found is None:
        return 1.0
    side, level, kind, index = found[1], int(found[2]), found[3], int(found[4])
    if side == "down_blocks":  # 0 is conv_in; after the layers of a level comes its downsampler
        place = LAYERS if kind.endswith("samplers") else index
        return inputs.get(level * (LAYERS + 1) + place + 1, 0.0)
    place = LAYERS if kind.endswith("samplers") else index  # an upsampler is part of the level's last block
    return outputs.get(level * (LAYERS + 1) + place, 0.0)


def by_index(values: Sequence[float], prefix: str, paths: Iterable[str]) -> dict[str, float] | None:
    """Return the strength of each layer below numbered blocks (``transformer_blocks.7...``), or None if there are none.

    Raises:
        ConfigError: if the list is shorter than the blocks are many.
    """
    head = f"{prefix}." if prefix else ""
    indices = {path: path.removeprefix(head).split(".")[0] for path in paths}
    if not indices or not all(index.isdigit() for index in indices.values()):
        return None
    needed = max(int(index) for index in indices.values()) + 1
    if len(values) < needed:
        raise ConfigError(
            f"expected one strength for each block of {prefix!r}, at least {needed}, got {len(values)}: {values}."
        )
    return {path: values[int(index)] for path, index in indices.items()}
