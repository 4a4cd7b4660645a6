"""Where a picture lies in sequences of tokens, found from what a component is called with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Norm
from lorica.errors import ModelError
from lorica.runtime.regions.picture_layers import Side, side_of
from lorica.runtime.regions.token_grids import Canvas, Grid, canvas_of
from sample_layers import make_lora, one
from tiny_models import TINY
from tiny_transformers import make, places


class Takes(nn.Module):
    """A module that takes what pictures and what belongs to them are called."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, hidden_states: Any, **more: Any) -> Any:
        return hidden_states, more


class TakesPlaces(Takes):
    def forward(self, hidden_states: Any, img_ids: Any = None, height: Any = None, width: Any = None) -> Any:
        return hidden_states, img_ids, height, width


class TakesWords(Takes):
    def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Any:
        return input_ids, inputs_embeds


def grids(module: nn.Module, **given: Any) -> dict[int, Grid]:
    canvas = canvas_of(module, (), given)
    assert canvas is not None
    return dict(canvas.grids)


def test_latents_are_halved_from_level_to_level_rounding_up() -> None:
    found = grids(Takes(), hidden_states=torch.zeros(2, 4, 7, 12))
    assert list(found.values()) == [Grid(1, *size) for size in ((7, 12), (4, 6), (2, 3), (1, 2), (1, 1))]


def test_a_patch_size_cuts_once() -> None:
    assert grids(Takes(patch_size=2), hidden_states=torch.zeros(2, 4, 8, 12)) == {24: Grid(1, 4, 6)}
    video = torch.zeros(2, 4, 5, 8, 12)
    assert grids(Takes(patch_size=(1, 2, 2)), hidden_states=video) == {24: Grid(1, 4, 6), 120: Grid(5, 4, 6)}
    assert grids(Takes(patch_size=2, patch_size_t=2), hidden_states=video) == {24: Grid(1, 4, 6), 72: Grid(3, 4, 6)}


def test_the_text_and_the_batch_are_noted() -> None:
    class Both(Takes):
        def forward(self, sample: Any, encoder_hidden_states: Any) -> Any:
            return sample, encoder_hidden_states

    canvas = canvas_of(Both(), (torch.zeros(3, 4, 8, 10), torch.zeros(3, 7, 24)), {})
    assert isinstance(canvas, Canvas)
    assert (canvas.batch, canvas.text, canvas.largest) == (3, 7, Grid(1, 8, 10))


def test_places_tell_the_grid_and_references_stand_behind() -> None:
    reference = places(2, 3)
    reference[:, 0] = 1
    ids = torch.cat([places(4, 5), reference])
    tokens = torch.zeros(2, 26, 8)
    assert grids(TakesPlaces(), hidden_states=tokens, img_ids=ids) == {26: Grid(1, 4, 5, after=6)}
    assert grids(TakesPlaces(), hidden_states=tokens, img_ids=ids.expand(2, -1, -1)) == {26: Grid(1, 4, 5, after=6)}


def test_sizes_beside_tokens_tell_the_grid() -> None:
    assert grids(TakesPlaces(), hidden_states=torch.zeros(2, 20, 8), height=4, width=5) == {20: Grid(1, 4, 5)}


@pytest.mark.parametrize("words", [{"input_ids": torch.zeros(2, 7).long()}, {"inputs_embeds": torch.zeros(2, 7, 24)}])
def test_texts_are_no_pictures(words: dict[str, Tensor]) -> None:
    assert canvas_of(TakesWords(), (), words) is None


def test_a_vector_is_no_picture_and_a_grid_of_codes_is_one() -> None:
    assert canvas_of(Takes(), (torch.zeros(2, 20),), {}) is None
    assert max(grids(TakesWords(), input_ids=torch.zeros(2, 4, 6).long())) == 24


UNKNOWN: dict[str, tuple[nn.Module, Any, str]] = {
    "tokens alone": (TakesPlaces(), {"hidden_states": torch.zeros(2, 20, 8)}, "20 tokens, and nothing tells where"),
    "too few": (TakesPlaces(), {"hidden_states": torch.zeros(2, 9, 8), "height": 4, "width": 5},
                "9 tokens for a grid of 4 x 5"),
    "not row by row": (TakesPlaces(), {"hidden_states": torch.zeros(2, 20, 8), "img_ids": places(4, 5).flip(0)},
                       "20 places"),
    "gaps": (TakesPlaces(), {"hidden_states": torch.zeros(2, 18, 8), "img_ids": places(4, 5)[:18]}, "18 places"),
    "a list": (Takes(), {"hidden_states": [torch.zeros(4, 8, 10)]}, "its input is a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_cannot_be_told_is_refused(case: str) -> None:
    module, given, message = UNKNOWN[case]
    with pytest.raises(
        ModelError, match=rf"cannot be limited to a region in this {type(module).__name__}: .*{message}"
    ):
        canvas_of(module, (), given)


def test_a_sequence_with_an_unknown_order_is_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = {"patch_size": 1}
            self.both = nn.Linear(3, 3)

        def forward(self, hidden_states: Tensor, text: Tensor) -> Tensor:
            return self.both(torch.cat([text, hidden_states.flatten(2).transpose(1, 2)], dim=1))

    model = Mixed()
    loras = lorica.attach(model)
    loras.load(one(make_lora(model.both), "both"), name="a")
    loras.regions({"a": torch.ones(2, 2)})
    message = r"in this Mixed: both gives a sequence of 27, .* the picture's own have 20 \(4 x 5\)"
    with pytest.raises(ModelError, match=message):
        model(torch.zeros(2, 3, 4, 5), torch.zeros(2, 7, 3))


def test_heads_are_not_taken_for_tokens() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.RMSNorm(5)

        def forward(self, sample: Tensor) -> Tensor:
            return self.norm(sample.flatten(2).transpose(1, 2).unflatten(2, (2, 5)).transpose(1, 2))  # (b, 2, 60, 5)

    model, x = Heads(), torch.randn(3, 10, 6, 10)  # halved to 1 x 2 at last: two tokens, as many as heads
    loras = lorica.attach(model)
    base = model(x)
    loras.load(one(Norm(torch.randn(5)), "norm"), name="a")
    mask = torch.zeros(6, 10)
    mask[2, 3] = 1
    loras.regions({"a": mask})
    changed = (model(x) != base).any(-1)
    assert changed.nonzero()[:, 2].unique().tolist() == [23]
    assert changed.sum() == 3 * 2


def test_places_that_are_no_grid_stop_the_forward() -> None:
    model, inputs = TINY["flux"]()
    loras = lorica.attach(model)
    path = "transformer_blocks.0.attn.to_q"
    loras.load(lorica.Adapter({"transformer": {path: make_lora(model.get_submodule(path))}}), name="a")
    model(**inputs)
    loras.regions({"a": torch.ones(2, 2)})
    with pytest.raises(
        ModelError, match=r"FluxTransformer2DModel: the .* places of its tokens are not those of a grid"
    ):
        model(**inputs)


SIDES: dict[tuple[str, str], Side] = {
    ("sd3", "transformer_blocks.0.attn2.to_k"): Side.PICTURE,  # a second attention over the picture, not to the text
    ("wan", "blocks.0.attn2.to_k"): Side.CONDITION,
    ("wan", "blocks.0.attn2.to_q"): Side.PICTURE,
    ("ltx", "transformer_blocks.0.attn1.to_k"): Side.PICTURE,
    ("ltx", "transformer_blocks.0.attn2.to_v"): Side.CONDITION,
    ("flux", "single_transformer_blocks.1.proj_mlp"): Side.TEXT_THEN_PICTURE,
    ("flux", "transformer_blocks.0.ff_context.net.2"): Side.CONDITION,
    ("hunyuan video", "single_transformer_blocks.0.proj_out"): Side.PICTURE_THEN_TEXT,
    ("kandinsky", "down_blocks.1.attentions.0.to_k"): Side.PICTURE,
    ("kandinsky", "down_blocks.1.attentions.0.add_k_proj"): Side.CONDITION,
    ("animate diff", "down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_k"): Side.TIME,
}


@pytest.mark.parametrize("case", SIDES, ids=lambda case: " ".join(case))
def test_a_layers_name_and_attention_tell_its_side(case: tuple[str, str]) -> None:
    model, _ = make(case[0])
    assert side_of(model, case[1]) is SIDES[case]
