"""Tiny models of the real diffusers classes with random weights; sizes differ wherever the class allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

Inputs = dict[str, Tensor | dict[str, Tensor]]


def sd15() -> tuple[nn.Module, Inputs]:
    """Return a UNet like SD 1.5's (convolutions as projections) and an input for it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    inputs: Inputs = {"sample": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 7, 24)}
    return unet.eval(), {**inputs, "timestep": torch.tensor(3)}


def sdxl() -> tuple[nn.Module, Inputs]:
    """Return a UNet like SDXL's (linear projections, text and time as added conditions) and an input for it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=40,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=56,
        norm_num_groups=8,
    )
    added = {"text_embeds": torch.randn(2, 20), "time_ids": torch.randn(2, 6)}
    inputs: Inputs = {"sample": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 7, 40)}
    return unet.eval(), {**inputs, "timestep": torch.tensor(3), "added_cond_kwargs": added}


def flux() -> tuple[nn.Module, Inputs]:
    """Return a transformer like Flux's and an input for it."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=28,
        pooled_projection_dim=20,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    inputs: Inputs = {
        "hidden_states": torch.randn(2, 12, 4),
        "encoder_hidden_states": torch.randn(2, 7, 28),
        "pooled_projections": torch.randn(2, 20),
        "timestep": torch.tensor([0.3, 0.6]),
        "guidance": torch.tensor([3.5, 2.0]),
        "img_ids": torch.randn(12, 3),
        "txt_ids": torch.zeros(7, 3),
    }
    return transformer.eval(), inputs


TINY: dict[str, Callable[[], tuple[nn.Module, Inputs]]] = {"sd15": sd15, "sdxl": sdxl, "flux": flux}


@torch.no_grad()
def output(model: nn.Module, inputs: Any) -> Tensor:
    """Return what the model predicts for an input."""
    return model(**inputs, return_dict=False)[0]
