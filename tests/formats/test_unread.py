"""Tensors that are not read: what they say of themselves is what the tensor says, and numbers come when asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorica.adapters import LoRA
from lorica.errors import FileError
from lorica.formats.storage.files import load, peek
from lorica.formats.storage.unread import Unread

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip
ODD = [0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, -5.9e-5, 3.1415]  # 6e-8 and -5.9e-5 are subnormal in float16


def unread(tensor: Tensor, tmp_path: Path) -> Unread:
    save_file({"first": torch.ones(3, dtype=torch.uint8), "t": tensor}, tmp_path / "a.safetensors")
    found = peek(tmp_path / "a.safetensors").tensors["t"]
    assert isinstance(found, Unread)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_says_what_the_tensor_says(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor(ODD).reshape(2, 4).to(dtype)
    found = unread(tensor, tmp_path)
    assert (found.shape, found.ndim, found.numel()) == (tuple(tensor.shape), 2, 8)
    assert found.element_size() == tensor.element_size()
    assert found.is_floating_point() == tensor.is_floating_point()
    assert found.is_complex() == tensor.is_complex()
    assert len(found) == len(tensor)
    assert torch.equal(found.tensor.float(), tensor.float())
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_its_numbers_are_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor(ODD).reshape(2, 4).to(dtype)
    wanted = tensor if dtype in (torch.float64, *DTYPES[5:]) else tensor.float()
    array = unread(tensor, tmp_path).array()
    assert array.dtype == wanted.numpy().dtype
    assert array.tobytes() == wanted.numpy().tobytes()  # the signs of zeros too


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("room", [None, 0, 65535, 65536, 70000])
def test_every_number_of_16_bits_is_exact_in_whatever_room(
    dtype: torch.dtype, room: int | None, tmp_path: Path
) -> None:
    every = torch.arange(65536).to(torch.uint16).view(dtype)
    finite = torch.where(every.isfinite(), every, 3.0).reshape(128, 512)
    memory = None if room is None else np.full(room, np.nan, np.float32)
    array = unread(finite, tmp_path).array(memory)
    assert array.shape == (128, 512)
    assert array.tobytes() == finite.float().numpy().tobytes()
    assert memory is None or np.shares_memory(array, memory) == (memory.size >= array.size)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_value_that_is_not_finite_is_seen(value: float, tmp_path: Path) -> None:
    tensor = torch.tensor([-65504.0, 65504.0, value]).half()
    np.testing.assert_array_equal(unread(tensor, tmp_path).array(np.empty(5, np.float32)), tensor.float().numpy())


def test_infinite_halves_stay_infinite(tmp_path: Path) -> None:
    array = unread(torch.tensor([1.0, float("inf"), float("-inf"), float("nan")]).half(), tmp_path).array()
    np.testing.assert_array_equal(array, np.array([1, np.inf, -np.inf, np.nan], np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_number_can_be_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor(1.0).to(dtype)
    assert unread(tensor, tmp_path).item() == tensor.item()


def test_many_numbers_are_not_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shape \(8,\) is not one number"):
        unread(torch.tensor(ODD), tmp_path).item()


def test_rows_and_other_shapes_are_not_read_either(tmp_path: Path) -> None:
    tensor = torch.arange(60, dtype=torch.float16).reshape(5, 4, 3)
    found = unread(tensor, tmp_path)
    for part, wanted in (
        (found[1:4], tensor[1:4]),
        (found[-2:], tensor[-2:]),
        (found[3:1], tensor[3:1]),
        (found.flatten(1), tensor.flatten(1)),
        (found.reshape(5, 12, 1), tensor.reshape(5, 12, 1)),
        (found[2:].flatten(1)[1:], tensor[2:].flatten(1)[1:]),
    ):
        assert isinstance(part, Unread)
        assert part.shape == tuple(wanted.shape)
        np.testing.assert_array_equal(part.array(), wanted.float().numpy())
        assert torch.equal(part.tensor, wanted)


def test_what_needs_numbers_gets_the_tensor(tmp_path: Path) -> None:
    tensor = torch.randn(5, 4)
    found = unread(tensor, tmp_path)
    assert torch.equal(found[:, 2], tensor[:, 2])
    assert torch.equal(found.T, tensor.T)
    assert torch.equal(torch.cat([found, found], dim=1), torch.cat([tensor, tensor], dim=1))
    assert torch.equal(tensor.T @ found, tensor.T @ tensor)
    assert torch.equal(torch.einsum("ij,ik->jk", found, tensor), torch.einsum("ij,ik->jk", tensor, tensor))
    assert torch.equal(found.reshape(-1, 2), tensor.reshape(-1, 2))


def test_a_layer_of_unread_tensors_is_the_layer(tmp_path: Path) -> None:
    down, up = torch.randn(2, 5), torch.randn(7, 2)
    save_file({"down": down, "up": up}, tmp_path / "a.safetensors")
    tensors = peek(tmp_path / "a.safetensors").tensors
    layer, real = LoRA(tensors["down"], tensors["up"], 3.0), LoRA(down, up, 3.0)
    assert (layer.rank, layer.weight_shape) == (2, (7, 5))
    weight = torch.zeros(7, 5)
    assert torch.equal(layer.delta(weight), real.delta(weight))


def test_peeking_at_a_checkpoint_of_torch_reads_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.equal(peek(tmp_path / "a.pt").tensors["a"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00" * 20], ids=["empty", "web page", "zeros"])
def test_peeking_refuses_what_loading_refuses(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    errors = []
    for opened in (load, peek):
        with pytest.raises(Exception, match=r"safetensors|empty") as caught:
            opened(path)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_peeking_at_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read"):
        peek(tmp_path / "none.safetensors")
