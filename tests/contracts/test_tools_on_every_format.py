"""What holds for every format and method: ``inspect`` tells what ``read`` reads, and ``convert`` keeps every change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lorica
from formats_fixtures import NAMES, describe, filled
from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats import FORMATS
from lorica.models import Target
from sample_kinds import SAMPLES

MODULES: dict[str, nn.Module] = {"a": nn.Linear(6, 10), "b": nn.Conv2d(4, 6, (3, 2)), "c": nn.LayerNorm(14)}
FLOAT32_NOISE = 1e-5  # relative, of norms; worst measured 4e-7
WHOLE_RANK_NOISE = 1e-5  # relative, of changes that are written as LoRAs of whole rank; worst measured 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_told_as_it_is_read(name: str, tmp_path: Path) -> None:
    wild = describe(name)
    path = tmp_path / "a.safetensors"
    save_file(filled(wild["tensors"]), path, wild["metadata"] or None)
    facts, adapter = lorica.inspect(path), lorica.read(path, strict=False)
    assert adapter.report is not None
    assert facts.problem is None
    assert (facts.format, facts.base.name) == (adapter.report.format, adapter.report.base_model)
    assert facts.methods == Counter(layer.kind for _, _, layer in adapter.layers())
    assert facts.ranks == Counter(layer.rank for _, _, layer in adapter.layers())
    assert facts.alphas == Counter(layer.alpha for _, _, layer in adapter.layers())
    assert {part.name: part.modules for part in facts.components} == {
        component: len(layers) for component, layers in adapter.components.items()
    }
    assert facts.unused == {left.key: left.reason for left in adapter.report.unused}
    assert facts.embeddings.keys() == adapter.embeddings.keys()
    assert facts.base.evidence


def sample(name: str) -> Adapter:
    """An adapter of one method on those of the modules that it can be for."""
    is_for, make = SAMPLES[name]
    layers = {path: make(module).map(Tensor.detach) for path, module in MODULES.items() if is_for(module)}
    return Adapter({"unet": layers})


def weight(path: str) -> Tensor:
    found = MODULES[path].weight
    assert isinstance(found, Tensor)
    return found.detach()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of a model with the modules."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    save_file({f"{path}.weight": weight(path).contiguous() for path in MODULES}, folder / "model.safetensors")
    return folder


TARGET = Target("three modules", {"unet": {path: tuple(module.weight.shape) for path, module in MODULES.items()}})


def written(adapter: Adapter, path: Path) -> Path:
    """The file in a format that can hold it; a method that none holds is skipped."""
    holding = [name for name in ("kohya", "peft") if holds(name, adapter)]
    if not holding:
        pytest.skip("no format holds it")
    return lorica.write(adapter, path, format=holding[0], target=TARGET)


def holds(name: str, adapter: Adapter) -> bool:
    try:
        return bool(FORMATS[name].compose(adapter, TARGET))
    except FormatError:
        return False


@pytest.mark.parametrize("name", SAMPLES)
def test_every_method_is_told_and_measured(name: str, tmp_path: Path, base: Path) -> None:
    adapter = sample(name)
    facts = lorica.inspect(written(adapter, tmp_path / "a.safetensors"), model=base)
    layers = adapter.components["unet"]
    assert facts.problem is None
    assert facts.methods == Counter(layer.kind for layer in layers.values())
    assert facts.fit is not None
    assert (facts.fit.fitting, facts.fit.problems) == (len(layers), {})
    free = [layer.delta(torch.zeros_like(weight(path))) for path, layer in layers.items() if of_no_base(layer, path)]
    (part,) = facts.components
    assert part.unmeasured == len(layers) - len(free)
    if free:
        length = sum(change.double().square().sum().item() for change in free) ** 0.5
        assert part.norm == pytest.approx(length, rel=FLOAT32_NOISE)


def same_bias(one: AdapterLayer, other: AdapterLayer) -> bool:
    a, b = one.bias_delta(), other.bias_delta()
    return a is b is None or (a is not None and b is not None and torch.equal(a, b))


def of_no_base(layer: AdapterLayer, path: str) -> bool:
    """Whether the change is the same on two different weights."""
    one, other = torch.randn_like(weight(path)), torch.randn_like(weight(path))
    return torch.equal(layer.delta(one), layer.delta(other))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_change_of_a_matrix_can_become_a_lora(name: str, tmp_path: Path, base: Path) -> None:
    adapter = sample(name)
    out = tmp_path / "out.safetensors"
    source = written(adapter, tmp_path / "a.safetensors")
    if any(layer.kind == "bias" or len(weight(path).shape) < 2 for _, path, layer in adapter.layers()):
        with pytest.raises(FormatError, match="unet"):
            lorica.convert(source, out, to="diffusers", approximate=99, model=base)
        assert not out.exists()
        return
    done = lorica.convert(source, out, to="diffusers", approximate=99, model=base)
    again = lorica.read(out, target=TARGET)
    for component, path, layer in adapter.layers():
        wanted, got = layer.delta(weight(path)), again.components[component][path].delta(weight(path))
        assert (got - wanted).norm() <= WHOLE_RANK_NOISE * wanted.norm()
        assert same_bias(again.components[component][path], layer)
    assert all(change.error < WHOLE_RANK_NOISE for change in done.changed)
    assert {change.kind for change in done.changed} <= {layer.kind for _, _, layer in adapter.layers()}
