from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lorica
from lorica.adapters import KINDS, Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.keys_to_modules import FileModules, split_flat
from lorica.formats.modules import ModuleReader
from lorica.formats.names import Location
from lorica.formats.storage.files import FileContents, load, peek
from lorica.models import FAMILIES, Target
from lorica.models.spellings import Part

BLOCKS = [
    f"down_blocks_1_attentions_0_transformer_blocks_0_attn{number}_to_{part}" for number in (1, 2) for part in "qo"
]
NAMES = [f"lora_unet_{block.replace('_to_o', '_to_out_0')}" for block in BLOCKS]
PATHS = [name.removeprefix("lora_unet_") for name in NAMES]
WIDTH = 640
SD1 = FAMILIES["sd1"].target


def file_of(leaves: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """One module after another with the same leaves and alpha, and numbers of its own."""
    return {f"{name}.{leaf}": tensor for name in NAMES for leaf, tensor in module_of(leaves).items()}


def module_of(leaves: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {leaf: torch.randn(shape) if shape else torch.tensor(1.5) for leaf, shape in leaves.items()}


def layers_of(adapter: Adapter) -> list[lorica.AdapterLayer]:
    return [layer for _, _, layer in adapter.layers()]


LORA = {"alpha": (), "lora_down.weight": (3, WIDTH), "lora_up.weight": (WIDTH, 3)}
LOHA = {"hada_w1_a": (WIDTH, 5), "hada_w1_b": (5, WIDTH), "hada_w2_a": (WIDTH, 5), "hada_w2_b": (5, WIDTH)}


@pytest.mark.parametrize("leaves", [LORA, LOHA], ids=["lora", "loha"])
def test_modules_that_are_alike_each_hold_their_own_tensors(leaves: dict[str, tuple[int, ...]]) -> None:
    tensors = file_of(leaves)
    for name, layer in zip(NAMES, layers_of(lorica.read(tensors)), strict=True):
        own = [tensors[f"{name}.{leaf}"] for leaf in leaves if leaf != "alpha"]
        assert {id(tensor) for tensor in layer.tensors.values()} == {id(tensor) for tensor in own}


def test_a_layer_made_after_a_pattern_equals_one_that_was_checked() -> None:
    tensors = file_of(LORA)
    for name, layer in zip(NAMES, layers_of(lorica.read(tensors)), strict=True):
        down, up, alpha = (tensors[f"{name}.{leaf}"] for leaf in ("lora_down.weight", "lora_up.weight", "alpha"))
        assert layer == KINDS["lora"](down, up, float(alpha))  # type: ignore[call-arg]
        assert list(layer.tensors) == ["down", "up"]


def test_modules_that_are_alike_but_for_the_alpha_keep_their_own() -> None:
    tensors = file_of(LORA)
    told = [1.0, 0.0, 2.5, 1.0]
    for name, alpha in zip(NAMES, told, strict=True):
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    assert [layer.alpha for layer in layers_of(lorica.read(tensors))] == [1.0, 3.0, 2.5, 1.0]  # 0 means the rank


def test_a_setting_that_a_tensor_holds_is_each_modules_own() -> None:
    tensors = file_of({"weight": (WIDTH,), "on_input": ()})
    for name, on_input in zip(NAMES, (1, 0, 1, 0), strict=True):
        tensors[f"{name}.on_input"] = torch.tensor(bool(on_input))
    assert [layer.settings["on_input"] for layer in layers_of(lorica.read(tensors, target=SD1))] == [
        True,
        False,
        True,
        False,
    ]


def test_a_magnitude_is_each_modules_own() -> None:
    tensors = file_of({**LORA, "dora_scale": (1, WIDTH)})
    layers = layers_of(lorica.read(tensors))
    for name, layer in zip(NAMES, layers, strict=True):
        assert torch.equal(layer.tensors["magnitude"], tensors[f"{name}.dora_scale"])
        assert torch.equal(layer.settings["inner"].down, tensors[f"{name}.lora_down.weight"])


def test_a_told_shape_of_the_weight_is_held_against_every_module() -> None:
    tensors = file_of({**LORA, "reshape_weight": (2,)})
    for name, told in zip(NAMES, (WIDTH, WIDTH, 7, WIDTH), strict=True):
        tensors[f"{name}.reshape_weight"] = torch.tensor([told, WIDTH])
    report = lorica.read(tensors, strict=False).report
    assert report is not None
    assert {left.key.partition(".")[0] for left in report.unused} == {NAMES[2]}


def test_the_same_tensors_on_another_shape_of_weight_are_looked_at_again() -> None:
    tensors = file_of(LORA)
    narrow = f"lora_unet_{PATHS[0].replace('down_blocks_1', 'down_blocks_2')}"  # 1280 wide in the model
    tensors |= {f"{narrow}.{leaf}": tensor for leaf, tensor in module_of(LORA).items()}
    report = lorica.read(tensors, target=SD1, strict=False).report
    assert report is not None
    assert {left.key.partition(".")[0] for left in report.unused} == {narrow}
    assert {"(640, 640), but the model has (1280, 1280)" in left.reason for left in report.unused} == {True}


def read_alike(places: dict[str, Location], **meaning: Any) -> tuple[dict[str, Tensor], dict[str, AdapterLayer]]:
    """Read modules of one kind that stand in given places, each for a weight of the same shape."""
    leaves = {"lora_down.weight": (3, 5), "lora_up.weight": (4, 3)}
    tensors = {f"{name}.{leaf}": tensor for name in places for leaf, tensor in module_of(leaves).items()}
    paths = [path for place in places.values() for path in place.paths()]
    target = Target("a model", {"unet": dict.fromkeys(paths, (4, 5))})
    contents = FileContents("the file", tensors)
    parsed = Parsed(FileModules(contents, split_flat(tensors)), places.__getitem__, target, **meaning)
    return tensors, ModuleReader(contents, parsed, Account("kohya", "the file")).read()["unet"]


def test_a_module_whose_rows_stand_in_another_order_is_not_made_like_one_as_a_whole() -> None:
    halves = Part("turned", rows=(0, 2), own_rows=(2, 4)), Part("turned", rows=(2, 4), own_rows=(0, 2))
    places = {"a": Location.of("unet", "first"), "b": Location("unet", halves), "c": Location.of("unet", "last")}
    tensors, layers = read_alike(places)
    assert list(layers) == ["first", "turned", "last"]
    assert torch.equal(layers["last"].tensors["up"], tensors["c.lora_up.weight"])
    assert torch.equal(layers["turned"].tensors["up"], tensors["b.lora_up.weight"][[2, 3, 0, 1]])


def test_a_module_that_its_configuration_means_otherwise_is_not_made_like_another() -> None:
    def revise(path: str, layer: AdapterLayer, shape: tuple[int, ...] | None) -> AdapterLayer | str:
        assert shape == (4, 5)
        if path == "none":
            return "no such thing."
        return lorica.LoRA(**layer.tensors, alpha=7.0) if path == "other" else layer

    places = {name: Location.of("unet", name) for name in ("first", "other", "none", "last")}
    _, layers = read_alike(places, revise=revise)
    assert {path: layer.alpha for path, layer in layers.items()} == {"first": 3.0, "other": 7.0, "last": 3.0}


def test_one_tensor_of_another_dtype_makes_another_kind() -> None:
    tensors = file_of(LORA)
    key = f"{NAMES[-1]}.lora_up.weight"
    with pytest.raises(FormatError, match=f"{key}.*int32"):
        lorica.read({**tensors, key: tensors[key].int()})


def test_two_modules_of_a_file_for_one_of_the_model_are_refused_by_both_keys() -> None:
    tensors = file_of(LORA)
    again = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    tensors |= {f"{again}.{leaf}": tensor for leaf, tensor in module_of(LORA).items()}
    with pytest.raises(FormatError, match=f"'{NAMES[0]}.alpha' and '{again}.alpha' are both the alpha of unet"):
        lorica.read(tensors, target=SD1)


def test_the_kinds_of_unread_tensors_are_those_of_read_ones(tmp_path: Path) -> None:
    tensors = file_of(LORA)
    tensors[f"{NAMES[1]}.lora_up.weight"] = tensors[f"{NAMES[1]}.lora_up.weight"].half()
    tensors[f"{NAMES[2]}.lora_down.weight"] = torch.randn(4, WIDTH)
    file = lorica.write(lorica.read(file_of(LORA)), tmp_path / "file.safetensors", format="kohya")
    for contents in (load(file), peek(file)):
        assert set(FileModules(contents, split_flat(contents.tensors)).kinds.values()) == {0}
    assert list(FileModules(FileContents("the file", tensors), split_flat(tensors)).kinds.values()) == [0, 1, 2, 0]
