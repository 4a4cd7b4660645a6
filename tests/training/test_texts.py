"""Captions as they are drawn at a step: what the model is told is what the settings say, cached or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import lorica.training.dataset.texts as texts
from lorica.data.batches import members
from lorica.data.caption_edits import CaptionEdits, edit
from lorica.data.items import find_items
from lorica.errors import ConfigError, DataError
from lorica.rng import generator
from lorica.training.config.config import RunConfig
from lorica.training.progress import Reporter
from lorica.training.run import open_session, train
from lorica.training.setup import make_accelerator
from tiny_training import assert_resumes

Settings = Callable[..., RunConfig]
TAGS = "{wide|tall} red, small, round, on white, simple"

CASES: dict[str, tuple[dict[str, Any], CaptionEdits, bool]] = {
    "nothing": ({}, CaptionEdits(), False),
    "dropped": ({"caption_dropout_rate": 1}, CaptionEdits(dropout=1), False),
    "wildcards": (
        {"enable_wildcard": True, "trigger_word": "zorblin", "caption_prefix": "a", "caption_suffix": ", big"},
        CaptionEdits(wildcards=True, trigger="zorblin", prefix="a", suffix=", big"),
        False,
    ),
    "shuffled": (
        {"shuffle_caption": True, "keep_tokens": 1, "tag_dropout": 0.3, "caption_dropout": 0.1},
        CaptionEdits(shuffle=True, keep_tags=1, tag_dropout=0.3, dropout=0.1),
        True,
    ),
    "separated": (
        {"shuffle_tags": True, "keep_tokens_separator": "on", "caption_separator": " "},
        CaptionEdits(shuffle=True, keep_separator="on", separator=" "),
        False,
    ),
}


@pytest.fixture
def tagged(pictures: Path) -> Path:
    """Give every picture six tags, the first its own."""
    for path in pictures.glob("*.txt"):
        path.write_text(f"{path.stem}, {TAGS}", encoding="utf-8")
    return pictures


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_told_the_text_that_is_drawn(
    settings: Settings, tagged: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, edits, is_open = CASES[name]
    config = settings(**changes)
    config.output_dir.mkdir()
    session = open_session(config, make_accelerator(config), Reporter(quiet=True))
    loop, told = session.loop, []
    predict = loop.recipe.predict
    monkeypatch.setattr(loop.recipe, "predict", lambda *inputs: told.append(inputs[2]["states"]) or predict(*inputs))
    next(loop.run(4, lambda: False))
    session.close()
    row = members(4, 2, 5, partial(generator, 0))
    drawn = [
        edit(loop.dataset.examples[index].item.captions, edits, generator(0, 4, f"caption/{place}"))
        for place, index in enumerate(row)
    ]
    assert torch.equal(told[0], torch.stack([loop.recipe.encode_text(text)["states"] for text in drawn]))
    assert loop.dataset.texts.is_open == is_open
    assert is_open or all(text in loop.dataset.texts.encoded for text in drawn)


def test_texts_beyond_the_limit_are_encoded_at_their_step(
    settings: Settings, tagged: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"enable_wildcards": True, "caption_dropout": 0.3, "max_train_steps": 3}
    cached = train(settings(**options), quiet=True)
    monkeypatch.setattr(texts, "MOST_TEXTS", 3)
    uncached = train(settings(**options, output_dir=tmp_path / "uncached" / "out"), quiet=True)
    assert uncached.adapter == cached.adapter


def test_a_run_with_open_captions_resumes_bit_for_bit(settings: Settings, tagged: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "shuffle_tags": True,
        "tag_dropout": 0.2,
        "caption_dropout": 0.2,
        "trigger_word": "zorblin",
        "enable_wildcards": True,
    }
    assert_resumes(settings, tmp_path, **options)


def test_a_picture_may_have_several_captions(pictures: Path) -> None:
    red = pictures / "red.txt"
    red.write_text("one  red\n\n two red\n", encoding="utf-8")
    lines = {item.path.stem: item.captions for item in find_items(pictures, one_a_line=True)}
    assert lines["red"] == ("one red", "two red")
    assert {item.path.stem: item.captions for item in find_items(pictures)}["red"] == ("one red two red",)
    rows = [{"file_name": path.name, "text": ["x", "y", "z"]} for path in sorted(pictures.glob("*.png"))]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [item.captions for item in find_items(pictures)] == [("x", "y", "z")] * 5
    (pictures / "metadata.jsonl").write_text(json.dumps({"file_name": "red.png", "text": ["x", 3]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"'text' must be a text or a list of texts, got \['x', 3\]"):
        find_items(pictures)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_tokens": 2}, "add shuffle_tags or tag_dropout"),
        ({"keep_tokens_separator": ","}, "a mark that caption_separator does not hold"),
        ({"caption_dropout": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_agree_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_values(values)
