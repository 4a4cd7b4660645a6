from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorica.formats.names import name_table
from lorica.models.clip import spellings, with_wrapper
from lorica.runtime.model.targets import target_of_components

CLASSES = [CLIPTextModel, CLIPTextModelWithProjection]


def tiny(kind: type[nn.Module], *, wrapped: bool) -> nn.Module:
    """The text encoder with its paths as one version of transformers or the other has them."""
    config = CLIPTextConfig(
        vocab_size=37, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=7, bos_token_id=35, eos_token_id=36, pad_token_id=36, projection_dim=20,
    )  # fmt: skip
    with torch.device("meta"):
        model = kind(config)
    inner = model.text_model if hasattr(model, "text_model") else model
    if not wrapped:
        bare = nn.Module()
        for name, child in inner.named_children():
            bare.add_module(name, child)
        return bare
    outer = nn.Module()
    outer.add_module("text_model", inner)
    return outer


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize("file_wraps", [False, True], ids=["file-bare", "file-wrapped"])
def test_every_module_is_found_in_both_spellings(kind: type[nn.Module], wrapped: bool, file_wraps: bool) -> None:
    target = target_of_components({"text_encoder": tiny(kind, wrapped=wrapped)})
    table = name_table(target, {"text_encoder": ("lora_te",)}, "_")
    paths = list(target.components["text_encoder"])
    assert len(paths) >= 14  # two embeddings, and six layers in each of two blocks
    for path in paths:
        full = with_wrapper(path)
        spelled = full if file_wraps else full.removeprefix("text_model.")
        assert table[f"lora_te_{spelled}".replace(".", "_")].paths() == [path]
        assert spelled in spellings(path)
