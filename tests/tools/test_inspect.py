"""``inspect``: every fact of a file that was made with known content, in every format."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lorica
from lorica.adapters import Adapter, AdapterLayer, LoRA
from lorica.errors import FileError, FormatError, UnknownNameError
from lorica.formats import FORMATS
from lorica.models import FAMILIES
from lorica.tools.facts import Facts
from lorica.tools.inspect import adapter_files, inspect_folder

FLOAT32_NOISE = 1e-6  # relative; worst measured 2e-7
WRITTEN = [name for name in FORMATS if name in ("diffusers", "kohya")]


def sample(family: str = "sd1", rank: int = 2) -> Adapter:
    """An adapter on some of a family's modules: the ranks and alphas vary, one row of them by itself."""
    torch.manual_seed(3)
    components: dict[str, dict[str, AdapterLayer]] = {}
    for component, shapes in FAMILIES[family].target.components.items():
        chosen = [path for path in shapes if path.endswith(("attn2.to_k", "layers.1.mlp.fc1", "resnets.0.conv1"))]
        for place, path in enumerate(chosen):
            out, *inputs = shapes[path]
            r, ones = rank + (place == 0), [1] * (len(inputs) - 1)
            layer = LoRA(torch.randn(r, *inputs) / 9, torch.randn(out, r, *ones) / 9, 0.5 if place < 2 else 4.0)
            components.setdefault(component, {})[path] = layer
    return Adapter(components, {"ss_output_name": "thing", "ss_steps": "70", "modelspec.trigger_phrase": "sks"})


def looked_at(tmp_path: Path, name: str = "kohya", **options: object) -> Facts:
    return lorica.inspect(lorica.write(sample(), tmp_path / "a.safetensors", format=name), **options)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_file_is_made_of(name: str, tmp_path: Path) -> None:
    adapter, facts = sample(), looked_at(tmp_path, name)
    layers = [layer for _, _, layer in adapter.layers()]
    assert facts.format == name
    assert facts.methods == {"lora": len(layers)}
    assert facts.modules == len(layers)
    assert facts.ranks == {2: len(layers) - len(adapter.components), 3: len(adapter.components)}
    assert facts.alphas.keys() == {0.5, 4.0}
    assert facts.size == (tmp_path / "a.safetensors").stat().st_size
    assert facts.parameters == sum(t.numel() for t in load_file(tmp_path / "a.safetensors").values())
    assert sum(facts.dtypes.values()) == len(load_file(tmp_path / "a.safetensors"))
    assert (facts.unused, facts.problem, facts.fit) == ({}, None, None)
    assert facts.metadata.items() >= adapter.metadata.items()
    assert facts.training.trigger_words == ("sks",)


@pytest.mark.parametrize("name", WRITTEN)
def test_blocks_hold_every_module_and_the_norm_of_its_change(name: str, tmp_path: Path) -> None:
    adapter, facts = sample(), looked_at(tmp_path, name)
    (unet,) = (part for part in facts.components if part.name == "unet")
    for block in unet.blocks:
        inside = [layer for path, layer in adapter.components["unet"].items() if path.startswith(f"{block.name}.")]
        squares = sum(layer.delta(torch.zeros(layer.weight_shape)).double().square().sum().item() for layer in inside)
        assert block.modules == len(inside) > 0
        assert block.norm == pytest.approx(math.sqrt(squares), rel=FLOAT32_NOISE)
    assert unet.norm == pytest.approx(math.hypot(*(block.norm for block in unet.blocks)), rel=FLOAT32_NOISE)
    assert unet.parts == {"cross-attention": 16, "convolution": unet.modules - 16}
    assert [part.name for part in facts.components] == ["unet", "text_encoder"]


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("family", ["sd1", "sdxl", "bundled"])
def test_the_base_model_is_told_with_the_evidence(family: str, name: str, tmp_path: Path) -> None:
    facts = lorica.inspect(lorica.write(sample(family), tmp_path, format=name), norms=False, hashes=False)
    assert facts.base.name == family
    assert any(FAMILIES[family].title in reason for reason in facts.base.evidence)


def test_a_base_model_that_only_the_metadata_names_is_told_from_where(tmp_path: Path) -> None:
    layer = LoRA(torch.randn(2, 5), torch.randn(7, 2))
    adapter = Adapter({"unet": {"a.b": layer}}, {"ss_base_model_version": "sd_v2"})
    facts = lorica.inspect(lorica.write(adapter, tmp_path))
    assert facts.base.name == "sd2"
    assert facts.base.evidence[0] == "metadata ss_base_model_version = sd_v2"
    assert "is known of any base model" in facts.base.evidence[1]


def test_sizes_that_fit_another_base_model_alone_count_more_than_what_the_metadata_names(tmp_path: Path) -> None:
    adapter = replace(sample("bundled"), metadata={"modelspec.architecture": "stable-diffusion-v1/lora"})
    facts = lorica.inspect(lorica.write(adapter, tmp_path), norms=False, hashes=False)
    assert facts.base.name == "bundled"
    assert facts.base.evidence[0] == "metadata modelspec.architecture = stable-diffusion-v1/lora"


def test_the_configuration_beside_a_file_of_pefts_counts(tmp_path: Path) -> None:
    layer = LoRA(torch.randn(4, 96), torch.randn(96, 4), 3.0)
    path = lorica.write(
        Adapter({"unet": {"mid_block.attentions.0.transformer_blocks.0.attn1.to_k": layer}}), tmp_path, format="peft"
    )
    save_file(load_file(path), path)  # as PEFT writes it: without metadata
    facts = lorica.inspect(tmp_path)
    assert facts.alphas == {3.0: 1}
    assert facts.components[0].norm == pytest.approx(layer.delta(torch.zeros(96, 96)).norm().item(), rel=FLOAT32_NOISE)


def test_nothing_is_claimed_of_an_unknown_base_model(tmp_path: Path) -> None:
    layer = LoRA(torch.randn(2, 5), torch.randn(7, 2))
    facts = lorica.inspect(lorica.write(Adapter({"unet": {"some.blocks.3.b": layer}}), tmp_path))
    assert facts.base.name is None
    assert [block.name for block in facts.components[0].blocks] == ["some.blocks.3"]


def test_norms_and_hashes_can_be_left_out(tmp_path: Path) -> None:
    facts = looked_at(tmp_path, "diffusers", norms=False, hashes=False)
    assert all(block.norm is None for part in facts.components for block in part.blocks)
    assert facts.hashes == ()


def test_keys_without_a_use_are_listed(tmp_path: Path) -> None:
    path = lorica.write(sample(), tmp_path / "a.safetensors", format="kohya")
    tensors = {**load_file(path), "lora_unet_nowhere.lora_down.weight": torch.ones(2, 5)}
    save_file(tensors, path)
    facts = lorica.inspect(path)
    assert list(facts.unused) == ["lora_unet_nowhere.lora_down.weight"]
    assert facts.modules == len(sample())


def test_values_that_are_not_numbers_are_a_problem(tmp_path: Path) -> None:
    adapter = sample()
    path = next(iter(adapter.components["unet"]))
    broken = adapter.components["unet"][path].map(lambda tensor: tensor / 0)
    parts = {**adapter.components, "unet": {**adapter.components["unet"], path: broken}}
    facts = lorica.inspect(lorica.write(replace(adapter, components=parts), tmp_path))
    assert f"1 of its {len(adapter)} modules hold values that are NaN or infinite" in facts.problem
    assert path in facts.problem


def test_a_file_that_cannot_be_interpreted_still_has_its_other_facts(tmp_path: Path) -> None:
    tensors = {"lora_unet_x.lora_down.weight": torch.ones(2, 5), "lora_unet_x.lora_up.weight": torch.ones(7, 2)}
    save_file(tensors, tmp_path / "a.safetensors", {"ss_output_name": "mystery"})
    facts = lorica.inspect(tmp_path / "a.safetensors")
    assert facts.modules == 0
    assert facts.problem or facts.unused
    assert (facts.training.title, facts.format, len(facts.hashes)) == ("mystery", "kohya", 3)


def test_a_fitting_model_fits(tmp_path: Path) -> None:
    fit = looked_at(tmp_path, model="sd1").fit
    assert (fit.model, fit.modules, fit.fitting, fit.problems) == (
        FAMILIES["sd1"].title, len(sample()), len(sample()), {},
    )  # fmt: skip


def test_another_model_fits_where_it_is_alike(tmp_path: Path) -> None:
    fit = looked_at(tmp_path, model="sdxl").fit
    assert 0 < fit.fitting < fit.modules == len(sample())
    assert any("the model has" in reason for reason in fit.problems.values())


def test_a_model_of_the_same_names_only_does_not_fit(tmp_path: Path) -> None:
    fit = looked_at(tmp_path, model="sd2").fit
    assert any("it changes a weight of shape" in reason for reason in fit.problems.values())


def test_the_folder_of_a_model_is_understood(tmp_path: Path, bundled: Path) -> None:
    path = lorica.write(sample("bundled"), tmp_path / "a.safetensors", format="kohya")
    fit = lorica.inspect(path, model=bundled).fit
    assert (fit.fitting, fit.problems) == (len(sample("bundled")), {})


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown base model 'sdxk'\. Did you mean 'sdxl'"):
        looked_at(tmp_path, model="sdxk")


def test_a_state_dict_has_facts_too() -> None:
    tensors, _ = FORMATS["kohya"].compose(sample(), FAMILIES["sd1"].target)
    facts = lorica.inspect(tensors)
    assert (facts.source, facts.size, facts.hashes) == ("the state dict", None, ())
    assert facts.modules == len(sample())


def test_a_checkpoint_of_torch_has_facts_too(tmp_path: Path) -> None:
    tensors, _ = FORMATS["kohya"].compose(sample(), FAMILIES["sd1"].target)
    torch.save(tensors, tmp_path / "a.pt")
    facts = lorica.inspect(tmp_path / "a.pt")
    assert facts.modules == len(sample())
    assert facts.dtypes.keys() == {"float32"}


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.a.weight": torch.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="looks like a whole model"):
        lorica.inspect(tmp_path / "a.safetensors")


def test_everything_can_be_written_as_json(tmp_path: Path) -> None:
    facts = looked_at(tmp_path, model="sd1")
    again = json.loads(json.dumps(facts.as_dict()))
    assert again["components"][0]["blocks"][0]["norm"] == facts.components[0].blocks[0].norm
    assert again["ranks"] == {str(rank): count for rank, count in facts.ranks.items()}


def test_a_folder_gives_the_facts_of_each_file_and_the_reasons_of_the_broken(tmp_path: Path) -> None:
    lorica.write(sample(), tmp_path / "b.safetensors")
    lorica.write(sample(), tmp_path / "deep" / "a.safetensors", format="kohya")
    (tmp_path / "c.safetensors").write_bytes(b"<html>")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "d.safetensors").write_bytes(b"")
    found = inspect_folder(tmp_path)
    assert [Path(facts.source).name for facts in found.files] == ["b.safetensors", "a.safetensors"]
    assert list(found.broken) == [str(tmp_path / "c.safetensors")]
    assert found.files[0].hashes == ()
    assert json.loads(json.dumps(found.as_dict()))["files"][1]["format"] == "kohya"


def test_the_folder_of_one_adapter_is_one_adapter(tmp_path: Path) -> None:
    lorica.write(sample(), tmp_path)
    lorica.write(sample(), tmp_path / "checkpoint-3")
    assert adapter_files(tmp_path) == []
    assert lorica.inspect(tmp_path).modules == len(sample())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no adapter in"):
        inspect_folder(tmp_path)
