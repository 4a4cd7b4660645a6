"""A pipeline with one adapter that tells which strength each forward ran at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import lorica
from lorica.adapters import Adapter, AdapterLayer
from sample_layers import make_lora
from tiny_pipelines import sd_pipeline

PLACE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "layers.0.self_attn.q_proj"


@torch.no_grad()
def acting_strengths(layer: nn.Linear, changes: Sequence[AdapterLayer]) -> list[float]:
    """The strengths that changes of a layer act at now: those that explain best what it gives beside its weight."""
    x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(5))
    added = layer(x) - F.linear(x, layer.weight, layer.bias)
    each = [F.linear(x, change.delta(layer.weight)).flatten() for change in changes]
    found = torch.linalg.lstsq(torch.stack(each, dim=1).double(), added.flatten()[:, None].double()).solution
    return [round(strength, 4) for strength in found[:, 0].tolist()]


class Probe:
    """A pipeline with one adapter on the UNet and the text encoder, and what strength each forward ran at."""

    def __init__(self, pipe: Any = None, *, text: bool = False) -> None:
        torch.manual_seed(0)
        self.pipe = pipe or sd_pipeline()
        self.pipe.set_progress_bar_config(disable=True)
        self._layer = self.pipe.unet.get_submodule(PLACE)
        parts = {"unet": {PLACE: make_lora(self._layer)}}
        if text:
            paths = dict(self.pipe.text_encoder.named_modules())
            path = next(path for path in paths if path.endswith(TEXT))
            parts["text_encoder"] = {path: make_lora(paths[path])}
        self.loras = lorica.attach(self.pipe)
        self.loras.load(Adapter(parts), name="a", strength=0.5)
        self.seen: list[float] = []
        self._hook = self.pipe.unet.register_forward_pre_hook(lambda *_: self.seen.append(self.now()))

    def now(self) -> float:
        adapters = [self.loras[name] for name in self.loras.names]
        return acting_strengths(self._layer, [adapter.components["unet"][PLACE] for adapter in adapters])[0]

    def look_away(self) -> None:
        """Take the probe's own hook off, which a graph cannot hold and a copy cannot pickle."""
        self._hook.remove()

    def call(self, steps: int = 4, **given: Any) -> Any:
        torch.manual_seed(1)
        words = torch.linspace(-1, 1, 7 * 24).view(1, 7, 24)
        self.seen.clear()
        wanted = {"guidance_scale": 1.0, "output_type": "latent", **given}
        return self.pipe(prompt_embeds=words, negative_prompt_embeds=-words, num_inference_steps=steps, **wanted).images
