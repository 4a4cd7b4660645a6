from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorica.adapters import Adapter, LoRA
from lorica.formats.base_model import families_of, modules_in, sentence
from lorica.models import FAMILIES, Target

HALVES = [
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
]


CROSS = "attentions_0_transformer_blocks_0_attn2_to_k"


def pair(name: str, out: int, width: int, halves: tuple[str, str] = HALVES[0]) -> dict[str, Tensor]:
    return {f"{name}.{halves[0]}": torch.ones(2, width), f"{name}.{halves[1]}": torch.ones(out, 2)}


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("base_model.model.layers.3.attention.qkv", "layers.3.attention.qkv"),
        ("diffusion_model.layers.3.attention.qkv", "layers.3.attention.qkv"),
        ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.q"),
        ("lora_unet_double_blocks_3_img_attn_qkv", "double_blocks_3_img_attn_qkv"),
        ("lora_unet__blocks_0_cross_attn_k", "blocks_0_cross_attn_k"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_model_encoder_layers_0_mlp_fc1"),
        ("strange.module", "strange.module"),
    ],
)
def test_a_module_is_found_without_its_prefix(name: str, bare: str, halves: tuple[str, str]) -> None:
    assert modules_in(pair(name, 7, 5, halves)) == {bare: (7, 5)}


def test_a_lone_half_is_no_module() -> None:
    tensors = pair("unet.conv_in", 7, 5)
    del tensors["unet.conv_in.lora_B.weight"]
    assert modules_in(tensors) == {}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (pair("transformer.single_transformer_blocks.39.proj_mlp", 12288, 3072), "HunyuanVideo"),
        (
            pair("transformer.single_transformer_blocks.37.proj_out", 3072, 15360),
            "Flux.1 schnell or Flux.1 dev or HunyuanVideo",
        ),
        (pair("lora_unet__blocks_3_self_attn_q", 1536, 1536), "Wan 2.1 T2V 1.3B"),
        (pair("base_model.model.joint_transformer_blocks.3.attn.to_q", 3072, 3072), "AuraFlow"),
        (pair(f"lora_unet_mid_block_{CROSS}", 1280, 2048), "Stable Diffusion XL: cross-attention width 2048"),
        (pair(f"lora_unet_middle_block_1_{CROSS}", 8, 99), "no base model known here: cross-attention width 99"),
    ],
)
def test_the_sentence_names_the_likeliest(tensors: dict[str, Tensor], expected: str) -> None:
    assert sentence(tensors, None) == f"This file looks like {expected}."


def test_a_cross_attention_that_is_no_unets_is_not_taken_for_one() -> None:
    """PixArt's is as wide as its blocks."""
    tensors = pair("transformer.transformer_blocks.27.attn2.to_k", 1152, 1152)
    assert sentence(tensors, None).startswith("This file looks like Sana 0.6B or PixArt-Sigma")


def test_nothing_known_says_nothing() -> None:
    assert sentence(pair("strange.module", 7, 5), None) == ""
    wide = pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 1280, 768)
    assert sentence(wide, FAMILIES["sd1"].target) == ""
    assert "the model has 1024" in sentence(wide, FAMILIES["sd2"].target)


def test_families_come_the_likeliest_first() -> None:
    path = "transformer_blocks.23.attn.to_q"
    adapter = Adapter({"transformer": {path: LoRA(torch.ones(2, 1536), torch.ones(1536, 2))}})
    assert [family.name for family in families_of(adapter)] == ["sd3_medium", "sd35_medium"]
    assert families_of(Adapter({})) == []


def test_a_family_must_have_the_component_by_name() -> None:
    layer = LoRA(torch.ones(2, 4096), torch.ones(10240, 2))
    path = "encoder.block.0.layer.1.DenseReluDense.wi_0"
    names = {
        name: [each.name for each in families_of(Adapter({name: {path: layer}}))]
        for name in FAMILIES["sd3_medium"].target.components
    }
    assert set(names["text_encoder"]) == {"pixart_alpha", "pixart_sigma"}
    assert set(names["text_encoder_2"]) == {"flux_dev", "flux_schnell"}
    assert set(names["text_encoder_3"]) == {"sd3_medium", "sd35_medium", "sd35_large"}


def test_a_live_unet_of_its_own_is_compared_by_its_width() -> None:
    live = Target("live", {"model": {"down_blocks.1.attn2.to_k": (6, 40)}})
    assert "the model has 40" in sentence(pair("unet.mid_block.attn2.to_k", 8, 768), live)
