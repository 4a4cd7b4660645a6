"""Textual inversion: words that adapters bring along, in tokenizers and text encoders.

A tokenizer cannot forget a word. So the pipeline gets a copy of its tokenizer that knows the new words, and the text
encoder a longer table of embeddings; when the last adapter with words is gone, both get their own objects back.
A word of ``n`` vectors is the tokens ``word``, ``word_1``, ..., as diffusers' pipelines expand it in a prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorica.errors import ModelError, ShapeError
from lorica.runtime.model.layers import BANK

Words = Mapping[str, Mapping[str, Tensor]]  # word to component to vectors (n, width)


@dataclass(frozen=True, slots=True)
class Extended:
    """A text encoder's table and its tokenizer, with new words."""

    table: nn.Embedding
    tokenizer: Any


@dataclass(slots=True)
class Vocabulary:
    """The words that the adapters of one model bring.

    Args:
        components: the model's parts by name.
        pipelines: the pipelines that share them: they hold the tokenizers.
        words: record of the words that are there, by adapter; None while they are being changed.
    """

    components: Mapping[str, nn.Module]
    pipelines: Callable[[], list[Any]]
    words: Mapping[str, Words] | None = field(default_factory=dict[str, Words])
    _own: dict[str, Extended] = field(default_factory=dict[str, Extended])  # what each text encoder had at first

    def prepare(self, words: Mapping[str, Words]) -> dict[str, Extended] | None:
        """What each text encoder would have with these words; None if they are just what there is.

        Raises:
            ModelError: if there is no such text encoder or tokenizer here, or a word is known already.
            ShapeError: if a vector has another width than the text encoder's embeddings.
        """
        known = self.words
        if known is not None and known.keys() == words.keys() and all(known[name] is words[name] for name in words):
            return None
        return self._prepare(words)

    def put(self, words: Mapping[str, Words], prepared: Mapping[str, Extended] | None) -> None:
        """Put in what was prepared for these words, and the text encoders' own where none are left."""
        if prepared is None:
            return
        self.words = None
        for part, extended in {**self._own, **prepared}.items():
            self._put(part, extended)
        self._own = {part: own for part, own in self._own.items() if part in prepared}
        self.words = words

    def _prepare(self, words: Mapping[str, Words]) -> dict[str, Extended]:
        by_part: dict[str, dict[str, Tensor]] = {}
        for brought in words.values():
            for word, parts in brought.items():
                for part, vectors in parts.items():
                    if word in by_part.setdefault(part, {}):
                        raise ModelError(f"two adapters bring the word {word!r}; remove the other one first.")
                    by_part[part][word] = vectors
        return {part: self._extended(part, vectors) for part, vectors in by_part.items()}

    def _extended(self, part: str, words: Mapping[str, Tensor]) -> Extended:
        own = self._own[part] if part in self._own else self._find(part)
        tokens = {token: row for word, vectors in words.items() for token, row in _tokens(word, vectors).items()}
        known = own.tokenizer.get_vocab()
        for token in tokens:
            if token in known:
                raise ModelError(f"the adapter brings the word {token!r}, which the tokenizer of {part} knows already.")
        tokenizer = copy.deepcopy(own.tokenizer)
        tokenizer.add_tokens(list(tokens))
        ids = {token: cast("int", tokenizer.convert_tokens_to_ids(token)) for token in tokens}
        return Extended(_longer(own.table, {ids[token]: row for token, row in tokens.items()}, part), tokenizer)

    def _find(self, part: str) -> Extended:
        """Table and tokenizer of a text encoder as they are now."""
        name = _tokenizer_name(part)
        tokenizer = next((one for pipe in self.pipelines() if (one := getattr(pipe, name, None)) is not None), None)
        encoder: Any = self.components.get(part)
        if encoder is None or tokenizer is None:
            raise ModelError(
                f"the adapter brings words for {part}, but this model has no {part} with a {name}. Attach the whole "
                "pipeline, or load the adapter without its embeddings."
            )
        table = cast("nn.Embedding", encoder.get_input_embeddings())
        if table.weight.device.type == "meta" or BANK in dict(table.named_children()):
            raise ModelError(
                f"the embeddings of {part} are away with an offload hook, or carry an adapter themselves, so no words "
                "can be added. Load this adapter first."
            )
        return Extended(table, tokenizer)

    def _put(self, part: str, extended: Extended) -> None:
        if part not in self._own:
            self._own[part] = self._find(part)
        cast("Any", self.components[part]).set_input_embeddings(extended.table)
        for pipeline in self.pipelines():
            if getattr(pipeline, _tokenizer_name(part), None) is not None:
                setattr(pipeline, _tokenizer_name(part), extended.tokenizer)


def _tokens(word: str, vectors: Tensor) -> dict[str, Tensor]:
    """The tokens of a word, and the vector of each."""
    rows: Iterable[Tensor] = vectors if vectors.ndim == 2 else vectors.unsqueeze(0)
    return {word if index == 0 else f"{word}_{index}": row for index, row in enumerate(rows)}


@torch.no_grad()
def _longer(table: nn.Embedding, rows: Mapping[int, Tensor], part: str) -> nn.Embedding:
    """A table with these rows added, the others as they are."""
    width = table.embedding_dim
    for row in rows.values():
        if row.shape != (width,):
            raise ShapeError(f"an embedding for {part} has {row.numel()} numbers, but its words have {width}.")
    count = max(table.num_embeddings, max(rows) + 1)
    weight = torch.zeros(count, width, dtype=table.weight.dtype, device=table.weight.device)
    weight[: table.num_embeddings] = table.weight
    for index, row in rows.items():
        weight[index] = row.to(weight)
    longer = nn.Embedding(count, width, table.padding_idx, _weight=weight)
    return longer.requires_grad_(table.weight.requires_grad).train(table.training)


def _tokenizer_name(part: str) -> str:
    return part.replace("text_encoder", "tokenizer")
