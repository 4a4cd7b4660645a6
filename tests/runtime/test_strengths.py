"""Strengths by component, block, attention and module."""

from __future__ import annotations

from typing import Any

import pytest

from lorica.errors import ConfigError, UnknownNameError
from lorica.runtime.strengths import resolve

UNET = [
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.1.resnets.0.conv1",
    "down_blocks.10.resnets.0.conv1",
    "mid_block.attentions.0.proj_in",
    "up_blocks.1.attentions.0.to_q",
    "up_blocks.1.attentions.1.to_q",
    "up_blocks.1.resnets.0.conv1",
    "conv_in",
]
TEXT = ["layers.0.q_proj", "layers.0.k_proj", "layers.3.q_proj"]


def unet(spec: Any) -> list[float]:
    return list(resolve({"unet": spec}, {"unet": UNET, "text_encoder": TEXT})["unet"].values())


def test_one_number_is_for_every_module() -> None:
    assert resolve(0.3, {"unet": UNET[:2], "text_encoder": TEXT[:1]}) == {
        "unet": dict.fromkeys(UNET[:2], 0.3),
        "text_encoder": {TEXT[0]: 0.3},
    }


def test_a_component_that_is_not_named_has_strength_1() -> None:
    assert set(resolve({"unet": 0.5}, {"unet": UNET, "text_encoder": TEXT})["text_encoder"].values()) == {1.0}


def test_parts_and_blocks_of_a_unet() -> None:
    assert unet({"down": 0.2, "mid": 0.3, "up": {"block_1": 0.4}}) == [0.2, 0.2, 0.2, 0.3, 0.4, 0.4, 0.4, 1.0]


def test_block_1_is_not_block_10() -> None:
    assert unet({"down": {"block_1": 0.5}}) == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_a_list_gives_each_attention_of_a_block_its_own() -> None:
    assert unet({"up": {"block_1": [0.3, 0.7]}}) == [1.0, 1.0, 1.0, 1.0, 0.3, 0.7, 1.0, 1.0]


def test_globs_and_exact_paths() -> None:
    assert unet({"*.to_q": 0.1, "conv_in": -2}) == [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 1.0, -2.0]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"up": {"block_1": [0.3, 0.7, 1.0]}}, ConfigError, "expected 2 strengths .*up_blocks.1.*got 3"),
        ({"up": {"block_7": 1.0}}, UnknownNameError, "up_blocks.7"),
        ({"to_z": 1.0}, UnknownNameError, "to_z"),
        (float("nan"), ConfigError, "finite"),
        (float("inf"), ConfigError, "finite"),
        ("0.5", ConfigError, "finite number, got '0.5'"),
        (True, ConfigError, "finite"),
    ],
)
def test_what_names_nothing_or_is_no_number_is_refused(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        unet(spec)


def test_an_unknown_component_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'unet'"):
        resolve({"unets": 1.0}, {"unet": UNET})
