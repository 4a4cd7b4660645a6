"""Files of every format with something broken: each is read whole and written back, or refused by a LoRAError."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from formats_fixtures import NAMES, READ_ONLY, describe, filled
from lorica.errors import LoRAError
from lorica.formats import FORMATS
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import FileContents, load, save
from lorica.models import FAMILIES

Tensors = dict[str, Tensor]
FEW = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def whole_file(name: str) -> Tensors:
    return filled(describe(name)["tensors"])


def drop(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    del draw
    tensors.pop(key)


def rename(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, len(key)))
    letters = draw.draw(st.sampled_from(["", "_", ".", "0", "9", "x", "lora_", ":", "é", "\n", "weight"]))
    tensors[key[:place] + letters + key[place + 1 :]] = tensors.pop(key)


def repeat(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    """Add the key in another spelling of its leaf."""
    old, new = draw.draw(
        st.sampled_from([("lora_down", "lora_A"), ("lora_A", "lora_down"), (".weight", ""), ("_", ".")])
    )
    tensors[key.replace(old, new)] = tensors[key]


def reshape(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    changes = [
        lambda tensor: tensor.T if tensor.ndim == 2 else tensor.flatten(),
        lambda tensor: tensor[:1] if tensor.ndim else tensor.reshape(1),
        lambda tensor: tensor[:0] if tensor.ndim else tensor.reshape(1, 1),
        lambda tensor: tensor[None],
        lambda tensor: torch.cat([tensor, tensor]) if tensor.ndim else tensor.repeat(3),
        lambda tensor: tensor.flatten()[0] if tensor.numel() else tensor,
    ]
    tensors[key] = draw.draw(st.sampled_from(changes))(tensors[key])


def retype(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    kinds = [torch.int8, torch.bool, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64]
    tensors[key] = tensors[key].to(draw.draw(st.sampled_from(kinds)))


def poison(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    broken = tensors[key].flatten().clone()
    if broken.numel() and broken.is_floating_point():
        broken[-1] = draw.draw(st.sampled_from([float("nan"), float("inf"), float("-inf"), 60000.0, 0.0]))
    tensors[key] = broken.reshape(tensors[key].shape)


def swap(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    other = draw.draw(st.sampled_from(sorted(tensors)))
    tensors[key], tensors[other] = tensors[other], tensors[key]


def add(tensors: Tensors, key: str, draw: st.DataObject) -> None:
    leaves = [
        "dora_scale",
        "hada_w1_a",
        "lokr_w1",
        "oft_blocks",
        "diff",
        "diff_b",
        "on_input",
        "alpha",
        "scale",
        "nothing",
    ]
    name = key.partition(".")[0] if key.startswith("lora_") else key.rpartition(".lora")[0]
    shape = draw.draw(st.sampled_from([(), (1,), (3,), (3, 3), (1, 3), (2, 3, 3)]))
    tensors[f"{name}.{draw.draw(st.sampled_from(leaves))}"] = torch.ones(shape)


MUTATIONS = [drop, rename, repeat, reshape, retype, poison, swap, add]


def check(name: str, draw: st.DataObject) -> None:
    facts, tensors = describe(name), dict(whole_file(name))
    for _ in range(draw.draw(st.integers(1, 3))):
        if tensors:
            draw.draw(st.sampled_from(MUTATIONS))(tensors, draw.draw(st.sampled_from(sorted(tensors))), draw)
    target = FAMILIES[facts["fits"]].target if facts["fits"] and draw.draw(st.booleans()) else None
    stored = FileContents("the file", tensors, facts["metadata"])
    try:
        dialect = recognise(stored, FORMATS)
        adapter = interpret(stored, dialect, target, strict=True)
    except LoRAError as error:
        assert "the file" in str(error)  # noqa: PT017  # it says which
        return
    assert adapter.report is not None
    assert set(adapter.report.used) == set(tensors)
    if dialect.name not in READ_ONLY:
        again, _ = dialect.compose(adapter, target)
        assert again.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert torch.equal(again[key].double(), tensor.double()), key


@FEW
@given(st.sampled_from(NAMES), st.data())
def test_a_mutated_file_is_read_whole_or_refused(name: str, draw: st.DataObject) -> None:
    check(name, draw)


@pytest.mark.slow
@MANY
@given(st.sampled_from(NAMES), st.data())
def test_many_mutated_files_are_read_whole_or_refused(name: str, draw: st.DataObject) -> None:
    check(name, draw)


@FEW
@given(st.sampled_from(["kohya_wan", "peft_sd1_unet", "comfyui_wan"]), st.data())
def test_a_file_with_broken_bytes_is_read_or_refused(name: str, draw: st.DataObject) -> None:
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / f"lorica_mutated_{name}.safetensors"  # noqa: S108
    small = {key: tensor.reshape(-1)[:4].clone() for key, tensor in whole_file(name).items()}
    try:
        save(small, path, {"title": "x"})
        content = bytearray(path.read_bytes())
        for _ in range(draw.draw(st.integers(1, 4))):
            content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
        path.write_bytes(content[: draw.draw(st.integers(0, len(content)))] if draw.draw(st.booleans()) else content)
        load(path)
    except LoRAError as error:
        assert path.name in str(error)  # noqa: PT017
    finally:
        path.unlink(missing_ok=True)
