"""Which program made a file."""

from __future__ import annotations

import pytest

from lorica.tools.claims import SIGNS, trainer_of

METADATA = [
    ({"lorica.version": "0.1.0", "lora_adapter_metadata": "{}"}, "lorica", "Lorica 0.1.0"),
    ({"software": '{"name": "ai-toolkit", "version": "0.12"}'}, "ai-toolkit", "ai-toolkit 0.12"),
    ({"software": "ai-toolkit"}, "ai-toolkit", "ai-toolkit"),
    ({"ot_revision": "x", "ss_base_model_version": "sdxl_"}, "onetrainer", "OneTrainer"),
    ({"ss_network_module": "lycoris.kohya"}, "lycoris", "LyCORIS in kohya's sd-scripts"),
    ({"ss_network_module": "networks.lora_flux"}, "sd-scripts", "kohya's sd-scripts"),
    ({"ss_output_name": "x"}, "sd-scripts", "kohya's sd-scripts or a descendant"),
    ({"lora_adapter_metadata": "{}"}, "diffusers", "diffusers"),
]
KEYS = [
    ("base_model.model.a.lora_A.weight", "peft"),
    ("lora_transformer_a.lora_down.weight", "onetrainer"),
    ("lycoris_a.lokr_w1", "lycoris"),
    ("double_blocks.0.processor.qkv_lora1.down.weight", "xlabs"),
    ("mid_block.attn1.processor.to_q_lora.up.weight", "diffusers"),
    ("unet:0:up", "cloneofsimo"),
]


@pytest.mark.parametrize(("metadata", "name", "title"), METADATA)
def test_metadata_gives_a_program_away(metadata: dict[str, str], name: str, title: str) -> None:
    claim = trainer_of(["lora_unet_a.alpha"], metadata, "kohya")
    assert (claim.name, claim.title) == (name, title)
    assert claim.evidence[0].startswith("metadata ")


@pytest.mark.parametrize(("key", "name"), KEYS)
def test_a_spelling_gives_a_program_away(key: str, name: str) -> None:
    claim = trainer_of(["other", key], {}, "diffusers")
    assert claim.name == name
    assert claim.evidence == (f"key {key}",)


def test_an_unknown_program_is_not_guessed() -> None:
    claim = trainer_of(["unet.a.lora_A.weight"], {"note": "x"}, "diffusers")
    assert claim.name is None
    assert "unknown" in claim.title


def test_every_sign_says_what_to_look_for() -> None:
    assert all((sign.entry is None) != (sign.spelling is None) for sign in SIGNS)
