"""The table of what is loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lorica
from lorica.adapters import Adapter
from lorica.runtime.summary import Line, Summary
from sample_layers import make_lora


def test_the_summary_says_what_is_loaded_how_strongly_and_what_it_costs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))
    loras = lorica.attach(model)
    both = {"0": make_lora(model[0], rank=3), "1": make_lora(model[1], rank=2)}
    loras.load(Adapter({"model": both}), name="wide", strength=0.7)
    loras.load(Adapter({"model": {"1": make_lora(model[1])}}), name="inside")
    loras.load(Adapter({"model": {"0": make_lora(model[0])}}), name="quiet")
    loras.fuse({"inside": -1.5})
    loras.set({"wide": {"model": {"0": 0.5}}})
    summary = loras.summary()
    wide = 4 * (3 * (5 + 7) + 2 * (7 + 4))
    assert summary.lines == (
        Line("wide", "live", {"model": {"0": 0.5}}, {"model": 2}, ("lora",), (2, 3), wide),
        Line("inside", "fused", -1.5, {"model": 1}, ("lora",), (3, 3), 4 * 3 * (7 + 4)),
        Line("quiet", "off", None, {"model": 1}, ("lora",), (3, 3), 4 * 3 * (5 + 7)),
    )
    assert summary.originals == 4 * 7 * 4
    text = str(summary)
    for word in (
        "adapter",
        "wide",
        "by block",
        "2 to 3",
        "fused",
        "-1.5",
        "232 B",
        "originals of fused weights: 112 B",
    ):
        assert word in text
    loras.disable()
    assert "disabled" in str(loras.summary())


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3_270_000_000, "3.27 GB")])
def test_sizes_have_three_digits(count: int, text: str) -> None:
    line = Line("a", "live", 1.0, {"unet": 1}, ("lora",), (4, 4), count)
    assert f" {text} " in str(Summary((line,), 0, True, ()))
