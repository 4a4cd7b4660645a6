"""What holds for every format: what was written is read back bit for bit, and reading then writing changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import KINDS, Adapter, AdapterLayer, LoCon, LoRA
from lorica.errors import FormatError, LoRAError
from lorica.formats import FORMATS
from lorica.formats.keys_to_modules import Keys
from lorica.models import FAMILIES, Target
from sample_kinds import SAMPLES

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
UNET: dict[str, tuple[int, ...]] = {
    "mid.attn1.to_q": (9, 5), "mid.attn1.to_out.0": (8, 11), "conv_in": (7, 4, 3, 2), "proj": (6, 10, 1, 1),
    "time": (5, 12, 3), "deep": (4, 13, 1, 3, 2),
}  # fmt: skip
ENCODERS: dict[str, dict[str, tuple[int, ...]]] = {
    "text_encoder": {
        "text_model.encoder.layers.0.self_attn.q_proj": (7, 6), "text_model.encoder.layers.1.mlp.fc2": (5, 9),
    },
    "text_encoder_2": {"text_model.encoder.layers.0.mlp.fc1": (12, 7)},
}  # fmt: skip
NORMS: dict[str, tuple[int, ...]] = {"norm1": (14,)}

READ_ONLY = {"xlabs", "uso", "bfl_control", "control_lora", "hcp", "cloneofsimo"}
WRITTEN = [name for name in FORMATS if name not in READ_ONLY]
# The model that a format's names are for; those of one component have that alone.
TARGETS = {
    "lycoris": Target("a made-up model", {"unet": UNET}),
    "peft": Target("a made-up model", {"unet": UNET}),
    "wan_fun": Target("a made-up model", {"transformer": UNET}),
}
EVERYTHING = Target("a made-up model", {"unet": UNET, **ENCODERS})
PEFT = {"lora", "dora", "bias"}
LYCORIS = set(SAMPLES) - {"ia3", "oft_v2 shared", "vera", "joined_rows"}
# The samples that a format can hold; all others must be refused.
HELD = {
    "diffusers": {"lora", "dora"},
    "peft": {"lora", "dora"},  # of LoHa it has none for Conv3d, no cores for a kernel of one point, and no bias
    **dict.fromkeys(("kohya", "onetrainer", "lycoris", "wan_fun", "comfyui", "omi"), LYCORIS),
}


def target_for(name: str) -> Target:
    return TARGETS.get(name, EVERYTHING)


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


def module_of(shape: tuple[int, ...]) -> nn.Module:
    """Return a layer with a weight of the shape."""
    if len(shape) == 1:
        return nn.LayerNorm(shape[0])
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    return convolution(shape[1], shape[0], shape[2:])


def sample_adapter(sample: str, target: Target) -> Adapter:
    """Return an adapter of one method on all modules that it can be for."""
    is_for, make = SAMPLES[sample]
    parts: dict[str, dict[str, AdapterLayer]] = {}
    for component, shapes in target.components.items():
        for path, shape in (shapes | (NORMS if "text" not in component else {})).items():
            layer = module_of(shape)
            if is_for(layer):
                parts.setdefault(component, {})[path] = make(layer).map(Tensor.detach)
    return Adapter(parts)


def with_norms(target: Target) -> Target:
    return Target(
        target.name, {name: part if "text" in name else {**part, **NORMS} for name, part in target.components.items()}
    )


def test_every_format_and_kind_is_tried() -> None:
    assert {
        make(module_of(shape)).kind
        for is_for, make in SAMPLES.values()
        for shape in (*UNET.values(), *NORMS.values())
        if is_for(module_of(shape))
    } == set(KINDS)
    assert set(HELD) == set(WRITTEN)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_written_is_read_back_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    target = target_for(name)
    adapter = adapter_for(target, dtype, with_tucker=name not in ("diffusers", "peft"))
    again = lorica.read(lorica.write(adapter, tmp_path, format=name, target=target), target=target)
    if (name, dtype) == ("diffusers", torch.float64):  # no dtype holds the products of 64 bits with their alpha / rank
        for component, path, layer in adapter.layers():
            own = torch.zeros(layer.weight_shape)
            assert torch.allclose(again.components[component][path].delta(own), layer.delta(own), rtol=1e-6, atol=0)
    else:
        assert again == adapter
    assert again.metadata.items() >= adapter.metadata.items()
    assert again.report is not None
    assert (again.report.format, again.report.unused) == (name, ())


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", WRITTEN)
def test_every_method_comes_back_bit_for_bit_or_is_refused(name: str, sample: str, tmp_path: Path) -> None:
    target = with_norms(target_for(name))
    adapter = sample_adapter(sample, target)
    if sample not in HELD[name]:
        with pytest.raises(FormatError, match="cannot hold all of this adapter"):
            lorica.write(adapter, tmp_path, format=name, target=target)
        assert not list(tmp_path.iterdir())
        return
    file = lorica.write(adapter, tmp_path / "first.safetensors", format=name, target=target)
    again = lorica.read(file, target=target)
    assert again == adapter
    second = lorica.write(again, tmp_path / "second.safetensors", format=name, target=target)
    assert file.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_reading_and_writing_changes_no_byte(name: str, tmp_path: Path) -> None:
    target = target_for(name)
    first = lorica.write(adapter_for(target, torch.float16), tmp_path / "first.safetensors", format=name)
    second = lorica.write(lorica.read(first, target=target), tmp_path / "second.safetensors", format=name)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("start", WRITTEN)
@pytest.mark.parametrize("end", WRITTEN)
def test_an_adapter_goes_through_any_two_formats(start: str, end: str, tmp_path: Path) -> None:
    if "wan_fun" in (start, end) and start != end:
        pytest.skip("the one names transformers only, the other none")
    target = min((target_for(name) for name in (start, end)), key=lambda target: len(target.components))
    adapter = adapter_for(target, torch.bfloat16)
    there = lorica.read(lorica.write(adapter, tmp_path / "a.safetensors", format=start), target=target)
    assert there.report is not None
    assert there.report.format == start
    back = lorica.read(lorica.write(there, tmp_path / "b.safetensors", format=end), target=target)
    assert back == adapter
    assert back.report is not None
    assert back.report.format == end


FAMILY_FORMATS = [name for name in WRITTEN if name not in ("wan_fun", "peft", "lycoris")]


@pytest.mark.parametrize("name", FAMILY_FORMATS)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "bundled", "flux_dev", "sd3_medium", "wan21_t2v_14b"])
def test_no_target_is_needed_for_a_known_family(family: str, name: str, tmp_path: Path) -> None:
    ends = ("attn2.to_k", "mlp.fc1", "conv1", "attn.to_k", "proj_out", "norm_out.linear", "add_k_proj")
    shapes = {
        component: {path: shape for path, shape in modules.items() if path.endswith(ends)}
        for component, modules in FAMILIES[family].target.components.items()
        if component in ("unet", "transformer", "text_encoder", "text_encoder_2")
    }
    made = adapter_for(Target("part of it", shapes), torch.float16)
    one_scaling = {
        name: {path: LoRA(layer.tensors["down"], layer.tensors["up"]) for path, layer in part.items()}
        for name, part in made.components.items()
    }
    adapter = Adapter(one_scaling)
    again = lorica.read(lorica.write(adapter, tmp_path, format=name))
    assert again == adapter
    assert again.report is not None
    alike = family in ("flux_dev", "sd3_medium", "wan21_t2v_14b")  # as many another of its kind
    assert again.report.base_model == (None if alike else family)


@pytest.mark.parametrize("name", WRITTEN)
def test_no_other_format_recognises_what_was_written(name: str) -> None:
    target = target_for(name)
    tensors, metadata = FORMATS[name].compose(adapter_for(target, torch.float32), target)
    keys = Keys.of(tensors, metadata)
    assert [other for other, dialect in FORMATS.items() if dialect.recognises(keys)] == [name]


@pytest.mark.parametrize("name", [name for name in WRITTEN if "text_encoder" in target_for(name).components])
def test_a_target_in_the_other_spelling_of_the_text_encoder_gets_its_own_paths(name: str, tmp_path: Path) -> None:
    live = {
        component: {path.removeprefix("text_model."): shape for path, shape in modules.items()}
        for component, modules in EVERYTHING.components.items()
    }
    adapter = adapter_for(Target("live", live), torch.float32)
    file = lorica.write(adapter, tmp_path, format=name)
    assert lorica.read(file, target=Target("live", live)) == adapter
    wrapped = lorica.read(file, target=EVERYTHING)
    assert {path for _, path, _ in wrapped.layers()} == {path for _, path, _ in EVERYTHING.modules()}


@pytest.mark.parametrize("name", sorted(READ_ONLY))
def test_a_format_that_is_only_read_refuses_to_write(name: str, tmp_path: Path) -> None:
    with pytest.raises(LoRAError, match=f"files in {name} format are read, not written"):
        lorica.write(adapter_for(EVERYTHING, torch.float32), tmp_path, format=name)
    assert not list(tmp_path.iterdir())


def test_the_samples_have_sizes_of_their_own() -> None:
    sizes = [math.prod(shape) for shape in (*UNET.values(), *NORMS.values())]
    assert len(set(sizes)) == len(sizes)
