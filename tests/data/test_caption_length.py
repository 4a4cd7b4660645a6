"""Captions are measured in words and marks, or in the tokens of a base model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.data.caption_length import by_tokens, by_words, count_words, resolution_of
from lorica.demo.base.tokenizer import make_tokenizer
from lorica.errors import FileError


@pytest.mark.parametrize(
    ("caption", "count"),
    [("", 0), ("a red heart", 3), ("a, b-c.", 6), ("  Füße \n gehen ", 2), ("黒猫 cat", 3), ("it's", 3), ("✨✨", 2)],
)
def test_words_and_marks_are_counted_in_every_script(caption: str, count: int) -> None:
    assert count_words(caption) == count


def test_the_measure_by_words_says_that_it_is_an_estimate() -> None:
    assert not by_words().exact
    assert by_words().count("a b") == 2


def test_tokens_of_a_model_folder_are_counted_with_its_own_limit(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    measure = by_tokens(str(tmp_path))
    assert (measure.most, measure.exact) == (48, True)
    assert measure.count("a red heart") == 5  # two marks
    assert measure.count("red " * 70) == 72  # counted beyond what the model reads
    assert str(tmp_path) in measure.unit


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no folder tokenizer/ that can be read .* to count words"):
        by_tokens(str(tmp_path))


def test_the_resolution_of_a_model_is_in_its_files(tmp_path: Path) -> None:
    for name, values in (("unet", {"sample_size": 12}), ("vae", {"block_out_channels": [3, 4, 5, 6]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    assert resolution_of(str(tmp_path)) == 96
    (tmp_path / "unet" / "config.json").write_text('{"sample_size": null}')
    assert resolution_of(str(tmp_path)) is None
    assert resolution_of("someone/on-the-hub") is None
