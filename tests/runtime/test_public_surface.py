"""What a completion shows of ``Loras``: the contract, and nothing of what stands behind it."""

from __future__ import annotations

from torch import nn

import lorica

CONTRACT = {
    "active", "clear", "components", "detach", "disable", "enable", "fuse", "fused", "limit_memory", "load", "modules",
    "names", "per_sample", "regions", "remove", "reserve", "save", "schedule", "set", "strengths", "summary", "target",
    "unfuse", "using",
}  # fmt: skip


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_loras_shows_the_contract_and_nothing_else() -> None:
    assert public(lorica.Loras) == CONTRACT
    assert public(lorica.attach(nn.Linear(3, 2))) == CONTRACT
