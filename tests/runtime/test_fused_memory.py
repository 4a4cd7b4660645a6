"""Originals stay where they lie if only the model knows their memory; whoever else holds a weight sees it change."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorica
from lorica.adapters import Adapter, LoRA
from sample_layers import make_lora, one

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make(
    dtype: torch.dtype = torch.float32, kind: Callable[[], nn.Module] = lambda: nn.Linear(5, 7)
) -> tuple[Any, lorica.Loras]:
    """Return a layer and the adapters on its model: ``a`` and ``b``, both off."""
    torch.manual_seed(0)
    layer: Any = kind().to(dtype)
    loras = lorica.attach(nn.Sequential(layer))
    changes = (make_lora(layer), make_lora(layer, rank=2, alpha=3.0))
    for name, change in zip("ab", changes, strict=True):
        bias = torch.randn(len(layer.bias)) / 3
        loras.load(one(LoRA(change.tensors["down"], change.tensors["up"], change.alpha, bias=bias)), name=name)
    loras.set({})
    return layer, loras


@pytest.mark.parametrize("dtype", DTYPES)
def test_fusing_moves_a_weight_once_and_unfusing_moves_it_back(dtype: torch.dtype) -> None:
    layer, loras = make(dtype)
    parameters, places = dict(layer.named_parameters()), {name: p.data_ptr() for name, p in layer.named_parameters()}
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    loras.fuse({"a": 0.7})
    moved = {name: parameter.data_ptr() for name, parameter in layer.named_parameters()}
    loras.fuse({"a": 0.3, "b": 0.5})
    assert {name: parameter.data_ptr() for name, parameter in layer.named_parameters()} == moved  # no third memory
    for name, tensor in before.items():
        assert moved[name] != places[name]
        assert not torch.equal(layer.state_dict()[name], tensor)
    loras.unfuse()
    assert {name: parameter.data_ptr() for name, parameter in layer.named_parameters()} == places
    assert all(layer.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in before.items())
    assert loras.summary().originals == 0


def test_memory_that_a_fused_weight_left_serves_the_next_fuse_until_memory_is_limited() -> None:
    layer, loras = make()
    loras.fuse({"a": 0.7})
    first = layer.weight.data_ptr()
    spare = loras._model.weights.spare
    loras.unfuse()
    assert spare.size == layer.weight.nbytes + layer.bias.nbytes
    loras.fuse({"b": 0.2})
    assert layer.weight.data_ptr() == first
    assert spare.size == 0
    loras.unfuse()
    loras.limit_memory(0)
    assert spare.size == 0


HOLDERS: dict[str, Callable[[nn.Linear], Any]] = {
    "state dict": lambda layer: layer.state_dict(),
    "data": lambda layer: layer.weight.data,
    "rows": lambda layer: layer.weight.detach()[2:],
    "array": lambda layer: layer.weight.detach().numpy(),
    "storage": lambda layer: torch.empty(0).set_(layer.weight.untyped_storage(), 0, (35,)),  # type: ignore[reportArgumentType]
    "graph": lambda layer: (layer.weight.view(35) * torch.ones(35, requires_grad=True)).grad_fn,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_while_anybody_holds_the_memory_the_weight_is_written_in_place(holder: str) -> None:
    layer, loras = make()
    before, place = layer.weight.detach().clone(), layer.weight.data_ptr()
    held = HOLDERS[holder](layer)
    loras.fuse({"a": 0.7})
    assert layer.weight.data_ptr() == place
    fused = layer.weight.detach().clone()
    del held
    loras.unfuse()
    assert torch.equal(layer.weight, before)
    place = layer.weight.data_ptr()
    loras.fuse({"a": 0.7})
    assert layer.weight.data_ptr() != place
    assert torch.equal(layer.weight, fused)  # the same bits either way


def test_whoever_holds_a_weight_sees_what_the_model_computes_with() -> None:
    layer, loras = make()
    before, early = layer.weight.detach().clone(), layer.state_dict()
    loras.fuse({"a": 0.7})
    late = layer.weight.data
    assert torch.equal(early["weight"], layer.weight)
    loras.fuse({"b": 0.7})
    loras.unfuse("a")
    assert torch.equal(early["weight"], layer.weight)
    assert torch.equal(late, layer.weight)
    assert not torch.equal(late, before)
    loras.unfuse()
    assert torch.equal(early["weight"], before)
    assert torch.equal(late, before)


def test_a_weight_that_somebody_took_while_it_was_fused_goes_back_with_the_model() -> None:
    layer, loras = make()
    before = layer.weight.detach().clone()
    loras.fuse({"a": 0.7})
    late = layer.weight.data
    loras.unfuse()
    assert torch.equal(late, before)
    assert torch.equal(layer.weight, before)


def test_an_offloader_that_keeps_its_own_reference_brings_back_what_is_fused_and_then_the_original() -> None:
    layer, loras = make()
    before, kept = layer.weight.detach().clone(), layer.weight.data

    def away_and_back() -> None:
        layer.weight.data = torch.empty(0)
        layer.weight.data = kept

    loras.fuse({"a": 0.7})
    fused = layer.weight.detach().clone()
    away_and_back()
    assert torch.equal(layer.weight, fused)
    loras.unfuse()
    away_and_back()
    assert torch.equal(layer.weight, before)


def test_memory_that_other_processes_know_is_written_in_place() -> None:
    layer, loras = make()
    layer.share_memory()
    place = layer.weight.data_ptr()
    loras.fuse({"a": 0.7})
    assert layer.weight.data_ptr() == place
    assert layer.weight.is_shared()


def test_another_parameter_on_the_same_memory_changes_too() -> None:
    layer, loras = make()
    other = nn.Parameter(layer.weight.data)
    before = other.detach().clone()
    loras.fuse({"a": 0.7})
    assert torch.equal(other, layer.weight)
    assert not torch.equal(other, before)


def test_a_model_of_inference_tensors_and_fusing_within_inference_mode() -> None:
    x = torch.randn(3, 5)
    with torch.inference_mode():
        made_within, loras_within = make()
    made_without, loras_without = make()
    before = made_without.weight.detach().clone()
    with torch.inference_mode():
        loras_within.fuse({"a": 0.7})
        loras_without.fuse({"a": 0.7})
    assert torch.equal(made_within.weight, made_without.weight)
    assert (made_within.weight.is_inference(), made_without.weight.is_inference()) == (True, False)
    made_without(x).sum().backward()  # an inference tensor could not be saved for that
    for layer, loras in ((made_within, loras_within), (made_without, loras_without)):
        with torch.inference_mode():
            loras.unfuse()
        assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_stay_as_they_are(dtype: torch.dtype) -> None:
    layer, loras = make(dtype, lambda: nn.Conv2d(5, 7, 3))
    layer.to(memory_format=torch.channels_last)
    strides, before = layer.weight.stride(), layer.weight.detach().clone()
    loras.fuse({"a": 0.7})
    assert layer.weight.stride() == strides
    loras.unfuse()
    assert layer.weight.stride() == strides
    assert torch.equal(layer.weight, before)


def test_a_weight_with_gaps_between_its_numbers_is_written_in_place() -> None:
    layer, loras = make()
    plain = layer.weight.detach().clone()
    layer.weight.data = torch.zeros(7, 10)[:, ::2].copy_(plain)
    loras.fuse({"a": 0.7})
    assert layer.weight.stride() == (10, 2)
    expected, others = make()
    others.fuse({"a": 0.7})
    assert torch.equal(layer.weight, expected.weight)
    loras.unfuse()
    assert torch.equal(layer.weight, plain)


@pytest.mark.parametrize("change", ["dtype", "layout"])
def test_a_model_that_was_cast_or_laid_out_anew_while_fused_stays_so(change: str) -> None:
    layer, loras = make(kind=lambda: nn.Conv2d(5, 7, 3))
    before = layer.weight.detach().clone()
    loras.fuse({"a": 0.7})
    layer.to(**{"dtype": {"dtype": torch.float16}, "layout": {"memory_format": torch.channels_last}}[change])
    strides = layer.weight.stride()
    loras.unfuse()
    assert layer.weight.stride() == strides
    assert torch.equal(layer.weight, before.half() if change == "dtype" else before)


def test_copies_and_files_of_a_fused_model_hold_what_is_fused_and_are_their_own() -> None:
    layer, loras = make(kind=lambda: nn.Linear(900, 700))  # large enough for memory of its own kind
    loras.fuse({"a": 0.7})
    fused, twin, file = layer.weight.detach().clone(), copy.deepcopy(layer), io.BytesIO()
    torch.save(layer.state_dict(), file)
    loras.unfuse()
    file.seek(0)
    assert not torch.equal(layer.weight, fused)
    assert torch.equal(twin.weight, fused)
    assert torch.equal(torch.load(file)["weight"], fused)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [False, True])
def test_a_set_of_adapters_gives_the_same_bits_however_it_came_about(dtype: torch.dtype, held: bool) -> None:
    wanted: list[Tensor] = []
    histories: list[Callable[[lorica.Loras], object]] = [
        lambda loras: loras.fuse({"a": 0.7, "b": -1.3}),
        lambda loras: (loras.fuse({"a": 0.7}), loras.fuse({"b": -1.3})),
        lambda loras: (loras.fuse({"a": 0.2, "b": -1.3}), loras.fuse({"a": 0.7})),
        lambda loras: (loras.fuse({"a": 0.7}), loras.unfuse(), loras.fuse({"a": 0.7, "b": -1.3})),
    ]
    for history in histories:
        layer, loras = make(dtype, lambda: nn.Linear(300, 200))
        holder, place = layer.state_dict() if held else None, layer.weight.data_ptr()
        history(loras)
        assert (layer.weight.data_ptr() == place) is held
        wanted.append(layer.weight.detach().clone())
        del holder
    assert all(torch.equal(weight, wanted[0]) for weight in wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_follows_and_compiles_nothing_again(backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)).requires_grad_(False)
    loras, x = lorica.attach(model), torch.randn(3, 5)
    change = Adapter({"model": {"0": make_lora(model[0]), "2": make_lora(model[2])}})
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        before, place = compiled(x), model[0].weight.data_ptr()
        with torch._dynamo.config.patch(error_on_recompile=True):
            loras.load(change, name="a")
            loras.fuse({"a": 0.7})
            assert model[0].weight.data_ptr() != place  # or this would test nothing
            torch.testing.assert_close(compiled(x), model(x))
            assert not torch.equal(compiled(x), before)
            loras.unfuse()
            assert model[0].weight.data_ptr() == place
            loras.remove("a")
            assert torch.equal(compiled(x), before)
