"""Every foreign name against diffusers' own conversion of whole checkpoints, row by row, at the published sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle
from torch import Tensor

from lorica.models import FAMILIES
from lorica.models.spellings import Table

Convert = Callable[..., dict[str, Tensor]]
# Family, component, diffusers' function, and keys that it takes away without looking.
ORACLES: list[tuple[str, str, Convert, tuple[str, ...]]] = [
    ("flux_dev", "transformer", oracle.convert_flux_transformer_checkpoint_to_diffusers, ()),
    ("sd35_medium", "transformer", oracle.convert_sd3_transformer_checkpoint_to_diffusers, ("pos_embed",)),
    ("sd35_large", "transformer", oracle.convert_sd3_transformer_checkpoint_to_diffusers, ("pos_embed",)),
    (
        "auraflow",
        "transformer",
        oracle.convert_auraflow_transformer_checkpoint_to_diffusers,
        ("positional_encoding", "register_tokens"),
    ),
    ("lumina2", "transformer", oracle.convert_lumina2_to_diffusers, ("norm_final.weight",)),
    ("z_image", "transformer", oracle.convert_z_image_transformer_checkpoint_to_diffusers, ("norm_final.weight",)),
    (
        "sana_1600m",
        "transformer",
        oracle.convert_sana_transformer_to_diffusers,
        (
            "pos_embed",
            "y_embedder.y_embedding",
            "final_layer.scale_shift_table",
            *(f"blocks.{number}.scale_shift_table" for number in range(20)),
        ),
    ),
    ("stable_cascade", "prior", oracle.convert_stable_cascade_unet_single_file_to_diffusers, ()),
    ("stable_cascade", "decoder", oracle.convert_stable_cascade_unet_single_file_to_diffusers, ()),
    ("wan21_i2v_14b", "transformer", oracle.convert_wan_transformer_to_diffusers, ()),
    ("hunyuan_video", "transformer", oracle.convert_hunyuan_video_transformer_to_diffusers, ()),
    ("ltx_video_2b", "transformer", oracle.convert_ltx_transformer_checkpoint_to_diffusers, ()),
]
CASES = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in ORACLES]
SCALES = ("query_norm", "key_norm")  # whose weight is called scale


@pytest.mark.parametrize(("family", "component", "convert", "extras"), CASES)
def test_diffusers_turns_every_foreign_row_back_into_its_own(
    family: str, component: str, convert: Convert, extras: tuple[str, ...]
) -> None:
    shapes = FAMILIES[family].target.components[component]
    table = next(iter(FAMILIES[family].spellings[component].values())).table(shapes)
    own = marked_rows({path: shape[0] for path, shape in shapes.items()})
    converted = convert({**checkpoint(table, own), **{key: torch.zeros(1) for key in extras}})
    for path, rows in own.items():
        found: Any = converted.get(f"{path}.weight")
        assert found is not None, path
        assert torch.equal(found, rows), path


def marked_rows(counts: dict[str, int]) -> dict[str, Tensor]:
    """Rows whose numbers occur nowhere else: the place in the model of each row of each module."""
    start, rows = 0, dict[str, Tensor]()
    for path, count in counts.items():
        rows[path] = torch.arange(start, start + count)
        start += count
    return rows


def checkpoint(table: Table, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The foreign weights, and the same numbers as their biases."""
    tensors: dict[str, Tensor] = {}
    for foreign, parts in table.items():
        pieces = [own[part.path][slice(*part.own_rows or (None,))] for part in parts]
        weight = torch.cat(pieces)
        if foreign.endswith("attn.in_proj"):
            tensors[f"{foreign}_weight"] = weight
        elif foreign.endswith(SCALES) and ".norm." in foreign:
            tensors[f"{foreign}.scale"] = weight
        else:
            tensors[f"{foreign}.weight"], tensors[f"{foreign}.bias"] = weight, weight.clone()
    return tensors
