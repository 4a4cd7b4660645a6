"""Folders that are written for PEFT: it makes the same layers of the configuration, or we refuse and say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, OFTConfig, PeftModel, get_peft_model
from peft.tuners.lokr.layer import factorization
from torch import nn

import lorica
from lorica.adapters import IA3, Adapter, AdapterLayer, DoRA, Full, LoHa, LoKr, LoRA, OFTv2, VeRA
from lorica.errors import FormatError
from lorica.formats.methods.lokr import taken
from lorica.formats.reading import interpret
from lorica.formats.storage.files import FileContents
from lorica.models import Target
from sample_layers import relative_error

FP32_NOISE = 2e-6  # relative; worst measured 8.2e-8 over all cases x 12 seeds
SHAPES = {"a.q": (16, 24), "a.k": (40, 12), "b.conv": (30, 18, 3, 3), "b.one": (14, 10, 1, 1)}
TARGET = Target("tiny", {"unet": SHAPES})


def model() -> nn.Module:
    torch.manual_seed(0)
    a = nn.ModuleDict({"q": nn.Linear(24, 16), "k": nn.Linear(12, 40)})
    return nn.ModuleDict({"a": a, "b": nn.ModuleDict({"conv": nn.Conv2d(18, 30, 3), "one": nn.Conv2d(10, 14, 1)})})


@pytest.mark.parametrize("factor", [-1, *range(1, 41), 64, 1000])
def test_a_size_is_taken_apart_as_peft_does(factor: int) -> None:
    for size in (*range(1, 130), 320, 768, 1280, 2048, 3072, 5120):
        assert taken(size, factor) == factorization(size, factor)[0], size


LOKRS: dict[str, dict[str, Any]] = {
    "whole": {"r": 100, "alpha": 100},
    "whole, another alpha": {"r": 100, "alpha": 7},
    "whole at half of the longer side": {"r": 3, "alpha": 3},
    "factor": {"r": 2, "alpha": 3, "decompose_factor": 4},
    "factor that divides none": {"r": 2, "alpha": 3, "decompose_factor": 7},
    "both": {"r": 1, "alpha": 0.5, "decompose_both": True},
    "cores": {"r": 2, "alpha": 3, "use_effective_conv2d": True, "decompose_factor": 2},
    "ranks": {"r": 2, "alpha": 3, "rank_pattern": {"q": 1, "conv": 4}, "alpha_pattern": {"k": 2.5}},
}


@pytest.mark.parametrize("name", LOKRS)
def test_a_lokr_comes_back_and_is_the_same_in_peft(name: str, tmp_path: Path) -> None:
    config = LoKrConfig(target_modules=["q", "k", "conv", "one"], **LOKRS[name])
    wrapped: Any = get_peft_model(model(), config)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_()
    wrapped.save_pretrained(tmp_path / "first")
    adapter = lorica.read(tmp_path / "first", target=TARGET)
    lorica.write(adapter, tmp_path / "second", format="peft", target=TARGET)
    assert lorica.read(tmp_path / "second", target=TARGET) == adapter
    check(adapter, tmp_path / "second")
    theirs = wrapped.merge_and_unload().state_dict()
    for key, weight in merged(tmp_path / "second").items():
        assert relative_error(weight, theirs[key]) < FP32_NOISE, key


@pytest.mark.parametrize("effective", [True, False])
def test_a_loha_comes_back_and_is_the_same_in_peft(effective: bool, tmp_path: Path) -> None:
    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict(
            {"q": nn.Linear(24, 16), "conv": nn.Conv2d(18, 30, 3), "one": nn.Conv2d(10, 14, 1), "t": nn.Conv1d(8, 6, 5)}
        )

    config = LoHaConfig(
        target_modules=["q", "conv", "one", "t"], r=3, alpha=2, rank_pattern={"t": 2}, use_effective_conv2d=effective
    )
    wrapped: Any = get_peft_model(base(), config)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_()
    wrapped.save_pretrained(tmp_path / "first")
    shapes = {path: tuple(part.weight.shape) for path, part in base().named_children()}  # type: ignore[arg-type]
    target = Target("tiny", {"unet": shapes})
    adapter = lorica.read(tmp_path / "first", target=target)
    assert {path: ("t1" in layer.tensors) for _, path, layer in adapter.layers()} == {
        "q": False, "one": False, "conv": effective, "t": effective,
    }  # fmt: skip
    theirs = wrapped.merge_and_unload().state_dict()
    for place, again in (("second", adapter), ("third", Adapter({"unet": dict(adapter.components["unet"])}))):
        lorica.write(again, tmp_path / place, format="peft", target=target)
        assert lorica.read(tmp_path / place, target=target) == adapter
        loaded: Any = PeftModel.from_pretrained(base(), tmp_path / place)  # type: ignore[arg-type]
        for key, weight in loaded.eval().merge_and_unload().state_dict().items():
            assert torch.equal(weight, theirs[key]), key
    before = base().get_submodule("t").weight
    assert relative_error(theirs["t.weight"], before + adapter.components["unet"]["t"].delta(before)) < FP32_NOISE


def merged(folder: Path) -> dict[str, torch.Tensor]:
    return PeftModel.from_pretrained(model(), folder).eval().merge_and_unload().state_dict()  # type: ignore


def check(adapter: Adapter, folder: Path) -> None:
    """Hold the weights that PEFT makes of a folder to those that the adapter says."""
    theirs, base = merged(folder), model()
    for _, path, layer in adapter.layers():
        weight = base.get_submodule(path).weight
        expected = weight + layer.delta(weight)
        assert relative_error(theirs[f"{path}.weight"], expected) < FP32_NOISE, path
        assert relative_error(weight, expected) > 0.01, path


def test_a_lokr_of_whole_factors_keeps_an_alpha_that_means_nothing(tmp_path: Path) -> None:
    """LyCORIS and ai-toolkit store the rank that was asked for there, up to 1e10."""
    layers = {"a.q": LoKr(w1=torch.randn(4, 4), w2=torch.randn(4, 6), alpha=1e10)}
    adapter = Adapter({"unet": layers})
    lorica.write(adapter, tmp_path, format="peft", target=TARGET)
    assert lorica.read(tmp_path, target=TARGET) == adapter
    check(adapter, tmp_path)


def test_factors_differ_from_module_to_module_where_one_setting_makes_them(tmp_path: Path) -> None:
    layers: dict[str, AdapterLayer] = {
        "a.q": LoKr(w1=torch.randn(8, 8), w2_a=torch.randn(2, 1), w2_b=torch.randn(1, 3), alpha=0.5),
        "b.conv": LoKr(w1=torch.randn(5, 3), w2=torch.randn(6, 6, 3, 3), alpha=9.0),
    }
    adapter = Adapter({"unet": layers})
    lorica.write(adapter, tmp_path, format="peft", target=TARGET)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["decompose_factor"] == 8
    assert lorica.read(tmp_path, target=TARGET) == adapter
    check(adapter, tmp_path)


def test_an_embedding_table_is_stored_as_peft_stores_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = nn.ModuleDict({"m": nn.ModuleDict({"token_embedding": nn.Embedding(11, 6)})})
    layer = LoRA(torch.randn(2, 6), torch.randn(11, 2), 3.0)
    adapter = Adapter({"text_encoder": {"m.token_embedding": layer}})
    lorica.write(adapter, tmp_path / "text_encoder", format="peft")
    assert lorica.read(tmp_path / "text_encoder") == adapter
    before = text["m"]["token_embedding"].weight.detach().clone()  # type: ignore[index]
    loaded: Any = PeftModel.from_pretrained(text, tmp_path / "text_encoder")  # type: ignore[arg-type]
    after = loaded.merge_and_unload()["m"]["token_embedding"].weight
    assert relative_error(after, before + layer.delta(before)) < FP32_NOISE


def matrix(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


SHARED = (matrix(3, 24), matrix(40, 3))
Q, K = (16, 24), (40, 12)


def cored(*shape: int) -> LoHa:
    """Return a LoHa of a convolution with cores."""
    out, width, *kernel = shape
    halves = [matrix(2, out), matrix(2, width)] * 2
    return LoHa(*halves, t1=matrix(2, 2, *kernel), t2=matrix(2, 2, *kernel))


REFUSED: dict[str, tuple[dict[str, AdapterLayer], str]] = {
    "no common factor": (
        {
            "a.q": LoKr(w1=matrix(4, 4), w2=matrix(4, 6), alpha=9.0),
            "a.k": LoKr(w1=matrix(8, 2), w2=matrix(5, 6), alpha=9.0),
        },
        "a.q: no decompose_factor",
    ),
    "whole at a small rank": (
        {"a.q": LoKr(w1=matrix(2, 2), w2=matrix(8, 12), alpha=3.0)},
        r"a.q: its tensors are w1 \(2, 2\), w2 \(8, 12\), and PEFT makes w1 \(2, 2\), w2_a \(8, 3\), w2_b \(3, 12\)",
    ),
    "whole, alpha no rank": (
        {"a.q": LoKr(w1=matrix(4, 4), w2=matrix(4, 6), alpha=2.5)},
        "its factors are whole and its alpha is 2.5, which in PEFT must be its rank",
    ),
    "two ranks": (
        {"a.q": LoKr(w1_a=matrix(4, 1), w1_b=matrix(1, 4), w2_a=matrix(4, 2), w2_b=matrix(2, 6))},
        "its factors have several ranks, 1 and 2",
    ),
    "conv1d": (
        {"a.t": LoKr(w1=matrix(4, 4), w2=matrix(4, 6, 3), alpha=50.0)},
        r"a.t: it changes a weight of shape \(16, 24, 3\), for which PEFT has no such LoKr",
    ),
    "bias": (
        {"a.q": LoKr(w1=matrix(4, 4), w2=matrix(4, 6), alpha=9.0, bias=matrix(16))},
        "a.q: it changes the bias too",
    ),
    "dora on loha": (
        {"a.q": DoRA(LoHa(matrix(16, 2), matrix(2, 24), matrix(16, 2), matrix(2, 24)), matrix(16))},
        "a.q: it is a DoRA on a loha, and PEFT's are on LoRAs",
    ),
    "loha of a Conv3d": (
        {"a.t": LoHa(matrix(16, 2), matrix(2, 24 * 12), matrix(16, 2), matrix(2, 24 * 12), shape=(16, 24, 3, 2, 2))},
        r"a.t: it changes a weight of shape \(16, 24, 3, 2, 2\), for which PEFT has no LoHa",
    ),
    "loha with cores of one point": (
        {"b.one": cored(14, 10, 1, 1)},
        "b.one: it has cores for a kernel of one point, for which PEFT makes none",
    ),
    "loha with cores here and there": (
        {
            "b.conv": LoHa(matrix(30, 2), matrix(2, 162), matrix(30, 2), matrix(2, 162), shape=(30, 18, 3, 3)),
            "b.other": cored(30, 18, 3, 3),
        },
        "b.conv: it has no cores and others have",
    ),
    "onetrainer's oft": ({"a.q": OFTv2(matrix(8, 3))}, "a.q: it turns as OneTrainer's OFT does"),
    "oft of two block sizes": (
        {"a.q": OFTv2(matrix(8, 3), turns_kernel=False), "a.k": OFTv2(matrix(6, 1), turns_kernel=False)},
        "PEFT has one oft_block_size for all modules, and they have several: 2, 3",
    ),
    "oft of two series": (
        {
            "a.q": OFTv2(matrix(8, 3), turns_kernel=False),
            "a.k": OFTv2(matrix(4, 3), turns_kernel=False, terms=None),
        },
        "PEFT has one num_cayley_neumann_terms for all modules, and they have several: 5, None",
    ),
    "oft of a kernel": (
        {"b.conv": OFTv2(matrix(54, 3), turns_kernel=False)},
        "b.conv: it is of a convolution with a kernel",
    ),
    "ia3 of lycoris": ({"a.q": IA3(matrix(16, 1), on_input=False)}, "a.q: its numbers are differences from 1"),
    "ia3 of another shape": (
        {"b.one": IA3(matrix(14, 1), on_input=False, is_factor=True)},
        r"b.one: its numbers have shape \(14, 1\), and PEFT's are",
    ),
    "vera of its own": (
        {
            "a.q": VeRA(matrix(16), matrix(3), SHARED[0], SHARED[1][:16]),
            "a.k": VeRA(matrix(40), matrix(3), matrix(3, 12), SHARED[1]),
        },
        "a.k: its random matrices are its own",
    ),
    "a method that PEFT has not": (
        {"a.k": LoRA(matrix(2, 12), matrix(40, 2)), "a.q": Full(matrix(16, 24))},
        r"nothing was written\.\n  unet\.a\.q: it is a full layer, and the format is written for lora, .* layers alone",
    ),
    "two methods": (
        {"a.q": LoRA(matrix(2, 24), matrix(16, 2)), "a.k": IA3(matrix(40, 1), on_input=False, is_factor=True)},
        "the format holds one method, and this adapter has several: ia3, lora",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_peft_would_make_otherwise_is_refused_by_name(name: str, tmp_path: Path) -> None:
    layers, said = REFUSED[name]
    with pytest.raises(FormatError, match=said):
        lorica.write(Adapter({"unet": layers}), tmp_path / "out", format="peft", target=target_of(layers))
    assert not (tmp_path / "out").exists()


def target_of(layers: dict[str, AdapterLayer]) -> Target:
    own = {path: layer.weight_shape for path, layer in layers.items() if path not in SHAPES}
    return Target("tiny", {"unet": {**SHAPES, **own}})


@pytest.mark.parametrize("version", ["gone", "0.17.1", "0.17.0.dev0@abc"])
def test_an_oft_of_pefts_other_series_is_refused(version: str, tmp_path: Path) -> None:
    wrapped: Any = get_peft_model(model(), OFTConfig(target_modules=["q"], oft_block_size=3))  # type: ignore[arg-type]
    wrapped.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = {**json.loads(file.read_text()), "peft_version": version}
    file.write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))
    with pytest.raises(FormatError, match="before that PEFT had another series"):
        lorica.read(tmp_path, target=TARGET)
    for later in ("0.20.0.dev0@abc", "1.0.0"):
        file.write_text(json.dumps({**config, "peft_version": later}))
        assert lorica.read(tmp_path, target=TARGET)
    assert lorica.read(tmp_path, target=TARGET).components["unet"]["a.q"].settings["terms"] == 5
    file.write_text(json.dumps({**config, "use_cayley_neumann": False}))
    assert lorica.read(tmp_path, target=TARGET).components["unet"]["a.q"].settings["terms"] is None


def test_pefts_lokr_of_a_conv1d_with_a_whole_factor_mixes_up_its_axes_and_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(6, 10, 3)
    config = LoKrConfig(target_modules=["t"], r=50, alpha=50, init_weights=False)
    wrapped: Any = get_peft_model(nn.ModuleDict({"a": nn.ModuleDict({"t": layer})}), config)  # type: ignore[arg-type]
    wrapped.save_pretrained(tmp_path)
    module = wrapped.base_model.model["a"]["t"]
    w1, w2 = module.lokr_w1["default"].detach(), module.lokr_w2["default"].detach()
    ours = LoKr(w1=w1, w2=w2).delta(layer.weight)
    assert relative_error(module.get_delta_weight("default").detach(), ours) > 0.1
    with pytest.raises(FormatError, match="a Conv1d with a whole w2, whose axes PEFT mixes up"):
        lorica.read(tmp_path, target=Target("tiny", {"unet": {"a.t": (10, 6, 3)}}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("alpha", [1.5, 0.75, 3.0])
def test_a_bias_is_stored_over_its_scaling_where_that_gives_it_again(alpha: float, dtype: torch.dtype) -> None:
    halves = matrix(3, 24).to(dtype), matrix(16, 3).to(dtype)
    adapter = Adapter({"unet": {"a.q": LoRA(*halves, alpha, bias=matrix(16).to(dtype))}})
    for name in ("peft", "diffusers"):
        tensors, metadata = lorica.formats.FORMATS[name].compose(adapter, TARGET)
        stored = FileContents("a file", tensors, metadata)
        assert interpret(stored, lorica.formats.FORMATS[name], TARGET, strict=True) == adapter


def test_a_bias_that_no_number_times_the_scaling_gives_is_refused() -> None:
    layer = LoRA(matrix(6, 24), matrix(16, 6), 2.0, bias=matrix(16))
    with pytest.raises(FormatError, match=r"stores a bias divided by its scaling, 2 / 6, and there is none that"):
        lorica.formats.FORMATS["peft"].compose(Adapter({"unet": {"a.q": layer}}), TARGET)
