"""The Adapter value: immutable, compared bit for bit."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from lorica.adapters import Adapter, LoRA


def make_adapter() -> Adapter:
    return Adapter(
        {
            "unet": {
                "a.b": LoRA(torch.randn(2, 5), torch.randn(7, 2)),
                "a.c": LoRA(torch.randn(3, 5), torch.randn(4, 3), 1),
            },
            "text_encoder": {"q": LoRA(torch.randn(1, 6), torch.randn(6, 1))},
        },
        metadata={"made": "here"},
    )


def test_layers_come_with_component_and_path() -> None:
    places = [(component, path) for component, path, _ in make_adapter().layers()]
    assert places == [("unet", "a.b"), ("unet", "a.c"), ("text_encoder", "q")]
    assert len(make_adapter()) == 3


def test_components_without_layers_are_left_out() -> None:
    assert list(Adapter({"unet": {}, "prior": {"x": LoRA(torch.zeros(1, 2), torch.zeros(3, 1))}}).components) == [
        "prior"
    ]


def test_equality_looks_at_every_tensor_and_not_at_metadata() -> None:
    adapter = make_adapter()
    assert adapter == adapter.map(torch.clone).with_metadata({"other": "text"})
    assert adapter != adapter.map(torch.Tensor.double)
    assert adapter != Adapter({"unet": adapter.components["unet"]})


def test_embeddings_count_in_equality() -> None:
    vectors = torch.randn(2, 6)
    adapter = Adapter({}, embeddings={"<cat>": {"text_encoder": vectors}})
    assert adapter == Adapter({}, embeddings={"<cat>": {"text_encoder": vectors.clone()}})
    assert adapter != Adapter({}, embeddings={"<cat>": {"text_encoder": vectors + 1}})


def test_an_adapter_cannot_be_changed() -> None:
    adapter = make_adapter()
    with pytest.raises(TypeError):
        adapter.components["unet"]["a.b"] = adapter.components["unet"]["a.c"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        adapter.metadata = {}  # type: ignore[misc]
