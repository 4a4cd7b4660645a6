"""Base models on disk: paths and shapes from headers, weights when asked for, and errors that say what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorica.errors import FileError, ModelError, UnknownNameError
from lorica.models import FAMILIES
from lorica.models.spellings.ldm import original_names
from lorica.tools.base_model import open_base


def make_network(folder: Path, name: str, **tensors: torch.Tensor) -> None:
    folder.mkdir(exist_ok=True)
    save_file({key.replace("__", "."): tensor for key, tensor in tensors.items()}, folder / name)


def test_every_network_of_a_folder_but_the_autoencoder_is_a_component(tmp_path: Path) -> None:
    make_network(tmp_path / "unet", "model.safetensors", a__weight=torch.ones(3, 2), a__bias=torch.ones(3))
    make_network(tmp_path / "text_encoder", "model.safetensors", b__weight=torch.ones(4, 5))
    make_network(tmp_path / "vae", "model.safetensors", c__weight=torch.ones(6, 7))
    (tmp_path / "scheduler").mkdir()
    base = open_base(tmp_path)
    assert base.target.components == {"text_encoder": {"b": (4, 5)}, "unet": {"a": (3, 2)}}
    assert torch.equal(base.weight("unet", "a"), torch.ones(3, 2))


def test_the_parts_of_a_network_are_put_together_and_plain_files_count_before_variants(tmp_path: Path) -> None:
    make_network(tmp_path / "unet", "model-00001-of-00002.safetensors", a__weight=torch.ones(3, 2))
    make_network(tmp_path / "unet", "model-00002-of-00002.safetensors", b__weight=torch.ones(4, 5))
    make_network(tmp_path / "unet", "model.fp16.safetensors", a__weight=torch.zeros(3, 2).half())
    base = open_base(tmp_path)
    assert base.target.components["unet"] == {"a": (3, 2), "b": (4, 5)}
    assert torch.equal(base.weight("unet", "a"), torch.ones(3, 2))


def test_a_checkpoint_of_torch_will_do(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    torch.save({"a.weight": torch.ones(3, 2)}, tmp_path / "unet" / "model.bin")
    assert open_base(tmp_path).target.components == {"unet": {"a": (3, 2)}}


@pytest.mark.parametrize(
    ("config", "component"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "unet"),
        ({"_class_name": "FluxTransformer2DModel"}, "transformer"),
        ({"_class_name": "PriorTransformer"}, "prior"),
        ({"architectures": ["CLIPTextModel"]}, "text_encoder"),
    ],
)
def test_one_network_alone_is_known_by_its_class(config: dict[str, object], component: str, tmp_path: Path) -> None:
    make_network(tmp_path, "model.safetensors", a__weight=torch.ones(3, 2))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_base(tmp_path).target.components == {component: {"a": (3, 2)}}


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"architectures": []}'])
def test_a_network_of_unknown_class_is_refused(config: str, tmp_path: Path) -> None:
    make_network(tmp_path, "model.safetensors", a__weight=torch.ones(3, 2))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileError, match=r"config.json does not say what network"):
        open_base(tmp_path)


def test_a_network_that_adapters_do_not_change_is_refused(tmp_path: Path) -> None:
    make_network(tmp_path, "model.safetensors", a__weight=torch.ones(3, 2))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ModelError, match="holds a AutoencoderKL"):
        open_base(tmp_path)


def test_either_spelling_of_a_text_encoders_path_finds_the_weight(tmp_path: Path) -> None:
    key = "encoder.layers.0.mlp.fc1"
    (tmp_path / "text_encoder").mkdir()
    save_file({f"{key}.weight": torch.ones(3, 2)}, tmp_path / "text_encoder" / "model.safetensors")
    base = open_base(tmp_path)
    assert torch.equal(base.weight("text_encoder", f"text_model.{key}"), base.weight("text_encoder", key))


def test_a_family_has_shapes_and_no_weights() -> None:
    base = open_base("sd1")
    assert base.target == FAMILIES["sd1"].target
    with pytest.raises(ModelError, match=r"only the shapes of Stable Diffusion 1.x are known"):
        base.weight("unet", "conv_in")


def test_the_bundled_model_has_weights(bundled: Path) -> None:
    base = open_base("bundled")
    assert tuple(base.weight("unet", "conv_in").shape) == base.target.components["unet"]["conv_in"]
    assert bundled.is_dir()


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    make_network(tmp_path / "unet", "model.safetensors", a__weight=torch.ones(3, 2))
    with pytest.raises(ModelError, match=r"has no module unet.b"):
        open_base(tmp_path).weight("unet", "b")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        open_base(tmp_path)


def test_a_single_file_is_told_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a single file"):
        open_base(tmp_path / "model.ckpt")


def test_a_checkpoint_in_one_file_is_told_by_its_names_and_sizes(tmp_path: Path) -> None:
    parts = FAMILIES["bundled"].target.components["unet"]
    names = {f"model.diffusion_model.{name}.weight": parts[path] for path, name in original_names(parts).items()}
    tensors = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in names.items()}
    save_file({**tensors, "first_stage_model.encoder.conv_in.weight": torch.zeros(3, 5)}, tmp_path / "a.safetensors")
    base = open_base(tmp_path / "a.safetensors")
    assert base.target is FAMILIES["bundled"].target
    with pytest.raises(ModelError, match="only the shapes"):
        base.weight("unet", "conv_in")


def test_an_adapter_is_no_checkpoint(tmp_path: Path) -> None:
    save_file({"mid_block.down.weight": torch.zeros(3, 5)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="no checkpoint"):
        open_base(tmp_path / "a.safetensors")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        open_base(tmp_path / "none")
    with pytest.raises(UnknownNameError, match="Did you mean 'sdxl'"):
        open_base("sdxk")
