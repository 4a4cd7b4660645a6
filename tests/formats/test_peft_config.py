from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from lorica.adapters import LoRA
from lorica.errors import FormatError
from lorica.formats.peft_config import METADATA_KEY, Patterns, make_config, parse_strengths

SEGMENTS = st.sampled_from(["proj_out", "to_k", "0", "10", "1", "blocks", "attn"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
EXPRESSIONS = st.sampled_from([r"blocks\.\d+", ".*", "(to_k|proj_out)", "[01]+", r"attn\..*", "^(blocks).*"])
PATTERNS = st.one_of(PATHS, PATHS.map("^{}".format), PATHS.map(re.escape), EXPRESSIONS)


@given(st.lists(PATTERNS, max_size=6, unique=True), PATHS)
def test_patterns_match_as_in_peft(patterns: list[str], path: str) -> None:
    values = {pattern: float(place) for place, pattern in enumerate(patterns)}
    assert Patterns(values).get(path) == values.get(get_pattern_key(list(values), path))


def lora(rank: int, alpha: float) -> LoRA:
    return LoRA(torch.ones(rank, 5), torch.ones(7, rank), alpha)


def test_the_commonest_rank_and_alpha_need_no_pattern() -> None:
    layers = {"a.x": lora(3, 2.0), "a.y": lora(3, 2.0), "b.x": lora(4, 1.5)}
    config = make_config(layers)
    assert config["r"] == 3
    assert config["lora_alpha"] == 2
    assert config["rank_pattern"] == {r"^b\.x": 4}
    assert config["alpha_pattern"] == {r"^b\.x": 1.5}
    assert config["target_modules"] == ["a.x", "a.y", "b.x"]


def test_a_top_level_module_is_asked_for_by_an_expression() -> None:
    config = make_config({"proj_out": lora(3, 1.0), "a.x": lora(3, 1.0)})
    pattern = config["target_modules"]
    assert re.fullmatch(pattern, "proj_out")
    assert not re.fullmatch(pattern, "blocks.0.proj_out")


def strengths_of(fields: dict[str, object]) -> dict[str, float]:
    found = parse_strengths({METADATA_KEY: json.dumps(fields)}, "file")
    return {component: part.alpha_of("a.b", 4) for component, part in found.items()}


def test_the_alpha_of_a_rank_stabilised_adapter_divides_by_the_rank() -> None:
    assert strengths_of({"unet.lora_alpha": 6, "unet.use_rslora": True}) == {"unet": 12.0}  # 6 / sqrt(4) == 12 / 4


def test_a_component_without_an_alpha_has_the_default_of_peft() -> None:
    assert strengths_of({"unet.r": 4, "lora_alpha": 3}) == {"unet": 8.0, "": 3.0}


def test_patterns_of_a_text_encoder_hold_in_both_spellings() -> None:
    for written in ("text_model.encoder.layers.0.mlp.fc1", "^encoder.layers.0.mlp.fc1", "fc1"):
        text = json.dumps({"t.lora_alpha": 2, "t.alpha_pattern": {written: 5}})
        part = parse_strengths({METADATA_KEY: text}, "file")["t"]
        assert part.alpha_of("encoder.layers.0.mlp.fc1", 4) == 5
        assert part.alpha_of("text_model.encoder.layers.0.mlp.fc1", 4) == 5


@pytest.mark.parametrize("text", ["{", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": {"(": 3}}', '"a"'])
def test_malformed_configurations_are_refused(text: str) -> None:
    with pytest.raises(
        FormatError, match=r"lora_adapter_metadata'( is malformed|: lora_alpha is 'x'|: alpha_pattern is malformed)"
    ):
        parse_strengths({METADATA_KEY: text}, "file")
