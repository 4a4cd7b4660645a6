from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lorica
from formats_fixtures import describe, filled
from lorica.adapters import Adapter, LoRA
from lorica.errors import FormatError
from lorica.models import FAMILIES, Target

TE = "text_model.encoder.layers.0.mlp.fc1"


def lora(out: int, width: int, alpha: float | None = None) -> LoRA:
    return LoRA(torch.randn(3, width), torch.randn(out, 3), alpha)


def test_the_names_are_those_that_other_tools_read(tmp_path: Path) -> None:
    layers = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0": lora(1280, 1280, 1.5)}
    bare = {"encoder.layers.0.mlp.fc1": lora(3072, 768)}
    file = lorica.write(Adapter({"unet": layers, "text_encoder": bare}), tmp_path, format="kohya")
    unet, text = (
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    )
    tensors = load_file(file)
    assert set(tensors) == {
        f"{flat}.{leaf}" for flat in (unet, text) for leaf in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert tensors[f"{unet}.alpha"].item() == 1.5
    assert tensors[f"{text}.alpha"].item() == 3


def test_two_text_encoders_are_numbered(tmp_path: Path) -> None:
    adapter = Adapter({"text_encoder": {TE: lora(7, 5)}, "text_encoder_2": {TE: lora(11, 6)}})
    names = {key.partition("_text_model")[0] for key in load_file(lorica.write(adapter, tmp_path, format="kohya"))}
    assert names == {"lora_te1", "lora_te2"}
    sdxl = {"unet": {}, "text_encoder": {TE: (7, 5)}, "text_encoder_2": {TE: (11, 6)}}
    alone = Adapter({"text_encoder": {TE: lora(7, 5)}})
    file = lorica.write(alone, tmp_path, format="kohya", target=Target("two encoders", sdxl))
    assert all(key.startswith("lora_te1_") for key in load_file(file))


@pytest.mark.parametrize("alpha", [0.1, 1 / 3, 2.0**-40, 12345.678, -2.5])
def test_an_alpha_comes_back_exactly(alpha: float, tmp_path: Path) -> None:
    adapter = Adapter({"unet": {"conv": lora(7, 5, alpha)}})
    target = Target("tiny", {"unet": {"conv": (7, 5)}})
    assert lorica.read(lorica.write(adapter, tmp_path, format="kohya"), target=target) == adapter


def test_a_missing_alpha_and_one_of_zero_mean_the_rank() -> None:
    tensors = {"lora_unet_c.lora_down.weight": torch.ones(3, 5), "lora_unet_c.lora_up.weight": torch.ones(7, 3)}
    target = Target("tiny", {"unet": {"c": (7, 5)}})
    for more in ({}, {"lora_unet_c.alpha": torch.tensor(0.0)}):
        ((_, _, layer),) = lorica.read({**tensors, **more}, target=target).layers()
        assert layer.alpha == 3


def test_shapes_choose_among_families_with_the_same_names() -> None:
    flat = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    widths = {"sd1": (640, 768), "sd2": (640, 1024), "sdxl": (640, 2048), "bundled": (80, 128)}
    for family, (out, width) in widths.items():
        tensors = {f"{flat}.lora_down.weight": torch.ones(3, width), f"{flat}.lora_up.weight": torch.ones(out, 3)}
        report = lorica.read(tensors).report
        assert report is not None
        assert report.base_model == family


def test_the_numbers_of_the_original_blocks_are_looked_up() -> None:
    adapter = lorica.read(filled(describe("kohya_sdxl")["tensors"]))
    assert set(adapter.components["unet"]) == {
        "down_blocks.1.attentions.0.proj_in",
        "down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_k",
        "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
        "up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_out.0",
        "up_blocks.1.upsamplers.0.conv",
        "down_blocks.0.downsamplers.0.conv",
    }


def test_a_file_that_fits_no_family_asks_for_the_target() -> None:
    tensors = {
        "lora_unet_conv_in.lora_down.weight": torch.ones(3, 5),
        "lora_unet_conv_in.lora_up.weight": torch.ones(7, 3),
    }
    with pytest.raises(FormatError, match=r"none of its 1 modules fits a family known here\. Pass target="):
        lorica.read(tensors)


def test_the_names_of_black_forest_labs_are_looked_up_and_a_fused_weight_taken_apart() -> None:
    flat = "lora_unet_double_blocks_0_img_attn"
    down, up = torch.randn(3, 3072), torch.randn(9216, 3)
    tensors = {
        f"{flat}_proj.lora_down.weight": torch.ones(3, 3072), f"{flat}_proj.lora_up.weight": torch.ones(3072, 3),
        f"{flat}_qkv.lora_down.weight": down, f"{flat}_qkv.lora_up.weight": up, f"{flat}_qkv.alpha": torch.tensor(1.5),
        "lora_unet_single_blocks_37_linear2.lora_down.weight": torch.ones(3, 15360),
        "lora_unet_single_blocks_37_linear2.lora_up.weight": torch.ones(3072, 3),
    }  # fmt: skip
    layers = lorica.read(tensors).components["transformer"]
    assert set(layers) == {
        *(f"transformer_blocks.0.attn.to_{part}" for part in ("q", "k", "v", "out.0")),
        "single_transformer_blocks.37.proj_out",
    }
    assert layers["transformer_blocks.0.attn.to_k"] == LoRA(down, up[3072:6144], 1.5)


def test_only_the_target_is_searched_when_there_is_one() -> None:
    sd1 = FAMILIES["sd1"].target
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {
        f"lora_unet_{path.replace('.', '_')}.lora_down.weight": torch.ones(3, 1024),
        f"lora_unet_{path.replace('.', '_')}.lora_up.weight": torch.ones(1280, 3),
    }
    with pytest.raises(
        FormatError, match=r"looks like Stable Diffusion 2\.x: cross-attention width 1024, the model has 768"
    ):
        lorica.read(tensors, target=sd1)
