"""First values of adapters: those of two data sets have nothing in common, though both runs have the default seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lorica.runtime import Trainable
from lorica.training.config.config import RunConfig
from lorica.training.session import Session
from tiny_training import write_pictures

CHANCE = 0.5  # of the energy of one layer's rows in the span of another's; equal draws have 1


def test_two_data_sets_start_from_rows_of_their_own(opened: Callable[..., Session], tmp_path: Path) -> None:
    others = write_pictures(tmp_path / "others", 3)
    one, again, two, smaller = (
        first_rows(opened(output_dir=tmp_path / str(number), **changes))
        for number, changes in enumerate([{}, {}, {"train_data_dir": others}, {"rank": 2}])
    )
    assert all(torch.equal(row, again[place]) for place, row in one.items())
    for other in (two, smaller):
        assert sum(shared(one[place], other[place]) for place in one) / len(one) < CHANCE


def test_every_rule_of_first_values_knows_the_data_set(opened: Callable[..., Session], tmp_path: Path) -> None:
    others = write_pictures(tmp_path / "others", 3)
    for rule in ("zero", "orthogonal"):
        one = first_rows(opened(output_dir=tmp_path / f"{rule}-1", init_lora_weights=rule))
        two = first_rows(opened(output_dir=tmp_path / f"{rule}-2", init_lora_weights=rule, train_data_dir=others))
        assert not any(torch.equal(one[place], two[place]) for place in one)


def test_a_loop_of_ones_own_starts_anew_each_time_unless_it_names_a_seed() -> None:
    model = nn.Sequential(nn.Linear(5, 3))

    def first(seed: int | None = None) -> Tensor:
        return Trainable({"model": model}, {"model": ["0"]}, rank=2, seed=seed).named_parameters()["model/0/down"]

    torch.manual_seed(3)
    one, two = first(), first()
    torch.manual_seed(3)
    assert torch.equal(one, first())
    assert not torch.equal(one, two)
    assert torch.equal(first(7), first(7))


def first_rows(session: Session) -> dict[str, Tensor]:
    named = session.loop.trainable.named_parameters()
    return {name: value.detach().clone() for name, value in named.items() if name.endswith("/down")}


def shared(one: Tensor, two: Tensor) -> float:
    """Share of the energy of some rows that lies in the span of others."""
    basis, _ = torch.linalg.qr(two.flatten(1).T)
    return float((one.flatten(1) @ basis).square().sum() / one.square().sum())


def test_the_seed_still_counts(opened: Callable[..., Session], settings: Callable[..., RunConfig]) -> None:
    one, two = first_rows(opened()), first_rows(opened(seed=1, output_dir=settings().output_dir / "two"))
    assert not any(torch.equal(one[place], two[place]) for place in one)
