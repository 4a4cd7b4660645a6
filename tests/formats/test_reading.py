from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import lorica
from formats_fixtures import NAMES, READ_ONLY, describe, filled
from lorica.adapters import Adapter, LoCon, LoRA
from lorica.errors import FormatError, LoRAError, ModelError, ShapeError, UnknownNameError
from lorica.formats import FORMATS
from lorica.formats.methods.layers import has_alpha, untold_alpha
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import FileContents
from lorica.models import FAMILIES, Target

SD1 = FAMILIES["sd1"].target
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
K2 = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
FLAT_Q = f"lora_unet_{Q.replace('.', '_')}"


def pair(name: str, rank: int = 3, out: int = 320, width: int = 320) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": torch.randn(rank, width), f"{name}.lora_B.weight": torch.randn(out, rank)}


def flat_pair(rank: int = 3) -> dict[str, Tensor]:
    return {f"{FLAT_Q}.lora_down.weight": torch.randn(rank, 320), f"{FLAT_Q}.lora_up.weight": torch.randn(320, rank)}


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_is_read_completely_and_bit_for_bit(name: str, with_target: bool) -> None:
    facts = describe(name)
    tensors = filled(facts["tensors"])
    target = FAMILIES[facts["fits"]].target if with_target and facts["fits"] else None
    stored = FileContents("the state dict", tensors, facts["metadata"])
    adapter = interpret(stored, recognise(stored, FORMATS), target, strict=True)
    assert adapter.report is not None
    assert (adapter.report.format, adapter.report.base_model) == (facts["format"], facts["base_model"])
    assert set(adapter.report.used) == set(tensors)
    assert not adapter.report.unused
    assert {component: len(layers) for component, layers in adapter.components.items()} == facts["layers"]
    words = [vectors for parts in adapter.embeddings.values() for vectors in parts.values()]
    held = [tensor for _, _, layer in adapter.layers() for tensor in layer.tensors.values()] + words
    places = {tensor.untyped_storage().data_ptr() for tensor in held}
    assert places == {tensor.data_ptr() for tensor in tensors.values() if tensor.numel() > 1}  # views of it, no copies
    of_rank = [layer for _, _, layer in adapter.layers() if has_alpha(layer)]
    stored_alpha = {1.5 * RANKS.get(facts["format"], 1)} if any(key.endswith(".alpha") for key in tensors) else set()
    assert {layer.alpha for layer in of_rank} == (stored_alpha or {untold_alpha(layer) for layer in of_rank})


RANKS = {"hcp": 3}  # where the stored number is the scaling itself


@pytest.mark.parametrize("name", [name for name in NAMES if describe(name)["format"] not in READ_ONLY])
def test_a_file_that_was_read_is_written_back_bit_for_bit_in_its_own_spelling(name: str) -> None:
    facts = describe(name)
    tensors = filled(facts["tensors"])
    stored = FileContents("the state dict", tensors, facts["metadata"])
    for target in (None, FAMILIES[facts["fits"]].target if facts["fits"] else None):
        adapter = interpret(stored, recognise(stored, FORMATS), target, strict=True)
        again, _ = FORMATS[facts["format"]].compose(adapter, target)
        assert again.keys() == tensors.keys()
        assert all(again[key].dtype == tensors[key].dtype for key in tensors)
        assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_all_spellings_of_one_adapter_are_equal() -> None:
    paths = {
        name: {path for _, path, _ in lorica.read(filled(describe(name)["tensors"])).layers()}
        for name in ("diffusers_sd1", "diffusers_sd1_bare_processors")
    }
    assert paths["diffusers_sd1"] == paths["diffusers_sd1_bare_processors"]


def test_a_key_for_no_module_is_refused_by_name_with_its_nearest() -> None:
    tensors = {**pair(f"unet.{Q}"), **pair(f"unet.{Q}_typo")}
    with pytest.raises(FormatError) as caught:
        lorica.read(tensors, target=SD1)
    message = str(caught.value)
    assert "the state dict: 2 of its 4 keys cannot be used (diffusers format), so nothing was read." in message
    assert f"unet.{Q}_typo.lora_A.weight: the model has no module of this path in its unet. Nearest: " in message
    assert f"Nearest: unet.{Q}, unet." in message
    assert len(message) < 2000
    assert "strict=False" in message


def test_without_strict_the_rest_is_read_and_every_key_accounted_for() -> None:
    tensors = {**pair(f"unet.{Q}"), **pair("unet.nothing"), "unet.strange": torch.ones(1)}
    adapter = lorica.read(tensors, target=SD1, strict=False)
    assert [path for _, path, _ in adapter.layers()] == [Q]
    assert adapter.report is not None
    left = {key.key: key.reason for key in adapter.report.unused}
    assert set(left) | set(adapter.report.used) == set(tensors)
    assert left["unet.strange"] == "its ending is none that this format knows."


def test_a_file_for_another_base_model_says_what_it_looks_like() -> None:
    tensors = {**pair(f"unet.{Q}"), **pair(f"unet.{K2}", width=2048)}
    with pytest.raises(FormatError) as caught:
        lorica.read(tensors, target=SD1)
    assert "it changes a weight of shape (320, 2048), but the model has (320, 768) there." in str(caught.value)
    looks = "This file looks like Stable Diffusion XL: cross-attention width 2048, the model has 768."
    assert looks in str(caught.value)


def test_a_component_that_the_model_lacks_is_named() -> None:
    with pytest.raises(FormatError, match="the model has no component 'text_encoder_2', only unet, text_encoder"):
        lorica.read(pair("text_encoder_2.encoder.layers.0.mlp.fc1"), target=SD1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_that_is_no_number_is_refused_by_key(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    good = lorica.read(pair(f"unet.{Q}")).map(lambda tensor: tensor.to(dtype))
    file = lorica.write(good, tmp_path)
    broken = good.components["unet"][Q].map(lambda tensor: tensor.clone())
    broken.tensors["up"][7, 1] = value
    lorica.read(file)
    lorica.write(Adapter({"unet": {Q: broken}}), tmp_path)
    for source in (
        file,
        {"unet." + Q + ".lora_A.weight": broken.tensors["down"], "unet." + Q + ".lora_B.weight": broken.tensors["up"]},
    ):
        with pytest.raises(FormatError, match=r"to_q\.lora_B\.weight' holds 1 values of 960 that are NaN or infinite"):
            lorica.read(source)


def test_a_half_precision_sum_that_overflows_is_not_mistaken_for_a_broken_value(tmp_path: Path) -> None:
    big = Adapter({"unet": {Q: LoRA(torch.full((3, 320), 60000.0).half(), torch.ones(320, 3).half())}})
    assert lorica.read(lorica.write(big, tmp_path)) == big


def test_ranks_that_differ_are_refused_by_key() -> None:
    tensors = {**pair(f"unet.{Q}"), f"unet.{Q}.lora_B.weight": torch.ones(320, 4)}
    with pytest.raises(ShapeError, match=rf"unet\.{Q}\.lora_A\.weight and .*rank 3 .* rank 4"):
        lorica.read(tensors)


def test_two_spellings_of_one_module_are_refused() -> None:
    tensors = {**pair(f"unet.{Q}"), f"unet.{Q}.lora.down.weight": torch.ones(3, 320)}
    with pytest.raises(FormatError, match="are both the down of"):
        lorica.read(tensors)


def test_half_a_module_is_refused() -> None:
    tensors = pair(f"unet.{Q}")
    tensors.pop(f"unet.{Q}.lora_B.weight")
    with pytest.raises(FormatError, match="its module has no up tensor"):
        lorica.read(tensors)


LEFT = {
    "something": "its module holds 'something', which is not known here; without it the rest",
    "dyn_dim": r"its module holds 'dyn_dim', which is of a rank that changes while it is used \(A1111\) and cannot be",
    "oft_diag": r"its module holds the leaves of several methods \(lora and oft\)",
    "hada_w1_a": r"its module holds the leaves of several methods \(loha and lora\)",
    "diff": r"its module holds the leaves of several methods \(full and lora\)",
}


@pytest.mark.parametrize("leaf", LEFT)
def test_a_module_with_a_leaf_that_does_not_belong_is_left_whole(leaf: str) -> None:
    tensors = {**flat_pair(), f"{FLAT_Q}.{leaf}": torch.ones(320, 1)}
    with pytest.raises(FormatError, match=LEFT[leaf]):
        lorica.read(tensors)
    adapter = lorica.read(tensors, strict=False)
    assert len(adapter) == 0  # without the leaf the module would be another one
    assert adapter.report is not None
    assert len(adapter.report.unused) == 3


def test_whole_numbers_are_refused_but_for_an_alpha() -> None:
    whole = {**flat_pair(), f"{FLAT_Q}.alpha": torch.tensor(2)}
    assert [layer.alpha for _, _, layer in lorica.read(whole).layers()] == [2.0]
    with pytest.raises(FormatError, match=r"holds torch\.int8 numbers"):
        lorica.read({**flat_pair(), f"{FLAT_Q}.lora_up.weight": torch.ones(320, 3, dtype=torch.int8)})


def test_an_alpha_of_several_numbers_is_refused() -> None:
    with pytest.raises(FormatError, match=r"to_q\.alpha' has shape \(2,\) of torch.float32; expected one number"):
        lorica.read({**flat_pair(), f"{FLAT_Q}.alpha": torch.ones(2)})


def test_a_file_in_two_formats_or_in_none_is_refused() -> None:
    with pytest.raises(FormatError, match="several formats \\(diffusers and kohya\\)"):
        lorica.read({**flat_pair(), **pair(f"unet.{Q}")})
    with pytest.raises(FormatError, match=r"no adapter format that is known here \(diffusers, kohya, "):
        lorica.read({"weight": torch.ones(2)})
    with pytest.raises(FormatError, match="It looks like a whole model"):
        lorica.read({"conv_in.weight": torch.ones(2)})
    with pytest.raises(FormatError, match="holds no tensors at all"):
        lorica.read({})


def test_linear_and_one_by_one_convolution_fit_each_other() -> None:
    path = "down_blocks.0.attentions.0.proj_in"
    for family, shape in (("sd1", (320, 320, 1, 1)), ("sd2", (320, 320))):
        for ones in ([], [1, 1]):
            tensors = {
                f"unet.{path}.lora_A.weight": torch.randn(3, 320, *ones),
                f"unet.{path}.lora_B.weight": torch.randn(320, 3, *ones),
            }
            ((_, _, layer),) = lorica.read(tensors, target=FAMILIES[family].target).layers()
            assert layer.weight_shape == shape


def test_paths_are_those_of_the_target() -> None:
    tensors = pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", out=7, width=5)
    bare = Target("live", {"text_encoder": {"encoder.layers.0.mlp.fc1": (7, 5)}})
    assert [path for _, path, _ in lorica.read(tensors, target=bare).layers()] == ["encoder.layers.0.mlp.fc1"]
    assert [path for _, path, _ in lorica.read(tensors).layers()] == ["text_model.encoder.layers.0.mlp.fc1"]


def test_a_bare_module_takes_the_layers_of_any_component() -> None:
    target = Target("a module", {"model": {Q: (320, 320)}})
    for tensors in (pair(f"unet.{Q}"), flat_pair(), pair(Q)):
        assert [(component, path) for component, path, _ in lorica.read(tensors, target=target).layers()] == [
            ("model", Q)
        ]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"base_model": "stabilityai/stable-diffusion-2-1"}, "sd2"),
        ({"base_model": "someone/else"}, None),
    ],
)
def test_the_base_model_is_what_the_metadata_says(
    metadata: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    adapter = lorica.read(pair("unet.nowhere", out=5, width=7))
    report = lorica.read(lorica.write(adapter, tmp_path, metadata=metadata)).report
    assert report is not None
    assert report.base_model == expected


class TestWriting:
    adapter = Adapter({"unet": {Q: LoRA(torch.ones(3, 320), torch.ones(320, 3), 2.0)}}, {"title": "old", "kept": "yes"})

    def test_metadata_is_the_adapters_own_and_the_callers(self, tmp_path: Path) -> None:
        file = lorica.write(self.adapter, tmp_path / "deep" / "a.safetensors", metadata={"title": "new", "ss_x": "1"})
        metadata = dict(lorica.read(file).metadata)
        metadata.pop("lora_adapter_metadata")
        metadata.pop("lorica.alpha")
        assert metadata == {"title": "new", "kept": "yes", "ss_x": "1"}

    def test_the_alphas_of_another_file_are_not_carried_along(self, tmp_path: Path) -> None:
        read = lorica.read(lorica.write(self.adapter, tmp_path / "a.safetensors"))
        file = lorica.write(read, tmp_path / "b.safetensors", format="kohya")
        assert "lora_adapter_metadata" not in lorica.read(file).metadata

    def test_a_folder_gets_the_usual_name(self, tmp_path: Path) -> None:
        assert lorica.write(self.adapter, tmp_path) == tmp_path / "pytorch_lora_weights.safetensors"
        assert lorica.write(self.adapter, tmp_path / "new") == tmp_path / "new" / "pytorch_lora_weights.safetensors"

    def test_what_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'kohya'"):
            lorica.write(self.adapter, tmp_path, format="khoya")
        with pytest.raises(LoRAError, match=r"not \.bin"):
            lorica.write(self.adapter, tmp_path / "a.bin")
        with pytest.raises(FormatError, match="no layers"):
            lorica.write(Adapter({}), tmp_path)
        with pytest.raises(FormatError, match="'x' is a int"):
            lorica.write(self.adapter, tmp_path, metadata={"x": 1})  # type: ignore[dict-item]
        assert not list(tmp_path.iterdir())

    def test_an_adapter_that_does_not_fit_the_target_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="has no module unet"):
            lorica.write(self.adapter, tmp_path, target=Target("small", {"unet": {}}))
        with pytest.raises(ModelError, match=r"but small has \(9, 9\) there"):
            lorica.write(self.adapter, tmp_path, target=Target("small", {"unet": {Q: (9, 9)}}))

    def test_each_format_refuses_what_it_cannot_hold(self, tmp_path: Path) -> None:
        conv = "conv_in"
        tucker = LoCon(torch.ones(3, 4, 1, 1), torch.ones(3, 3, 3, 3), torch.ones(320, 3, 1, 1))
        with pytest.raises(FormatError, match=r"unet\.conv_in: it is a locon layer, and the format has no name"):
            lorica.write(Adapter({"unet": {conv: tucker}}), tmp_path)
        zero = LoRA(torch.ones(3, 4), torch.ones(5, 3), 0.0)
        with pytest.raises(FormatError, match="alpha 0"):
            lorica.write(Adapter({"unet": {"a": zero}}), tmp_path, format="kohya")
        plain = LoRA(torch.ones(3, 4), torch.ones(5, 3))
        with pytest.raises(FormatError, match=r"share the flat name 'lora_unet_a_b'"):
            lorica.write(Adapter({"unet": {"a.b": plain, "a_b": plain}}), tmp_path, format="kohya")
        both = Target("t", {"unet": {"a.b": (5, 4), "a_b": (5, 4)}})
        with pytest.raises(FormatError, match=r"share the flat name"):
            lorica.write(Adapter({"unet": {"a.b": plain}}), tmp_path, format="kohya", target=both)
        with pytest.raises(FormatError, match="no name for the component 'vae'"):
            lorica.write(Adapter({"vae": {"a": plain}}), tmp_path, format="kohya")
        words = Adapter({"unet": {"a": plain}}, embeddings={"<x>": {"text_encoder": torch.ones(1, 4)}})
        for name in ("diffusers", "peft", "comfyui", "lycoris"):
            with pytest.raises(FormatError, match="embeddings"):
                lorica.write(words, tmp_path, format=name)
        assert not list(tmp_path.iterdir())
