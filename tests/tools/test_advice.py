"""What a file is, in words: what matters to somebody who makes pictures, and a command that can be copied."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import torch

import lorica
from lorica.adapters import KINDS, Adapter, LoRA
from lorica.cli.main import program
from lorica.formats import FORMATS
from lorica.models import FAMILIES
from lorica.tools.advice import METHODS, command, describe, size
from lorica.tools.facts import Facts, Training


@pytest.fixture
def facts() -> Facts:
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    adapter = Adapter({"unet": {path: LoRA(torch.randn(2, 768), torch.randn(320, 2))}})
    tensors, _ = FORMATS["diffusers"].compose(adapter, None)
    found = lorica.inspect(tensors)
    training = Training(
        trigger_words=("sks dog", "red"),
        tags={"sks dog": 9, "grass": 8, "ball": 1},
        settings={"pictures": "24", "steps": "1500", "description": "A dog.", "usage hint": "Use 0.7."},
    )
    return replace(found, source="my dogs/sks.safetensors", size=218_400_000, training=training)


def test_the_first_paragraph_says_what_it_is(facts: Facts) -> None:
    first = describe(facts)[0]
    assert first == (
        "sks.safetensors is a LoRA for Stable Diffusion 1.x, 218 MB. It is in diffusers format, "
        "from 24 pictures in 1,500 steps."
    )


def test_the_second_says_what_it_is_for(facts: Facts) -> None:
    second = describe(facts)[1]
    assert second == (
        "Its author says: A dog. It changes the network that draws (1 module in unet). "
        "Its pictures were captioned, most often: grass, ball."
    )


def test_the_third_says_how_to_use_it(facts: Facts) -> None:
    third = describe(facts)[2]
    assert third.startswith("Put “sks dog” and “red” into the prompt. Its author says: Use 0.7. Begin with strength 1")


def test_without_trigger_words_none_are_made_up(facts: Facts) -> None:
    third = describe(replace(facts, training=Training()))[2]
    assert third.startswith("The file names no trigger words")


def test_the_command_is_one_that_lorica_understands(facts: Facts) -> None:
    verb, *arguments = shlex.split(command(facts))[1:]
    with program.make_context("lorica", [verb, *arguments]) as context:
        generate = program.get_command(context, verb)
    parsed = generate.make_context(verb, list(arguments)).params
    assert parsed["base"] == FAMILIES["sd1"].published.repository
    assert parsed["loras"] == ("my dogs/sks.safetensors",)
    assert parsed["prompts"] == ("sks dog, ...",)


def test_a_file_with_a_problem_gets_no_advice(facts: Facts) -> None:
    assert len(describe(replace(facts, problem="it is broken"))) == 2


def test_no_command_is_told_for_a_control_net_that_no_pipeline_has(facts: Facts) -> None:
    (part,) = facts.components
    facts = replace(facts, components=(replace(part, name="controlnet"),))
    assert command(facts) == ""
    assert describe(facts)[-1].startswith("It can be looked into, not run")


def test_new_words_are_told(facts: Facts) -> None:
    words = replace(facts, embeddings={"<cat>": {"text_encoder": (2, 768)}}, training=Training())
    assert "It brings 1 new word: <cat>." in describe(words)[1]
    assert "“<cat>”" in describe(words)[2]
    only = replace(words, components=(), methods={})
    assert "is a file of embeddings for" in describe(only)[0]


def test_every_family_and_every_method_has_its_words() -> None:
    assert all(family.published.repository for family in FAMILIES.values())
    assert METHODS.keys() <= KINDS.keys()
    assert {"LoRA", "DoRA", "LoHa", "LoKr", "GLoRA", "IA3", "OFT", "OFTv2", "BOFT", "VeRA"} <= {
        kind.__name__ for name, kind in KINDS.items() if name not in METHODS
    }


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (218_400_000, "218 MB"), (5e9, "5 GB")]
)
def test_sizes_have_units(count: int, text: str) -> None:
    assert size(count) == text
