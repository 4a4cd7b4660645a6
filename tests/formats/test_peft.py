"""PEFT's own folders, compared with PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.errors import FormatError
from lorica.models import Target
from sample_layers import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")  # PEFT's own, of its LoRA bias
FP32_NOISE = 2e-6  # relative; worst measured 4e-7
SHAPES = {"a.q": (7, 5), "a.k": (9, 5), "b.conv": (6, 4, 3, 3)}
TARGET = Target("tiny", {"unet": SHAPES})


def model() -> nn.Module:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"q": nn.Linear(5, 7), "k": nn.Linear(5, 9)})
    return nn.ModuleDict({"a": parts, "b": nn.ModuleDict({"conv": nn.Conv2d(4, 6, 3)})})


CONFIGS: dict[str, Any] = {
    "alpha": LoraConfig(r=3, lora_alpha=5, target_modules=["q", "conv"]),
    "patterns": LoraConfig(
        r=3, lora_alpha=5, target_modules=["q", "k"], rank_pattern={"k": 2}, alpha_pattern={"a.q": 7}
    ),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=5, target_modules=["q", "k"], use_rslora=True),
    "dora": LoraConfig(r=3, lora_alpha=5, target_modules=["q", "conv"], use_dora=True),
    "bias": LoraConfig(r=3, lora_alpha=6, target_modules=["q"], lora_bias=True),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=["q", "k"], alpha_pattern={"k": 8}),
}


def trained(config: Any) -> Any:
    wrapped = get_peft_model(model(), config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape) / 4 if "magnitude" not in name else torch.rand(weight.shape))
    return wrapped


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_peft_changes_the_weights_as_peft_does(name: str, tmp_path: Path) -> None:
    wrapped = trained(CONFIGS[name])
    wrapped.save_pretrained(tmp_path)
    adapter = lorica.read(tmp_path, target=TARGET)
    assert adapter.report is not None
    assert adapter.report.format == "peft"
    base, merged = model(), wrapped.merge_and_unload()
    for path, layer in adapter.components["unet"].items():
        before, after = base.get_submodule(path), merged.get_submodule(path)
        moved = before.weight + layer.delta(before.weight)
        assert relative_error(moved, after.weight) < FP32_NOISE, path
        change = layer.bias_delta()
        if change is not None:
            assert relative_error(before.bias + change, after.bias) < FP32_NOISE


@pytest.mark.parametrize("name", ["alpha", "dora", "bias", "loha"])
def test_a_folder_that_we_write_is_loaded_by_peft(name: str, tmp_path: Path) -> None:
    trained(CONFIGS[name]).save_pretrained(tmp_path / "first")
    adapter = lorica.read(tmp_path / "first", target=TARGET)
    file = lorica.write(adapter, tmp_path / "second", format="peft")
    assert file.name == "adapter_model.safetensors"
    loaded = PeftModel.from_pretrained(model(), tmp_path / "second").merge_and_unload()  # type: ignore[arg-type]
    base = model()
    for path, layer in adapter.components["unet"].items():
        before, after = base.get_submodule(path).weight, loaded.get_submodule(path).weight
        assert relative_error(before + layer.delta(before), after) < FP32_NOISE, path


def test_the_folders_name_tells_the_component(tmp_path: Path) -> None:
    layers = {"text_model.encoder.layers.0.mlp.fc1": LoRA(torch.randn(2, 5), torch.randn(7, 2), 3.0)}
    lorica.write(Adapter({"text_encoder_2": layers}), tmp_path / "text_encoder_2", format="peft")
    assert lorica.read(tmp_path / "text_encoder_2") == Adapter({"text_encoder_2": layers})


def test_a_file_that_was_moved_away_from_its_configuration_keeps_its_alphas(tmp_path: Path) -> None:
    adapter = Adapter({"unet": {"a.q": LoRA(torch.randn(2, 5), torch.randn(7, 2), 3.0)}})
    file = lorica.write(adapter, tmp_path, format="peft")
    (tmp_path / "adapter_config.json").unlink()
    assert lorica.read(file.rename(tmp_path / "moved.safetensors"), target=TARGET) == adapter


def test_a_broken_configuration_is_refused_by_name(tmp_path: Path) -> None:
    trained(CONFIGS["alpha"]).save_pretrained(tmp_path)
    for text in ("{", json.dumps({"r": 3, "lora_alpha": "much"}), "[]"):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(FormatError, match=r"its adapter_config\.json( is malformed|: lora_alpha is 'much')"):
            lorica.read(tmp_path, target=TARGET)


def test_an_adapter_of_two_components_is_refused(tmp_path: Path) -> None:
    layer = LoRA(torch.randn(2, 5), torch.randn(7, 2))
    with pytest.raises(FormatError, match="holds the adapter of one model, and this one changes unet, text_encoder"):
        lorica.write(Adapter({"unet": {"a": layer}, "text_encoder": {"b": layer}}), tmp_path, format="peft")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lora_alpha": 99}, "lora_alpha"),
        ({"alpha_pattern": {"to_q": 3}}, "alpha_pattern"),
        ({"use_rslora": True}, "use_rslora"),
        ({"lora_dropout": 0.5, "base_model_name_or_path": "elsewhere", "megatron_core": "megatron.core"}, None),
    ],
)
def test_a_configuration_beside_that_contradicts_the_file_s_own_is_refused(
    change: dict[str, object], named: str | None, tmp_path: Path
) -> None:
    adapter = Adapter({"unet": {"mid.to_q": LoRA(torch.randn(3, 5), torch.randn(7, 3), 2.0)}})
    file = lorica.write(adapter, tmp_path / "unet", format="peft")
    beside = file.with_name("adapter_config.json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **change}))
    if named is None:
        assert lorica.read(file) == adapter
        return
    for look in (lorica.read, lorica.inspect):
        with pytest.raises(FormatError, match=rf"adapter_config.json beside it says otherwise of {named}"):
            look(file)
