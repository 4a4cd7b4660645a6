"""The change of a linear layer as one node of autograd: its gradients are autograd's own, and it knows its limits."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorica.errors import TrainingError
from lorica.runtime import Trainable
from lorica.runtime.trainable.linear import is_plain
from sample_layers import relative_error

FP32_NOISE = 2e-6  # relative; worst measured 6.4e-7 over 50 seeds
HALF_NOISE = 0.1  # relative; worst measured 5.3e-2 over 50 seeds, bfloat16 against float32

Shapes = tuple[int, ...]


class Block(nn.Module):
    """Two layers on one input, added in place, then a third: as attention uses its projections."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(5, 7, bias=False), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y += self.b(x)
        return self.c(y.tanh())


def make(dtype: torch.dtype = torch.float32, **settings: float) -> tuple[Block, Trainable]:
    torch.manual_seed(0)
    block = Block().to(dtype).requires_grad_(False)
    trainable = Trainable({"model": block}, {"model": ["a", "b", "c"]}, rank=2, alpha=3.0, seed=5, **settings)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter += torch.randn_like(parameter) * 0.3
    return block, trainable


def by_hand(block: Block, trainable: Trainable, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output with the weights written out, and the gradients of its squares' sum, as autograd finds them."""
    factors = {
        name: value.detach().clone().requires_grad_(True) for name, value in trainable.named_parameters().items()
    }

    def layer(name: str, x: Tensor) -> Tensor:
        own = getattr(block, name)
        change = (3.0 / 2) * factors[f"model/{name}/up"] @ factors[f"model/{name}/down"]
        return nn.functional.linear(x, own.weight.float() + change, None if own.bias is None else own.bias.float())

    output = layer("c", (layer("a", x) + layer("b", x)).tanh())
    output.square().sum().backward()
    return output, {name: value.grad for name, value in factors.items() if value.grad is not None}


def nodes(output: Tensor) -> list[str]:
    """The names of the nodes of autograd behind an output."""
    seen, waiting = {}, [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen[node] = node.name()
            waiting += [follower for follower, _ in node.next_functions]
    return list(seen.values())


@pytest.mark.parametrize("shape", [(11, 5), (2, 4, 5), (2, 3, 4, 5), (5,)])
@pytest.mark.parametrize("needed", [True, False])
def test_outputs_and_gradients_are_those_of_weights_written_out(shape: Shapes, needed: bool) -> None:
    block, trainable = make()
    x = torch.randn(shape, requires_grad=needed)
    twin = x.detach().clone().requires_grad_(needed)
    expected, gradients = by_hand(block, trainable, twin)
    output = block(x)
    assert nodes(output).count("_ChangeBackward") == 3
    output.square().sum().backward()
    assert relative_error(output, expected) < FP32_NOISE
    for name, parameter in trainable.named_parameters().items():
        assert relative_error(parameter.grad, gradients[name]) < FP32_NOISE
    if needed:
        assert relative_error(x.grad, twin.grad) < FP32_NOISE


def test_gradients_add_up_over_passes() -> None:
    block, trainable = make()
    x = torch.randn(4, 5)
    block(x).sum().backward()
    once = trainable.parameters()[0].grad.clone()
    block(x).sum().backward()
    assert relative_error(trainable.parameters()[0].grad, 2 * once) < FP32_NOISE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_model_has_gradients_in_full_and_sees_each_change_of_the_masters(dtype: torch.dtype) -> None:
    block, trainable = make(dtype)
    x = torch.randn(6, 5)
    for _ in range(2):
        trainable.zero_grad()
        _, gradients = by_hand(block, trainable, x)
        output = block(x.to(dtype))
        output.float().square().sum().backward()
        assert output.dtype == dtype
        for name, parameter in trainable.named_parameters().items():
            assert parameter.grad.dtype == torch.float32
            assert relative_error(parameter.grad, gradients[name]) < HALF_NOISE
        with torch.no_grad():
            for parameter in trainable.named_parameters().values():
                parameter.data.mul_(-1.5)  # by a road that leaves no version behind


def test_an_input_wider_than_the_layer_gets_its_gradient_in_its_own_precision() -> None:
    block, _ = make(torch.bfloat16)
    x = torch.randn(6, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        block(x).float().sum().backward()
    assert x.grad.dtype == torch.float32


def test_checkpointing_gives_the_same_bits() -> None:
    gradients: list[Tensor | None] = []
    for run in (lambda block, x: block(x), lambda block, x: checkpoint(block, x, use_reentrant=False)):
        block, trainable = make()
        x = torch.ones(4, 5).mul(torch.arange(5.0)).requires_grad_(True)
        run(block, x).square().sum().backward()
        gradients += [trainable.parameters()[0].grad, x.grad]
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


def test_only_the_input_and_the_thin_product_are_remembered() -> None:
    block, _ = make()
    kept: list[Shapes] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block.a(torch.randn(9, 5))
    assert kept == [(9, 5), (9, 2)]


def standing_back() -> dict[str, Callable[[], tuple[Block, Trainable]]]:
    def with_trained_base() -> tuple[Block, Trainable]:
        block, trainable = make()
        block.a.bias.requires_grad_(True)
        return block, trainable

    def counted_from_here() -> tuple[Block, Trainable]:
        block, trainable = make()
        trainable.count_from_here()
        return block, trainable

    def dropping_out() -> tuple[Block, Trainable]:
        return make(dropout=0.25)

    return {"a base that is trained": with_trained_base, "first values": counted_from_here, "dropout": dropping_out}


@pytest.mark.parametrize("case", standing_back())
def test_it_stands_back_where_autograd_must_do_it(case: str) -> None:
    block, trainable = standing_back()[case]()
    output = block(torch.randn(4, 5))
    assert nodes(output).count("_ChangeBackward") == (2 if case == "a base that is trained" else 0)
    output.sum().backward()
    assert trainable.parameters()[0].grad.any()
    if case == "a base that is trained":
        assert block.a.bias.grad is not None


def test_a_gradient_of_a_gradient_is_refused() -> None:
    block, _ = make()
    with pytest.raises(TrainingError, match="gradient of a gradient"):
        block(torch.randn(4, 5)).sum().backward(create_graph=True)


def test_no_input_outlives_its_pass() -> None:
    block, _ = make()
    x = torch.randn(4, 5)
    watched = weakref.ref(x)
    block(x).sum().backward()
    del x
    assert watched() is None


def test_a_call_that_failed_leaves_nothing_for_the_next() -> None:
    block, trainable = make()
    with pytest.raises(RuntimeError, match="shape"):
        block.a(torch.randn(4, 6))
    x = torch.randn(4, 5)
    with trainable.enabled(False):
        assert torch.equal(block.a(x), nn.functional.linear(x, block.a.weight, block.a.bias))


def test_after_detaching_nothing_is_left() -> None:
    block, trainable = make()
    trainable.detach()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in block.modules())


def test_packed_and_derived_layers_are_not_plain() -> None:
    class Packed(nn.Linear):
        """Stands for a quantised layer."""

    assert is_plain(nn.Linear(2, 3))
    assert not is_plain(Packed(2, 3))
    assert not is_plain(nn.Conv2d(2, 3, 1))
    whole = nn.Linear(2, 3)
    whole.weight = nn.Parameter(torch.zeros(3, 2, dtype=torch.int8), requires_grad=False)
    assert not is_plain(whole)
