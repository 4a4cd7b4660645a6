from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from lorica.errors import FormatError
from lorica.models import FAMILIES
from lorica.models.generate import shapes_of
from lorica.models.spellings import SPELLINGS, Part, Table, foreign_names, spellings_of
from lorica.models.spellings.rules import HOW, Rules
from lorica.runtime.model.targets import target_of
from tiny_models import sd15
from tiny_networks import TINY_NETWORKS, tiny_network

SPELLED = [
    pytest.param(family, component, spelling, id=f"{family}-{component}-{spelling}")
    for family in FAMILIES
    for component, spellings in FAMILIES[family].spellings.items()
    for spelling in spellings
]


def assert_bijection(table: Table, shapes: dict[str, tuple[int, ...]]) -> None:
    """Every row of every module stands at one place of one foreign weight, and every foreign row is used."""
    rows = Counter[tuple[str, int]]()
    for foreign, parts in table.items():
        end = 0
        for part in parts:
            first, last = part.own_rows or (0, shapes[part.path][0])
            rows.update((part.path, row) for row in range(first, last))
            assert part.rows == (end, end + last - first) or (part.rows is None and len(parts) == 1), foreign
            end += last - first
        assert len({shapes[part.path][1:] for part in parts}) == 1, foreign
    assert rows == Counter((path, row) for path, shape in shapes.items() for row in range(shape[0]))


@pytest.mark.parametrize("name", TINY_NETWORKS)
def test_each_row_of_a_tiny_model_has_one_foreign_place(name: str) -> None:
    shapes = shapes_of(tiny_network(name))
    for spelling in spellings_of(shapes).values():
        assert_bijection(spelling.table(shapes), shapes)


@pytest.mark.parametrize(("family", "component", "spelling"), SPELLED)
def test_each_module_of_a_family_has_one_foreign_place(family: str, component: str, spelling: str) -> None:
    shapes = FAMILIES[family].target.components[component]
    table = FAMILIES[family].spellings[component][spelling].table(shapes)
    whole = Counter[str]()
    for parts in table.values():
        for part in parts:
            first, last = part.own_rows or (0, shapes[part.path][0])
            whole[part.path] += last - first
    assert whole == Counter({path: shape[0] for path, shape in shapes.items()})


@pytest.mark.parametrize("name", TINY_NETWORKS)
def test_a_network_has_the_spellings_of_its_kind_alone(name: str) -> None:
    kind = name.partition(".")[0]
    shapes = shapes_of(tiny_network(name))
    expected = {key.partition(".")[2]: spelling for key, spelling in SPELLINGS.items() if key.startswith(f"{kind}.")}
    assert spellings_of(shapes) == expected


def test_every_spelling_has_a_tiny_network_and_a_family() -> None:
    kinds = {name.partition(".")[0] for name in SPELLINGS}
    assert kinds - {"unet"} == {name.partition(".")[0] for name in TINY_NETWORKS}
    used = {id(each) for family in FAMILIES.values() for named in family.spellings.values() for each in named.values()}
    assert used == {id(spelling) for spelling in SPELLINGS.values()}


@pytest.mark.parametrize("name", TINY_NETWORKS)
def test_a_live_model_without_its_norms_is_known_too(name: str) -> None:
    """The runtime's targets hold only what adapters act on."""
    ((component, shapes),) = target_of(tiny_network(name)).components.items()
    named = {part.path for parts in foreign_names(shapes).values() for part in parts}
    assert component != "text_encoder"
    assert named == set(shapes)


def test_text_encoders_and_the_other_families_have_no_foreign_names() -> None:
    without = {
        f"{name}.{component}"
        for name, family in FAMILIES.items()
        for component, spellings in family.spellings.items()
        if not spellings and not component.startswith("text_encoder")
    }
    assert without == {"kandinsky22.unet", "kandinsky22.prior", "wuerstchen.prior", "qwen_image.transformer"}
    assert not any(
        spellings
        for family in FAMILIES.values()
        for component, spellings in family.spellings.items()
        if component.startswith("text_encoder")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_foreign_name_is_the_own_name_of_another_module(family: str) -> None:
    for shapes in FAMILIES[family].target.components.values():
        for foreign, parts in foreign_names(shapes).items():
            assert foreign not in shapes or parts == (Part(foreign),)


def test_names_that_everybody_knows() -> None:
    flux = foreign_names(FAMILIES["flux_dev"].target.components["transformer"])
    assert flux["double_blocks.18.txt_attn.qkv"] == (
        Part("transformer_blocks.18.attn.add_q_proj", (0, 3072)),
        Part("transformer_blocks.18.attn.add_k_proj", (3072, 6144)),
        Part("transformer_blocks.18.attn.add_v_proj", (6144, 9216)),
    )
    assert flux["single_blocks.37.linear1"][-1] == Part("single_transformer_blocks.37.proj_mlp", (9216, 21504))
    assert flux["final_layer.adaLN_modulation.1"] == (
        Part("norm_out.linear", (0, 3072), (3072, 6144)),
        Part("norm_out.linear", (3072, 6144), (0, 3072)),
    )
    wan = foreign_names(FAMILIES["wan21_i2v_14b"].target.components["transformer"])
    assert wan["blocks.39.cross_attn.k_img"] == (Part("blocks.39.attn2.add_k_proj"),)
    assert wan["blocks.0.norm3"] == (Part("blocks.0.norm2"),)
    lumina = foreign_names(FAMILIES["lumina2"].target.components["transformer"])
    assert [part.rows for part in lumina["layers.25.attention.qkv"]] == [(0, 2304), (2304, 3072), (3072, 3840)]
    sdxl = foreign_names(FAMILIES["sdxl"].target.components["unet"])
    assert sdxl["input_blocks.8.1.proj_in"] == (Part("down_blocks.2.attentions.1.proj_in"),)


def test_the_original_pixart_names_are_those_of_its_repository() -> None:
    """diffusers' own conversion is a script that is not installed, so the facts stand here."""
    names = foreign_names(FAMILIES["pixart_alpha"].target.components["transformer"])
    block = "transformer_blocks.27"
    assert names["blocks.27.attn.qkv"] == (
        Part(f"{block}.attn1.to_q", (0, 1152)),
        Part(f"{block}.attn1.to_k", (1152, 2304)),
        Part(f"{block}.attn1.to_v", (2304, 3456)),
    )
    assert names["blocks.27.cross_attn.kv_linear"] == (
        Part(f"{block}.attn2.to_k", (0, 1152)),
        Part(f"{block}.attn2.to_v", (1152, 2304)),
    )
    single = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
        "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
        "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
        "t_block.1": "adaln_single.linear",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "blocks.27.attn.proj": f"{block}.attn1.to_out.0",
        "blocks.27.cross_attn.q_linear": f"{block}.attn2.to_q",
        "blocks.27.cross_attn.proj": f"{block}.attn2.to_out.0",
        "blocks.27.mlp.fc1": f"{block}.ff.net.0.proj",
        "blocks.27.mlp.fc2": f"{block}.ff.net.2",
        "final_layer.linear": "proj_out",
    }
    assert {foreign: names[foreign] for foreign in single} == {name: (Part(path),) for name, path in single.items()}


def test_cogvideox_modulates_both_norms_from_one_weight_in_turns() -> None:
    """Twelve chunks: three for the picture's first norm, three for its second, and the same for the text."""
    names = foreign_names(shapes_of(tiny_network("cogvideox.native")))
    first, second = "transformer_blocks.1.norm1.linear", "transformer_blocks.1.norm2.linear"
    assert names["mixins.adaln_layer.adaLN_modulations.1.1"] == (
        Part(first, (0, 96), (0, 96)),
        Part(second, (96, 192), (0, 96)),
        Part(first, (192, 288), (96, 192)),
        Part(second, (288, 384), (96, 192)),
    )
    assert names["transformer.layers.1.attention.dense"] == (Part("transformer_blocks.1.attn1.to_out.0"),)
    assert names["mixins.adaln_layer.key_layernorm_list.0"] == (Part("transformer_blocks.0.attn1.norm_k"),)
    assert names["mixins.adaln_layer.query_layernorm_list.1"] == (Part("transformer_blocks.1.attn1.norm_q"),)


def test_only_the_last_context_modulation_of_sd3_has_its_halves_swapped() -> None:
    names = foreign_names(shapes_of(tiny_network("sd3.native")))
    path = "transformer_blocks.{}.norm1_context.linear"
    assert names["joint_blocks.1.context_block.adaLN_modulation.1"] == (Part(path.format(1)),)
    assert names["joint_blocks.2.context_block.adaLN_modulation.1"] == (
        Part(path.format(2), (0, 24), (24, 48)),
        Part(path.format(2), (24, 48), (0, 24)),
    )


def test_two_modules_with_one_foreign_name_are_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules("flux.bfl")
    twice = {"marks": [], "modules": {"block.0.x": "a"}, "blocks": {"block.*": {"path": "b.*", "modules": {"x": "c"}}}}
    monkeypatch.setitem(rules.__dict__, "_raw", twice)
    assert rules.table({"a": (3, 5), "b.1.c": (3, 5)}) == {"block.0.x": (Part("a"),), "block.1.x": (Part("b.1.c"),)}
    with pytest.raises(FormatError, match=r"modules 'a' and 'b\.0\.c' share the name 'block\.0\.x'"):
        rules.table({"a": (3, 5), "b.0.c": (3, 5)})


def test_a_module_that_keeps_its_name_may_not_bear_that_of_another() -> None:
    shapes = shapes_of(tiny_network("ltx_video.native"))
    shapes["patchify_proj"] = (24, 3)
    with pytest.raises(FormatError, match="modules 'proj_in' and 'patchify_proj' share the name 'patchify_proj'"):
        foreign_names(shapes)


def test_a_foreign_name_may_not_be_the_own_name_of_another_module() -> None:
    shapes = shapes_of(tiny_network("flux.bfl"))
    shapes["img_in"] = (32, 4)
    with pytest.raises(FormatError, match="modules 'img_in' and 'x_embedder' share the name 'img_in'"):
        foreign_names(shapes)


def test_a_fused_name_needs_all_of_its_modules() -> None:
    shapes = shapes_of(tiny_network("flux.bfl"))
    del shapes["transformer_blocks.1.attn.to_k"]
    names = foreign_names(shapes)
    assert "double_blocks.1.img_attn.qkv" not in names
    assert "double_blocks.0.img_attn.qkv" in names


@pytest.mark.parametrize("how", HOW)
def test_modules_that_are_not_there_have_no_name(how: str) -> None:
    assert HOW[how](["a", "b"] if how != "halves_swapped" else "a", {"c": (4, 2)}) == ()


def test_the_files_of_the_spellings_are_all_registered() -> None:
    from lorica.models.spellings import rules

    files = {path.stem for path in (rules.FOLDER).glob("*.json")}
    assert files == set(SPELLINGS) - {"unet.ldm"}
    assert all(json.loads((rules.FOLDER / f"{file}.json").read_text())["marks"] for file in files)


def test_a_unet_that_is_built_otherwise_has_no_ldm_names() -> None:
    assert not spellings_of(FAMILIES["kandinsky22"].target.components["unet"])
    assert list(spellings_of(shapes_of(sd15()[0]))) == ["ldm"]


def test_the_parts_put_a_fused_weight_together() -> None:
    """The sentence in the docstring of ``target.py``."""
    network = tiny_network("flux.bfl")
    shapes = shapes_of(network)
    weight = {path: torch.randn(shape) for path, shape in shapes.items()}
    qkv = torch.cat([weight[f"transformer_blocks.0.attn.to_{x}"] for x in "qkv"])
    shift_scale = torch.cat(list(reversed(weight["norm_out.linear"].chunk(2))))
    for foreign, tensor in {
        "double_blocks.0.img_attn.qkv": qkv,
        "final_layer.adaLN_modulation.1": shift_scale,
    }.items():
        for part in foreign_names(shapes)[foreign]:
            own, rows = slice(*part.own_rows or (None,)), slice(*part.rows or (None,))
            assert torch.equal(weight[part.path][own], tensor[rows])
