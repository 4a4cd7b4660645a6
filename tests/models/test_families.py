from __future__ import annotations

import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from lorica.demo.base.denoiser import Denoiser
from lorica.demo.base.tokenizer import make_tokenizer
from lorica.models import FAMILIES
from lorica.models.clip import spellings, with_wrapper, without_wrapper
from lorica.models.generate import describe, shapes_of, to_text
from lorica.models.published import FOLDER as PUBLISHED
from lorica.models.target import FOLDER

REMADE_AT_ONCE = ("bundled", "sd1", "wan21_t2v_1_3b")  # the others take 35 s together
CLIP = "ignore:.*token_id must be"


@pytest.mark.filterwarnings(CLIP)
@pytest.mark.parametrize(
    "name", [name if name in REMADE_AT_ONCE else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_the_tables_are_what_the_script_makes_today(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text("utf-8") == to_text(describe(FAMILIES[name].published))


def test_every_family_is_published_and_has_a_table() -> None:
    assert {path.stem for path in PUBLISHED.glob("*.json")} == {*FAMILIES, "text_encoders"}
    assert {path.stem for path in FOLDER.glob("*.json")} == set(FAMILIES)


def test_no_two_families_go_by_one_name() -> None:
    names = [base for family in FAMILIES.values() for base in family.base_models]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and "/" not in name for name in names)


def test_the_bundled_table_is_that_of_the_bundled_networks() -> None:
    with torch.device("meta"):
        model = Denoiser(make_tokenizer())
    expected = {"unet": shapes_of(model.unet), "text_encoder": shapes_of(model.text_encoder)}
    table = FAMILIES["bundled"].target.components
    assert table == expected


def test_sizes_that_everybody_knows() -> None:
    facts: dict[tuple[str, str, str], tuple[int, ...]] = {
        ("sd1", "unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"): (1280, 768),
        ("sd1", "unet", "mid_block.attentions.0.proj_in"): (1280, 1280, 1, 1),
        ("sd2", "unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"): (1280, 1024),
        ("sd2", "unet", "mid_block.attentions.0.proj_in"): (1280, 1280),
        ("sdxl", "unet", "mid_block.attentions.0.transformer_blocks.9.attn2.to_k"): (1280, 2048),
        ("sdxl", "text_encoder_2", "text_model.encoder.layers.31.mlp.fc1"): (5120, 1280),
        ("sd1", "text_encoder", "text_model.embeddings.token_embedding"): (49408, 768),
        ("sdxl_refiner", "unet", "mid_block.attentions.0.transformer_blocks.3.attn2.to_k"): (1536, 1280),
        ("sd3_medium", "transformer", "transformer_blocks.23.attn.to_q"): (1536, 1536),
        ("sd35_medium", "transformer", "transformer_blocks.12.attn2.to_q"): (1536, 1536),
        ("sd35_large", "transformer", "transformer_blocks.37.attn.to_q"): (2432, 2432),
        ("flux_dev", "transformer", "transformer_blocks.18.attn.to_q"): (3072, 3072),
        ("flux_dev", "transformer", "single_transformer_blocks.37.proj_out"): (3072, 15360),
        ("flux_dev", "text_encoder_2", "encoder.block.23.layer.1.DenseReluDense.wi_0"): (10240, 4096),
        ("kandinsky22", "prior", "transformer_blocks.19.attn1.to_q"): (2048, 2048),
        ("stable_cascade", "prior", "down_blocks.1.71.attention.to_q"): (2048, 2048),
        ("wan21_t2v_1_3b", "transformer", "blocks.29.ffn.net.0.proj"): (8960, 1536),
        ("wan22_t2v_14b", "transformer_2", "blocks.39.ffn.net.0.proj"): (13824, 5120),
        ("wan22_ti2v_5b", "transformer", "patch_embedding"): (3072, 48, 1, 2, 2),
        ("hunyuan_video", "transformer", "single_transformer_blocks.39.proj_mlp"): (12288, 3072),
        ("qwen_image", "transformer", "transformer_blocks.59.attn.add_k_proj"): (3072, 3072),
        ("z_image", "transformer", "layers.29.feed_forward.w1"): (10240, 3840),
        ("auraflow", "transformer", "single_transformer_blocks.31.ff.linear_1"): (8192, 3072),
        ("lumina2", "transformer", "layers.25.attn.to_k"): (768, 2304),
        ("cogvideox_5b", "transformer", "transformer_blocks.41.attn1.to_q"): (3072, 3072),
    }
    for (family, component, path), shape in facts.items():
        assert FAMILIES[family].target.components[component][path] == shape


@pytest.mark.parametrize(
    ("family", "component", "billions"),
    [
        ("sdxl", "unet", "2.6"),
        ("sd3_medium", "transformer", "2"),
        ("sd35_large", "transformer", "8.1"),
        ("flux_dev", "transformer", "12"),
        ("kandinsky22", "prior", "1"),
        ("stable_cascade", "prior", "3.6"),
        ("ltx_video_2b", "transformer", "2"),
        ("ltx_video_13b", "transformer", "13"),
        ("hunyuan_video", "transformer", "13"),
        ("wan21_t2v_14b", "transformer", "14"),
        ("wan22_ti2v_5b", "transformer", "5"),
        ("qwen_image", "transformer", "20"),
        ("z_image", "transformer", "6"),
        ("sana_1600m", "transformer", "1.6"),
        ("pixart_alpha", "transformer", "0.6"),
        ("auraflow", "transformer", "6.8"),
        ("lumina2", "transformer", "2.6"),
    ],
)
def test_the_models_are_as_large_as_their_authors_say(family: str, component: str, billions: str) -> None:
    size = sum(map(prod, FAMILIES[family].target.components[component].values())) / 1e9
    assert f"{size:.{len(billions.partition('.')[2])}f}" == billions


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
    assert sum(path.stat().st_size for path in Path(FOLDER).iterdir()) < 120_000
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
