"""Regions in models of the real classes: in every layer that acts on the picture, the change stays inside the mask."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from bank_memory import served
from lorica.adapters import Adapter, Norm
from lorica.errors import ModelError
from sample_layers import make_lora, relative_error
from tiny_transformers import TEXT, WITHOUT_REGIONS, make, output

SAME = 1e-6  # relative; a mask of ones against no mask, which adds in place; worst measured 7e-7
HALF = torch.zeros(12, 20)
HALF[:, :10] = 1
UNET = {count: (0, 1, rows, columns) for count, rows, columns in
        ((240, 12, 20), (60, 6, 10), (15, 3, 5), (6, 2, 3))}  # fmt: skip

# For each model: how its sequences of tokens hold the picture (number of tokens to those before it, frames, rows and
# columns), and the layers that do not act on the picture.
EXPECTED: dict[str, tuple[dict[int, tuple[int, int, int, int]], list[str]]] = {
    "sd3": ({48: (0, 1, 6, 8)},
            ["context_embedder", "time_text_embed.*", "*norm1*.linear", "norm_out.linear", "*add_*",
                                 "*norm_added*", "*ff_context*"]),
    "flux": ({60: (0, 1, 6, 10), 67: (7, 1, 6, 10)},
             ["context_embedder", "time_text_embed.*", "*norm*.linear", "*.add_*", "*.to_add_out", "*ff_context*",
              "*norm_added*"]),
    "chroma": ({60: (0, 1, 6, 10), 67: (7, 1, 6, 10)},
               ["context_embedder", "distilled_guidance_layer.*", "*.add_*", "*.to_add_out", "*ff_context*",
                "*norm_added*"]),
    "aura flow": ({48: (0, 1, 6, 8), 63: (15, 1, 6, 8)},
                  ["context_embedder", "time_step_*", "*norm*.linear", "*.add_*", "*.to_add_out", "*ff_context*"]),
    "qwen image": ({60: (0, 1, 6, 10)},
                   ["txt_*", "time_text_embed.*", "*_mod.1", "norm_out.linear", "*.add_*", "*.to_add_out",
                    "*.txt_mlp.*", "*norm_added*"]),
    "pixart": ({60: (0, 1, 6, 10)}, ["caption_projection.*", "adaln_single.*", "*.attn2.to_k", "*.attn2.to_v"]),
    "sana": ({60: (0, 1, 6, 10)}, ["caption_*", "time_embed.*", "*.attn2.to_k", "*.attn2.to_v"]),
    "wan": ({180: (0, 3, 6, 10)}, ["condition_embedder.*", "*.attn2.to_k", "*.attn2.to_v", "*.attn2.norm_k"]),
    "ltx": ({180: (0, 3, 6, 10)}, ["caption_projection.*", "time_embed.*", "*.attn2.to_k", "*.attn2.to_v",
                                   "*.attn2.norm_k"]),
    "hunyuan video": ({180: (0, 3, 6, 10), 187: (0, 3, 6, 10)},
                      ["context_embedder.*", "time_text_embed.*", "*norm*.linear", "*.add_*", "*.to_add_out",
                       "*ff_context*", "*norm_added*"]),
    "cogvideox": ({180: (0, 3, 6, 10), 187: (7, 3, 6, 10)},
                  ["patch_embed.text_proj", "time_embedding.*",
                                                             "*norm*.linear"]),
    "kandinsky": (UNET, ["*time_emb*", "add_embedding.*", "*.add_*", "encoder_hid_proj.*"]),
    "animate diff": (UNET, ["time_embedding.*", "*time_emb_proj", "*.attentions.*.attn2.to_k",
                            "*.attentions.*.attn2.to_v"]),
    "stable video": (UNET, ["time_embedding.*", "add_embedding.*", "*time_emb_proj", "*time_pos_embed.*",
                            "*.transformer_blocks.*.attn2.to_k", "*.transformer_blocks.*.attn2.to_v"]),
    "stable cascade": (UNET | {240 + 11: (0, 1, 12, 20), 60 + 11: (0, 1, 6, 10)},
                       ["clip_*", "*mapper*"]),
}  # fmt: skip
OVER_TIME = ("*motion_modules*", "*temporal_transformer_blocks*")


def adapter_of(model: nn.Module) -> Adapter:
    """Return an adapter with values everywhere: on matrices, kernels and norms."""
    loras, layers = lorica.attach(model), {}
    part = next(iter(loras.components))
    for path, shape in loras.target().components[part].items():
        layer = model.get_submodule(path)
        if type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
            layers[path] = make_lora(layer, rank=3)
        elif len(shape) == 1:
            layers[path] = Norm(torch.randn(shape) / 4)
    return Adapter({part: layers})


class Seen:
    """What the bank of each layer added to its output in one forward."""

    def __init__(self, model: nn.Module) -> None:
        self.changes: dict[str, list[Tensor]] = {}
        self._paths = {model.get_submodule(path): path for path in served(model)}
        for layer in self._paths:
            layer.register_forward_hook(self._before, prepend=True)
            layer.register_forward_hook(self._after)

    def _before(self, layer: nn.Module, args: Any, result: Tensor) -> None:
        del layer, args
        self._own = result.clone()

    def _after(self, layer: nn.Module, args: Any, result: Tensor) -> None:
        del args
        self.changes.setdefault(self._paths[layer], []).append(result - self._own)


def left_half(rows: int, columns: int) -> Tensor:
    """Return which cells of a grid hold any of the mask: those that begin left of the middle."""
    return torch.tensor([[column / columns < 0.5 for column in range(columns)]] * rows)


def check_inside(path: str, layer: nn.Module, change: Tensor, sequences: dict[int, tuple[int, int, int, int]]) -> None:
    """Assert that the change is everywhere inside the mask, and nowhere outside."""
    second = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm))
    where = (change != 0).movedim(1 if second else -1, -1).any(-1)  # (b, *)
    if where.ndim == 3 and path.endswith((".norm_q", ".norm_k")):  # (b, tokens, heads), or (b, heads, tokens)
        where = where if where.shape[1] in sequences else where.transpose(1, 2)
        assert torch.equal(where[..., :1].expand(where.shape), where)
        where = where[..., 0]
    if any(fnmatchcase(path, pattern) for pattern in OVER_TIME) and where.ndim == 2:
        points = where.any(1)  # (b h w)
        before, frames, rows, columns = sequences[len(points) // 2]
        expected = left_half(rows, columns).flatten().repeat(2)
        assert torch.equal(points, expected), path
    elif where.ndim > 2:
        expected = left_half(*where.shape[-2:]).expand(where.shape)
        assert torch.equal(where, expected), path
    elif where.shape[1] == TEXT:  # CogVideoX gives text and picture to one norm, one after the other
        assert not where.any(), path
    else:
        before, frames, rows, columns = sequences[where.shape[1]]
        expected = torch.zeros(where.shape[1], dtype=torch.bool)
        cells = left_half(rows, columns).flatten().repeat(frames)
        expected[before : before + len(cells)] = cells
        assert torch.equal(where, expected.expand(where.shape)), path


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # Chroma's own import
@pytest.mark.parametrize("name", EXPECTED)
def test_every_layer_that_acts_on_the_picture_is_limited(name: str) -> None:
    model, inputs = make(name)
    sequences, conditions = EXPECTED[name]
    loras = lorica.attach(model)
    loras.load(adapter_of(model), name="a", strength=0.3)
    seen = Seen(model)
    with loras.regions({"a": HALF}, elsewhere=0.0):
        output(model, inputs)
    for pattern in conditions:
        assert any(fnmatchcase(path, pattern) for path in seen.changes), pattern
    for path, changes in seen.changes.items():
        layer = model.get_submodule(path)
        if any(fnmatchcase(path, pattern) for pattern in conditions):
            assert not any(change.any() for change in changes), path
        else:
            for change in changes:
                check_inside(path, layer, change, sequences)


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", EXPECTED)
def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_is_the_base(name: str) -> None:
    model, inputs = make(name)
    base = output(model, inputs)
    loras = lorica.attach(model)
    loras.load(adapter_of(model), name="a", strength=0.3)
    everywhere = output(model, inputs)
    assert relative_error(base, everywhere) > 0.05
    with loras.regions({"a": torch.ones(3, 5)}):
        assert relative_error(output(model, inputs), everywhere) < SAME
    with loras.regions({"a": torch.zeros(3, 5)}, elsewhere=0.0):
        assert torch.equal(output(model, inputs), base)
    assert torch.equal(output(model, inputs), everywhere)


REFUSED = {
    "hidream": (("*.ff_t.w1", "*.to_q_t", "x_embedder.proj"), {"*.experts.0.w1": r"experts\.0\.w1 gives a sequence of",
                "single_stream_blocks.*.to_q": r"to_q gives a sequence of 61"}),
    "z image": ((), {"noise_refiner.*.to_q": "its input is a list", "layers.*.to_q": "its input is a list"}),
    "lumina2": (("context_refiner.*.to_q", "noise_refiner.*.to_q"), {"layers.*.to_q": r"layers\.0\.attn\.to_q gives"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_REGIONS)
def test_a_model_whose_tokens_cannot_be_told_is_refused_by_name_and_not_limited_by_half(name: str) -> None:
    fine, refused = REFUSED[name]
    model, inputs = make(name)
    kind = type(model).__name__
    paths = {
        glob: [path for path, layer in model.named_modules() if type(layer) is nn.Linear and fnmatchcase(path, glob)]
        for glob in (*fine, *refused)
    }
    loras = lorica.attach(model)
    layers = {path: make_lora(model.get_submodule(path)) for glob in fine for path in paths[glob]}
    if fine:
        loras.load(Adapter({next(iter(loras.components)): layers}), name="fine", strength=0.1)
        everywhere = output(model, inputs)
        with loras.regions({"fine": HALF}):
            limited = output(model, inputs)
        assert not torch.equal(limited, everywhere)
    for glob, message in refused.items():
        more = {path: make_lora(model.get_submodule(path)) for path in paths[glob]}
        loras.load(Adapter({next(iter(loras.components)): layers | more}), name="a", replace=True)
        loras.set({"a": 0.1})
        with loras.regions({"a": HALF}), pytest.raises(ModelError, match=rf"region in this {kind}: .*{message}"):
            output(model, inputs)
        loras.regions({})
        output(model, inputs)
