"""Byte-level CLIP tokenizer in which every word of the bundled captions is one token and any text is possible."""

from __future__ import annotations

import json
from typing import Any, cast

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from lorica.demo.captions import vocabulary

LENGTH = 48  # tokens of a caption, the two marks included
START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
WORDS = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def make_tokenizer() -> CLIPTokenizer:
    """Tokenizer with byte-pair merges learnt from the words of the captions."""
    merges = _learn_merges(vocabulary())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + SUFFIX for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    table = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=table,
        merges=cast("Any", merges),
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=LENGTH,
    )


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges, in order, that make each word one token."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix=SUFFIX, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(words, trainer)
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]
