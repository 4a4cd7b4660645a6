from __future__ import annotations

import pytest

from lorica.errors import FormatError
from lorica.formats.dialects.kohya import KOHYA
from lorica.formats.names import Location, flat_name, flat_names, name_table
from lorica.models import FAMILIES, Target


def test_every_dot_becomes_an_underscore() -> None:
    assert flat_name("down_blocks.0.attn1.to_out.0", "lora_unet") == "lora_unet_down_blocks_0_attn1_to_out_0"


def test_two_paths_with_one_flat_name_are_refused_naming_both() -> None:
    with pytest.raises(FormatError, match=r"'to\.out_0' and 'to_out\.0' share the flat name 'p_to_out_0'"):
        flat_names(["to.out_0", "to_out.0"], "p")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_module_of_every_family_has_its_own_flat_name(name: str) -> None:
    target = FAMILIES[name].target
    wholes = {(place.component, place.parts[0].path) for place in KOHYA.table(target).values() if place.is_whole}
    known = set(KOHYA.prefixes)
    assert wholes == {(component, path) for component, path, _ in target.modules() if component in known}


def test_a_text_encoder_is_found_in_both_spellings_whatever_the_live_one() -> None:
    bare = Target("bare", {"text_encoder": {"encoder.layers.0.mlp.fc1": (7, 5)}})
    wrapped = Target("wrapped", {"text_encoder": {"text_model.encoder.layers.0.mlp.fc1": (7, 5)}})
    for target in (bare, wrapped):
        ((_, path, _),) = target.modules()
        for prefix in ("lora_te", "lora_te1"):
            for spelling in ("text_model_encoder_layers_0_mlp_fc1", "encoder_layers_0_mlp_fc1"):
                assert name_table(target, KOHYA.prefixes, "_")[f"{prefix}_{spelling}"] == Location.of(
                    "text_encoder", path
                )
