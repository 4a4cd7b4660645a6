"""A pipeline with one adapter that tells which strength each forward ran at."""

from __future__ import annotations

from typing import Any

import torch

import lorica
from lorica.adapters import Adapter
from lorica.runtime.bank.bank import CHILD
from sample_layers import make_lora
from tiny_pipelines import sd_pipeline

PLACE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
ALPHA_OVER_RANK = 0.5  # of make_lora
TEXT = "layers.0.self_attn.q_proj"


class Probe:
    """A pipeline with one adapter on the UNet and the text encoder, and what strength each forward ran at."""

    def __init__(self, pipe: Any = None, *, text: bool = False) -> None:
        torch.manual_seed(0)
        self.pipe = pipe or sd_pipeline()
        self.pipe.set_progress_bar_config(disable=True)
        unet = {PLACE: make_lora(self.pipe.unet.get_submodule(PLACE))}
        parts = {"unet": unet}
        if text:
            paths = dict(self.pipe.text_encoder.named_modules())
            path = next(path for path in paths if path.endswith(TEXT))
            parts["text_encoder"] = {path: make_lora(paths[path])}
        self.loras = lorica.attach(self.pipe)
        self.loras.load(Adapter(parts), name="a", strength=0.5)
        self.seen: list[float] = []
        self.pipe.unet.register_forward_pre_hook(lambda *_: self.seen.append(self.now()))

    def now(self) -> float:
        bank = getattr(self.pipe.unet.get_submodule(PLACE), CHILD)
        return round(bank.content.thin.strength[0, 0].item() / ALPHA_OVER_RANK, 5)

    def call(self, steps: int = 4, **given: Any) -> Any:
        torch.manual_seed(1)
        words = torch.linspace(-1, 1, 7 * 24).view(1, 7, 24)
        self.seen.clear()
        wanted = {"guidance_scale": 1.0, "output_type": "latent", **given}
        return self.pipe(prompt_embeds=words, negative_prompt_embeds=-words, num_inference_steps=steps, **wanted).images
