"""Make the layouts in ``files/``: ``python tests/formats/make_files.py``. Names are spelled out as files have them.

A layout is some of the modules that a program adapts, under the names that it writes: keys and shapes, no numbers. They
are after the naming rules of the programs, not copies of anybody's file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "files"
Shapes = dict[str, list[int]]
RANK = 3


def pair(
    name: str,
    out: int,
    width: int,
    *,
    rank: int = RANK,
    down: str = "lora_down.weight",
    up: str = "lora_up.weight",
    alpha: bool = True,
    kernel: int = 0,
) -> Shapes:
    """Return the keys of a LoRA of one module."""
    ones, kernels = ([1, 1], [kernel, kernel]) if kernel else ([], [])
    shapes = {f"{name}.{down}": [rank, width, *kernels], f"{name}.{up}": [out, rank, *ones]}
    return {**shapes, f"{name}.alpha": []} if alpha else shapes


def ab(name: str, out: int, width: int, **options: Any) -> Shapes:
    """Return the keys of a LoRA in PEFT's spelling, without an alpha."""
    return pair(name, out, width, **{"down": "lora_A.weight", "up": "lora_B.weight", "alpha": False, **options})


def loha(name: str, out: int, width: int) -> Shapes:
    """Return the keys of a LoHa of one module."""
    parts = {"w1_a": [out, RANK], "w1_b": [RANK, width], "w2_a": [out, RANK], "w2_b": [RANK, width]}
    return {**{f"{name}.hada_{part}": shape for part, shape in parts.items()}, f"{name}.alpha": []}


def lokr(name: str, first: tuple[int, int], second: tuple[int, int]) -> Shapes:
    """Return the keys of a LoKr with a whole first and a factored second matrix."""
    parts = {"w1": list(first), "w2_a": [second[0], RANK], "w2_b": [RANK, second[1]]}
    return {**{f"{name}.lokr_{part}": shape for part, shape in parts.items()}, f"{name}.alpha": []}


def leaves(name: str, **shapes: list[int]) -> Shapes:
    """Return the keys of one module by their leaves; ``__`` stands for a dot."""
    return {f"{name}.{leaf.replace('__', '.')}": shape for leaf, shape in shapes.items()}


def together(*parts: Shapes) -> Shapes:
    """Return all keys."""
    return {key: shape for part in parts for key, shape in part.items()}


def flat_flux(te: str = "lora_te1_", t5: str = "lora_te3_") -> Shapes:
    """Return what sd-scripts adapts in Flux, one module of each shape."""
    double, single = "lora_unet_double_blocks_18_", "lora_unet_single_blocks_37_"
    return together(
        pair(f"{double}img_attn_qkv", 9216, 3072), pair(f"{double}txt_attn_qkv", 9216, 3072),
        pair(f"{double}img_attn_proj", 3072, 3072), pair(f"{double}img_mlp_0", 12288, 3072),
        pair(f"{double}txt_mlp_2", 3072, 12288), pair(f"{double}img_mod_lin", 18432, 3072),
        pair(f"{single}linear1", 21504, 3072), pair(f"{single}linear2", 3072, 15360),
        pair(f"{single}modulation_lin", 9216, 3072),
        pair(f"{te}text_model_encoder_layers_11_mlp_fc1", 3072, 768),
        pair(f"{t5}encoder_block_0_layer_0_SelfAttention_q", 4096, 4096),
    )  # fmt: skip


def processors(name: str, *, halves: tuple[str, ...] = ("lora1", "lora2")) -> Shapes:
    """Return the keys of one attention processor of Flux as XLabs' trainer writes them."""
    shapes: Shapes = {}
    for half in halves:
        wide = 15360 if half == "lora" else 3072
        for part, out, width in (("qkv", 9216, 3072), ("proj", 3072, wide)):
            shapes |= pair(
                f"{name}.processor.{part}_{half}", out, width, down="down.weight", up="up.weight", alpha=False
            )
    return shapes


def walked_unet(*, down: str = "down", up: str = "up") -> Shapes:
    """Return cloneofsimo's numbered layers of all attentions of Stable Diffusion 1, in the order of its time."""
    levels = [("down", 320, 2), ("down", 640, 2), ("down", 1280, 2), ("up", 1280, 3), ("up", 640, 3), ("up", 320, 3)]
    sizes = [size for _, size, count in levels for _ in range(count)] + [1280]
    shapes: Shapes = {}
    number = 0
    for size in sizes:
        own = [(size, size)] * 4
        for out, width in [*own, (8 * size, size), (size, size), (size, 768), (size, 768), (size, size)]:
            shapes |= {f"unet:{number}:{up}": [out, 4], f"unet:{number}:{down}": [4, width]}
            number += 1
    return shapes


def walked_text() -> Shapes:
    """Return cloneofsimo's numbered layers of the attentions of Stable Diffusion 1's text encoder."""
    names = (f"text_encoder:{number}" for number in range(48))
    return together(*({f"{name}:up": [768, 4], f"{name}:down": [4, 768]} for name in names))


ATTN = "mid_block.attentions.0.transformer_blocks.0"
FLAT_ATTN = ATTN.replace(".", "_")
WAN = "blocks.0"
OMI_TEXT = "clip_l.text_model.encoder.layers.0.mlp.fc1"
CONTROL = "double_blocks.0.img_attn"

# Name: format, the family that it is for, where that is told without a target, components to layers, source, keys.
LAYOUTS: dict[str, tuple[str, str, str | None, dict[str, int], str, Shapes]] = {
    "kohya_flux": (
        "kohya",
        "flux_dev",
        None,
        {"transformer": 16, "text_encoder": 1, "text_encoder_2": 1},
        "sd-scripts' networks/lora_flux.py with both text encoders",
        flat_flux(),
    ),
    "kohya_flux_t5_as_te2": (
        "kohya",
        "flux_dev",
        None,
        {"transformer": 16, "text_encoder": 1, "text_encoder_2": 1},
        "the same with the T5 numbered as the second text encoder",
        flat_flux(t5="lora_te2_"),
    ),
    "kohya_sd3": (
        "kohya",
        "sd3_medium",
        None,
        {"transformer": 6, "text_encoder": 1, "text_encoder_2": 1, "text_encoder_3": 1},
        "sd-scripts' networks/lora_sd3.py",
        together(
            pair("lora_unet_joint_blocks_0_context_block_attn_qkv", 4608, 1536),
            pair("lora_unet_joint_blocks_0_x_block_attn_proj", 1536, 1536),
            pair("lora_unet_joint_blocks_0_x_block_mlp_fc1", 6144, 1536),
            pair("lora_unet_joint_blocks_22_x_block_mlp_fc2", 1536, 6144),
            pair("lora_te1_text_model_encoder_layers_11_self_attn_q_proj", 768, 768),
            pair("lora_te2_text_model_encoder_layers_31_mlp_fc2", 1280, 5120),
            pair("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 4096, 4096),
        ),
    ),
    "kohya_sdxl_thelastben": (
        "kohya",
        "sdxl",
        "sdxl",
        {"unet": 3, "text_encoder": 1, "text_encoder_2": 1},
        "TheLastBen's SDXL trainer: Kohya's leaves, diffusers' block names",
        together(
            pair(f"lora_unet_{FLAT_ATTN}_attn2_to_k", 1280, 2048),
            pair(f"lora_unet_{FLAT_ATTN}_attn1_to_out_0", 1280, 1280),
            pair("lora_unet_down_blocks_1_attentions_0_proj_in", 640, 640),
            pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 3072, 768),
            pair("lora_te2_text_model_encoder_layers_31_mlp_fc1", 5120, 1280),
        ),
    ),
    "kohya_sdxl_loha": (
        "kohya",
        "sdxl",
        "sdxl",
        {"unet": 2},
        "LyCORIS through sd-scripts: LoHa",
        together(
            loha("lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k", 1280, 2048),
            loha("lora_unet_input_blocks_4_1_proj_in", 640, 640),
        ),
    ),
    "kohya_sd1_lokr": (
        "kohya",
        "sd1",
        "sd1",
        {"unet": 2},
        "LyCORIS through sd-scripts: LoKr",
        together(
            lokr(f"lora_unet_{FLAT_ATTN}_attn2_to_k", (8, 8), (160, 96)),
            lokr(f"lora_unet_{FLAT_ATTN}_attn1_to_q", (8, 8), (160, 160)),
        ),
    ),
    "kohya_sd1_ia3": (
        "kohya",
        "sd1",
        "sd1",
        {"unet": 2},
        "LyCORIS through sd-scripts: IA3, both of inputs",
        together(
            leaves(f"lora_unet_{FLAT_ATTN}_attn2_to_k", weight=[768], on_input=[]),
            leaves(f"lora_unet_{FLAT_ATTN}_ff_net_2", weight=[5120], on_input=[]),
        ),
    ),
    "kohya_sdxl_glora": (
        "kohya",
        "sdxl",
        "sdxl",
        {"unet": 2},
        "LyCORIS through sd-scripts: GLoRA",
        together(
            leaves(
                f"lora_unet_{FLAT_ATTN}_attn2_to_k",
                a1__weight=[2048, RANK],
                a2__weight=[RANK, 2048],
                b1__weight=[1280, RANK],
                b2__weight=[RANK, 2048],
                alpha=[],
            ),
            leaves(
                "lora_unet_down_blocks_0_resnets_0_conv1",
                a1__weight=[320, RANK, 1, 1],
                a2__weight=[RANK, 320, 1, 1],
                b1__weight=[320, RANK, 1, 1],
                b2__weight=[RANK, 320, 3, 3],
                alpha=[],
            ),
        ),
    ),
    "kohya_sd1_oft_of_kohya": (
        "kohya",
        "sd1",
        None,
        {"unet": 2},
        "sd-scripts' networks/oft.py",
        together(
            leaves(f"oft_unet_{FLAT_ATTN}_attn2_to_k", oft_blocks=[4, 320, 320], alpha=[]),
            leaves("oft_unet_down_blocks_3_resnets_0_conv1", oft_blocks=[4, 320, 320], alpha=[]),
        ),
    ),
    "lycoris_sd1_oft_stored": (
        "lycoris",
        "sd1",
        None,
        {"unet": 2},
        "LyCORIS before 2.0: the rotations of an OFT",
        together(
            leaves(f"lycoris_{FLAT_ATTN}_attn2_to_k", oft_diag=[160, 8, 8]),
            leaves("lycoris_down_blocks_3_resnets_0_conv1", oft_diag=[160, 8, 8]),
        ),
    ),
    "kohya_sdxl_oft": (
        "kohya",
        "sdxl",
        "sdxl",
        {"unet": 3},
        "LyCORIS through sd-scripts: OFT, with rescaling, and BOFT",
        together(
            leaves("lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k", oft_blocks=[160, 8, 8], alpha=[]),
            leaves("lora_unet_middle_block_1_proj_in", oft_blocks=[320, 4, 4], rescale=[1280, 1], alpha=[]),
            leaves("lora_unet_input_blocks_4_1_proj_out", oft_blocks=[3, 80, 8, 8], alpha=[]),
        ),
    ),
    "kohya_sd1_whole": (
        "kohya",
        "sd1",
        "sd1",
        {"unet": 5},
        "LyCORIS' full, norms and biases, and ComfyUI's set_weight",
        together(
            leaves("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", diff=[320, 768]),
            leaves(
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0",
                diff=[320, 320],
                diff_b=[320],
            ),
            leaves("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_norm1", w_norm=[320], b_norm=[320]),
            leaves("lora_unet_down_blocks_0_resnets_0_norm1", b_norm=[320]),
            leaves("lora_unet_conv_in", set_weight=[320, 4, 3, 3]),
        ),
    ),
    "kohya_sd1_dora": (
        "kohya",
        "sd1",
        "sd1",
        {"unet": 3},
        "DoRA of outputs (LyCORIS) and of inputs (OneTrainer), and on LoHa",
        together(
            pair(f"lora_unet_{FLAT_ATTN}_attn2_to_k", 1280, 768),
            leaves(f"lora_unet_{FLAT_ATTN}_attn2_to_k", dora_scale=[1280, 1]),
            pair("lora_unet_conv_in", 320, 4, kernel=3),
            leaves("lora_unet_conv_in", dora_scale=[1, 4, 1, 1]),
            loha(f"lora_unet_{FLAT_ATTN}_attn2_to_v", 1280, 768),
            leaves(f"lora_unet_{FLAT_ATTN}_attn2_to_v", dora_scale=[1, 768]),
        ),
    ),
    "kohya_sd1_embeddings": (
        "kohya",
        "sd1",
        "sd1",
        {"unet": 1},
        "A1111 with a bundled embedding",
        together(
            pair(f"lora_unet_{FLAT_ATTN}_attn2_to_k", 1280, 768),
            {"bundle_emb.my.token.string_to_param.*": [2, 768]},
        ),
    ),
    "kohya_wan": (
        "kohya",
        "wan21_t2v_14b",
        None,
        {"transformer": 4},
        "musubi-tuner for Wan 2.1",
        together(
            pair("lora_unet_blocks_0_self_attn_q", 5120, 5120),
            pair("lora_unet_blocks_0_cross_attn_o", 5120, 5120),
            pair("lora_unet_blocks_39_ffn_0", 13824, 5120),
            pair("lora_unet_blocks_39_ffn_2", 5120, 13824),
        ),
    ),
    "peft_sd1_unet": (
        "peft",
        "sd1",
        "sd1",
        {"unet": 2},
        "PEFT's save_pretrained of a UNet",
        together(
            ab(f"base_model.model.{ATTN}.attn2.to_k", 1280, 768),
            ab(f"base_model.model.{ATTN}.attn1.to_out.0", 1280, 1280),
        ),
    ),
    "peft_sdxl_unet_conv": (
        "peft",
        "sdxl",
        "sdxl",
        {"unet": 2},
        "PEFT's save_pretrained of a UNet with a convolution",
        together(
            ab("base_model.model.add_embedding.linear_1", 1280, 2816),
            ab("base_model.model.down_blocks.1.downsamplers.0.conv", 640, 640, kernel=3),
        ),
    ),
    "comfyui_flux": (
        "comfyui",
        "flux_dev",
        None,
        {"transformer": 8},
        "a trainer that writes for ComfyUI: Flux",
        together(
            ab("diffusion_model.double_blocks.0.img_attn.qkv", 9216, 3072, alpha=True),
            ab("diffusion_model.double_blocks.0.txt_mlp.2", 3072, 12288, alpha=True),
            ab("diffusion_model.single_blocks.0.linear1", 21504, 3072, alpha=True),
        ),
    ),
    "comfyui_wan": (
        "comfyui",
        "wan21_t2v_14b",
        None,
        {"transformer": 3},
        "ai-toolkit for Wan 2.1",
        together(
            ab("diffusion_model.blocks.0.self_attn.q", 5120, 5120),
            ab("diffusion_model.blocks.0.cross_attn.v", 5120, 5120),
            ab("diffusion_model.blocks.39.ffn.0", 13824, 5120),
        ),
    ),
    "lycoris_flux": (
        "lycoris",
        "flux_dev",
        None,
        {"transformer": 2},
        "SimpleTuner with LyCORIS: LoKr for Flux",
        together(
            lokr("lycoris_transformer_blocks_0_attn_to_q", (8, 8), (384, 384)),
            lokr("lycoris_single_transformer_blocks_37_proj_out", (8, 8), (384, 1920)),
        ),
    ),
    "lycoris_sdxl": (
        "lycoris",
        "sdxl",
        "sdxl",
        {"unet": 2},
        "LyCORIS' wrapper around a UNet: LoCon",
        together(
            pair(f"lycoris_{FLAT_ATTN}_attn2_to_k", 1280, 2048),
            pair("lycoris_up_blocks_0_resnets_0_conv1", 1280, 2560, kernel=3),
        ),
    ),
    "onetrainer_flux": (
        "onetrainer",
        "flux_dev",
        None,
        {"transformer": 3, "text_encoder": 1, "text_encoder_2": 1},
        "OneTrainer (legacy) for Flux",
        together(
            pair("lora_transformer_transformer_blocks_0_attn_to_q", 3072, 3072),
            pair("lora_transformer_transformer_blocks_0_ff_context_net_2", 3072, 12288),
            pair("lora_transformer_single_transformer_blocks_37_proj_out", 3072, 15360),
            pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 3072, 768),
            pair("lora_te2_encoder_block_0_layer_0_SelfAttention_q", 4096, 4096),
        ),
    ),
    "onetrainer_sdxl": (
        "onetrainer",
        "sdxl",
        "sdxl",
        {"unet": 2},
        "OneTrainer (legacy) for SDXL with an embedding",
        together(
            pair(f"lora_unet_{FLAT_ATTN}_attn2_to_k", 1280, 2048),
            pair(f"lora_unet_{FLAT_ATTN}_attn1_to_q", 1280, 1280),
            {"bundle_emb.cat.clip_l": [2, 768], "bundle_emb.cat.clip_g": [2, 1280]},
        ),
    ),
    "omi_flux": (
        "omi",
        "flux_dev",
        None,
        {"transformer": 5, "text_encoder": 1},
        "OneTrainer (OMI) for Flux",
        together(
            pair("transformer.double_blocks.0.img_attn.qkv.0", 3072, 3072),
            pair("transformer.double_blocks.0.img_attn.qkv.2", 3072, 3072),
            pair("transformer.single_blocks.0.linear1.3", 12288, 3072),
            pair("transformer.single_blocks.0.linear2", 3072, 15360),
            pair("transformer.double_blocks.18.txt_mlp.0", 12288, 3072),
            pair(OMI_TEXT, 3072, 768),
        ),
    ),
    "omi_sdxl": (
        "omi",
        "sdxl",
        "sdxl",
        {"unet": 2, "text_encoder": 1, "text_encoder_2": 1},
        "OneTrainer (OMI) for SDXL",
        together(
            pair("unet.input_blocks.4.1.transformer_blocks.0.attn2.to_k", 640, 2048),
            pair("unet.middle_block.1.proj_in", 1280, 1280),
            pair(OMI_TEXT, 3072, 768),
            pair("clip_g.text_model.encoder.layers.31.mlp.fc1", 5120, 1280),
        ),
    ),
    "wan_fun_14b": (
        "wan_fun",
        "wan21_t2v_14b",
        None,
        {"transformer": 2},
        "VideoX-Fun for Wan 2.1",
        together(
            pair("lora_unet__blocks_0_self_attn_q", 5120, 5120),
            pair("lora_unet__blocks_39_ffn_2", 5120, 13824),
        ),
    ),
    "wan_fun_1b": (
        "wan_fun",
        "wan21_t2v_1_3b",
        "wan21_t2v_1_3b",
        {"transformer": 2},
        "VideoX-Fun for Wan 2.1, the small one",
        together(
            pair("lora_unet__blocks_0_cross_attn_k", 1536, 1536),
            pair("lora_unet__blocks_29_ffn_0", 8960, 1536),
        ),
    ),
    "xlabs_flux": (
        "xlabs",
        "flux_dev",
        None,
        {"transformer": 8},
        "x-flux: all processors of a double block",
        processors("double_blocks.0"),
    ),
    "xlabs_flux_image_side": (
        "xlabs",
        "flux_dev",
        None,
        {"transformer": 4},
        "x-flux: the image's side only",
        processors("double_blocks.18", halves=("lora1",)),
    ),
    "uso_flux": (
        "uso",
        "flux_dev",
        None,
        {"transformer": 12},
        "USO: double and single blocks",
        together(
            processors("double_blocks.0"),
            processors("single_blocks.0", halves=("lora",)),
        ),
    ),
    "uso_flux_single": (
        "uso",
        "flux_dev",
        None,
        {"transformer": 4},
        "USO: single blocks only",
        processors("single_blocks.37", halves=("lora",)),
    ),
    "bfl_control_flux": (
        "bfl_control",
        "flux_dev",
        None,
        {"transformer": 6},
        "FLUX.1 Canny [dev] LoRA: some of its modules",
        together(
            ab(f"{CONTROL}.qkv", 9216, 3072),
            {f"{CONTROL}.qkv.lora_B.bias": [9216]},
            ab(f"{CONTROL}.proj", 3072, 3072),
            {f"{CONTROL}.proj.lora_B.bias": [3072]},
            {f"{CONTROL}.norm.key_norm.scale": [128], "single_blocks.0.norm.key_norm.scale": [128]},
        ),
    ),
    "bfl_control_flux_final": (
        "bfl_control",
        "flux_dev",
        None,
        {"transformer": 2},
        "FLUX.1 Depth [dev] LoRA: the last layers",
        together(
            ab("final_layer.linear", 64, 3072),
            {"final_layer.linear.lora_B.bias": [64]},
            ab("single_blocks.0.linear2", 3072, 15360),
            {"single_blocks.0.linear2.lora_B.bias": [3072]},
        ),
    ),
    "control_lora_sdxl": (
        "control_lora",
        "",
        None,
        {"controlnet": 4},
        "control-lora-canny-rank128: some of its tensors",
        {
            "lora_controlnet": [0],
            "input_blocks.4.1.proj_in.down": [RANK, 640],
            "input_blocks.4.1.proj_in.up": [640, RANK],
            "zero_convs.0.0.weight": [320, 320, 1, 1],
            "zero_convs.0.0.bias": [320],
            "input_blocks.4.1.norm.bias": [640],
        },
    ),
    "control_lora_small": (
        "control_lora",
        "",
        None,
        {"controlnet": 1},
        "one convolution of a control LoRA",
        {
            "lora_controlnet": [0],
            "input_blocks.0.0.down": [RANK, 4, 3, 3],
            "input_blocks.0.0.up": [320, RANK, 1, 1],
        },
    ),
    "hcp_sd1_unet": (
        "hcp",
        "sd1",
        None,
        {"unet": 2},
        "HCP-Diffusion: a UNet",
        together(
            pair(f"lora:{ATTN}.attn1.to_k.___", 1280, 1280, down="layer.lora_down.weight", up="layer.lora_up.weight"),
            pair(
                f"lora:{ATTN}.ff.net.0.proj.___", 10240, 1280, down="layer.lora_down.weight", up="layer.lora_up.weight"
            ),
        ),
    ),
    "hcp_sd1_text": (
        "hcp",
        "sd1",
        None,
        {"text_encoder": 1},
        "HCP-Diffusion: a text encoder, the later spelling",
        together(
            pair("base:TE.text_model.encoder.layers.0.mlp.fc1.___", 3072, 768, down="layer.W_down", up="layer.W_up"),
        ),
    ),
    "cloneofsimo_sd1": (
        "cloneofsimo",
        "sd1",
        "sd1",
        {"unet": 144},
        "cloneofsimo/lora: the UNet",
        walked_unet(),
    ),
    "cloneofsimo_sd1_text": (
        "cloneofsimo",
        "sd1",
        None,
        {"text_encoder": 48},
        "cloneofsimo/lora: the text encoder",
        walked_text(),
    ),
}
METADATA = {"onetrainer_sdxl": {"ot_branch": "master"}}


def main() -> None:
    """Write every layout."""
    for name, (format_name, fits, base_model, layers, source, shapes) in LAYOUTS.items():
        facts = {
            "source": f"after the naming rule of: {source}: some of its modules", "metadata": METADATA.get(name, {}),
            "format": format_name, "fits": fits or None, "base_model": base_model, "layers": layers, "tensors": shapes,
        }  # fmt: skip
        (FOLDER / f"{name}.json").write_text(_compact(facts), "utf-8")


def _compact(facts: dict[str, Any]) -> str:
    """Return the facts as JSON with one key a line."""
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(shape)}" for key, shape in facts["tensors"].items())
    head = json.dumps({name: fact for name, fact in facts.items() if name != "tensors"}, indent=1)[:-2]
    return f'{head},\n "tensors": {{\n{rows}\n }}\n}}\n'


if __name__ == "__main__":
    main()
