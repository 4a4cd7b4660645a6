from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from lorica.models import FAMILIES
from lorica.models.generate import shapes_of
from lorica.models.spellings.ldm import original_names
from tiny_models import sdxl


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_diffusers_turns_every_original_name_back_into_its_path(name: str) -> None:
    paths = list(FAMILIES[name].target.components["unet"])
    names = original_names(paths)
    assert list(names) == paths
    checkpoint = {
        f"model.diffusion_model.{original}.{leaf}": torch.tensor(place)
        for place, original in enumerate(names.values())
        for leaf in ("weight", "bias")
    }
    with torch.device("meta"):
        config = dict(UNet2DConditionModel(**FAMILIES[name].published.networks["unet"].config).config)
    converted = convert_ldm_unet_checkpoint(checkpoint, config)
    found = {key.removesuffix(".weight"): int(place) for key, place in converted.items() if key.endswith(".weight")}
    assert found == {path: place for place, path in enumerate(paths)}


def test_a_smaller_unet_has_names_of_its_own_depth() -> None:
    names = original_names(list(shapes_of(sdxl()[0])))
    assert (
        names["down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"]
        == "input_blocks.4.1.transformer_blocks.1.attn2.to_k"
    )
    assert names["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.2.conv"
    assert names["add_embedding.linear_2"] == "label_emb.0.2"


def test_other_models_have_none() -> None:
    assert original_names(["transformer_blocks.0.attn.to_q", "proj_out", "conv_in"]) == {}
    strange = [
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.resnets.0.odd",
        "mid_block.resnets.2.conv1",
        "down_blocks.0.x",
    ]
    assert list(original_names(strange)) == strange[:1]
    assert original_names(list(FAMILIES["sd1"].target.components["text_encoder"])) == {}


def test_an_upsampler_stands_behind_the_attention_if_its_block_has_one() -> None:
    sd1 = original_names(FAMILIES["sd1"].target.components["unet"])
    assert sd1["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.1.conv"
    assert sd1["up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
