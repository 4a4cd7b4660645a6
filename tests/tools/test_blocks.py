"""Blocks and parts of modules, of networks that are known and of others."""

from __future__ import annotations

import pytest

from lorica.models import FAMILIES
from lorica.tools.blocks import REST, block_of, in_order, kind_of

PARTS = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "attention",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": "cross-attention",
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj": "feed-forward",
    "down_blocks.1.attentions.0.proj_in": "attention",
    "down_blocks.1.attentions.0.norm": "norm",
    "down_blocks.0.resnets.1.conv2": "convolution",
    "down_blocks.0.downsamplers.0.conv": "convolution",
    "conv_in": "convolution",
    "time_embedding.linear_1": "embedding",
    "down_blocks.0.resnets.0.time_emb_proj": "embedding",
    "text_model.encoder.layers.3.self_attn.q_proj": "attention",
    "text_model.encoder.layers.3.mlp.fc1": "feed-forward",
    "text_model.encoder.layers.3.layer_norm1": "norm",
    "single_transformer_blocks.4.proj_mlp": "feed-forward",
    "transformer_blocks.4.norm1.linear": "norm",
    "something": "other",
}


@pytest.mark.parametrize(("path", "part"), PARTS.items(), ids=PARTS)
def test_a_part_is_known_by_its_path(path: str, part: str) -> None:
    assert kind_of(path) == part


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_of_a_family_stands_in_one_of_its_blocks_or_in_none(family: str) -> None:
    known = FAMILIES[family]
    for component, shapes in known.target.components.items():
        order = known.block_order[component]
        found = in_order((block_of(path, set(order)) for path in shapes), order)
        assert [block for block in found if block != REST] == list(order)


def test_an_unknown_network_is_divided_by_its_numbered_lists() -> None:
    assert block_of("double_blocks.11.img_attn.qkv", ()) == "double_blocks.11"
    assert block_of("model.layers.2.blocks.3.to_q", ()) == "model.layers.2"
    assert block_of("img_in", ()) == REST


def test_a_block_is_not_mistaken_for_one_with_a_longer_number() -> None:
    assert block_of("blocks.10.to_q", {"blocks.1", "blocks.10"}) == "blocks.10"


def test_unknown_blocks_are_ordered_as_numbers_and_the_rest_comes_last() -> None:
    assert in_order(["b.10", REST, "b.9", "a.3", "b.9"], ()) == ["a.3", "b.9", "b.10", REST]
