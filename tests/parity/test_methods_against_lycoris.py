"""The same output as the forward of LyCORIS, method by method, and where we differ from it on purpose.

Its ``forward`` is the oracle, because that is what was trained. Its ``get_diff_weight`` is not: for LoHa and LoKr it
multiplies by ``alpha / r`` twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorica.adapters import BOFT, IA3, OFT, AdapterLayer, DoRA, Full, GLoRA, LoCon, LoHa, LoKr, LoRA, Norm
from sample_layers import moved, relative_error, sample_input

modules = pytest.importorskip("lycoris.modules")

FP32_NOISE = 1e-5  # relative, of the output's change; worst measured 3e-6 over all cases x 4 seeds
HALF, WHOLE = 0.5, 1.0

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(12, 20),
    "conv": lambda: nn.Conv2d(12, 20, (3, 2), stride=(1, 2), padding=1),
    "norm": lambda: nn.LayerNorm(12),
}
Read = Callable[[dict[str, Tensor], nn.Module], AdapterLayer]


def read_lora(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    down, up, alpha = state["lora_down.weight"], state["lora_up.weight"], state["alpha"].item()
    if "lora_mid.weight" in state:
        return dressed(LoCon(down, state["lora_mid.weight"], up, alpha), state)
    return dressed(LoRA(down, up, alpha), state)


def read_loha(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    halves = [state[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b")]
    cores = {name: state.get(f"hada_{name}") for name in ("t1", "t2")}
    return dressed(LoHa(*halves, alpha=state["alpha"].item(), shape=tuple(layer.weight.shape), **cores), state)


def read_lokr(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    leaves = {name: state.get(f"lokr_{name}") for name in names}
    return dressed(LoKr(**leaves, alpha=state["alpha"].item(), shape=tuple(layer.weight.shape)), state)


def dressed(inner: AdapterLayer, state: dict[str, Tensor]) -> AdapterLayer:
    return DoRA(inner, state["dora_scale"]) if "dora_scale" in state else inner


def read_glora(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    parts = [state[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2")]
    return GLoRA(*parts, alpha=state["alpha"].item())


def read_ia3(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    return IA3(state["weight"], on_input=bool(state["on_input"]))


def read_oft(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    kind = OFT if state["oft_blocks"].ndim == 3 else BOFT
    return kind(state["oft_blocks"], state["alpha"].item(), state.get("rescale"))


def read_full(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    return Full(state["diff"], state["diff_b"])


def read_norm(state: dict[str, Tensor], layer: nn.Module) -> AdapterLayer:
    return Norm(state["w_norm"], state["b_norm"])


CASES: dict[str, tuple[str, str, Read, dict[str, Any]]] = {
    "lora": ("LoConModule", "linear", read_lora, {}),
    "lora rank-stabilised": ("LoConModule", "linear", read_lora, {"rs_lora": True}),
    "lora on conv": ("LoConModule", "conv", read_lora, {}),
    "locon": ("LoConModule", "conv", read_lora, {"use_tucker": True}),
    "dora": ("LoConModule", "linear", read_lora, {"weight_decompose": True}),
    "dora by input": ("LoConModule", "linear", read_lora, {"weight_decompose": True, "wd_on_out": False}),
    "dora on conv": ("LoConModule", "conv", read_lora, {"weight_decompose": True}),
    "dora on conv by input": ("LoConModule", "conv", read_lora, {"weight_decompose": True, "wd_on_out": False}),
    "loha": ("LohaModule", "linear", read_loha, {}),
    "loha on conv": ("LohaModule", "conv", read_loha, {}),
    "loha with cores": ("LohaModule", "conv", read_loha, {"use_tucker": True}),
    "loha rank-stabilised": ("LohaModule", "linear", read_loha, {"rs_lora": True}),
    "dora on loha": ("LohaModule", "conv", read_loha, {"weight_decompose": True}),
    "dora on loha by input": ("LohaModule", "conv", read_loha, {"weight_decompose": True, "wd_on_out": False}),
    "lokr whole": ("LokrModule", "linear", read_lokr, {"full_matrix": True}),
    "lokr": ("LokrModule", "linear", read_lokr, {"lora_dim": 1}),
    "lokr both factored": ("LokrModule", "linear", read_lokr, {"lora_dim": 1, "decompose_both": True}),
    "lokr on conv": ("LokrModule", "conv", read_lokr, {"lora_dim": 1}),
    "lokr whole on conv": ("LokrModule", "conv", read_lokr, {"full_matrix": True}),
    "lokr with core": ("LokrModule", "conv", read_lokr, {"lora_dim": 1, "use_tucker": True}),
    "dora on lokr": ("LokrModule", "conv", read_lokr, {"lora_dim": 1, "weight_decompose": True}),
    "glora": ("GLoRAModule", "linear", read_glora, {}),
    "glora on conv": ("GLoRAModule", "conv", read_glora, {}),
    "ia3": ("IA3Module", "linear", read_ia3, {}),
    "ia3 on input": ("IA3Module", "linear", read_ia3, {"train_on_input": True}),
    "ia3 on conv": ("IA3Module", "conv", read_ia3, {}),
    "ia3 on conv input": ("IA3Module", "conv", read_ia3, {"train_on_input": True}),
    "oft": ("DiagOFTModule", "linear", read_oft, {"lora_dim": 4}),
    "oft on conv": ("DiagOFTModule", "conv", read_oft, {"lora_dim": 4}),
    "oft limited": ("DiagOFTModule", "conv", read_oft, {"lora_dim": 4, "constraint": 0.01}),
    "oft rescaled": ("DiagOFTModule", "linear", read_oft, {"lora_dim": 4, "rescaled": True}),
    "boft": ("ButterflyOFTModule", "linear", read_oft, {"lora_dim": 10}),
    "boft limited": ("ButterflyOFTModule", "conv", read_oft, {"lora_dim": 10, "constraint": 0.01}),
    "boft rescaled": ("ButterflyOFTModule", "conv", read_oft, {"lora_dim": 10, "rescaled": True}),
    "full": ("FullModule", "linear", read_full, {}),
    "norm": ("NormModule", "norm", read_norm, {}),
}


def trained(case: str, multiplier: float = 1.0) -> tuple[Any, nn.Module, AdapterLayer]:
    """Return a module of LyCORIS with random values, the layer that it acts on, and ours with the same values."""
    name, place, read, options = CASES[case]
    layer = LAYERS[place]()
    module = getattr(modules, name)("it", layer, multiplier, **{"lora_dim": 2, "alpha": 1.5, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) / 3)
    if name == "FullModule":
        state = {"diff": module.weight.detach(), "diff_b": module.bias.detach()}
    else:
        state = module.state_dict()
    return module.eval(), layer, read({key: value.detach().clone() for key, value in state.items()}, layer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
@torch.no_grad()
def test_strength_1_is_the_trained_forward(case: str) -> None:
    module, layer, change = trained(case)
    x = sample_input(layer)
    base, expected = layer(x), module(x)
    assert relative_error(moved(layer, [(change, 1.0)])(x) - base, expected - base) < FP32_NOISE
    assert relative_error(base, expected) > 0.01  # or the test would pass by doing nothing


STRAIGHT = [case for case in CASES if not case.startswith(("dora", "boft", "oft"))]


@pytest.mark.parametrize("case", STRAIGHT, ids=lambda case: case.replace(" ", "-"))
@torch.no_grad()
def test_half_the_strength_is_half_the_multiplier_where_lycoris_is_linear(case: str) -> None:
    module, layer, change = trained(case, HALF)
    x = sample_input(layer)
    base = layer(x)
    assert relative_error(moved(layer, [(change, HALF)])(x) - base, module(x) - base) < FP32_NOISE


def test_every_layout_of_lokr_and_both_axes_are_among_the_cases() -> None:
    layouts = {frozenset(trained(case)[2].tensors) for case in CASES if case.startswith("lokr")}
    assert len(layouts) == 4
    assert {trained(case)[2].axis for case in CASES if case.startswith("dora")} == {"output", "input"}
    assert not trained("glora")[2].old


# Where we differ on purpose.


@pytest.mark.parametrize("case", ["loha", "lokr"])
@torch.no_grad()
def test_its_merged_difference_counts_alpha_over_r_twice_and_ours_once(case: str) -> None:
    module, layer, change = trained(case)
    theirs = module.get_diff_weight(1.0, layer.weight.shape)[0]
    assert change.scaling != 1
    assert relative_error(theirs, change.scaling * change.delta(layer.weight)) < FP32_NOISE


@pytest.mark.parametrize("case", ["dora", "dora on loha by input"])
@torch.no_grad()
def test_its_dora_at_strength_0_is_not_the_base_and_ours_is(case: str) -> None:
    module, layer, change = trained(case, multiplier=0.0)
    x = sample_input(layer)
    base = layer(x)
    inner = moved(layer, [(change.inner, 1.0)])(x)
    assert relative_error(module(x), inner) < FP32_NOISE  # moved, only not stretched
    assert torch.equal(moved(layer, [(change, 0.0)])(x), base)


@torch.no_grad()
def test_its_boft_turns_every_stage_half_way_and_ours_goes_straight() -> None:
    module, layer, change = trained("boft", multiplier=HALF)
    x = sample_input(layer)
    base = layer(x)
    assert relative_error(moved(layer, [(change, HALF)])(x) - base, module(x) - base) > 0.05


@torch.no_grad()
def test_its_oft_goes_straight_as_ours_does_without_a_rescale() -> None:
    module, layer, change = trained("oft", multiplier=HALF)
    x = sample_input(layer)
    base = layer(x)
    assert relative_error(moved(layer, [(change, HALF)])(x) - base, module(x) - base) < FP32_NOISE
