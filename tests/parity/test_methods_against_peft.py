"""The same output as PEFT, method by method, and where we differ from it on purpose."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorica.adapters import IA3, AdapterLayer, DoRA, LoHa, LoKr, LoRA, OFTv2, VeRA
from sample_layers import moved, relative_error, sample_input

peft = pytest.importorskip("peft")

FP32_NOISE = 1e-5  # relative, of the output's change; worst measured 2e-6 over all cases x 4 seeds

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(12, 20),
    "conv": lambda: nn.Conv2d(12, 20, (3, 2), stride=(1, 2), padding=1),
    "square conv": lambda: nn.Conv2d(12, 12, 3, padding=1),
    "conv 1x1": lambda: nn.Conv2d(12, 20, 1),
    "conv 3x3": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "embedding": lambda: nn.Embedding(11, 6),
}
State = dict[str, Tensor]
Read = Callable[[State, nn.Module, Any], AdapterLayer]


def read_lora(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    down, up = state["lora_A.default.weight"], state["lora_B.default.weight"]
    bias = state.get("lora_B.default.bias")
    scaling = module.scaling["default"]
    inner = LoRA(down, up, scaling * len(down), bias=None if bias is None else scaling * bias)
    magnitude = state.get("lora_magnitude_vector.default.weight")
    return inner if magnitude is None else DoRA(inner, magnitude, axis="output")


def read_embedding(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    """PEFT keeps an embedding's factors transposed: A is (r, num), B is (dim, r); its lengths are of the columns."""
    up, down = state["lora_embedding_A.default"].T, state["lora_embedding_B.default"].T
    inner = LoRA(down, up, module.scaling["default"] * len(down))
    magnitude = state.get("lora_magnitude_vector.default.weight")
    return inner if magnitude is None else DoRA(inner, magnitude, axis="input")


def read_loha(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    halves = [state[f"hada_{name}.default"] for name in ("w1_a", "w1_b", "w2_a", "w2_b")]
    cores = {name: state.get(f"hada_{name}.default") for name in ("t1", "t2")}
    return LoHa(*halves, alpha=module.alpha["default"], shape=tuple(layer.weight.shape), **cores)


def read_lokr(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    leaves = {name: state.get(f"lokr_{name}.default") for name in names}
    return LoKr(**leaves, alpha=module.alpha["default"], shape=tuple(layer.weight.shape))


def read_ia3(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    return IA3(state["ia3_l.default"], on_input=module.is_feedforward, is_factor=True)


def read_oft(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    rotation = module.oft_R["default"]
    return OFTv2(
        state["oft_R.default.weight"],
        in_features=rotation.in_features,
        shared=rotation.block_share,
        terms=rotation.num_cayley_neumann_terms if rotation.use_cayley_neumann else None,
        turns_kernel=False,
    )


def read_vera(state: State, layer: nn.Module, module: Any) -> AdapterLayer:
    shared_a, shared_b = module.vera_A["default"], module.vera_B["default"]
    out, width = layer.weight.shape
    return VeRA(
        state["vera_lambda_b.default"], state["vera_lambda_d.default"], shared_a[:, :width].detach(), shared_b[:out]
    )


OFT = {"oft_block_size": 4, "r": 0}
Case = tuple[str, str, Read, dict[str, Any]]
CASES: dict[str, Case] = {
    "lora": ("LoraConfig", "linear", read_lora, {"lora_alpha": 3}),
    "lora with bias": ("LoraConfig", "linear", read_lora, {"lora_alpha": 3, "lora_bias": True}),
    "lora on conv": ("LoraConfig", "conv", read_lora, {"lora_alpha": 3}),
    "lora on embedding": ("LoraConfig", "embedding", read_embedding, {"lora_alpha": 3}),
    "lora rank-stabilised": ("LoraConfig", "linear", read_lora, {"lora_alpha": 3, "use_rslora": True}),
    "dora": ("LoraConfig", "linear", read_lora, {"lora_alpha": 3, "use_dora": True}),
    "dora on conv": ("LoraConfig", "conv", read_lora, {"lora_alpha": 3, "use_dora": True}),
    "dora on square conv": ("LoraConfig", "square conv", read_lora, {"lora_alpha": 3, "use_dora": True}),
    "dora on embedding": ("LoraConfig", "embedding", read_embedding, {"lora_alpha": 3, "use_dora": True}),
    "loha": ("LoHaConfig", "linear", read_loha, {"alpha": 3}),
    "loha on conv": ("LoHaConfig", "conv", read_loha, {"alpha": 3}),
    "loha with cores": ("LoHaConfig", "conv", read_loha, {"alpha": 3, "use_effective_conv2d": True}),
    "lokr": ("LoKrConfig", "linear", read_lokr, {"alpha": 3, "r": 1}),
    "lokr both factored": ("LoKrConfig", "linear", read_lokr, {"alpha": 3, "r": 1, "decompose_both": True}),
    "lokr on conv": ("LoKrConfig", "conv", read_lokr, {"alpha": 3, "r": 1}),
    "lokr with core": ("LoKrConfig", "conv", read_lokr, {"alpha": 3, "r": 1, "use_effective_conv2d": True}),
    "ia3": ("IA3Config", "linear", read_ia3, {"feedforward_modules": []}),
    "ia3 on input": ("IA3Config", "linear", read_ia3, {"feedforward_modules": ["0"]}),
    "ia3 on conv": ("IA3Config", "conv", read_ia3, {"feedforward_modules": []}),
    "ia3 on conv input": ("IA3Config", "conv", read_ia3, {"feedforward_modules": ["0"]}),
    "oft": ("OFTConfig", "linear", read_oft, OFT),
    "oft exact": ("OFTConfig", "linear", read_oft, {**OFT, "use_cayley_neumann": False}),
    "oft of seven terms": ("OFTConfig", "linear", read_oft, {**OFT, "num_cayley_neumann_terms": 7}),
    "oft shared": ("OFTConfig", "linear", read_oft, {**OFT, "block_share": True}),
    "oft on conv 1x1": ("OFTConfig", "conv 1x1", read_oft, OFT),
    "vera": ("VeraConfig", "linear", read_vera, {"projection_prng_key": 5}),
}


def trained(case: Case) -> tuple[nn.Module, nn.Module, AdapterLayer, Any]:
    """Return PEFT's model with random values, the layer that it acts on, ours with the same values, PEFT's module."""
    name, place, read, options = case
    layer = LAYERS[place]()
    base = moved(layer, [])
    size = {} if name == "IA3Config" else {"r": 2}
    config = getattr(peft, name)(target_modules=["0"], **{**size, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to whoever trains
        model = peft.get_peft_model(nn.Sequential(layer), config).eval()
    module = model.base_model.model[0]
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "base_layer" not in key:
                parameter.add_(torch.randn(parameter.shape) / 3)
    state = {key: value.detach().clone() for key, value in module.state_dict().items()}
    return model, base, read(state, base, module), module


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
@torch.no_grad()
def test_strength_1_is_the_trained_forward(case: str) -> None:
    model, layer, change, _ = trained(CASES[case])
    x = sample_input(layer)
    base, expected = layer(x), model(x)
    assert relative_error(moved(layer, [(change, 1.0)])(x) - base, expected - base) < FP32_NOISE
    assert relative_error(base, expected) > 0.01  # or the test would pass by doing nothing


# Where we differ on purpose.


@torch.no_grad()
def test_its_lokr_of_two_whole_factors_counts_alpha_over_r_and_ours_does_not() -> None:
    """LyCORIS' rule is ours, since its files are what circulates; a reader of PEFT's folds the number into ``w2``."""
    _, layer, change, module = trained(("LoKrConfig", "linear", read_lokr, {"alpha": 3, "r": 32}))
    assert set(change.tensors) == {"w1", "w2"}
    theirs = module.get_delta_weight("default")
    assert relative_error(theirs, 3 / 32 * change.delta(layer.weight)) < FP32_NOISE


@torch.no_grad()
def test_its_oft_on_a_kernel_adds_overlapping_windows_and_ours_turns_the_weight() -> None:
    """PEFT sums the turned windows of an image where they overlap, so that even no turn at all is not the base."""
    model, layer, change, module = trained(("OFTConfig", "conv 3x3", read_oft, {"oft_block_size": 3, "r": 0}))
    x = sample_input(layer)
    module.oft_R["default"].weight.zero_()
    assert relative_error(model(x), layer(x)) > 0.5
    assert torch.equal(OFTv2(torch.zeros(9, 3), turns_kernel=False).delta(layer.weight), torch.zeros(5, 3, 3, 3))
    assert change.delta(layer.weight).norm() > 0


@torch.no_grad()
def test_the_shape_of_its_magnitude_of_a_square_convolution_looks_like_inputs() -> None:
    _, layer, change, module = trained(CASES["dora on square conv"])
    magnitude = module.lora_magnitude_vector["default"].weight
    assert magnitude.shape == (1, 12, 1, 1)
    by_shape = DoRA(change.inner, magnitude)
    assert by_shape.axis == "input"  # so a reader of PEFT's files says "output"
    assert relative_error(change.delta(layer.weight), by_shape.delta(layer.weight)) > 0.01
