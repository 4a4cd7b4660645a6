"""The words that adapters bring along: textual-inversion embeddings in tokenizers and text encoders.

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
from lorica.runtime.bank.bank import CHILD

Words = Mapping[str, Mapping[str, Tensor]]  # word to component to vectors (n, width)


@dataclass(frozen=True, slots=True)
class Extended:
    """A text encoder's table and its tokenizer, with new words."""

    table: nn.Embedding
    tokenizer: Any


@dataclass(slots=True)
class Vocabulary:
    """The words that the adapters of one model have brought.

    Args:
        components: the model's parts by name.
        pipelines: returns the pipelines that share them: they hold the tokenizers.
    """

    components: Mapping[str, nn.Module]
    pipelines: Callable[[], list[Any]]
    words: dict[str, Words] = field(default_factory=dict[str, Words])  # by adapter
    _own: dict[str, Extended] = field(default_factory=dict[str, Extended])  # what each text encoder had at first

    def prepare(self, name: str, words: Words) -> dict[str, Extended]:
        """Return what each text encoder would have with an adapter's words added; nothing is touched yet.

        Raises:
            ModelError: if there is no such text encoder or tokenizer here, or a word is known already.
            ShapeError: if a vector has another width than the text encoder's embeddings.
        """
        return self._prepare({**self.words, name: words}) if words else {}

    def add(self, name: str, words: Words, prepared: Mapping[str, Extended]) -> None:
        """Enter an adapter's words, in the place of those that it had, and put in what was prepared for them."""
        if words:
            self.words[name] = words
            self._put(prepared)
        else:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Take an adapter's words out again."""
        if self.words.pop(name, None) is None:
            return
        self._leave_out()

    def restore(self, words: Mapping[str, Words]) -> None:
        """Let exactly these adapters' words be there, as they were before an operation that failed."""
        self.words = dict(words)
        if self._own:
            self._leave_out()

    def _leave_out(self) -> None:
        """Put in what the words that there are need, and the text encoders' own where none are left."""
        left = self._prepare(self.words)
        self._put({**{part: own for part, own in self._own.items() if part not in left}, **left})
        self._own = {part: own for part, own in self._own.items() if part in left}

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
        """Return what a text encoder has now."""
        name = _tokenizer_name(part)
        tokenizer = next((one for pipe in self.pipelines() if (one := getattr(pipe, name, None)) is not None), None)
        encoder: Any = self.components.get(part)
        if encoder is None or tokenizer is None:
            raise ModelError(
                f"the adapter brings words for {part}, but this model has no {part} with a {name}. Attach the whole "
                "pipeline, or load the adapter without its embeddings."
            )
        table = cast("nn.Embedding", encoder.get_input_embeddings())
        if table.weight.device.type == "meta" or CHILD in dict(table.named_children()):
            raise ModelError(
                f"the embeddings of {part} are away with an offload hook, or carry an adapter themselves, so no words "
                "can be added. Load this adapter first."
            )
        return Extended(table, tokenizer)

    def _put(self, prepared: Mapping[str, Extended]) -> None:
        for part, extended in prepared.items():
            if part not in self._own:
                self._own[part] = self._find(part)
            cast("Any", self.components[part]).set_input_embeddings(extended.table)
            for pipeline in self.pipelines():
                if getattr(pipeline, _tokenizer_name(part), None) is not None:
                    setattr(pipeline, _tokenizer_name(part), extended.tokenizer)


def _tokens(word: str, vectors: Tensor) -> dict[str, Tensor]:
    """Return the tokens of a word and the vector of each."""
    rows: Iterable[Tensor] = vectors if vectors.ndim == 2 else vectors.unsqueeze(0)
    return {word if index == 0 else f"{word}_{index}": row for index, row in enumerate(rows)}


@torch.no_grad()
def _longer(table: nn.Embedding, rows: Mapping[int, Tensor], part: str) -> nn.Embedding:
    """Return a table with these rows added, the others as they are."""
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
