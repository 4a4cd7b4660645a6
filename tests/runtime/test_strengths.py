"""Strengths by component, block, attention and module; lists by block, against the original layouts written out."""

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


# Lists of strengths by block.

# The original layout of SD 1.x, block by block, in diffusers' names: what LoRA-block-weight's 26 names stand for.
SD1 = {
    "IN00": "conv_in",
    "IN01": "down_blocks.0.attentions.0.proj_in",
    "IN02": "down_blocks.0.resnets.1.conv1",
    "IN03": "down_blocks.0.downsamplers.0.conv",
    "IN04": "down_blocks.1.attentions.0.proj_in",
    "IN05": "down_blocks.1.attentions.1.proj_in",
    "IN06": "down_blocks.1.downsamplers.0.conv",
    "IN07": "down_blocks.2.resnets.0.conv1",
    "IN08": "down_blocks.2.attentions.1.proj_in",
    "IN09": "down_blocks.2.downsamplers.0.conv",
    "IN10": "down_blocks.3.resnets.0.conv1",
    "IN11": "down_blocks.3.resnets.1.conv1",
    "M00": "mid_block.attentions.0.proj_in",
    "OUT00": "up_blocks.0.resnets.0.conv1",
    "OUT01": "up_blocks.0.resnets.1.conv1",
    "OUT02": "up_blocks.0.upsamplers.0.conv",
    "OUT03": "up_blocks.1.attentions.0.proj_in",
    "OUT04": "up_blocks.1.resnets.1.conv1",
    "OUT05": "up_blocks.1.attentions.2.proj_in",
    "OUT06": "up_blocks.2.attentions.0.proj_in",
    "OUT07": "up_blocks.2.attentions.1.proj_in",
    "OUT08": "up_blocks.2.upsamplers.0.conv",
    "OUT09": "up_blocks.3.attentions.0.proj_in",
    "OUT10": "up_blocks.3.attentions.1.proj_in",
    "OUT11": "up_blocks.3.resnets.2.conv1",
}
SDXL = {
    "IN00": "conv_in",
    "IN01": "down_blocks.0.resnets.0.conv1",
    "IN02": "down_blocks.0.resnets.1.conv1",
    "IN03": "down_blocks.0.downsamplers.0.conv",
    "IN04": "down_blocks.1.attentions.0.proj_in",
    "IN05": "down_blocks.1.attentions.1.proj_in",
    "IN06": "down_blocks.1.downsamplers.0.conv",
    "IN07": "down_blocks.2.attentions.0.proj_in",
    "IN08": "down_blocks.2.attentions.1.proj_in",
    "M00": "mid_block.attentions.0.proj_in",
    "OUT00": "up_blocks.0.attentions.0.proj_in",
    "OUT01": "up_blocks.0.attentions.1.proj_in",
    "OUT02": "up_blocks.0.upsamplers.0.conv",
    "OUT03": "up_blocks.1.attentions.0.proj_in",
    "OUT04": "up_blocks.1.attentions.1.proj_in",
    "OUT05": "up_blocks.1.resnets.2.conv1",
    "OUT06": "up_blocks.2.resnets.0.conv1",
    "OUT07": "up_blocks.2.resnets.1.conv1",
    "OUT08": "up_blocks.2.resnets.2.conv1",
}
SHORT = {
    17: [*(f"IN0{i}" for i in (1, 2, 4, 5, 7, 8)), "M00", *(f"OUT{i:02d}" for i in range(3, 12))],
    12: ["IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT0{i}" for i in range(6))],
}
ENCODER = "encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(("size", "blocks"), [(26, SD1), (17, SD1), (20, SDXL), (12, SDXL)])
def test_block_weight_lists_block_by_block(size: int, blocks: dict[str, str]) -> None:
    names = SHORT.get(size, list(blocks))
    assert len(names) == size - 1
    values = [round(0.1 * (1 + index), 1) for index in range(size)]
    weights = dict(zip(names, values[1:], strict=True))
    modules = {
        "unet": [*blocks.values(), "time_embedding.linear_1"],
        "text_encoder": [ENCODER],
        "text_encoder_2": [ENCODER],
    }
    expected = {path: weights.get(name, 0.0) for name, path in blocks.items()}
    for strength in (values, tuple(values)):
        assert resolve(strength, modules) == {
            "unet": {**expected, "time_embedding.linear_1": 1.0},
            "text_encoder": {ENCODER: values[0]},
            "text_encoder_2": {ENCODER: values[0]},
        }
    only = resolve({"unet": values}, modules)
    assert only["unet"] == {**expected, "time_embedding.linear_1": 1.0}
    assert only["text_encoder"] == {ENCODER: 1.0}


@pytest.mark.parametrize(
    ("size", "path", "right"),
    [
        (12, "up_blocks.3.attentions.0.proj_in", "17 or 26"),
        (20, "down_blocks.0.attentions.1.proj_in", "17 or 26"),
        (17, "up_blocks.0.attentions.0.proj_in", "12 or 20"),
        (26, "up_blocks.0.attentions.2.proj_in", "12 or 20"),
    ],
)
def test_a_list_for_another_family_is_refused(size: int, path: str, right: str) -> None:
    with pytest.raises(ConfigError, match=rf"a list of {size} block weights .*{path}.*give it {right} numbers"):
        resolve([1.0] * size, {"unet": [path]})


def test_negative_and_large_numbers_are_as_good_as_others_and_words_are_not() -> None:
    assert resolve([-2.0, *[3.5] * 16], {"unet": ["mid_block.resnets.0.conv1"], "text_encoder": [ENCODER]}) == {
        "unet": {"mid_block.resnets.0.conv1": 3.5},
        "text_encoder": {ENCODER: -2.0},
    }
    with pytest.raises(ConfigError, match="a block weight must be a finite number"):
        resolve([1.0, *["x"] * 16], {"unet": ["mid_block.resnets.0.conv1"]})  # type: ignore[list-item]


FLUX = [
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.to_q",
    "transformer_blocks.10.attn.to_q",
    "single_transformer_blocks.1.attn.to_q",
    "x_embedder",
]


def flux(spec: Any) -> list[float]:
    return list(resolve({"transformer": spec}, {"transformer": FLUX})["transformer"].values())


def test_blocks_of_a_transformer_by_name_number_list_and_glob() -> None:
    assert flux({"double_blocks": 0.5, "single_blocks": -1.0}) == [0.5, 0.5, 0.5, -1.0, 1.0]
    assert flux({"double_blocks": {"block_1": 0.2, "10": 0.3}}) == [1.0, 0.2, 0.3, 1.0, 1.0]
    assert flux({"transformer_blocks": [i / 10 for i in range(11)]}) == [0.0, 0.1, 1.0, 1.0, 1.0]
    assert flux({"double_blocks": [i / 10 for i in range(12)], "single_blocks": [5, 6]}) == [0.0, 0.1, 1.0, 6.0, 1.0]
    assert flux({"single_transformer_blocks.*": 0.0, "*_embedder": 2.0}) == [1.0, 1.0, 1.0, 0.0, 2.0]
    with pytest.raises(ConfigError, match=r"each block of 'transformer_blocks', at least 11, got 3"):
        flux({"double_blocks": [1, 2, 3]})


def test_a_list_as_long_as_block_weights_is_by_number_where_there_is_no_unet() -> None:
    paths = [f"blocks.{index}.attn1.to_q" for index in range(12)]
    values = [index / 10 for index in range(12)]
    assert list(resolve({"transformer": {"blocks": values}}, {"transformer": paths})["transformer"].values()) == values
