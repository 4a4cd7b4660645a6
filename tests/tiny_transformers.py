"""Tiny transformers and video models of the real diffusers classes, each with an input of 6 x 10 latents (or more)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogVideoXTransformer3DModel,
    FluxTransformer2DModel,
    HiDreamImageTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    Lumina2Transformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from torch import Tensor, nn

Made = tuple[nn.Module, dict[str, Any]]
ROWS, COLUMNS, TEXT = 6, 10, 7


def places(rows: int, columns: int) -> Tensor:
    """Return the places of a picture's tokens as Flux takes them."""
    across = [torch.zeros(rows * columns), torch.arange(rows).repeat_interleave(columns)]
    return torch.stack([*across, torch.arange(columns).repeat(rows)], dim=1)


def sd3() -> Made:
    """SD 3.5's transformer: text and picture side by side, the last block with a second attention over the picture."""
    model = SD3Transformer2DModel(
        sample_size=12, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=28, caption_projection_dim=16, pooled_projection_dim=20, out_channels=4,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, 2 * ROWS, 2 * COLUMNS)[..., :12, :16],
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "pooled_projections": torch.randn(2, 20),
        "timestep": torch.tensor([3.0, 5.0]),
    }


def flux() -> Made:
    """Flux's transformer: the single blocks see the text and then the picture in one sequence."""
    model = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=28, pooled_projection_dim=20, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, ROWS * COLUMNS, 4),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "pooled_projections": torch.randn(2, 20),
        "timestep": torch.tensor([0.3, 0.6]),
        "guidance": torch.tensor([3.5, 2.0]),
        "img_ids": places(ROWS, COLUMNS),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def chroma() -> Made:
    """Chroma's transformer: Flux's with modulations from one table."""
    model = ChromaTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=28, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=12,
        approximator_layers=1,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, ROWS * COLUMNS, 4),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([0.3, 0.6]),
        "img_ids": places(ROWS, COLUMNS),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def aura_flow() -> Made:
    """AuraFlow's transformer: registers stand before the text, and text and picture in one sequence at the end."""
    model = AuraFlowTransformer2DModel(
        sample_size=12, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=28, caption_projection_dim=16, out_channels=4, pos_embed_max_size=64,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, 2 * ROWS, 16),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([0.3, 0.6]),
    }


def qwen_image() -> Made:
    """Qwen-Image's transformer: text and picture side by side, the size of the picture told beside."""
    model = QwenImageTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=28, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, ROWS * COLUMNS, 4),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "encoder_hidden_states_mask": torch.ones(2, TEXT, dtype=torch.long),
        "timestep": torch.tensor([0.3, 0.6]),
        "img_shapes": [[(1, ROWS, COLUMNS)]] * 2,
    }


def pixart() -> Made:
    """PixArt's transformer: cross-attention to the text."""
    model = PixArtTransformer2DModel(
        sample_size=12, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, cross_attention_dim=16, caption_channels=28, use_additional_conditions=False,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, 2 * ROWS, 2 * COLUMNS),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([3, 5]),
    }


def sana() -> Made:
    """Sana's transformer: no patches, and convolutions in the place of feed-forward layers."""
    model = SanaTransformer2DModel(
        sample_size=12, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=28,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, ROWS, COLUMNS),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([3, 5]),
    }


def wan() -> Made:
    """Wan's transformer: a video in patches of one frame by two by two."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=28,
        freq_dim=16, ffn_dim=20, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, 3, 2 * ROWS, 2 * COLUMNS),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([3, 5]),
    }


def ltx() -> Made:
    """LTX-Video's transformer: a video as tokens, its size told beside."""
    model = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        num_layers=1, caption_channels=28,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 3 * ROWS * COLUMNS, 4),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([3, 5]),
        "encoder_attention_mask": torch.ones(2, TEXT),
        "num_frames": 3,
        "height": ROWS,
        "width": COLUMNS,
    }


def hunyuan_video() -> Made:
    """HunyuanVideo's transformer: the single blocks see the picture and then the text in one sequence."""
    model = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=28,
        pooled_projection_dim=20, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, 3, 2 * ROWS, 2 * COLUMNS),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "encoder_attention_mask": torch.ones(2, TEXT),
        "pooled_projections": torch.randn(2, 20),
        "timestep": torch.tensor([3, 5]),
        "guidance": torch.tensor([3.5, 2.0]),
    }


def cogvideox() -> Made:
    """CogVideoX' transformer: every block sees the text and then the picture; frames come before channels."""
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=6,
        text_embed_dim=28, num_layers=1, sample_width=20, sample_height=12, sample_frames=9, patch_size=2,
        max_text_seq_length=TEXT,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 3, 4, 2 * ROWS, 2 * COLUMNS),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "timestep": torch.tensor([3, 5]),
    }


def kandinsky() -> Made:
    """Kandinsky's UNet: attention whose text has layers of its own, beside the picture's."""
    model = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=8, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", addition_embed_type="image",
        encoder_hid_dim_type="image_proj", encoder_hid_dim=20, cross_attention_dim=24, attention_head_dim=4,
        resnet_time_scale_shift="scale_shift", class_embed_type=None, norm_num_groups=8,
    )  # fmt: skip
    return model, {
        "sample": torch.randn(2, 4, 12, 20),
        "timestep": torch.tensor(3),
        "encoder_hidden_states": None,
        "added_cond_kwargs": {"image_embeds": torch.randn(2, 20)},
    }


def animate_diff() -> Made:
    """AnimateDiff's UNet: frames merged into the batch, and modules that look along time at each point."""
    model = UNetMotionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), num_attention_heads=2,
        motion_num_attention_heads=2, motion_max_seq_length=8, use_motion_mid_block=True,
    )  # fmt: skip
    return model, {
        "sample": torch.randn(2, 4, 3, 12, 20),
        "timestep": torch.tensor(3),
        "encoder_hidden_states": torch.randn(2, TEXT, 24).repeat_interleave(3, dim=0),
    }


def stable_video() -> Made:
    """Stable Video Diffusion's UNet: spatial and temporal blocks in turn."""
    model = UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=24,
        num_attention_heads=(2, 4), projection_class_embeddings_input_dim=18, addition_time_embed_dim=6, num_frames=3,
    )  # fmt: skip
    return model, {
        "sample": torch.randn(2, 3, 8, 12, 20),
        "timestep": torch.tensor(3),
        "encoder_hidden_states": torch.randn(2, 1, 24),
        "added_time_ids": torch.randn(2, 3),
    }


def stable_cascade() -> Made:
    """Stable Cascade's prior: attention to the picture and then the text in one sequence."""
    model = StableCascadeUNet(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8, patch_size=1, conditioning_dim=16,
        block_out_channels=(12, 16), num_attention_heads=(2, 4), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        clip_text_in_channels=20, clip_text_pooled_in_channels=24, clip_image_in_channels=28, clip_seq=2,
        switch_level=(False,), timestep_conditioning_type=("sca",),
    )  # fmt: skip
    return model, {
        "sample": torch.randn(2, 4, 12, 20),
        "timestep_ratio": torch.tensor([0.3, 0.6]),
        "clip_text_pooled": torch.randn(2, 1, 24),
        "clip_text": torch.randn(2, TEXT, 20),
        "clip_img": torch.randn(2, 1, 28),
    }


def hidream() -> Made:
    """HiDream's transformer: experts that see the tokens of all samples sorted by expert."""
    model = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_channels=[20, 28], text_emb_dim=24, num_routed_experts=3,
        num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(16, 16), llama_layers=[0, 1],
        force_inference_output=True,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(2, 4, 12, 12),
        "timesteps": torch.tensor([3.0, 5.0]),
        "encoder_hidden_states_t5": torch.randn(2, TEXT, 20),
        "encoder_hidden_states_llama3": torch.randn(2, 2, TEXT + 2, 28),
        "pooled_embeds": torch.randn(2, 24),
    }


def z_image() -> Made:
    """Z-Image's transformer: a list of pictures, each with a caption of its own length."""
    model = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=28,
        axes_dims=[4, 6, 6], axes_lens=[128, 16, 16],
    )  # fmt: skip
    return model, {
        "x": list(torch.randn(2, 4, 1, 12, 16)),
        "t": torch.tensor([0.3, 0.6]),
        "cap_feats": [torch.randn(TEXT, 28), torch.randn(40, 28)],
    }


def lumina2() -> Made:
    """Lumina 2's transformer: text and picture in one sequence, each text of its own length."""
    model = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=4,
        num_kv_heads=2, multiple_of=10, axes_dim_rope=(2, 2, 2), cap_feat_dim=28,
    )  # fmt: skip
    mask = torch.ones(2, TEXT, dtype=torch.bool)
    mask[0, 4:] = False
    return model, {
        "hidden_states": torch.randn(2, 4, 12, 16),
        "timestep": torch.tensor([0.3, 0.6]),
        "encoder_hidden_states": torch.randn(2, TEXT, 28),
        "encoder_attention_mask": mask,
    }


# Models whose pictures stand in sequences of which the tokens cannot be told: no regions there.
WITHOUT_REGIONS: dict[str, Callable[[], Made]] = {"hidream": hidream, "z image": z_image, "lumina2": lumina2}

MODELS: dict[str, Callable[[], Made]] = {
    "sd3": sd3, "flux": flux, "chroma": chroma, "aura flow": aura_flow, "qwen image": qwen_image, "pixart": pixart,
    "sana": sana, "wan": wan, "ltx": ltx, "hunyuan video": hunyuan_video, "cogvideox": cogvideox,
    "kandinsky": kandinsky, "animate diff": animate_diff, "stable video": stable_video,
    "stable cascade": stable_cascade,
}  # fmt: skip


def make(name: str) -> Made:
    """Return a model and an input for it, always the same."""
    torch.manual_seed(0)
    model, inputs = (MODELS | WITHOUT_REGIONS)[name]()
    return model.eval(), inputs


@torch.no_grad()
def output(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Return what a model predicts for an input."""
    return model(**inputs, return_dict=False)[0]
