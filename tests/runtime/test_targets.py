"""Which layers of a live model carry adapters, patterns that choose among them, and models that change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from bank_memory import served
from lorica.adapters import Adapter
from lorica.errors import UnknownNameError
from lorica.runtime.model.targets import choose_modules, components_of, target_of
from sample_layers import make_lora, one


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


# Adapters on a model whose modules change after it was attached.


def attached() -> tuple[nn.Sequential, lorica.Loras]:
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 7), nn.ReLU()), nn.Linear(7, 4))
    loras = lorica.attach(model)
    assert shapes(loras) == {"0.0": (7, 5), "1": (4, 7)}
    return model, loras


def shapes(loras: lorica.Loras) -> dict[str, tuple[int, ...]]:
    return dict(loras.target().components["model"])


def test_the_target_stays_the_same_when_adapters_come() -> None:
    model, loras = attached()
    loras.load(one(make_lora(model[0][0]), "0.0"), name="a")
    assert shapes(loras) == {"0.0": (7, 5), "1": (4, 7)}


def test_a_module_that_was_replaced_is_found() -> None:
    model, loras = attached()
    model[0][0] = nn.Linear(5, 9)
    assert shapes(loras)["0.0"] == (9, 5)
    loras.load(one(make_lora(model[0][0]), "0.0"), name="a")
    assert served(model) == ["0.0"]


def test_a_layer_below_one_that_had_no_children_is_found() -> None:
    model, loras = attached()
    model[0][1].add_module("inner", nn.Linear(3, 2))
    assert shapes(loras)["0.1.inner"] == (2, 3)
    model[0][1].add_module("other", model[0][1].inner)
    del model[0][1].inner
    assert shapes(loras).keys() == {"0.0", "0.1.other", "1"}
    loras.load(one(make_lora(model[0][1].other), "0.1.other"), name="a")
    assert served(model) == ["0.1.other"]


def test_a_weight_of_another_shape_is_seen() -> None:
    model, loras = attached()
    model[1].weight, model[1].in_features = nn.Parameter(torch.zeros(4, 8)), 8
    assert shapes(loras)["1"] == (4, 8)


def test_a_weight_that_was_given_other_memory_is_seen() -> None:
    model = nn.Sequential(nn.Embedding(5, 3))
    loras = lorica.attach(model)
    assert shapes(loras)["0"] == (5, 3)
    model[0].weight.data = torch.zeros(6, 3)  # as resizing a text encoder's table does it
    assert shapes(loras)["0"] == (6, 3)


def test_a_module_that_moved_to_another_parent_is_found_there() -> None:
    model = nn.Sequential(nn.Sequential(), nn.Sequential(nn.Linear(5, 7)))
    loras = lorica.attach(model)
    assert list(shapes(loras)) == ["1.0"]
    model[0].add_module("0", model[1][0])
    del model[1][0]
    assert list(shapes(loras)) == ["0.0"]
    loras.load(Adapter({"model": {"0.0": make_lora(model[0][0])}}), name="a")
    model[0](torch.randn(2, 5))
