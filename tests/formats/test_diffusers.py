from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lorica
from lorica.adapters import Adapter, LoCon, LoRA
from lorica.errors import FormatError
from lorica.formats import FORMATS
from lorica.formats.account import Account
from lorica.formats.dialects.diffusers import split_processor
from lorica.formats.keys_to_modules import split_dotted


def lora(alpha: float | None = None, rank: int = 3) -> LoRA:
    return LoRA(torch.randn(rank, 5), torch.randn(7, rank), alpha)


@pytest.mark.parametrize(
    ("key", "path", "leaf"),
    [
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q", "lora.down"),
        ("unet.a.to_q.lora_B.weight", "unet.a.to_q", "lora.up"),
        ("unet.a.to_q.lora_A.default.weight", "unet.a.to_q", "lora.down"),
        ("unet.a.to_q.lora_B.my-name.weight", "unet.a.to_q", "lora.up"),
        ("unet.a.to_q.lora.up.weight", "unet.a.to_q", "lora.up"),
        ("unet.a.attn1.processor.to_out_lora.down.weight", "unet.a.attn1.to_out.0", "lora.down"),
        ("unet.a.attn1.processor.to_q_lora.up.weight", "unet.a.attn1.to_q", "lora.up"),
        ("text_encoder.l.self_attn.to_out_lora.down.weight", "text_encoder.l.self_attn.out_proj", "lora.down"),
        ("text_encoder.l.self_attn.to_v_lora.up.weight", "text_encoder.l.self_attn.v_proj", "lora.up"),
        ("text_encoder.l.mlp.fc1.lora_linear_layer.down.weight", "text_encoder.l.mlp.fc1", "lora.down"),
        ("unet.a.to_q.alpha", "unet.a.to_q", "alpha"),
    ],
)
def test_each_spelling_is_taken_apart(key: str, path: str, leaf: str) -> None:
    account = Account("diffusers", "the file")
    assert list(split_dotted([key], account, split_processor)) == [(key, path, leaf)]
    assert not account.unused


def test_an_ending_of_another_format_is_left() -> None:
    account = Account("diffusers", "the file")
    assert not list(split_dotted(["unet.a.to_q.weight"], account, split_processor))
    assert account.unused == {"unet.a.to_q.weight": "its ending is none that this format knows."}


def config_of(file: Path) -> dict[str, object]:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["lora_adapter_metadata"])


def test_text_encoders_are_written_in_the_spelling_that_every_version_reads(tmp_path: Path) -> None:
    path = "encoder.layers.0.self_attn.q_proj"
    for spelling in (path, f"text_model.{path}"):
        file = lorica.write(Adapter({"text_encoder": {spelling: lora(), f"{spelling}2": lora(5.0)}}), tmp_path)
        with safe_open(file, "pt") as opened:
            assert f"text_encoder.text_model.{path}.lora_A.weight" in opened.keys()  # noqa: SIM118
        assert config_of(file)["text_encoder.target_modules"] == [path, f"{path}2"]


@pytest.mark.parametrize("alpha", [0.1, 1 / 3, 2.0**-40, 12345.678, -2.5, 4.0])
def test_an_alpha_comes_back_exactly(alpha: float, tmp_path: Path) -> None:
    adapter = Adapter({"unet": {"a.b": lora(alpha), "a.c": lora(1.0), "a.d": lora(1.0, rank=4)}})
    assert lorica.read(lorica.write(adapter, tmp_path)) == adapter


def test_an_alpha_of_its_own_key_wins_over_the_metadata() -> None:
    tensors = {
        "unet.a.lora_A.weight": torch.ones(3, 5),
        "unet.a.lora_B.weight": torch.ones(7, 3),
        "unet.a.alpha": torch.tensor(1.5),
    }
    ((_, _, layer),) = lorica.read(tensors).layers()
    assert layer.alpha == 1.5


def test_a_peft_wrapper_around_the_names_is_taken_off() -> None:
    for start in ("base_model.model.transformer.", "transformer.base_model.model."):
        tensors = {f"{start}a.lora_A.weight": torch.ones(3, 5), f"{start}a.lora_B.weight": torch.ones(7, 3)}
        assert [(component, path) for component, path, _ in lorica.read(tensors).layers()] == [("transformer", "a")]


def test_a_component_with_a_name_of_its_own_is_read_back(tmp_path: Path) -> None:
    adapter = Adapter({"model": {"0": lora(2.0)}, "decoder": {"a.b": lora(1.5)}})
    assert lorica.read(lorica.write(adapter, tmp_path)) == adapter


def test_a_table_of_embeddings_is_refused() -> None:
    adapter = Adapter({"text_encoder": {"text_model.embeddings.token_embedding": lora()}})
    with pytest.raises(FormatError, match="is an embedding table"):
        lorica.write(adapter, Path("nowhere"))


def test_a_path_without_a_component_that_nothing_knows_is_refused() -> None:
    with pytest.raises(FormatError, match="its path begins with no component"):
        lorica.read({"a.b.lora_A.weight": torch.ones(3, 5), "a.b.lora_B.weight": torch.ones(7, 3)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("alpha", [1.5, 6.0, 0.1, 16.0, 0.0])
def test_a_reader_that_knows_no_alpha_gets_the_whole_change(alpha: float, dtype: torch.dtype, tmp_path: Path) -> None:
    layer = LoRA(torch.randn(3, 5).to(dtype), torch.randn(7, 3).to(dtype), alpha)
    file = lorica.write(Adapter({"transformer": {"a.b": layer}}), tmp_path)
    with safe_open(file, "pt") as opened:
        assert sorted(opened.keys()) == ["transformer.a.b.lora_A.weight", "transformer.a.b.lora_B.weight"]
        down, up = (opened.get_tensor(f"transformer.a.b.lora_{half}.weight").double() for half in "AB")
    exact = (
        layer.up.double() @ layer.down.double() * (alpha / 3)
    )  # of a reader without an alpha: the rank stands for it
    assert torch.allclose(up @ down, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))
    if alpha in (1.5, 6.0):
        assert up.to(dtype).double().equal(up)  # a power of two takes no wider dtype


def test_alphas_of_each_module_come_back_and_are_not_carried_into_other_formats(tmp_path: Path) -> None:
    layers = {"a.b": lora(6.0), "a.c": lora(1.5), "a.d": lora(3.0)}
    read = lorica.read(lorica.write(Adapter({"unet": layers}), tmp_path / "a.safetensors"))
    assert {path: layer.alpha for path, layer in read.components["unet"].items()} == {"a.b": 6, "a.c": 1.5, "a.d": 3}
    again = lorica.write(read, tmp_path / "b.safetensors")
    assert again.read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    with safe_open(lorica.write(read, tmp_path / "c.safetensors", format="kohya"), "pt") as opened:
        assert "lorica.alpha" not in opened.metadata()


def test_an_alpha_that_does_not_belong_to_the_numbers_any_more_is_left_alone(tmp_path: Path) -> None:
    tensors = {"unet.a.lora_A.weight": torch.ones(3, 5), "unet.a.lora_B.weight": torch.full((7, 3), 1 / 3)}
    save_file(tensors, tmp_path / "a.safetensors", {"lorica.alpha": '{"": 1e-40}'})
    ((_, _, layer),) = lorica.read(tmp_path / "a.safetensors").layers()
    assert layer.alpha == 3
    for text in ("{", "[1]", '{"": "x"}', '{"": 1e999}'):
        save_file(tensors, tmp_path / "a.safetensors", {"lorica.alpha": text})
        with pytest.raises(FormatError, match=r"lorica\.alpha|expected a finite number"):
            lorica.read(tmp_path / "a.safetensors")


def test_comfyui_finds_a_tucker_core_beside_the_leaves_that_it_reads_it_with() -> None:
    tucker = LoCon(torch.ones(2, 5, 1, 1), torch.ones(2, 2, 3, 3), torch.ones(7, 2, 1, 1), 1.0)
    adapter = Adapter({"unet": {"a.b": tucker, "a.c": lora()}})
    tensors, _ = FORMATS["comfyui"].compose(adapter, None)
    assert {key.partition("a.b.")[2] for key in tensors if "a.b" in key} == {
        "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha",
    }  # fmt: skip
    assert {key.partition("a.c.")[2] for key in tensors if "a.c" in key} == {"lora_A.weight", "lora_B.weight", "alpha"}
