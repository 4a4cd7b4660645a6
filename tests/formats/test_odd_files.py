"""Files that are odd but valid are read, and broken ones are refused by one sentence that says what they are."""

from __future__ import annotations

import math
import pathlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.errors import FileError, FormatError, LoRAError, ShapeError
from lorica.formats.storage.files import load, save
from lorica.models import Target
from lorica.models.detect import detect

ATTN = "mid_block.attentions.0.transformer_blocks.0"
FLAT = f"lora_unet_{ATTN.replace('.', '_')}"
TO_Q, TO_K = f"{ATTN}.attn1.to_q", f"{ATTN}.attn2.to_k"  # (1280, 1280) and (1280, 768) in Stable Diffusion 1
ONE = Target("one layer", {"unet": {"layer": (12, 20)}})


def lora(name: str, down: str = "lora_down.weight", up: str = "lora_up.weight", rank: int = 3) -> dict[str, Tensor]:
    return {f"{name}.{down}": torch.randn(rank, 1280), f"{name}.{up}": torch.randn(1280, rank)}


def only_layer(adapter: lorica.Adapter) -> lorica.AdapterLayer:
    ((_, _, layer),) = adapter.layers()
    return layer


# The base model of files that hold no pair of thin matrices


@pytest.mark.parametrize(
    ("leaves", "families"),
    [
        ({"attn2_to_k.weight": (768,), "attn2_to_k.on_input": 1}, {"sd1"}),
        ({"attn2_to_k.weight": (1280,), "attn2_to_k.on_input": 0}, {"sd1", "sd2", "sdxl"}),
        ({"attn1_to_q.oft_blocks": (4, 320, 320)}, {"sd1", "sd2", "sdxl"}),
        ({"attn1_to_q.oft_blocks": (2, 4, 320, 320)}, {"sd1", "sd2", "sdxl"}),
        ({"attn2_to_k.set_weight": (1280, 768)}, {"sd1"}),
        ({"norm1.w_norm": (1280,), "norm1.b_norm": (1280,)}, {"sd1", "sd2", "sdxl"}),
        ({"norm1.b_norm": (1280,)}, {"sd1", "sd2", "sdxl"}),
        ({"attn2_to_out_0.diff_b": (1280,)}, {"sd1", "sd2", "sdxl"}),
        (
            {
                **{f"attn2_to_k.a{number}.weight": size for number, size in enumerate([(768, 4), (4, 768)], 1)},
                **{f"attn2_to_k.b{number}.weight": size for number, size in enumerate([(1280, 4), (4, 768)], 1)},
            },
            {"sd1"},
        ),
        (
            {
                f"attn2_to_k.hada_w{number}_{half}": size
                for number in (1, 2)
                for half, size in (("a", (1280, 4)), ("b", (4, 768)))
            },
            {"sd1"},
        ),
    ],
)  # fmt: skip
def test_a_file_of_any_method_alone_is_read_for_a_model_of_its_sizes(
    leaves: dict[str, Any], families: set[str]
) -> None:
    tensors = {
        f"{FLAT}_{leaf}": torch.tensor(value) if isinstance(value, int) else torch.randn(value)
        for leaf, value in leaves.items()
    }
    adapter = lorica.read(tensors)
    assert adapter.report is not None
    assert adapter.report.base_model == (families.copy().pop() if len(families) == 1 else None)
    first = next(iter(leaves))
    weight = (1280,) if "norm" in first else (1280, 768 if "attn2_to_k" in first else 1280)
    assert only_layer(adapter).fits(weight)


def test_a_loha_with_cores_is_read_for_a_model_of_its_sizes() -> None:
    shapes = {"w1_a": (4, 1280), "w1_b": (4, 1280), "w2_a": (4, 1280), "w2_b": (4, 1280), "t1": (4, 4, 3, 3)}
    tensors = {f"lora_unet_mid_block_resnets_0_conv1.hada_{leaf}": torch.randn(shape) for leaf, shape in shapes.items()}
    tensors["lora_unet_mid_block_resnets_0_conv1.hada_t2"] = torch.randn(4, 4, 3, 3)
    assert only_layer(lorica.read(tensors)).weight_shape == (1280, 1280, 3, 3)


def test_an_ia3_of_inputs_is_another_kind_of_module_than_one_of_outputs() -> None:
    width = 1280  # of the outputs of the one, and of the inputs of the other
    first, second = f"{FLAT}_attn1_to_k", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2"
    tensors = {f"{name}.weight": torch.randn(width) for name in (first, second)}
    tensors |= {f"{first}.on_input": torch.tensor(False), f"{second}.on_input": torch.tensor(True)}
    assert {layer.weight_shape for _, _, layer in lorica.read(tensors).layers()} == {(width, -1), (-1, width)}


def test_the_change_of_a_bias_alone_may_be_a_norms() -> None:
    path = "down_blocks.0.resnets.0.norm1"
    assert {each.family for each in detect({"unet": {path: (320, -1)}}) if each.fits} >= {"sd1", "sd2", "sdxl"}
    assert not any(each.fits for each in detect({"unet": {path: (321, -1)}}))


# Spellings


@pytest.mark.parametrize("start", ["unet.", "", "base_model.model.", "unet.base_model.model.", "_orig_mod.unet."])
@pytest.mark.parametrize("name", ["default", "my_name"])
@pytest.mark.parametrize("end", [".weight", ""])
def test_the_name_of_peft_s_adapter_in_a_key_is_no_part_of_it(start: str, name: str, end: str) -> None:
    tensors = lora(f"{start}{TO_Q}", f"lora_A.{name}{end}", f"lora_B.{name}{end}")
    tensors[f"{start}{TO_Q}.lora_magnitude_vector.{name}{end}"] = torch.rand(1280)
    adapter = lorica.read(tensors)
    assert adapter.components["unet"][TO_Q].kind == "dora"


@pytest.mark.parametrize(
    "start", ["unet._orig_mod.", "_orig_mod.", "module.", "module.unet.", "unet.module._orig_mod."]
)
def test_what_wraps_a_model_in_training_is_no_part_of_a_path(start: str) -> None:
    assert list(lorica.read(lora(f"{start}{TO_Q}", "lora_A.weight", "lora_B.weight")).components["unet"]) == [TO_Q]


def test_a_compiled_block_is_no_part_of_a_path() -> None:
    name = f"unet.{ATTN}._orig_mod.attn1.to_q"
    assert list(lorica.read(lora(name, "lora_A.weight", "lora_B.weight")).components["unet"]) == [TO_Q]


@pytest.mark.parametrize("leaf", ["lora.down", "full.diff", "bias", "reshape", "magnitude_", "norm.diff"])
def test_what_a_leaf_means_is_no_spelling_of_it(leaf: str) -> None:
    with pytest.raises(FormatError, match=rf"its module holds '{leaf}', which is not known here"):
        lorica.read({f"{FLAT}_attn1_to_q.{leaf}": torch.randn(1280)})


@pytest.mark.parametrize("leaves", [{"weight": (12,)}, {"weight": (1, 12, 1, 1)}], ids=["row", "convolution"])
@pytest.mark.parametrize("flag", [torch.tensor(False), torch.tensor([0]), torch.tensor(0.0, dtype=torch.float16)])
def test_a_switch_is_written_back_as_the_file_has_it(leaves: dict[str, Any], flag: Tensor) -> None:
    tensors = {f"lora_unet_layer.{leaf}": torch.randn(shape) for leaf, shape in leaves.items()}
    tensors["lora_unet_layer.on_input"] = flag
    again, _ = lorica.formats.FORMATS["kohya"].compose(lorica.read(tensors, target=ONE), ONE)
    written = again["lora_unet_layer.on_input"]
    assert (written.dtype, written.shape) == (flag.dtype, flag.shape)
    assert torch.equal(written, flag)


def test_a_rotation_without_an_alpha_is_written_back_without_one() -> None:
    tensors = {"lora_unet_layer.oft_blocks": torch.randn(3, 4, 4)}
    again, _ = lorica.formats.FORMATS["kohya"].compose(lorica.read(tensors, target=ONE), ONE)
    assert again.keys() == tensors.keys()


# Alphas


def lokr(alpha: Tensor) -> dict[str, Tensor]:
    return {
        "lora_unet_layer.lokr_w1": torch.randn(3, 4).half(),
        "lora_unet_layer.lokr_w2": torch.randn(4, 5).half(),
        "lora_unet_layer.alpha": alpha,
    }


def test_an_infinite_alpha_of_two_whole_factors_means_nothing(tmp_path: Path) -> None:
    overflown = torch.tensor(9999999999.0).half()
    assert overflown.isinf()
    tensors = lokr(overflown)
    layer = only_layer(lorica.read(tensors, target=ONE))
    wanted = torch.kron(tensors["lora_unet_layer.lokr_w1"].float(), tensors["lora_unet_layer.lokr_w2"].float())
    assert torch.equal(layer.delta(torch.zeros(12, 20)), wanted)
    file = lorica.write(lorica.read(tensors, target=ONE), tmp_path / "a.safetensors", format="kohya", target=ONE)
    assert lorica.read(file, target=ONE) == lorica.read(tensors, target=ONE)
    assert math.isinf(load(file).tensors["lora_unet_layer.alpha"].item())


@pytest.mark.parametrize("alpha", [math.nan, -math.inf])
def test_an_undefined_alpha_of_two_whole_factors_is_refused(alpha: float) -> None:
    with pytest.raises(FormatError, match=rf"'lora_unet_layer.alpha' is {alpha}"):
        lorica.read(lokr(torch.tensor(alpha)), target=ONE)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
def test_an_alpha_that_counts_must_be_finite(alpha: float, tmp_path: Path) -> None:
    tensors = {**lora(f"{FLAT}_attn1_to_q"), f"{FLAT}_attn1_to_q.alpha": torch.tensor(alpha)}
    save(tensors, tmp_path / "a.safetensors", {})
    with pytest.raises(FormatError, match=rf"alpha' is {alpha}; expected a number"):
        lorica.read(tmp_path / "a.safetensors")
    assert f"alpha' is {alpha}; expected a number" in str(lorica.inspect(tmp_path / "a.safetensors").problem)


def test_an_alpha_may_be_a_plain_number_in_a_state_dict() -> None:
    name = f"{FLAT}_attn1_to_q"
    assert only_layer(lorica.read({**lora(name), f"{name}.alpha": 1.5})).alpha == 1.5  # type: ignore[dict-item]


# State dicts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to("meta"), "on the meta device, without numbers"),
        (lambda tensor: tensor.to_sparse(), "of layout torch.sparse_coo"),
        (lambda tensor: tensor.numpy(), "holds a ndarray"),
        (lambda tensor: tensor.to(torch.complex64), "holds torch.complex64 numbers"),
    ],
    ids=["meta", "sparse", "numpy", "complex"],
)
def test_a_state_dict_without_plain_numbers_is_refused(change: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        lorica.read({key: change(tensor) for key, tensor in lora(f"{FLAT}_attn1_to_q").items()})


@pytest.mark.parametrize(
    "change",
    [lambda tensor: tensor.requires_grad_(), lambda tensor: tensor.T.contiguous().T, nn.Parameter],
    ids=["requires_grad", "not contiguous", "parameter"],
)
def test_tensors_of_a_live_model_are_read(change: Any, tmp_path: Path) -> None:
    tensors = lora(f"{FLAT}_attn1_to_q")
    adapter = lorica.read({key: change(tensor.clone()) for key, tensor in tensors.items()})
    assert adapter == lorica.read(tensors)
    assert lorica.read(lorica.write(adapter, tmp_path, format="kohya")) == adapter


@pytest.mark.parametrize("source", [None, b"a.safetensors", [torch.ones(2)], 3])
def test_what_is_neither_a_path_nor_a_state_dict_is_refused(source: Any) -> None:
    for look in (lorica.read, lorica.inspect):
        with pytest.raises(FormatError, match="is read from a path, a Hub id or a state dict, not from a"):
            look(source)


# Shapes that no layer has


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        ({"weight": (12,), "on_input": (2,)}, r"on_input' has shape \(2,\) of torch.float32; expected one number"),
        ({"weight": (12,), "on_input": (0,)}, r"on_input' has shape \(0,\) of torch.float32; expected one number"),
        ({"oft_R.weight": ()}, r"vectors has shape \(\); expected 2 dimensions"),
        ({"oft_R.weight": (3, 4, 6)}, r"vectors has shape \(3, 4, 6\); expected 2 dimensions"),
        ({"ia3_l": ()}, "IA3"),
        ({"lora_embedding_A": (3,), "lora_embedding_B": (20, 3)}, "table_down has shape"),
        ({"lora_embedding_A": (3, 20), "lora_embedding_B": (12, 3), "diff_b": (12,)}, "has no bias to change"),
        ({"vera_lambda_b": (), "vera_lambda_d": (2,)}, "shared"),
    ],
)
@pytest.mark.parametrize("target", [None, ONE], ids=["alone", "target"])
def test_tensors_of_impossible_shapes_are_refused(leaves: dict[str, Any], message: str, target: Target | None) -> None:
    tensors = {f"lora_unet_layer.{leaf}": torch.ones(shape) for leaf, shape in leaves.items()}
    with pytest.raises(LoRAError, match=message if target else "the state dict") as caught:
        lorica.read(tensors, target=target)
    assert isinstance(caught.value, FormatError | ShapeError)


def test_a_bias_is_changed_once() -> None:
    tensors = {f"lora_unet_layer.{leaf}": torch.ones(12) for leaf in ("w_norm", "b_norm", "diff_b")}
    with pytest.raises(FormatError, match="holds the change of its bias twice"):
        lorica.read(tensors, target=Target("a norm", {"unet": {"layer": (12,)}}))


# What is no file of tensors


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b'{"error": "Repository not found"}', "it is JSON text"),
        (b"Access to this model is restricted.", "it is text, 'Access to this model is restricted.'"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer"),
    ],
)
def test_what_a_server_sends_in_place_of_a_file_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        lorica.read(tmp_path / name)


def test_a_safetensors_file_under_the_name_of_another_is_named(tmp_path: Path) -> None:
    save(lora("a"), tmp_path / "a.safetensors", {})
    (tmp_path / "a.safetensors").rename(tmp_path / "a.bin")
    with pytest.raises(FormatError, match=r"a safetensors file under the wrong name: rename it to .safetensors"):
        lorica.read(tmp_path / "a.bin")


@pytest.mark.parametrize("content", [bytes(range(128, 256)), b"\x80\x02junk", b"PK\x03\x04junk", b"\x80\x02r"])
def test_a_broken_torch_file_is_refused_whatever_torch_raises(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(FormatError, match="it is cut short or broken"):
        lorica.read(tmp_path / "a.pt")


def test_python_objects_are_refused_by_name_and_without_torch_s_advice(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": pathlib.PurePosixPath("x")}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match=r"holds Python objects \(pathlib.PurePosixPath\)") as caught:
        lorica.read(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(FileError, match="is empty"):
        lorica.read(tmp_path / "b.bin")


# More spellings and places


def test_the_only_text_encoder_of_the_refiner_is_the_second_of_its_base() -> None:
    unet = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{unet}.lora_down.weight": torch.randn(2, 1280), f"{unet}.lora_up.weight": torch.randn(1536, 2)}
    for start in ("lora_te_", "lora_te2_"):
        name = f"{start}text_model_encoder_layers_31_mlp_fc1"
        text = {f"{name}.lora_down.weight": torch.randn(2, 1280), f"{name}.lora_up.weight": torch.randn(5120, 2)}
        adapter = lorica.read({**tensors, **text})
        assert adapter.report is not None
        assert adapter.report.base_model == "sdxl_refiner"
        assert list(adapter.components["text_encoder_2"]) == ["text_model.encoder.layers.31.mlp.fc1"]


def test_the_text_encoder_of_stable_cascade_has_a_prefix_of_its_own() -> None:
    unet, text = "lora_prior_unet_down_blocks_0_2_attention_to_q", "lora_prior_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{unet}.lora_down.weight": torch.randn(2, 2048), f"{unet}.lora_up.weight": torch.randn(2048, 2)}
    tensors |= {f"{text}.lora_down.weight": torch.randn(2, 1280), f"{text}.lora_up.weight": torch.randn(5120, 2)}
    adapter = lorica.read(tensors)
    assert adapter.report is not None
    assert (adapter.report.format, adapter.report.base_model) == ("kohya", "stable_cascade")
    assert list(adapter.components["text_encoder"]) == ["text_model.encoder.layers.0.mlp.fc1"]


@pytest.mark.parametrize(
    ("leaf", "component"),
    [("string_to_param.*", "text_encoder"), ("emb_params", "text_encoder"), ("<cat-toy>", "text_encoder"),
     ("clip_l", "text_encoder"), ("clip_g", "text_encoder_2"), ("clip_l_out", "text_encoder_out")],
)  # fmt: skip
def test_embeddings_are_of_the_text_encoder_that_their_leaf_names(leaf: str, component: str, tmp_path: Path) -> None:
    tensors = {**lora(f"{FLAT}_attn1_to_q"), f"bundle_emb.my.word.{leaf}": torch.randn(2, 768)}
    adapter = lorica.read(tensors)
    assert {token: list(parts) for token, parts in adapter.embeddings.items()} == {"my.word": [component]}
    file = lorica.write(adapter, tmp_path / "a.safetensors", format="kohya")
    assert load(file).tensors.keys() == tensors.keys()


def test_a_file_of_words_alone_is_told_to_be_one() -> None:
    with pytest.raises(FormatError, match="holds the embeddings of words alone"):
        lorica.read({"bundle_emb.word.string_to_param.*": torch.randn(2, 768)})


@pytest.mark.parametrize("rank", [None, 2], ids=["as it is", "of another rank"])
def test_a_convolution_may_have_its_up_as_a_matrix(rank: int | None) -> None:
    model = Target("a convolution", {"unet": {"layer": (12, 20, 3, 2)}})
    down, up = torch.randn(4, 20, 3, 2), torch.randn(12, 4)
    tensors = {"lora_unet_layer.lora_down.weight": down, "lora_unet_layer.lora_up.weight": up}
    adapter = lorica.read(tensors, target=model)
    layer = only_layer(adapter)
    wanted = torch.einsum("or,rikl->oikl", up, down)
    assert torch.allclose(layer.delta(torch.zeros(12, 20, 3, 2)), wanted, atol=1e-5)
    if rank:
        smaller = lorica.LoRA(layer.tensors["down"][:rank], layer.tensors["up"][:, :rank])
        adapter = replace(adapter, components={"unet": {"layer": smaller}})
    again, _ = lorica.formats.FORMATS["kohya"].compose(adapter, model)
    assert {tuple(tensor.shape) for tensor in again.values()} == {(rank or 4, 20, 3, 2), (12, rank or 4)}
    assert lorica.read(again, target=model) == adapter


# LyCORIS under dotted names, 8-bit floats


def test_the_methods_of_lycoris_are_read_under_dotted_names(tmp_path: Path) -> None:
    shapes = {"w1_a": (1280, 4), "w1_b": (4, 1280), "w2_a": (1280, 4), "w2_b": (4, 1280)}
    tensors = {f"unet.{TO_Q}.hada_{leaf}": torch.randn(shape) for leaf, shape in shapes.items()}
    tensors |= {f"unet.{TO_Q}.alpha": torch.tensor(2.0), f"unet.{TO_K}.diff": torch.randn(1280, 768)}
    tensors |= {f"unet.{ATTN}.norm1.w_norm": torch.randn(1280)}
    adapter = lorica.read(tensors)
    assert {path: layer.kind for _, path, layer in adapter.layers()} == {
        TO_Q: "loha", TO_K: "full", f"{ATTN}.norm1": "norm",
    }  # fmt: skip
    file = lorica.write(adapter, tmp_path / "a.safetensors", format="diffusers")
    assert load(file).tensors.keys() == tensors.keys()
    assert lorica.read(file) == adapter


def test_lokr_of_a_transformer_is_read_under_dotted_names() -> None:
    path = "transformer_blocks.0.attn.to_q"
    tensors = {f"transformer.{path}.lokr_w1": torch.randn(8, 8), f"transformer.{path}.lokr_w2": torch.randn(384, 384)}
    assert only_layer(lorica.read(tensors)).weight_shape == (3072, 3072)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_floats_are_numbers_like_others(dtype: torch.dtype, tmp_path: Path) -> None:
    path = "transformer_blocks.0.attn"
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    down, up = torch.randn(2, 3072).to(dtype), torch.randn(9216, 2).to(dtype)
    save({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "a.safetensors", {})
    adapter = lorica.read(tmp_path / "a.safetensors")
    layer = adapter.components["transformer"][f"{path}.to_k"]
    assert layer.tensors["up"].dtype == dtype
    assert torch.equal(layer.delta(torch.zeros(3072, 3072)), up[3072:6144].float() @ down.float())
    again = lorica.read(lorica.write(adapter, tmp_path / "b.safetensors", format="comfyui"))
    assert again == adapter
    assert adapter.map(lambda tensor: (-tensor.float()).to(dtype)) != adapter


def test_a_control_lora_is_told_to_be_no_adapter_of_the_model(tmp_path: Path) -> None:
    tensors = {"lora_controlnet": torch.empty(0), "zero_convs.0.0.weight": torch.randn(8, 8, 1, 1)}
    tensors |= {"input_blocks.1.0.in_layers.2.up": torch.randn(320, 2)}
    tensors |= {"input_blocks.1.0.in_layers.2.down": torch.randn(2, 320, 3, 3)}
    save(tensors, tmp_path / "control.safetensors", {})
    assert len(lorica.read(tmp_path / "control.safetensors").components["controlnet"]) == 2
    with pytest.raises(FormatError, match=r"control.safetensors is a ControlLoRA: .* no adapter for one layer itself"):
        lorica.read(tmp_path / "control.safetensors", target=ONE)
    with pytest.raises(FormatError, match=r"control.safetensors is a ControlLoRA, .* the kohya format cannot hold"):
        lorica.convert(tmp_path / "control.safetensors", tmp_path / "a.safetensors", to="kohya")
    assert not (tmp_path / "a.safetensors").exists()


def test_what_lycoris_extracts_keeps_its_residual(tmp_path: Path) -> None:
    name = f"{FLAT}_attn1_to_q"
    tensors = {key: tensor.half() for key, tensor in lora(name).items()} | {f"{name}.alpha": torch.tensor([3.0]).half()}
    tensors |= {f"{name}.bias_indices": torch.tensor([[0, 1279], [1279, 4]], dtype=torch.int16)}
    tensors |= {f"{name}.bias_values": torch.tensor([8.0, -16.0]).half()}
    tensors |= {f"{name}.bias_size": torch.tensor([1280, 1280], dtype=torch.int16)}
    save(tensors, tmp_path / "a.safetensors", {})
    adapter = lorica.read(tmp_path / "a.safetensors")
    layer = only_layer(adapter)
    down, up = (tensors[f"{name}.lora_{half}.weight"].float() for half in ("down", "up"))
    wanted = up @ down
    wanted[0, 1279] += 8
    wanted[1279, 4] -= 16
    assert torch.allclose(layer.delta(torch.zeros(1280, 1280)), wanted, atol=1e-5)
    again = load(lorica.write(adapter, tmp_path / "b.safetensors", format="kohya")).tensors
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())
    facts = lorica.inspect(tmp_path / "a.safetensors")
    assert (facts.methods, facts.problem, facts.unused) == ({"residual": 1}, None, {})
    done = lorica.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", to="comfyui")
    assert lorica.read(done.path).components == adapter.components
    done = lorica.convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", to="diffusers", approximate=5)
    assert done.changed[0].error < 1e-3  # of rank 3 + 2


@pytest.mark.parametrize("indices", [[[0, -1], [1, 4]], [[0, 1280], [1, 4]]])
def test_a_residual_outside_of_the_weight_is_refused_by_its_keys(indices: list[list[int]]) -> None:
    name = f"{FLAT}_attn1_to_q"
    tensors = {**lora(name), f"{name}.bias_indices": torch.tensor(indices), f"{name}.bias_values": torch.ones(2)}
    tensors[f"{name}.bias_size"] = torch.tensor([1280, 1280])
    with pytest.raises(ShapeError, match=r"the state dict: .*bias_indices.* has places outside"):
        lorica.read(tensors)
