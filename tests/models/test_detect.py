from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lorica.models import FAMILIES
from lorica.models.detect import Candidate, ModuleShapes, detect
from lorica.models.generate import describe_index, index_to_text, targets
from lorica.models.index import FILE, starred, starred_all
from lorica.models.spellings import foreign_names

# Families that an adapter of the attention cannot tell apart.
ALIKE = [
    {"sd1", "sd2"},
    {"sd3_medium", "sd35_medium"},
    {"flux_dev", "flux_schnell", "hunyuan_video"},
    {"cogvideox_5b", "cogvideox15_5b"},
    {"wan21_t2v_14b", "wan21_i2v_14b", "wan22_t2v_14b", "wan22_i2v_14b"},
    {"sana_1600m", "sana15_1600m", "sana15_4800m", "sana_sprint_1600m"},
    {"pixart_alpha", "pixart_sigma", "sana_600m"},
]


def own(family: str, part: str = "") -> ModuleShapes:
    """The modules with ``part`` in their path, as an adapter in diffusers' names changes them."""
    components = FAMILIES[family].target.components
    return {
        name: {path: shape for path, shape in shapes.items() if part in path} for name, shapes in components.items()
    }


def foreign(family: str, component: str, part: str = "", *, flat: bool = False) -> ModuleShapes:
    """The same in the names of other programs."""
    shapes = FAMILIES[family].target.components[component]
    modules: dict[str, tuple[int, ...]] = {}
    for name, parts in foreign_names(shapes).items():
        if part in name and len(shapes[parts[0].path]) > 1:
            rows = parts[-1].rows[1] if parts[-1].rows else shapes[parts[0].path][0]
            modules[name.replace(".", "_") if flat else name] = (rows, *shapes[parts[0].path][1:])
    return {component: modules}


def first(modules: ModuleShapes) -> Candidate:
    return detect(modules)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_for_all_modules_of_a_family_is_known(family: str) -> None:
    found = first(own(family))
    assert found.family == family
    assert found.fits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_for_the_attention_alone_is_known_or_fits_its_like(family: str) -> None:
    fitting = [candidate.family for candidate in detect(own(family, "to_q")) if candidate.fits]
    assert family in fitting
    assert set(fitting) <= next((alike for alike in ALIKE if family in alike), {family})


@pytest.mark.parametrize(
    ("family", "component", "part"),
    [
        ("sd1", "unet", "input_blocks"),
        ("sdxl", "unet", "attn2.to_k"),
        ("sdxl_refiner", "unet", "attn2.to_k"),
        ("flux_schnell", "transformer", "qkv"),
        ("sd3_medium", "transformer", "x_block.attn.qkv"),
        ("sd35_large", "transformer", "x_block"),
        ("wan21_t2v_1_3b", "transformer", "self_attn.q"),
        ("wan22_ti2v_5b", "transformer", "ffn"),
        ("hunyuan_video", "transformer", "img_attn_qkv"),
        ("z_image", "transformer", "attention.qkv"),
        ("lumina2", "transformer", "attention.qkv"),
        ("auraflow", "transformer", "attn.w1q"),
        ("pixart_sigma", "transformer", "mlp.fc1"),
        ("sana_600m", "transformer", "attn.qkv"),
        ("stable_cascade", "prior", "attn.in_proj"),
        ("cogvideox_2b", "transformer", "query_key_value"),
    ],
)
@pytest.mark.parametrize("flat", [False, True], ids=["dotted", "flat"])
def test_a_part_in_foreign_names_is_known(family: str, component: str, part: str, flat: bool) -> None:
    found = first(foreign(family, component, part, flat=flat))
    assert found.family == family
    assert found.fits


def test_the_text_encoder_of_a_file_counts_under_any_number() -> None:
    clip = own("flux_dev")["text_encoder"]
    t5 = own("flux_dev")["text_encoder_2"]
    flux = own("flux_dev", "img")["transformer"]
    for name in ("text_encoder_2", "text_encoder_3", "model", ""):
        assert first({"transformer": flux, "text_encoder": clip, name: t5}).fits


def test_a_unet_is_no_text_encoder() -> None:
    assert detect({"text_encoder": own("sd1", "attn1.to_q")["unet"]}) == []


def test_clip_is_known_with_and_without_its_wrapper() -> None:
    bare = {path.removeprefix("text_model."): shape for path, shape in own("sd2")["text_encoder"].items()}
    assert "encoder.layers.0.mlp.fc1" in bare
    assert first({"text_encoder": bare}).family == "sd2"


def test_the_evidence_names_the_facts() -> None:
    assert first(own("sdxl", "attn2.to_k")).evidence == (
        "all 70 modules have the names and sizes of Stable Diffusion XL's.",
        "cross-attention width 2048 (down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k).",
        "the highest numbers of its blocks: down_blocks 2, up_blocks 1, mid_block_attentions 0.",
    )
    assert first(foreign("flux_schnell", "transformer", "linear1")).evidence == (
        "all 38 modules have the names and sizes of Flux.1 schnell's.",
        "most modules take 3072 inputs.",
        "the highest numbers of its blocks: single_blocks 37.",
    )


def test_what_speaks_against_a_family_is_said() -> None:
    by_name = {candidate.family: candidate for candidate in detect(own("sdxl", "attn2.to_k"))}
    sd1 = by_name["sd1"]
    assert not sd1.fits
    assert sd1.evidence[0] == (
        "0 of 70 modules have the names and sizes of Stable Diffusion 1.x's; 70 have another size there, and 0 are "
        "none of its modules."
    )
    assert sd1.evidence[3] == (
        "down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_k is 640 x 2048 in the file and 320 x 768 or "
        "640 x 768 or 1280 x 768 in it."
    )


def test_a_block_that_a_family_does_not_have_counts_against_it() -> None:
    modules: ModuleShapes = {
        "transformer": {f"double_blocks.{number}.img_attn.qkv": (9216, 3072) for number in (17, 18, 19)}
    }
    found = first(modules)
    assert (found.family, found.fitting, found.modules) == ("hunyuan_video", 3, 3)
    flux = detect(modules)[1]
    assert (flux.family, flux.fitting, flux.modules) == ("flux_schnell", 2, 3)
    assert flux.evidence[-1] == "double_blocks.19.img_attn.qkv goes beyond its blocks, whose highest numbers are 18."


def test_a_size_that_a_file_does_not_tell_counts_for_any() -> None:
    names: ModuleShapes = {"unet": dict.fromkeys(own("sd2", "attn1.to_q")["unet"])}
    assert {candidate.family for candidate in detect(names) if candidate.fits} >= {"sd1", "sd2"}


def test_a_width_that_a_file_does_not_tell_counts_for_any() -> None:
    cross: ModuleShapes = {"unet": {path: (-1, shape[1]) for path, shape in own("sd2", "attn2.to_k")["unet"].items()}}
    assert [candidate.family for candidate in detect(cross) if candidate.fits] == ["sd2"]


def test_a_convolution_is_known_without_its_kernel() -> None:
    modules: ModuleShapes = {
        "unet": {"conv_in": (320, 4), "conv_out": (4, 320, 3, 3), "mid_block.resnets.0.norm1": (1280,)}
    }
    assert first(modules).family in ("sd1", "sd2")
    assert first(modules).fits


def test_nothing_known_gives_nothing() -> None:
    assert detect({"unet": {"strange.0.module": (3, 5)}}) == []
    assert detect({}) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("text_model.encoder.layers.11.mlp.fc1", ("encoder_layers_*_mlp_fc1", (11,))),
        ("text_model_encoder_layers_11_mlp_fc1", ("encoder_layers_*_mlp_fc1", (11,))),
        ("down_blocks.1.attentions.0.to_out.0", ("down_blocks_*_attentions_*_to_out_*", (1, 0, 0))),
        ("attn1.norm2.linear_1", ("attn1_norm2_linear_*", (1,))),
        ("3.all_x_embedder.2-1", ("*_all_x_embedder_2-1", (3,))),
    ],
)
def test_dotted_and_flat_names_have_the_same_stars(path: str, expected: tuple[str, tuple[int, ...]]) -> None:
    assert starred(path) == expected


def test_many_names_at_once_have_the_stars_of_each_alone() -> None:
    paths = ["0.conv", "a.1.2.b", "two\nlines.3", "text_model.text_model.7", "a__5", "number.1234567890", ""]
    assert list(starred_all(paths)) == [starred(path) for path in paths]
    assert [numbers for _, numbers in starred_all(paths)] == [(0,), (1, 2), (3,), (7,), (5,), (), ()]


def test_a_star_in_a_name_stands_for_no_number() -> None:
    assert detect({"unet": {"down_blocks_*_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320)}}) == []


def test_the_index_is_what_the_script_makes_of_the_tables_today() -> None:
    assert FILE.read_text("utf-8") == index_to_text(describe_index(targets()))


def test_the_index_is_small_and_needs_no_model_libraries() -> None:
    assert FILE.stat().st_size < 100_000
    assert json.loads(FILE.read_text("utf-8"))
    code = (
        "import sys; from lorica.models.detect import detect; detect({'unet': {'conv_in': (320, 4)}});"
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
