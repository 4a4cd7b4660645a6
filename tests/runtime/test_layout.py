"""Layers are looked up again when the modules of a model changed, and only then."""

from __future__ import annotations

import torch
from torch import nn

import lorica
from lorica.adapters import Adapter
from lorica.runtime.model.layout import Layout
from sample_layers import make_lora


def make() -> tuple[nn.Sequential, Layout]:
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 7), nn.ReLU()), nn.Linear(7, 4))
    return model, Layout({"model": model})


def test_nothing_is_looked_up_twice_while_nothing_changes() -> None:
    model, layout = make()
    target, layers = layout.target(), layout.layers("model")
    lorica.attach(model).load(Adapter({"model": {"0.0": make_lora(model[0][0])}}), name="a")
    assert layout.target() is target
    assert layout.layers("model") is layers
    assert list(layers) == ["0.0", "1"]


def test_a_module_that_was_replaced_is_found() -> None:
    model, layout = make()
    layout.target()
    model[0][0] = nn.Linear(5, 9)
    assert layout.layers("model")["0.0"] is model[0][0]
    assert layout.target().components["model"]["0.0"] == (9, 5)


def test_a_layer_below_one_that_had_no_children_is_found() -> None:
    model, layout = make()
    layout.target()
    model[0][1].add_module("inner", nn.Linear(3, 2))
    assert "0.1.inner" in layout.layers("model")
    model[0][1].add_module("other", model[0][1].inner)
    del model[0][1].inner
    assert "0.1.other" in layout.layers("model")
    assert "0.1.inner" not in layout.layers("model")


def test_a_weight_of_another_shape_is_seen() -> None:
    model, layout = make()
    layout.target()
    model[1].weight, model[1].in_features = nn.Parameter(torch.zeros(4, 8)), 8
    assert layout.target().components["model"]["1"] == (4, 8)


def test_another_component_of_the_same_name_is_looked_at() -> None:
    model, _ = make()
    parts: dict[str, nn.Module] = {"model": model}
    layout = Layout(parts)
    layout.target()
    parts["model"] = nn.Sequential(nn.Linear(3, 2))
    assert list(layout.layers("model")) == ["0"]


def test_a_module_that_moved_to_another_parent_is_found_there() -> None:
    model = nn.Sequential(nn.Sequential(), nn.Sequential(nn.Linear(5, 7)))
    layout = Layout({"model": model})
    assert list(layout.layers("model")) == ["1.0"]
    model[0].add_module("0", model[1][0])
    del model[1][0]
    assert list(layout.layers("model")) == ["0.0"]


def test_a_weight_that_was_given_other_memory_is_seen() -> None:
    model = nn.Sequential(nn.Embedding(5, 3))
    layout = Layout({"model": model})
    layout.target()
    model[0].weight.data = torch.zeros(6, 3)  # as resizing a text encoder's table does it
    assert layout.target().components["model"]["0"] == (6, 3)


def test_a_tree_knows_the_parent_of_every_layer() -> None:
    model, layout = make()
    layout.target()
    assert layout.tree("model").parents == {"0.0": model[0], "1": model}
    model[0] = nn.Sequential(nn.Linear(5, 7))
    layout.target()
    assert layout.tree("model").parents["0.0"] is model[0]
