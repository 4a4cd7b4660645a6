"""Which layers of a live model carry adapters, and the patterns that choose among them."""

from __future__ import annotations

import pytest
from torch import nn

from lorica.errors import UnknownNameError
from lorica.runtime import choose_modules, components_of, target_of


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(3, 4)
        self.to_out = nn.ModuleList([nn.Linear(4, 5), nn.Dropout(0.1)])
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.LayerNorm(7)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Block()
        self.to_k = nn.Linear(8, 9)


class Pipeline:
    def __init__(self) -> None:
        self.components = {
            "unet": Model(),
            "vae": nn.Linear(2, 2),
            "scheduler": object(),
            "text_encoder": nn.Linear(2, 3),
        }


def test_components_leave_out_what_adapters_are_not_made_for() -> None:
    assert list(components_of(Pipeline())) == ["unet", "text_encoder"]


def test_the_target_lists_paths_and_weight_shapes() -> None:
    assert target_of(Pipeline()).components["unet"] == {
        "attn.to_q": (4, 3),
        "attn.to_out.0": (5, 4),
        "attn.conv": (6, 2, 3, 3),
        "attn.norm": (7,),
        "to_k": (9, 8),
    }


def test_presets_and_globs_choose_in_the_order_of_the_model() -> None:
    assert choose_modules(Model(), "attention") == ["attn.to_q", "attn.to_out.0", "to_k"]
    assert choose_modules(Model(), "all-linear") == ["attn.to_q", "attn.to_out.0", "to_k"]
    assert choose_modules(Model(), "all") == ["attn.to_q", "attn.to_out.0", "attn.conv", "to_k"]
    assert choose_modules(Model(), ["to_k", "attn.*"]) == ["attn.to_q", "attn.to_out.0", "attn.conv", "to_k"]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'atention'.*attention"):
        choose_modules(Model(), "atention")
