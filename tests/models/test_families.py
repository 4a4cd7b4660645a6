from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lorica.demo.base.denoiser import Denoiser
from lorica.demo.base.tokenizer import make_tokenizer
from lorica.models import FAMILIES
from lorica.models.clip import spellings, with_wrapper, without_wrapper
from lorica.models.generate import describe, shapes_of, to_text
from lorica.models.published import PUBLISHED
from lorica.models.table import FOLDER

CLIP = "ignore:.*token_id must be"


@pytest.mark.filterwarnings(CLIP)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_tables_are_what_the_script_makes_today(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text("utf-8") == to_text(describe(PUBLISHED[name]))


def test_the_bundled_table_is_that_of_the_bundled_networks() -> None:
    with torch.device("meta"):
        model = Denoiser(make_tokenizer())
    expected = {"unet": shapes_of(model.unet), "text_encoder": shapes_of(model.text_encoder)}
    table = FAMILIES["bundled"].target.components
    assert table == expected


def test_sizes_that_everybody_knows() -> None:
    facts = {
        ("sd1", "unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"): (1280, 768),
        ("sd1", "unet", "mid_block.attentions.0.proj_in"): (1280, 1280, 1, 1),
        ("sd2", "unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"): (1280, 1024),
        ("sd2", "unet", "mid_block.attentions.0.proj_in"): (1280, 1280),
        ("sdxl", "unet", "mid_block.attentions.0.transformer_blocks.9.attn2.to_k"): (1280, 2048),
        ("sdxl", "text_encoder_2", "text_model.encoder.layers.31.mlp.fc1"): (5120, 1280),
        ("sd1", "text_encoder", "text_model.embeddings.token_embedding"): (49408, 768),
    }
    for (family, component, path), shape in facts.items():
        assert FAMILIES[family].target.components[component][path] == shape


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_and_default_targets_name_real_modules(name: str) -> None:
    family = FAMILIES[name]
    for component, shapes in family.target.components.items():
        for block in family.block_order[component]:
            assert any(path == block or path.startswith(f"{block}.") for path in shapes), block
        for glob in family.default_targets[component]:
            assert any(path.endswith(glob.removeprefix("*")) for path in shapes), glob


def test_blocks_go_from_the_input_to_the_output() -> None:
    order = FAMILIES["sd1"].block_order["unet"]
    assert order[0] == "conv_in"
    assert order[5] == "mid_block"
    assert order[-2:] == ("up_blocks.3", "conv_out")


def test_the_tables_are_small_and_load_without_the_model_libraries() -> None:
    assert all(path.stat().st_size < 500_000 for path in Path(FOLDER).iterdir())
    code = (
        "import sys; from lorica.models import FAMILIES; [family.target for family in FAMILIES.values()];"
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("encoder.layers.0.mlp.fc1", ("encoder.layers.0.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1")),
        ("text_model.final_layer_norm", ("text_model.final_layer_norm", "final_layer_norm")),
        ("encoder.block.0.layer.0.SelfAttention.q", ("encoder.block.0.layer.0.SelfAttention.q",)),
        ("text_projection", ("text_projection",)),
    ],
)
def test_only_the_modules_of_clip_have_two_spellings(path: str, expected: tuple[Any, ...]) -> None:
    assert spellings(path) == expected
    assert {with_wrapper(spelling) for spelling in expected} == {with_wrapper(path)}
    assert {without_wrapper(spelling) for spelling in expected} == {without_wrapper(path)}
