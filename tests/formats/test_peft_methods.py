"""PEFT's methods beside LoRA, whose meaning its configuration tells: compared with PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoKrConfig, OFTConfig, PeftModel, VeraConfig, get_peft_model
from torch import nn

import lorica
from lorica.adapters import Adapter
from lorica.errors import FormatError
from lorica.models import Target
from sample_layers import relative_error

FP32_NOISE = 2e-6  # relative; worst measured 2.8e-7 over all cases x 12 seeds
SHAPES = {"a.q": (8, 6), "a.k": (10, 6), "b.wide": (5, 12), "b.conv": (9, 4, 3, 3), "b.one": (4, 6, 1, 1)}
TARGET = Target("tiny", {"unet": SHAPES})


def model() -> nn.Module:
    torch.manual_seed(0)
    a = nn.ModuleDict({"q": nn.Linear(6, 8), "k": nn.Linear(6, 10)})
    b = nn.ModuleDict({"wide": nn.Linear(12, 5), "conv": nn.Conv2d(4, 9, 3), "one": nn.Conv2d(6, 4, 1)})
    return nn.ModuleDict({"a": a, "b": b})


def trained(config: Any, size: float = 0.25) -> Any:
    wrapped = get_peft_model(model(), config)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape) * size)
    return wrapped


def saved(config: Any, folder: Path) -> Any:
    wrapped = trained(config)
    wrapped.save_pretrained(folder)
    return wrapped


def reconfigure(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def check_weights(adapter: Adapter, wrapped: Any, count: int, base: nn.Module | None = None) -> None:
    """Compare the weights and biases that both make of the model."""
    base, merged = base or model(), wrapped.merge_and_unload()
    layers = adapter.components["unet"]
    assert len(layers) == count
    for path, layer in layers.items():
        before, after = base.get_submodule(path), merged.get_submodule(path)
        moved = before.weight + layer.delta(before.weight)
        assert relative_error(moved - before.weight, after.weight - before.weight) < FP32_NOISE, path
        change = layer.bias_delta(before.bias)
        bias = before.bias if change is None else before.bias + change
        assert relative_error(bias, after.bias) < FP32_NOISE, path


OFTS = {
    "five terms": OFTConfig(oft_block_size=3, target_modules=["q", "wide", "one"]),
    "four terms": OFTConfig(oft_block_size=3, target_modules=["q"], num_cayley_neumann_terms=4),
    "three terms": OFTConfig(oft_block_size=3, target_modules=["q"], num_cayley_neumann_terms=3),
    "seven terms": OFTConfig(oft_block_size=2, target_modules=["q"], num_cayley_neumann_terms=7),
    "exact": OFTConfig(oft_block_size=3, target_modules=["q", "wide"], use_cayley_neumann=False),
    "shared": OFTConfig(oft_block_size=3, target_modules=["q", "wide"], block_share=True),
    "shared by one": OFTConfig(oft_block_size=6, target_modules=["q"], block_share=True),
    "constrained": OFTConfig(oft_block_size=3, target_modules=["q", "wide"], coft=True, eps=0.7),
    "constrained and shared": OFTConfig(oft_block_size=3, target_modules=["q"], coft=True, eps=0.3, block_share=True),
}


@pytest.mark.parametrize("name", OFTS)
def test_an_oft_of_peft_turns_the_weights_as_peft_does(name: str, tmp_path: Path) -> None:
    wrapped = saved(OFTS[name], tmp_path)
    adapter = lorica.read(tmp_path, target=TARGET)
    check_weights(adapter, wrapped, len(OFTS[name].target_modules or ()))


def test_an_oft_of_peft_gives_the_outputs_that_peft_trained(tmp_path: Path) -> None:
    wrapped = saved(OFTS["constrained"], tmp_path)
    (layer,) = (lorica.read(tmp_path, target=TARGET).components["unet"][path] for path in ["a.q"])
    x, own = torch.randn(3, 6), model().get_submodule("a.q")
    added = layer.bypass(x, own)
    assert added is not None
    live = wrapped.base_model.model["a"]["q"](x)
    assert relative_error(own(x) + added, live) < FP32_NOISE


def test_pefts_oft_of_a_kernel_is_no_change_of_the_weight_and_refused(tmp_path: Path) -> None:
    wrapped = saved(OFTConfig(oft_block_size=3, target_modules=["conv"]), tmp_path)
    x, conv = torch.randn(2, 4, 7, 7), wrapped.base_model.model["b"]["conv"]
    live = conv(x)
    with torch.no_grad():
        conv.merge()
    assert relative_error(conv(x), live) > 0.1
    with pytest.raises(FormatError, match="a convolution with a kernel, which PEFT does not compute as a change"):
        lorica.read(tmp_path, target=TARGET)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"use_cayley_neumann": "gone"}, "only an adapter_config.json with use_cayley_neumann tells"),
        ({"num_cayley_neumann_terms": 2}, "num_cayley_neumann_terms=2; 3 or more can be read"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ],
)
def test_options_of_oft_that_cannot_be_read_are_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    saved(OFTS["five terms"], tmp_path)
    reconfigure(tmp_path, **fields)
    with pytest.raises(FormatError, match=said):
        lorica.read(tmp_path, target=TARGET)


def test_a_shared_block_needs_the_model(tmp_path: Path) -> None:
    saved(OFTS["shared"], tmp_path / "unet")
    with pytest.raises(FormatError, match="its one block is shared by all inputs, and only the model tells"):
        lorica.read(tmp_path / "unet")


OTHERS = {
    "lokr of two whole factors": LoKrConfig(r=16, alpha=3, target_modules=["q", "conv"], rank_pattern={"q": 12}),
    "lokr": LoKrConfig(r=1, alpha=3, target_modules=["wide", "conv"]),
    "lokr with a core": LoKrConfig(r=1, alpha=3, target_modules=["conv"], use_effective_conv2d=True),
    "vera": VeraConfig(r=3, target_modules=["q", "k", "wide"]),
    "ia3": IA3Config(target_modules=["q", "k", "conv", "one"], feedforward_modules=["k", "one"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_of_peft_change_the_weights_as_peft_does(name: str, tmp_path: Path) -> None:
    wrapped = saved(OTHERS[name], tmp_path)
    adapter = lorica.read(tmp_path, target=TARGET)
    assert adapter.report is not None
    assert len(adapter.report.used) == len(set(adapter.report.used))
    check_weights(adapter, wrapped, len(OTHERS[name].target_modules or ()))


HELD = {**OTHERS, **{f"oft of {name}": config for name, config in OFTS.items()}}


@pytest.mark.parametrize("name", HELD)
def test_what_was_read_of_peft_is_written_so_that_peft_loads_it(name: str, tmp_path: Path) -> None:
    wrapped = saved(HELD[name], tmp_path / "first")
    adapter = lorica.read(tmp_path / "first", target=TARGET)
    lorica.write(adapter, tmp_path / "second", format="peft", target=TARGET)
    assert lorica.read(tmp_path / "second", target=TARGET) == adapter
    loaded: Any = PeftModel.from_pretrained(model(), tmp_path / "second")  # type: ignore[arg-type]
    mine, theirs = (part.eval().merge_and_unload().state_dict() for part in (loaded, wrapped))
    assert mine.keys() == theirs.keys()
    for key, weight in theirs.items():
        assert relative_error(mine[key], weight) < FP32_NOISE, key


@pytest.mark.filterwarnings("ignore:Specified to not save vera_A")
def test_a_vera_without_its_matrices_or_its_model_is_refused(tmp_path: Path) -> None:
    saved(VeraConfig(r=3, target_modules=["q"]), tmp_path / "unet")
    with pytest.raises(FormatError, match="only the model tells which part"):
        lorica.read(tmp_path / "unet")
    saved(VeraConfig(r=3, target_modules=["q"], save_projection=False), tmp_path)
    with pytest.raises(FormatError, match="save_projection was False"):
        lorica.read(tmp_path, target=TARGET)


def test_the_shape_of_the_factors_of_a_linear_tells_their_axis(tmp_path: Path) -> None:
    wrapped = saved(IA3Config(target_modules=["q", "k"], feedforward_modules=["k"]), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    check_weights(lorica.read(tmp_path, target=TARGET), wrapped, 2)


def test_factors_of_a_convolution_need_the_configuration(tmp_path: Path) -> None:
    saved(OTHERS["ia3"], tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(FormatError, match="whether the factors of a convolution are of its inputs"):
        lorica.read(tmp_path, target=TARGET)
