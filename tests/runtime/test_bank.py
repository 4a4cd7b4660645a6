"""What adapters add to a layer, written out; whose weight it is computed from; and what stays when they go."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm, RMSNorm
from torch import Tensor, nn

import lorica
from bank_memory import has_bank
from lorica.adapters import BiasOnly, Full, LoRA, Norm, SetWeight
from lorica.errors import ModelError
from sample_kinds import make_dora
from sample_layers import make_lora, moved, one, relative_error

FP32_NOISE = 2e-6  # relative; worst measured 5e-7 over 20 seeds


def make(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer)


def test_a_whole_difference_and_its_bias_entry_by_entry() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(3, 2, bias=False))
    weight, diff, bias, x = model[0].weight.detach(), torch.randn(2, 3), torch.randn(2), torch.randn(4, 3)
    lorica.attach(model).load(one(Full(diff, bias)), name="a", strength=0.7)
    y = model(x)
    for row in range(4):
        for out in range(2):
            expected = sum((weight[out, i] + 0.7 * diff[out, i]) * x[row, i] for i in range(3)) + 0.7 * bias[out]
            assert y[row, out].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


def test_several_whole_differences_add_up_and_one_that_is_off_is_left_out() -> None:
    torch.manual_seed(0)
    model = make(nn.Conv2d(3, 5, 3, padding=1))
    changes = [(Full(torch.randn(5, 3, 3, 3), torch.randn(5)), 0.7), (SetWeight(torch.randn(5, 3, 3, 3)), -0.4)]
    x, expected = torch.randn(2, 3, 6, 7), moved(model[0], changes)
    loras = lorica.attach(model)
    for index, (change, strength) in enumerate(changes):
        loras.load(one(change), name=str(index), strength=strength)
    loras.load(one(BiasOnly(torch.randn(5))), name="off")
    loras.set({"0": 0.7, "1": -0.4})
    assert relative_error(model(x), expected(x)) < FP32_NOISE


NORMS = {
    "rms norm": lambda: RMSNorm(6, eps=1e-5),
    "rms norm with bias": lambda: RMSNorm(6, eps=1e-5, bias=True),
    "layer norm in fp32": lambda: FP32LayerNorm(6),
}


@pytest.mark.parametrize("name", NORMS)
def test_the_norms_of_diffusers_are_served(name: str) -> None:
    torch.manual_seed(0)
    layer = NORMS[name]()
    with torch.no_grad():
        layer.weight.normal_()
    change, x = Norm(torch.randn(6), torch.randn(6)), torch.randn(2, 4, 6)
    expected, model = moved(layer, [(change, 0.7)])(x), make(layer)
    lorica.attach(model).load(one(change), name="a", strength=0.7)
    assert relative_error(model(x), expected) < FP32_NOISE


def test_a_norm_without_a_weight_is_no_layer_to_change() -> None:
    model = make(nn.LayerNorm(6, elementwise_affine=False))
    with pytest.raises(ModelError, match="no place"):
        lorica.attach(model).load(one(Norm(torch.randn(6))), name="a")


def test_an_embedding_has_no_bias() -> None:
    model = make(nn.Embedding(11, 6))
    with pytest.raises(ModelError, match="an Embedding has none"):
        lorica.attach(model).load(one(BiasOnly(torch.randn(11))), name="a")


def test_what_reads_the_base_weight_reads_that_without_what_is_fused() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(5, 7))
    fused, live = make_lora(model[0]), make_dora(model[0])
    expected, x = moved(model[0], [(fused, 1.0), (live, 0.7)]), torch.randn(3, 5)
    loras = lorica.attach(model)
    loras.load(one(fused), name="fused")
    loras.fuse({"fused": 1.0})
    loras.load(one(live), name="live", strength=0.7)
    assert relative_error(model(x), expected(x)) < FP32_NOISE


class Packed(nn.Linear):
    """A Linear whose weight is packed into bytes in a way of its own."""

    def __init__(self) -> None:
        super().__init__(5, 7)
        self.weight = nn.Parameter(torch.zeros(7, 5, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


def test_a_packed_weight_that_cannot_be_unpacked_is_refused_where_it_is_needed() -> None:
    torch.manual_seed(0)
    model = make(Packed())
    loras = lorica.attach(model)
    with pytest.raises(ModelError, match=r"model\.0: its weight is quantised \(torch\.uint8\).*kind 'dora'"):
        loras.load(one(make_dora(nn.Linear(5, 7))), name="needs the weight")
    assert (loras.names, has_bank(model[0])) == ([], False)
    loras.load(one(make_lora(nn.Linear(5, 7))), name="does not")


def test_half_precision_inputs_of_a_packed_layer_stay_half() -> None:
    torch.manual_seed(0)
    model, change, x = make(Packed()), make_lora(nn.Linear(5, 7)), torch.randn(3, 5)
    expected = nn.functional.linear(x, change.delta(torch.zeros(7, 5)), model[0].bias)
    model.to(torch.bfloat16)
    lorica.attach(model).load(one(change), name="a")
    got = model(x.to(torch.bfloat16))
    assert got.dtype == torch.bfloat16
    assert relative_error(got, expected) < 2e-2  # bfloat16; measured 4e-3


def test_what_was_loaded_in_inference_mode_can_be_set_outside_of_it() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(5, 7))
    change, x = make_lora(model[0]), torch.randn(3, 5)
    expected = moved(model[0], [(change, 0.4)])(x)
    loras = lorica.attach(model)
    with torch.inference_mode():
        loras.load(one(change), name="a")
    loras.set({"a": 0.4})
    assert relative_error(model(x), expected) < FP32_NOISE


def test_strengths_set_after_room_was_reserved_on_another_layer_act() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4)), torch.randn(3, 5)
    loras = lorica.attach(model)
    change = make_lora(model[0])
    expected = moved(model[0], [(change, 0.3)])
    loras.load(one(change), name="a")
    with torch.no_grad():
        model(x)
        loras.reserve(rank=3, modules=["1"])
        loras.set({"a": 0.3})
        assert relative_error(model[0](x), expected(x)) < FP32_NOISE


def test_a_removed_adapter_leaves_nothing_and_its_place_can_be_taken() -> None:
    torch.manual_seed(0)
    model, x = make(nn.Linear(5, 7)), torch.randn(3, 5)
    loras = lorica.attach(model)
    changes = {name: make_lora(model[0], rank=rank) for name, rank in (("a", 2), ("b", 3), ("c", 4), ("d", 3))}
    plain = copy.deepcopy(model[0])
    for name in "abc":
        loras.load(one(changes[name]), name=name)
    for act, left in (
        (lambda: loras.remove("b"), "ac"),
        (lambda: loras.load(one(changes["d"]), name="d"), "acd"),
        (lambda: loras.remove("c"), "ad"),
        (lambda: loras.remove("a"), "d"),
    ):
        act()
        assert relative_error(model(x), moved(plain, [(changes[name], 1.0) for name in left])(x)) < FP32_NOISE
    with torch.no_grad():
        assert relative_error(model(x), moved(plain, [(changes["d"], 1.0)])(x)) < FP32_NOISE  # not in place


def test_an_adapter_beside_others_changes_nothing_for_them_when_more_and_more_come() -> None:
    torch.manual_seed(0)
    model, x = make(nn.Linear(5, 7)), torch.randn(3, 5)
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0], rank=2)), name="first", strength=0.7)
    alone = model(x)
    for index in range(12):
        loras.load(one(make_lora(model[0], rank=3)), name=str(index), strength=0.0)
    loras.set({"first": 0.7})
    assert torch.equal(model(x), alone)


def test_an_embedding_has_no_bias_for_a_lora_either() -> None:
    model = make(nn.Embedding(11, 6))
    with pytest.raises(ModelError, match="an Embedding has none"):
        lorica.attach(model).load(one(LoRA(torch.randn(2, 6), torch.randn(11, 2), bias=torch.randn(11))), name="a")


def test_a_layer_keeps_no_trace_of_the_hook_nor_loses_others() -> None:
    model = make(nn.Linear(5, 7))
    other = model[0].register_forward_hook(lambda *_: None, with_kwargs=True)
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0])), name="a")
    assert len(model[0]._forward_hooks) == 2
    later = model[0].register_forward_hook(lambda *_: None)
    loras.detach()
    assert list(model[0]._forward_hooks) == [other.id, later.id]
    assert list(model[0]._forward_hooks_with_kwargs) == [other.id]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("points", [1, 2, 3, 4, 9])
def test_it_gives_the_same_bits_alone_and_where_another_left_room(dtype: torch.dtype, points: int) -> None:
    torch.manual_seed(0)
    model, x = make(nn.Linear(33, 70)).to(dtype), torch.randn(points, 33).to(dtype)
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0], rank=8)), name="first", strength=0.7)
    with torch.no_grad():
        alone = model(x)
        loras.load(one(make_lora(model[0], rank=5)), name="second")
        loras.set({"first": 0.7})
        assert torch.equal(model(x), alone)
        loras.remove("second")
        assert torch.equal(model(x), alone)


def test_a_copy_shares_no_memory() -> None:
    torch.manual_seed(0)
    model, x = make(nn.Linear(5, 7)), torch.randn(3, 5)
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0])), name="a")
    loras.load(one(Full(torch.randn(7, 5), torch.randn(7))), name="b", strength=0.3)
    before = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), before)
    loras.set({})
    assert torch.equal(twin(x), before)
    assert not torch.equal(model(x), before)


def test_an_adapter_with_other_values_under_an_old_name_is_another() -> None:
    torch.manual_seed(0)
    model, x = make(nn.Linear(5, 7)), torch.randn(3, 5)
    loras = lorica.attach(model)
    loras.load(one(LoRA(torch.randn(2, 5), torch.randn(7, 2))), name="a")
    first = model(x)
    loras.remove("a")
    loras.load(one(LoRA(torch.randn(2, 5), torch.randn(7, 2))), name="a")
    assert not torch.equal(model(x), first)
