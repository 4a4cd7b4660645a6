"""What a bank adds, road by road, written out; whose weight it is computed from; and failures half way."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from diffusers.models.normalization import FP32LayerNorm, RMSNorm
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, BiasOnly, Full, LoRA, Norm, SetWeight
from lorica.errors import ModelError
from lorica.runtime.bank.bank import CHILD
from lorica.runtime.bank.strength_table import Board
from lorica.runtime.bank.thin import Thin
from lorica.runtime.banks import Banks
from lorica.runtime.pages import PAGES
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


def test_several_whole_differences_share_one_operation() -> None:
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
    assert len(getattr(model[0], CHILD).content.weights.values) == 2


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
    assert (loras.names, CHILD in dict(model[0].named_children())) == ([], False)
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


def test_a_weight_that_an_offload_hook_keeps_is_fetched() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(5, 7))
    change, x = make_dora(model[0]), torch.randn(3, 5)
    expected = moved(model[0], [(change, 0.7)])(x)
    cpu_offload(model, execution_device=torch.device("cpu"))
    loras = lorica.attach(model)
    loras.load(one(change), name="a", strength=0.7)
    assert relative_error(model(x), expected) < FP32_NOISE
    loras.detach()
    remove_hook_from_submodules(model)


def test_offloaded_buffers_do_not_take_the_strengths_away() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(5, 7))
    change, x = make_lora(model[0]), torch.randn(3, 5)
    expected = moved(model[0], [(change, 0.4)])(x)
    loras = lorica.attach(model)
    loras.load(one(change), name="a")
    cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    loras.set({"a": 0.4})
    assert relative_error(model(x), expected) < FP32_NOISE
    remove_hook_from_submodules(model)


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


def test_casting_to_float8_and_back_leaves_the_bank_as_it_is() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(5, 7))
    lorica.attach(model).load(one(make_lora(model[0])), name="a")
    thin = getattr(model[0], CHILD).content.thin
    before = thin.down[: thin.width].clone()
    model.to(torch.float8_e4m3fn).to(torch.float32)  # as layerwise casting does around every forward
    assert torch.equal(thin.down, before)


def test_strengths_follow_when_the_same_adapters_read_from_elsewhere() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4)), torch.randn(3, 5)
    loras = lorica.attach(model)
    change = make_lora(model[0])
    expected = moved(model[0], [(change, 0.3)])
    loras.load(one(change), name="a")
    with torch.no_grad():
        model(x)
        loras.reserve(rank=3, modules=["1"])  # the strengths of all layers lie elsewhere from now on
        loras.set({"a": 0.3})
        assert relative_error(model[0](x), expected(x)) < FP32_NOISE


def test_strengths_are_read_from_the_board_again_after_a_move() -> None:
    model = make(nn.Linear(5, 7))
    loras = lorica.attach(model)
    loras.load(one(make_lora(model[0])), name="a")
    model.to("meta")  # as to any other device
    loras.set({"a": 0.3})
    thin, views = getattr(model[0], CHILD).content.thin, loras._banks._board.state.views
    assert any(view is thin.strength for view in views.values())


def test_rows_of_a_removed_adapter_are_used_again_and_a_hole_is_zero() -> None:
    torch.manual_seed(0)
    model = make(nn.Linear(5, 7))
    loras = lorica.attach(model)
    for name, rank in (("a", 2), ("b", 3), ("c", 4)):
        loras.load(one(make_lora(model[0], rank=rank)), name=name)
    memory = getattr(model[0], CHILD).content.thin.down.data_ptr()
    loras.remove("b")
    thin = getattr(model[0], CHILD).content.thin
    assert thin.width == 9
    assert not thin.down[2:5].any()
    assert not thin.up[2:5].any()
    loras.load(one(make_lora(model[0], rank=3)), name="d")
    thin = getattr(model[0], CHILD).content.thin
    assert (thin.width, thin.slots["d"].start, thin.down.data_ptr()) == (9, 2, memory)
    loras.remove("c")
    assert getattr(model[0], CHILD).content.thin.width == 5


def test_an_adapter_beside_others_changes_nothing_for_them_when_rows_run_out() -> None:
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


def test_detaching_keeps_little_memory_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(nn.Linear(900, 800))
    loras, change = lorica.attach(model), make_lora(model[0], rank=400)
    for most, left in ((1 << 30, True), (0, False)):
        monkeypatch.setattr("lorica.runtime.loras.KEPT_BY_NOBODY", most)
        PAGES.trim()
        loras.load(one(change), name="a")
        loras.detach()
        assert (PAGES.kept > 0) is left


def test_memory_that_was_given_back_serves_the_next_load() -> None:
    model = make(nn.Linear(900, 800))
    loras, change = lorica.attach(model), make_lora(model[0], rank=400)
    loras.load(one(change), name="a")
    where = getattr(model[0], CHILD).content.thin.down.data_ptr()
    loras.detach()
    gc.collect()
    kept = PAGES.kept
    loras.load(one(change), name="b")
    assert PAGES.kept < kept
    assert getattr(model[0], CHILD).content.thin.down.data_ptr() == where
    loras.detach()
    gc.collect()
    assert PAGES.kept > 0
    loras.limit_memory(0)
    assert PAGES.kept == 0


@pytest.mark.parametrize(
    "where", [(Thin, "edited"), (Thin, "link"), (Board, "_show"), (Board, "write"), (Banks, "_put")]
)
@pytest.mark.parametrize("what", ["load", "remove", "set", "fuse", "disable"])
def test_a_failure_anywhere_leaves_the_model_as_it_was(
    where: tuple[type, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))
    loras = lorica.attach(model)
    both = Adapter({"model": {"0": make_lora(model[0]), "1": make_lora(model[1], rank=2)}})
    loras.load(both, name="a", strength=0.7)
    loras.load(one(make_lora(model[0], rank=4)), name="b")
    x = torch.randn(3, 5)
    with loras.using({"b": 0.1}):
        other = model(x)
    before, names, strengths = model(x), loras.names, loras.strengths
    operations = {
        "load": lambda: loras.load(both, name="c"),
        "remove": lambda: loras.remove("a"),
        "set": lambda: loras.set({"b": 0.1}),
        "fuse": lambda: loras.fuse({"a": 1.0}),
        "disable": loras.disable,
    }
    owner, method = where
    works, calls = getattr(owner, method), []

    def fail_once(*args: object, **kwargs: object) -> object:
        calls.append(args)
        result = works(*args, **kwargs)
        if len(calls) == 1:
            raise MemoryError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, fail_once)
        try:
            operations[what]()
        except MemoryError:
            assert torch.equal(model(x), before)
            assert (loras.names, loras.strengths, loras.fused) == (names, strengths, {})
        else:
            assert not calls  # an operation that never came there
            loras.enable()
    loras.set({"b": 0.1})
    assert torch.equal(model(x), other)
    loras.detach()
    assert not any(module._forward_hooks for module in model.modules())


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
