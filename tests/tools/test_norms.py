"""The norm of a change is that of the change that is built, whichever road leads to it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lorica
from lorica.adapters import Adapter, AdapterLayer, LoRA
from lorica.formats.storage.files import peek
from lorica.tools.norms import norm_of, norms_of

FLOAT32_NOISE = 1e-6  # relative; worst measured 2e-7
CANCELLING_NOISE = 1e-6  # the same for products that nearly cancel, in float64; worst measured 2e-7


def built(layer: AdapterLayer, shape: tuple[int, ...]) -> float:
    return torch.linalg.vector_norm(layer.delta(torch.zeros(shape)).double()).item()


@pytest.mark.parametrize("shape", [(7, 5), (8, 6, 3, 2), (4, 9, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_it_is_the_norm_of_the_change(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ones = [1] * (len(shape) - 2)
    layer = LoRA(torch.randn(3, *shape[1:]).to(dtype), torch.randn(shape[0], 3, *ones).to(dtype), -2.5)
    assert norm_of(layer) == pytest.approx(built(layer, shape), rel=FLOAT32_NOISE)


def test_entry_by_entry() -> None:
    down, up = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]]), torch.tensor([[1.0, -2.0], [4.0, 0.25]])
    squares = 0.0
    for row in range(2):
        for column in range(3):
            squares += (sum(up[row, r] * down[r, column] for r in range(2)).item() * 5 / 2) ** 2
    assert norm_of(LoRA(down, up, 5.0)) == pytest.approx(math.sqrt(squares), rel=FLOAT32_NOISE)


def test_halves_that_nearly_cancel_keep_their_digits() -> None:
    down, up, small = torch.randn(4, 300), torch.randn(200, 4), torch.randn(200, 4) * 1e-4
    layer = LoRA(torch.cat([down, down]), torch.cat([up + small, -up], dim=1))
    exact = torch.linalg.vector_norm(layer.up.double() @ layer.down.double()).item()
    assert norm_of(layer) == pytest.approx(exact, rel=CANCELLING_NOISE)


def test_nothing_has_no_length() -> None:
    assert norm_of(LoRA(torch.randn(2, 5), torch.zeros(3, 2))) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_layer_has_no_number(value: float) -> None:
    down = torch.ones(2, 5)
    down[1, 3] = value
    assert math.isnan(norm_of(LoRA(down, torch.ones(4, 2))))


class Doubles(AdapterLayer):
    """A change that depends on the base weight, and one that does not, without factors."""

    kind = "sample"
    __slots__ = ("own",)

    def __init__(self, *, own: bool) -> None:
        self.own = own
        self.tensors = {"diff": torch.arange(6.0).reshape(2, 3)}
        self.alpha = 1.0

    @property
    def rank(self) -> int:
        return 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (2, 3)

    def delta(self, weight: Tensor) -> Tensor:
        return self.tensors["diff"] * (1 if self.own else weight)

    def _check(self) -> None:
        return


def test_a_change_without_factors_is_built() -> None:
    assert norm_of(Doubles(own=True)) == pytest.approx(math.sqrt(55), rel=FLOAT32_NOISE)


def test_a_change_that_depends_on_the_base_is_not_measured() -> None:
    assert norm_of(Doubles(own=False)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_unread_tensors_give_the_same_norm(dtype: torch.dtype, tmp_path: Path) -> None:
    layer = LoRA(torch.randn(3, 5).to(dtype), torch.randn(7, 3).to(dtype), 2.0)
    path = lorica.write(Adapter({"unet": {"a.b": layer}}), tmp_path / "a.safetensors", format="kohya")
    tensors = peek(path).tensors
    twin = LoRA(tensors["lora_unet_a_b.lora_down.weight"], tensors["lora_unet_a_b.lora_up.weight"], 2.0)
    assert norm_of(twin) == norm_of(layer)


@pytest.mark.parametrize("rank", [1, 5, 7, 40])
def test_factors_of_any_rank_have_the_norm_of_their_product(rank: int) -> None:
    layer = LoRA(torch.randn(rank, 5), torch.randn(7, rank), 3.0)
    assert norm_of(layer) == pytest.approx(built(layer, (7, 5)), rel=FLOAT32_NOISE)


def test_an_enormous_rank_takes_no_enormous_matrices() -> None:
    rank = 300_000  # squared it would take 360 GB
    assert norm_of(LoRA(torch.ones(rank, 3), torch.ones(2, rank), 1.0)) == pytest.approx(math.sqrt(6), rel=1e-4)


def test_many_layers_give_what_each_of_them_gives(tmp_path: Path) -> None:
    down, up, small = torch.randn(4, 300), torch.randn(200, 4), torch.randn(200, 4) * 1e-2
    cancelling = LoRA(torch.cat([down, down]).half(), torch.cat([up + small, -up], dim=1).half())
    layers = {
        "a.b": LoRA(torch.randn(3, 5).half(), torch.randn(7, 3).half(), 2.0),
        "a.c": cancelling,
        "a.d": LoRA(torch.randn(2, 11, 3, 3).bfloat16(), torch.randn(4, 2, 1, 1).bfloat16(), 1.0),
    }
    lorica.write(Adapter({"unet": layers}), tmp_path / "a.safetensors", format="kohya")
    tensors = peek(tmp_path / "a.safetensors").tensors
    twins = [
        LoRA(tensors[f"lora_unet_{name}.lora_down.weight"], tensors[f"lora_unet_{name}.lora_up.weight"], layer.alpha)
        for name, layer in ((path.replace(".", "_"), layer) for path, layer in layers.items())
    ]
    assert norms_of(twins) == [norm_of(layer) for layer in layers.values()]
