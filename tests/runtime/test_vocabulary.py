"""Words that an adapter brings: in the tokenizer and the text encoder while it is loaded, and gone after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

import lorica
from lorica.adapters import Adapter
from lorica.errors import ModelError, ShapeError
from sample_layers import make_lora
from tiny_pipelines import sd_pipeline


@pytest.fixture
def pipe(bundled: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(bundled)


def encoded(pipe: Any, prompt: str) -> Any:
    with torch.no_grad():
        return pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]


def adapter(pipe: Any, **words: int) -> Adapter:
    """An adapter with words of so many vectors, and one layer."""
    torch.manual_seed(3)
    width = pipe.text_encoder.config.hidden_size
    layer = {"conv_in": make_lora(pipe.unet.conv_in)}
    return Adapter({"unet": layer}, embeddings={w: {"text_encoder": torch.randn(n, width)} for w, n in words.items()})


def test_words_come_with_load_and_go_with_remove(pipe: Any) -> None:
    tokenizer, table = pipe.tokenizer, pipe.text_encoder.get_input_embeddings()
    before = {name: tensor.clone() for name, tensor in pipe.text_encoder.state_dict().items()}
    plain, unknown = encoded(pipe, "a red heart"), encoded(pipe, "a <glim>")
    loras = lorica.attach(pipe)
    one, two = adapter(pipe, **{"<glim>": 3}), adapter(pipe, **{"<zorp>": 1})
    loras.load(one, name="one")
    vectors = one.embeddings["<glim>"]["text_encoder"]
    ids = pipe.tokenizer("<glim> <glim>_1 <glim>_2", add_special_tokens=False).input_ids
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], vectors)
    assert torch.equal(encoded(pipe, "a red heart"), plain)  # other words are what they were
    assert not torch.equal(encoded(pipe, "a <glim>"), unknown)
    loras.load(two, name="two")
    both = encoded(pipe, "a <glim> <zorp>")
    loras.remove("one")
    assert not torch.equal(encoded(pipe, "a <glim> <zorp>"), both)
    assert "<zorp>" in pipe.tokenizer.get_vocab()
    loras.detach()
    assert pipe.tokenizer is tokenizer
    assert pipe.text_encoder.get_input_embeddings() is table
    after = pipe.text_encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(encoded(pipe, "a <glim>"), unknown)


def test_words_go_with_the_adapter_that_is_replaced(pipe: Any) -> None:
    tokenizer, table = pipe.tokenizer, pipe.text_encoder.get_input_embeddings()
    loras = lorica.attach(pipe)
    loras.load(adapter(pipe, **{"<glim>": 2}), name="one")
    loras.load(adapter(pipe, **{"<zorp>": 1}), name="one", replace=True)
    assert {"<glim>", "<zorp>"} & pipe.tokenizer.get_vocab().keys() == {"<zorp>"}
    loras.load(adapter(pipe), name="one", replace=True)
    assert pipe.tokenizer is tokenizer
    assert pipe.text_encoder.get_input_embeddings() is table


def test_an_adapter_may_bring_words_alone(pipe: Any) -> None:
    words = Adapter({}, embeddings=adapter(pipe, **{"<glim>": 1}).embeddings)
    loras = lorica.attach(pipe)
    loras.load(words, name="words")
    assert "<glim>" in pipe.tokenizer.get_vocab()
    loras.set({"words": 0.5})
    assert "words" in str(loras.summary())
    loras.remove("words")
    assert "<glim>" not in pipe.tokenizer.get_vocab()


def test_words_that_cannot_be_added_are_refused_and_nothing_changes(pipe: Any) -> None:
    loras = lorica.attach(pipe)
    width = pipe.text_encoder.config.hidden_size
    tokenizer, layer = pipe.tokenizer, {"conv_in": make_lora(pipe.unet.conv_in)}
    known = next(iter(tokenizer.get_vocab()))
    for words, error, message in [
        ({known: {"text_encoder": torch.randn(1, width)}}, ModelError, "knows already"),
        ({"<glim>": {"text_encoder": torch.randn(1, width + 1)}}, ShapeError, f"its words have {width}"),
        ({"<glim>": {"text_encoder_2": torch.randn(1, width)}}, ModelError, "no text_encoder_2 with a tokenizer_2"),
    ]:
        with pytest.raises(error, match=message):
            loras.load(Adapter({"unet": layer}, embeddings=words), name="a")
        assert (loras.names, pipe.tokenizer) == ([], tokenizer)
    loras.load(adapter(pipe, **{"<glim>": 1}), name="a")
    with pytest.raises(ModelError, match="two adapters bring the word '<glim>'"):
        loras.load(adapter(pipe, **{"<glim>": 2}), name="b")
    assert loras.names == ["a"]


def test_a_pipeline_without_a_tokenizer_takes_no_words() -> None:
    pipe = sd_pipeline()
    words = Adapter({}, embeddings={"<glim>": {"text_encoder": torch.randn(1, 24)}})
    with pytest.raises(ModelError, match="Attach the whole pipeline"):
        lorica.attach(pipe).load(words, name="a")
