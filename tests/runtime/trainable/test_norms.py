"""The length of a change from its factors, its limit, and learning rates of single elements."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorica.errors import ConfigError, ShapeError
from lorica.runtime import Trainable
from lorica.runtime.trainable.norms import apply_rates, delta_norm, element_rates, shrinking

FP32_NOISE = 1e-5  # relative; worst measured 1.2e-6: a step's rounding is multiplied by its rate, here 16
SHAPES = [((4, 23), (19, 4)), ((3, 5, 3, 2), (17, 3)), ((9, 2), (7, 9))]


@pytest.mark.parametrize(("down_shape", "up_shape"), SHAPES)
def test_the_length_is_that_of_the_whole_change(down_shape: tuple[int, ...], up_shape: tuple[int, ...]) -> None:
    down, up = torch.randn(down_shape), torch.randn(up_shape)
    whole = 0.3 * up.double() @ down.double().flatten(1)
    assert delta_norm(down, up, 0.3).item() == pytest.approx(whole.norm().item(), rel=1e-12)
    assert delta_norm(down, torch.zeros(up_shape), 0.3).item() == 0


@pytest.mark.parametrize(("down_shape", "up_shape"), SHAPES)
def test_a_long_change_is_shrunk_to_the_limit_and_a_short_one_left(
    down_shape: tuple[int, ...], up_shape: tuple[int, ...]
) -> None:
    down, up = torch.randn(down_shape), torch.randn(up_shape)
    factor = shrinking(down, up, 0.3, longest=0.9).float()
    assert factor < 1
    whole = 0.3 * (up * factor) @ (down * factor).flatten(1)
    assert whole.norm().item() == pytest.approx(0.9, rel=1e-5)
    assert shrinking(down, up, 0.3, longest=1e6).item() == 1
    assert shrinking(down, torch.zeros(up_shape), 0.3, longest=0.1).item() == 1


def test_no_limit_above_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale_weight_norms must be above 0, got 0"):
        shrinking(torch.randn(4, 23), torch.randn(19, 4), 1.0, 0)


class Two(nn.Module):
    """Layers of different sizes, one of them a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.last = nn.Conv2d(3, 11, 2)


def sixteen_for_up(name: str) -> float:
    return 16.0 if name.endswith("/up") else 1.0


def trainable() -> Trainable:
    parts = {"unet": Two(), "text_encoder": Two()}
    return Trainable(parts, {"unet": ["first", "last"], "text_encoder": ["last"]}, rank=2)


def test_rates_by_name_raise_those_of_up_alone() -> None:
    trained = trainable()
    flat, pieces = trained.by_component()["unet"], trained.named_parameters()
    rates = element_rates(flat, pieces, sixteen_for_up)
    assert rates.shape == flat.shape
    assert not rates.requires_grad
    # first: down 2 * 7, up 5 * 2; last: down 2 * 3 * 2 * 2, up 11 * 2
    assert rates.tolist() == [1.0] * 14 + [16.0] * 10 + [1.0] * 24 + [16.0] * 22
    assert torch.equal(element_rates(flat, dict(reversed(pieces.items())), sixteen_for_up), rates)


def test_rates_lie_where_the_factors_lie() -> None:
    trained = trainable()
    pieces = trained.named_parameters()
    numbers = {name: float(number) for number, name in enumerate(pieces, 2)}
    for component, flat in trained.by_component().items():
        with torch.no_grad():
            flat.copy_(element_rates(flat, pieces, numbers.__getitem__))
        mine = [name for name in pieces if name.startswith(f"{component}/")]
        assert all((pieces[name] == numbers[name]).all() for name in mine)


def test_views_that_leave_something_out_are_refused() -> None:
    trained = trainable()
    pieces = trained.named_parameters()
    del pieces["unet/last/up"]
    with pytest.raises(ShapeError, match="named views hold 48 of the 70 elements"):
        element_rates(trained.by_component()["unet"], pieces, sixteen_for_up)


def test_rates_after_the_step_are_learning_rates_of_their_own() -> None:
    start, rates = torch.randn(9), torch.tensor([1.0] * 4 + [16.0] * 3 + [0.0] * 2)
    flat = nn.Parameter(start.clone())
    groups = [nn.Parameter(piece.clone()) for piece in start.split([4, 3, 2])]
    one = torch.optim.AdamW([flat], lr=0.01, weight_decay=0.1)
    many = torch.optim.AdamW(
        [{"params": [group], "lr": 0.01 * rate} for group, rate in zip(groups, (1, 16, 0), strict=True)],
        lr=0.01,
        weight_decay=0.1,
    )
    for _ in range(5):
        gradient = torch.randn(9)
        flat.grad = gradient.clone()
        for group, piece in zip(groups, gradient.split([4, 3, 2]), strict=True):
            group.grad = piece.clone()
        before = flat.detach().clone()
        one.step()
        stepped = flat.detach().clone()
        apply_rates(flat, before, rates)
        many.step()
        assert torch.equal(flat[:4], stepped[:4])  # rate 1 is untouched
    expected = torch.cat([group.detach() for group in groups])
    assert ((flat - expected).norm() / expected.norm()).item() < FP32_NOISE
    assert torch.equal(flat[7:], start[7:])
