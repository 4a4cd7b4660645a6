"""Adapters for models whose first layer takes more inputs than the family's: inpainting and control."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lorica
from lorica.errors import FormatError, ModelError
from lorica.models import FAMILIES, Target

FLUX = FAMILIES["flux_dev"].target
WIDE = (3072, 128)


def control(start: str = "", *, width: int = 128) -> dict[str, Tensor]:
    """Return a part of what FLUX.1 Canny's adapter holds: the first layer, and one that Flux.1 schnell has not."""
    return {
        f"{start}img_in.lora_A.weight": torch.randn(2, width), f"{start}img_in.lora_B.weight": torch.randn(3072, 2),
        f"{start}guidance_in.in_layer.lora_A.weight": torch.randn(2, 256),
        f"{start}guidance_in.in_layer.lora_B.weight": torch.randn(3072, 2),
    }  # fmt: skip


def wide_flux() -> Target:
    return Target("control", {"transformer": {**FLUX.components["transformer"], "x_embedder": WIDE}})


@pytest.mark.parametrize("start", ["", "diffusion_model."], ids=["bfl_control", "comfyui"])
def test_a_control_adapter_is_read_for_its_family_and_knows_its_width(start: str) -> None:
    adapter = lorica.read(control(start))
    assert adapter.components["transformer"]["x_embedder"].weight_shape == WIDE
    assert adapter.report is not None
    assert adapter.report.base_model == "flux_dev"
    assert not adapter.report.unused


def test_a_model_that_takes_fewer_inputs_refuses_it_and_says_what_to_load_it_on() -> None:
    with pytest.raises(FormatError, match=r"img_in.lora_A.*x_embedder takes 128 inputs.*FluxControlPipeline"):
        lorica.read(control(), target=FLUX)


def test_a_widened_model_takes_it() -> None:
    tensors = control()
    assert lorica.read(tensors, target=wide_flux()) == lorica.read(tensors)


def test_fewer_inputs_than_the_familys_are_no_widening() -> None:
    with pytest.raises(FormatError, match=r"shape \(3072, 60\), but the model has \(3072, 64\) there\.\n"):
        lorica.read(control(width=60))


def test_another_number_of_outputs_is_no_widening() -> None:
    tensors = {**control(), "img_in.lora_B.weight": torch.randn(3000, 2)}
    with pytest.raises(FormatError, match=r"shape \(3000, 128\), but the model has \(3072, 64\) there\.\n"):
        lorica.read(tensors)


@pytest.mark.parametrize("to", ["comfyui", "kohya", "diffusers"])
def test_it_is_converted_under_the_names_of_its_family(to: str, tmp_path: Path) -> None:
    save_file(control(), tmp_path / "in.safetensors")
    lorica.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", to=to)
    names = {"comfyui": "diffusion_model.img_in", "kohya": "lora_unet_img_in", "diffusers": "transformer.x_embedder"}
    assert any(key.startswith(f"{names[to]}.") for key in load_file(tmp_path / "out.safetensors"))
    again = lorica.convert(tmp_path / "out.safetensors", tmp_path / "kohya.safetensors", to="kohya")
    assert again.base_model == "flux_dev"
    assert "lora_unet_img_in.lora_down.weight" in load_file(tmp_path / "kohya.safetensors")


def test_a_writer_that_was_given_the_narrow_model_refuses(tmp_path: Path) -> None:
    adapter = lorica.read(control())
    with pytest.raises(ModelError, match=r"shape \(3072, 128\), but Flux.1 dev has \(3072, 64\)"):
        lorica.write(adapter, tmp_path / "out.safetensors", format="kohya", target=FLUX)


def test_an_inpainting_adapter_in_kohyas_format_is_read(tmp_path: Path) -> None:
    tensors = {
        "lora_unet_conv_in.lora_down.weight": torch.randn(3, 9, 3, 3),
        "lora_unet_conv_in.lora_up.weight": torch.randn(320, 3, 1, 1),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.randn(3, 768),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.randn(1280, 3),
    }
    adapter = lorica.read(tensors)
    assert adapter.components["unet"]["conv_in"].weight_shape == (320, 9, 3, 3)
    assert adapter.report is not None
    assert adapter.report.base_model == "sd1"
    again = lorica.read(lorica.write(adapter, tmp_path / "out.safetensors", format="diffusers"))
    assert again == adapter
    assert again.report is not None
    assert again.report.base_model == "sd1"


def with_reshape(*shape: int) -> dict[str, Tensor]:
    return {**control("diffusion_model."), "diffusion_model.img_in.reshape_weight": torch.tensor(shape)}


def test_the_shape_that_comfyui_pads_to_is_used_and_written_back(tmp_path: Path) -> None:
    tensors = with_reshape(*WIDE)
    adapter = lorica.read(tensors)
    assert adapter == lorica.read({key: tensor for key, tensor in tensors.items() if "reshape" not in key})
    again = load_file(lorica.write(adapter, tmp_path / "out.safetensors", format="comfyui"))
    assert again.keys() == tensors.keys()
    assert again["diffusion_model.img_in.reshape_weight"].tolist() == list(WIDE)


def test_a_padded_shape_that_is_not_that_of_the_tensors_is_refused() -> None:
    with pytest.raises(FormatError, match=r"its reshape_weight is \(3072, 192\), but its other tensors change"):
        lorica.read(with_reshape(3072, 192))


def test_a_padded_shape_does_not_stand_in_for_an_alpha(tmp_path: Path) -> None:
    adapter = lorica.read(with_reshape(*WIDE))
    layer = adapter.components["transformer"]["x_embedder"]
    stronger = lorica.LoRA(layer.tensors["down"], layer.tensors["up"], 5.0)
    parts = {"transformer": {**adapter.components["transformer"], "x_embedder": stronger}}
    changed = lorica.Adapter(parts, report=adapter.report)
    assert lorica.read(lorica.write(changed, tmp_path / "out.safetensors", format="comfyui")) == changed
