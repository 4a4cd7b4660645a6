"""Any adapter, of any methods, ranks, alphas and dtypes: a format gives it back bit for bit, or refuses it.

The models have fused projections in the formats of their original programs, so parts are joined and taken apart.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import tiny_transformers
from formats_fixtures import READ_ONLY
from lorica.adapters import Adapter, AdapterLayer, DoRA, Full, LoRA
from lorica.errors import FormatError
from lorica.formats import FORMATS
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import FileContents
from lorica.models import Target
from lorica.runtime.model.targets import target_of
from sample_kinds import SAMPLES

WRITTEN = [name for name in FORMATS if name not in READ_ONLY]
FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
ALPHAS = (0.7, 2.0, 0.1, 1 / 3, 16.0, -1.5, None)


@cache
def target(name: str) -> Target:
    model, _ = getattr(tiny_transformers, name)()
    (shapes,) = target_of(model).components.values()
    return Target(name, {"transformer": shapes})


def module_of(shape: tuple[int, ...]) -> nn.Module:
    """Return a layer with a weight of the shape."""
    if len(shape) < 3:
        return nn.LayerNorm(shape[0]) if len(shape) == 1 else nn.Linear(shape[1], shape[0])
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
    return convolution(shape[1], shape[0], shape[2:])


def any_layer(shape: tuple[int, ...], sample: str, draw: random.Random) -> AdapterLayer | None:
    """Return a layer of a method for a weight, or None if it is not for such a weight."""
    is_for, make = SAMPLES[sample]
    module = module_of(shape)
    if not is_for(module):
        return None
    if sample not in ("lora", "dora"):
        return make(module).map(torch.Tensor.detach)
    rank, ones = draw.choice((1, 2, 3, 4, 6)), [1] * (len(shape) - 2)
    bias = {"bias": torch.randn(shape[0])} if draw.random() < 0.3 else {}
    lora = LoRA(torch.randn(rank, *shape[1:]), torch.randn(shape[0], rank, *ones), draw.choice(ALPHAS), **bias)
    return lora if sample == "lora" else DoRA(lora, torch.rand(shape[0]))


def any_adapter(model: Target, draw: random.Random) -> Adapter:
    """Return an adapter of some modules: of one method, or of several."""
    samples = [draw.choice([*SAMPLES, "lora", "lora", "dora"])] if draw.random() < 0.7 else list(SAMPLES)
    dtype, share = draw.choice((torch.float32, torch.float16, torch.bfloat16)), draw.choice((0.05, 0.3, 1.0))
    chosen = [path for path in model.components["transformer"] if draw.random() < share]
    layers = {path: any_layer(model.components["transformer"][path], draw.choice(samples), draw) for path in chosen}
    kept = {path: layer.map(lambda tensor: tensor.to(dtype).contiguous()) for path, layer in layers.items() if layer}
    return Adapter({"transformer": kept})


def check(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = target(draw.choice(("flux", "sd3", "hunyuan_video", "wan")))
    adapter = any_adapter(model, draw)
    for name in WRITTEN if len(adapter) else ():
        try:
            tensors, metadata = FORMATS[name].compose(adapter, model)
        except FormatError:
            continue
        stored = FileContents("the file", tensors, metadata)
        dialect = recognise(stored, FORMATS)
        again = interpret(stored, dialect, model, strict=True)
        assert (dialect.name, again) == (name, adapter)
        second, _ = dialect.compose(again, model)
        assert second.keys() == tensors.keys()
        assert all(torch.equal(second[key], tensor) for key, tensor in tensors.items())
        assert all(second[key].dtype == tensor.dtype for key, tensor in tensors.items())


@FEW
@given(st.integers(0, 2**20))
def test_any_adapter_comes_back_bit_for_bit_or_is_refused(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@MANY
@given(st.integers(0, 2**30))
def test_many_adapters_come_back_bit_for_bit_or_are_refused(seed: int) -> None:
    check(seed)


def test_the_formats_hold_most_adapters_of_one_lora_for_each_module() -> None:
    """Or the tests above would pass by refusing everything."""
    model = target("flux")
    matrices = {path: shape for path, shape in model.components["transformer"].items() if len(shape) == 2}
    pairs = {path: (torch.randn(2, width), torch.randn(out, 2)) for path, (out, width) in matrices.items()}
    loras = Adapter({"transformer": {path: LoRA(*pair) for path, pair in pairs.items()}})
    full = Adapter({"transformer": {path: Full(torch.randn(shape)) for path, shape in matrices.items()}})
    for name in WRITTEN:
        assert FORMATS[name].compose(loras, model)[0]
    for name in set(WRITTEN) - {"diffusers", "peft"}:
        assert FORMATS[name].compose(full, model)[0]
