"""Tiny pipelines of the real classes whose parts are more than one denoiser: combined ones, and two transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DDIMScheduler,
    DDPMWuerstchenScheduler,
    FlowMatchEulerDiscreteScheduler,
    KandinskyV22CombinedPipeline,
    LTXPipeline,
    PriorTransformer,
    StableCascadeCombinedPipeline,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
    VQModel,
    WanPipeline,
    WuerstchenCombinedPipeline,
)
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import lorica
from tiny_transformers import kandinsky as kandinsky_unet
from tiny_transformers import ltx as ltx_transformer
from tiny_transformers import wan as wan_transformer

Call = Callable[[], Any]


def kandinsky() -> tuple[Any, Call]:
    """Kandinsky 2.2's prior and decoder behind one call."""
    width, tokenizer = 20, _tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=12, image_size=28, intermediate_size=28, num_attention_heads=2, num_channels=3,
        num_hidden_layers=1, patch_size=14, projection_dim=width,
    )  # fmt: skip
    unet, _ = kandinsky_unet()
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=width, num_layers=1,
        num_embeddings=tokenizer.model_max_length,
    )  # fmt: skip
    prior.clip_std.data.fill_(1.0)
    pipe = KandinskyV22CombinedPipeline(
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        movq=VQModel(block_out_channels=(32, 64), norm_num_groups=32, layers_per_block=1, num_vq_embeddings=12,
                     norm_type="spatial", vq_embed_dim=4, latent_channels=4,
                     down_block_types=("DownEncoderBlock2D",) * 2,
                     up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D")),
        prior_prior=prior,
        prior_image_encoder=CLIPVisionModelWithProjection(vision),
        prior_text_encoder=_text_encoder(tokenizer, width, projection=width),
        prior_tokenizer=tokenizer,
        prior_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample",
                                        num_train_timesteps=1000, clip_sample=True, clip_sample_range=5.0),
        prior_image_processor=CLIPImageProcessor(),
    )  # fmt: skip
    return pipe, lambda: pipe(
        "a heart", height=16, width=24, prior_num_inference_steps=3, num_inference_steps=4, generator=_dice(),
        output_type="pt",
    ).images  # fmt: skip


def wuerstchen() -> tuple[Any, Call]:
    """Wuerstchen's prior and decoder behind one call: two text encoders of one class."""
    tokenizer = _tokenizer()
    pipe = WuerstchenCombinedPipeline(
        tokenizer=tokenizer,
        text_encoder=_text_encoder(tokenizer, 20),
        decoder=WuerstchenDiffNeXt(c_in=4, c_out=4, c_r=8, patch_size=2, c_cond=20, c_hidden=[12, 16], nhead=[-1, 2],
                                   blocks=[1, 1], level_config=["CT", "CTA"], clip_embd=20, effnet_embd=5,
                                   kernel_size=3, inject_effnet=[False, True]),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=_paella(),
        prior_tokenizer=tokenizer,
        prior_text_encoder=_text_encoder(tokenizer, 28),
        prior_prior=WuerstchenPrior(c_in=5, c=12, c_cond=28, c_r=8, depth=2, nhead=2),
        prior_scheduler=DDPMWuerstchenScheduler(),
    )  # fmt: skip
    for layer, std in ((pipe.decoder.clf[1], 0.1), *((layer, 50.0) for layer in pipe.decoder.effnet_mappers[1:3])):
        torch.nn.init.normal_(layer.weight, std=std)  # they begin near zero, so that the prior does not matter
    pipe.prior_pipe.register_to_config(latent_mean=1.0, latent_std=0.0, resolution_multiple=16.0)
    return pipe, lambda: pipe(
        "a heart", height=48, width=96, prior_num_inference_steps=3, num_inference_steps=4, generator=_dice(),
        output_type="latent",
    )[0]  # fmt: skip


def stable_cascade() -> tuple[Any, Call]:
    """Stable Cascade's prior and decoder behind one call."""
    tokenizer = _tokenizer()
    pipe = StableCascadeCombinedPipeline(
        tokenizer=tokenizer,
        text_encoder=_text_encoder(tokenizer, 20, projection=20),
        decoder=_cascade(4, effnet=5, text=None),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=_paella(),
        prior_prior=_cascade(5, effnet=None, text=20),
        prior_text_encoder=_text_encoder(tokenizer, 20, projection=20),
        prior_tokenizer=tokenizer,
        prior_scheduler=DDPMWuerstchenScheduler(),
    )
    return pipe, lambda: pipe(
        "a heart", height=128, width=256, prior_num_inference_steps=3, num_inference_steps=4, generator=_dice(),
        output_type="latent",
    )[0]  # fmt: skip


def wan() -> tuple[Any, Call]:
    """Wan 2.2: a transformer for much noise and one for little."""
    pipe = WanPipeline(
        tokenizer=None, text_encoder=None, transformer=wan_transformer()[0], transformer_2=wan_transformer()[0],
        vae=AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                             temperal_downsample=[False, True, True], latents_std=[1.0] * 4),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        boundary_ratio=0.7,
    )  # fmt: skip
    texts = {"prompt_embeds": torch.ones(1, 7, 28), "negative_prompt_embeds": torch.zeros(1, 7, 28)}
    return (
        pipe,
        lambda: (
            pipe(
                **texts,
                height=32,
                width=48,
                num_frames=5,
                num_inference_steps=5,
                generator=_dice(),
                output_type="latent",
            ).frames
        ),
    )


def ltx() -> tuple[Any, Call]:
    """LTX-Video: a video as tokens."""
    vae = AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1), spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, patch_size=1, patch_size_t=1,
    )  # fmt: skip
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=None, tokenizer=None,
        transformer=ltx_transformer()[0],
    )  # fmt: skip
    texts = {"prompt_embeds": torch.ones(1, 7, 28), "negative_prompt_embeds": torch.zeros(1, 7, 28)}
    masks = {"prompt_attention_mask": torch.ones(1, 7), "negative_prompt_attention_mask": torch.ones(1, 7)}
    return pipe, lambda: pipe(
        **texts, **masks, height=32, width=64, num_frames=9, num_inference_steps=4, generator=_dice(),
        output_type="latent",
    ).frames  # fmt: skip


PIPELINES: dict[str, Callable[[], tuple[Any, Call]]] = {
    "kandinsky": kandinsky, "wuerstchen": wuerstchen, "stable cascade": stable_cascade, "wan": wan, "ltx": ltx,
}  # fmt: skip


def make(name: str) -> tuple[Any, Call]:
    """Return a pipeline and a short call of it, always the same."""
    torch.manual_seed(0)
    pipe, call = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe, call


def _dice() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(lorica.bundled_model(), subfolder="tokenizer")


def _text_encoder(tokenizer: CLIPTokenizer, width: int, projection: int | None = None) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, bos_token_id=0,
        eos_token_id=2, pad_token_id=1,
        **({} if projection is None else {"projection_dim": projection}),
    )  # fmt: skip
    return CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)


def _paella() -> PaellaVQModel:
    return PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=6, embed_dim=12)


def _cascade(channels: int, effnet: int | None, text: int | None) -> StableCascadeUNet:
    blocks = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    return StableCascadeUNet(
        in_channels=channels, out_channels=channels, timestep_ratio_embedding_dim=8,
        patch_size=1 if effnet is None else 2, conditioning_dim=16,
        block_out_channels=(12, 16), num_attention_heads=(2, 4), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(blocks,) * 2, clip_text_in_channels=text, clip_text_pooled_in_channels=20,
        clip_image_in_channels=None if text is None else 768, clip_seq=2, effnet_in_channels=effnet,
        switch_level=(False,), timestep_conditioning_type=("sca", "crp"),
    )  # fmt: skip
