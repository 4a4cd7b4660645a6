"""Where originals live while adapters are fused, what is fused beside weights, and what fusing refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.errors import FileError, ModelError, StateError, UnknownNameError
from sample_layers import make_lora, one, relative_error
from tiny_models import sd15

FP32_NOISE = 2e-6  # relative; worst measured 4e-7
PATHS = ("conv_in", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1")


def stored_unet(folder: Path, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    sd15()[0].save_pretrained(folder / "unet")
    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype)


def on_unet(unet: nn.Module) -> lorica.Loras:
    loras = lorica.attach(unet)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        loras.load(Adapter({"unet": {path: make_lora(unet.get_submodule(path)) for path in PATHS}}), name=name)
    return loras


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backup", ["cpu", "reload"])
def test_every_backup_gives_the_same_weights_and_the_originals_back(
    backup: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    unet = stored_unet(tmp_path, dtype)
    before, loras = weights(unet), on_unet(unet)
    loras.fuse({"a": 0.7}, backup=backup)
    alone = weights(unet)
    loras.fuse({"b": 0.3}, backup=backup)
    both = weights(unet)
    size = sum(unet.get_submodule(path).weight.nbytes for path in PATHS)
    assert loras.summary().originals == (size if backup == "cpu" else 0)
    loras.unfuse("b")
    assert same(weights(unet), alone)
    loras.unfuse()
    assert same(weights(unet), before)
    loras.fuse({"a": 0.7, "b": 0.3})
    assert same(weights(unet), both)
    assert not same(before, both)


def test_a_weight_that_is_not_what_the_checkpoint_holds_is_not_trusted_to_it(tmp_path: Path) -> None:
    unet = stored_unet(tmp_path)
    loras = on_unet(unet)
    with torch.no_grad():
        unet.get_submodule(PATHS[1]).weight[0, 0] += 1
    before = weights(unet)
    with pytest.raises(ModelError, match=rf"{PATHS[1]}.weight is not what .*backup='cpu'"):
        loras.fuse({"a": 1.0}, backup="reload")
    assert same(weights(unet), before)
    assert loras.fused == {}
    loras.fuse({"a": 1.0})
    loras.detach()
    assert same(weights(unet), before)


def test_a_model_from_no_folder_has_nothing_to_read_again() -> None:
    loras = on_unet(sd15()[0])
    with pytest.raises(ModelError, match=r"was not loaded from a folder of safetensors files.*backup='cpu'"):
        loras.fuse({"a": 1.0}, backup="reload")


def test_a_checkpoint_that_is_gone_leaves_the_weights_fused(tmp_path: Path) -> None:
    unet = stored_unet(tmp_path)
    loras = on_unet(unet)
    loras.fuse({"a": 0.7}, backup="reload")
    fused = weights(unet)
    file = next((tmp_path / "unet").glob("*.safetensors"))
    content = {name: tensor.clone() for name, tensor in load_file(file).items()}
    broken = {name: tensor for name, tensor in content.items() if not name.startswith("mid_block.resnets.0.conv1")}
    save_file(broken, file)
    with pytest.raises(FileError, match=r"cannot read mid_block\.resnets\.0\.conv1\.weight again"):
        loras.unfuse()
    assert same(weights(unet), fused)
    assert loras.fused == {"a": 0.7}
    save_file(content, file)
    loras.unfuse()
    assert all(torch.equal(tensor, content[name]) for name, tensor in unet.state_dict().items())


def test_without_a_backup_nothing_can_be_taken_out_or_added_and_detach_leaves_it_in() -> None:
    unet = sd15()[0]
    before, loras = weights(unet), on_unet(unet)
    loras.fuse({"a": 0.7})
    expected = weights(unet)
    loras.unfuse()
    loras.fuse({"a": 0.7}, backup="none")
    assert same(weights(unet), expected)
    assert loras.summary().originals == 0
    for refused in (loras.unfuse, lambda: loras.unfuse("a"), lambda: loras.fuse({"b": 1.0}), lambda: loras.remove("a")):
        with pytest.raises(StateError, match=r"3 weights, such as unet.*, were fused with backup='none'"):
            refused()
    assert same(weights(unet), expected)
    assert (loras.fused, loras.names) == ({"a": 0.7}, ["a", "b"])
    loras.detach()
    assert same(weights(unet), expected)
    assert not same(before, expected)
    assert lorica.attach(unet).names == []


def test_an_unknown_backup_is_refused() -> None:
    loras = on_unet(sd15()[0])
    with pytest.raises(UnknownNameError, match=r"unknown backup 'gpu'.*cpu, none, reload"):
        loras.fuse({"a": 1.0}, backup="gpu")  # type: ignore[reportArgumentType]


def test_only_the_weights_whose_set_changes_are_computed_anew() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4), nn.Linear(4, 6))
    loras = lorica.attach(model)
    parts = {"a": "01", "b": "12"}
    for name, places in parts.items():
        loras.load(Adapter({"model": {place: make_lora(model[int(place)]) for place in places}}), name=name)
    held = [layer.weight.data for layer in model]  # so that the weights are written where they are
    before = [weight.clone() for weight in held]
    for action, computed in [
        (lambda: loras.fuse({"a": 1.0}), [0, 1]),
        (lambda: loras.fuse({"b": 1.0}), [1, 2]),
        (lambda: loras.unfuse("a"), [0, 1]),
        (loras.unfuse, [1, 2]),
    ]:
        left = [weight for index, weight in enumerate(held) if index not in computed]
        kept = [weight.clone() for weight in left]
        for weight in left:
            weight.fill_(3)  # what is not computed anew stays like this
        action()
        for weight, was in zip(left, kept, strict=True):
            assert (weight == 3).all()
            weight.copy_(was)
    assert all(map(torch.equal, held, before))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_channels_last_weights_are_fused_in_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 7, 3)).to(dtype)
    expected = nn.Sequential(nn.Conv2d(5, 7, 3)).to(dtype)
    expected.load_state_dict(model.state_dict())
    change = make_lora(model[0])
    for one_of_two in (model, expected):
        if one_of_two is model:
            model.to(memory_format=torch.channels_last)
        loras = lorica.attach(one_of_two)
        loras.load(one(change), name="a")
        loras.fuse({"a": 0.7})
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model[0].weight, expected[0].weight)


def test_a_large_half_precision_weight_is_summed_in_float32_in_every_part() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(1500, 1700).to(torch.bfloat16)
    change = LoRA(torch.randn(3, 1500) / 3, torch.randn(1700, 3) / 4, 1.5)
    exact = layer.weight.double() + 0.7 * 0.5 * change.tensors["up"].double() @ change.tensors["down"].double()
    loras = lorica.attach(layer_in := nn.Sequential(layer))
    loras.load(one(change), name="a")
    loras.fuse({"a": 0.7})
    error = (layer_in[0].weight.double() - exact).abs() - exact.abs() * 2**-8  # half a unit of bfloat16
    assert error.max() < 1e-6  # the float32 sum itself


class WithBias(LoRA):
    """Stands for any kind that changes the bias in proportion to what it is, as IA3 does."""

    def bias_delta(self, bias: Tensor | None = None) -> Tensor | None:
        return None if bias is None else 0.25 * bias.float()


def test_biases_are_fused_and_restored_with_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7))
    before = weights(model)
    plain = make_lora(model[0])
    change = LoRA(plain.tensors["down"], plain.tensors["up"], 1.5, bias=torch.randn(7))
    proportional = WithBias(plain.tensors["down"], plain.tensors["up"], 1.5)
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    loras.load(one(proportional), name="b")
    loras.fuse({"a": 0.7, "b": -1.0})
    expected = before["0.bias"] + 0.7 * change.tensors["bias"] - 0.25 * before["0.bias"]
    assert relative_error(model[0].bias.detach(), expected) < FP32_NOISE
    loras.unfuse("a")
    assert relative_error(model[0].bias.detach(), 0.75 * before["0.bias"]) < FP32_NOISE
    loras.load(one(plain), name="c")
    loras.fuse({"c": 1.0})
    loras.unfuse("b")  # nothing fused changes the bias any more, but the weight
    assert torch.equal(model[0].bias, before["0.bias"])
    loras.unfuse()
    assert same(weights(model), before)


def test_a_bias_that_is_not_there_cannot_be_fused_into() -> None:
    model = nn.Sequential(nn.Linear(5, 7, bias=False))
    plain = make_lora(model[0])
    loras = lorica.attach(model)
    loras.load(one(LoRA(plain.tensors["down"], plain.tensors["up"], 1.5, bias=torch.randn(7))), name="a")
    with pytest.raises(ModelError, match="changes its bias, but it has none"):
        loras.fuse({"a": 1.0})


def test_a_quantised_weight_is_refused_with_advice() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))
    loras = lorica.attach(model)
    loras.load(Adapter({"model": {"0": make_lora(model[0]), "1": make_lora(model[1])}}), name="a")
    before = model[0].weight.detach().clone()
    model[1].weight.data = model[1].weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match=r"model\.1: its weight is quantised .*Keep the adapter live with set"):
        loras.fuse({"a": 1.0})
    assert torch.equal(model[0].weight, before)


@pytest.mark.slow
def test_a_pipeline_saved_while_fused_draws_the_same_in_stock_diffusers(bundled: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(bundled)

    def draw(pipe: Any) -> Tensor:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        return torch.as_tensor(pipe("a red heart", num_inference_steps=2, generator=generator, output_type="np").images)

    plain = draw(pipe)
    paths = [path for path, _ in pipe.unet.named_modules() if path.endswith(("attn2.to_k", "resnets.0.conv1"))]
    loras = lorica.attach(pipe)
    loras.load(Adapter({"unet": {path: make_lora(pipe.unet.get_submodule(path)) for path in paths}}), name="a")
    loras.fuse({"a": 0.5})
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert list(again.unet.state_dict()) == list(pipe.unet.state_dict())
    assert torch.equal(draw(again), draw(pipe))
    assert not torch.equal(draw(again), plain)
