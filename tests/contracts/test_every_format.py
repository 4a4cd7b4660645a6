"""What holds for every format: what was written is read back bit for bit, and reading then writing changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import lorica
from lorica.adapters import Adapter, AdapterLayer, LoCon, LoRA
from lorica.formats import FORMATS
from lorica.formats.keys import Keys
from lorica.models import FAMILIES, Target

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "unet": {
        "mid.attn1.to_q": (9, 5), "mid.attn1.to_out.0": (8, 11), "conv_in": (7, 4, 3, 2), "proj": (6, 10, 1, 1),
        "time": (5, 12, 3), "deep": (4, 13, 1, 3, 2),
    },
    "text_encoder": {
        "text_model.encoder.layers.0.self_attn.q_proj": (7, 6), "text_model.encoder.layers.1.mlp.fc2": (5, 9),
    },
    "text_encoder_2": {"text_model.encoder.layers.0.mlp.fc1": (12, 7)},
}  # fmt: skip
TARGET = Target("a made-up model", SHAPES)
HOLDS_TUCKER = {"kohya"}


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


def plain(shape: tuple[int, ...], place: int, dtype: torch.dtype) -> LoRA:
    rank, ones = 1 + place % 4, [1] * (len(shape) - 2)
    return LoRA(
        random(rank, *shape[1:], dtype=dtype), random(shape[0], rank, *ones, dtype=dtype), (0.7, 2.0, 3.25)[place % 3]
    )


def tucker(shape: tuple[int, ...], place: int, dtype: torch.dtype) -> LoCon:
    rank, ones = 1 + place % 4, [1] * (len(shape) - 2)
    core = random(rank, rank, *shape[2:], dtype=dtype)
    return LoCon(random(rank, shape[1], *ones, dtype=dtype), core, random(shape[0], rank, *ones, dtype=dtype), 1.3)


def adapter_for(target: Target, dtype: torch.dtype, *, with_tucker: bool = False) -> Adapter:
    components: dict[str, dict[str, AdapterLayer]] = {}
    for place, (component, path, shape) in enumerate(target.modules()):
        make = tucker if with_tucker and len(shape) > 2 else plain
        components.setdefault(component, {})[path] = make(shape, place, dtype)
    return Adapter(components, {"title": "ünïcode", "ss_x": "1"})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_is_read_back_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = adapter_for(TARGET, dtype, with_tucker=name in HOLDS_TUCKER)
    again = lorica.read(lorica.write(adapter, tmp_path, format=name, target=TARGET), target=TARGET)
    assert again == adapter
    assert again.metadata.items() >= adapter.metadata.items()
    assert again.report is not None
    assert (again.report.format, again.report.unused) == (name, ())


@pytest.mark.parametrize("name", FORMATS)
def test_reading_and_writing_changes_no_byte(name: str, tmp_path: Path) -> None:
    first = lorica.write(adapter_for(TARGET, torch.float16), tmp_path / "first.safetensors", format=name)
    second = lorica.write(lorica.read(first, target=TARGET), tmp_path / "second.safetensors", format=name)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("start", FORMATS)
@pytest.mark.parametrize("end", FORMATS)
def test_an_adapter_goes_through_any_two_formats(start: str, end: str, tmp_path: Path) -> None:
    adapter = adapter_for(TARGET, torch.bfloat16)
    there = lorica.read(lorica.write(adapter, tmp_path / "a.safetensors", format=start), target=TARGET)
    assert lorica.read(lorica.write(there, tmp_path / "b.safetensors", format=end), target=TARGET) == adapter


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_target_is_needed_for_a_known_family(family: str, name: str, tmp_path: Path) -> None:
    shapes = {
        component: {path: shape for path, shape in modules.items() if path.endswith(("attn2.to_k", "mlp.fc1", "conv1"))}
        for component, modules in FAMILIES[family].target.components.items()
    }
    adapter = adapter_for(Target("part of it", shapes), torch.float16)
    again = lorica.read(lorica.write(adapter, tmp_path, format=name))
    assert again == adapter
    assert again.report is not None
    assert again.report.base_model == family


@pytest.mark.parametrize("name", FORMATS)
def test_no_other_format_recognises_what_was_written(name: str) -> None:
    tensors, metadata = FORMATS[name].compose(adapter_for(TARGET, torch.float32), TARGET)
    assert [other for other, dialect in FORMATS.items() if dialect.recognises(Keys.of(tensors, metadata))] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_target_in_the_other_spelling_of_the_text_encoder_gets_its_own_paths(name: str, tmp_path: Path) -> None:
    live = {
        component: {path.removeprefix("text_model."): shape for path, shape in modules.items()}
        for component, modules in SHAPES.items()
    }
    adapter = adapter_for(Target("live", live), torch.float32)
    file = lorica.write(adapter, tmp_path, format=name)
    assert lorica.read(file, target=Target("live", live)) == adapter
    wrapped = lorica.read(file, target=TARGET)
    assert {path for _, path, _ in wrapped.layers()} == {path for _, path, _ in TARGET.modules()}
