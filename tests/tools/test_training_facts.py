"""What metadata says of a training: names, words, tags, settings; nonsense is noted and does no harm."""

from __future__ import annotations

import json

import pytest

from lorica.tools.training_facts import TAGS_KEPT, training_of

KOHYA = {
    "ss_output_name": "cereal",
    "ss_num_train_images": "240",
    "ss_steps": "1500",
    "ss_max_train_steps": "2000",
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "None",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)",
    "ss_seed": "0",
    "ss_training_started_at": "1700000000.5",
    "ss_tag_frequency": json.dumps({"10_ck cereal": {"ck box": 24, " bowl ": 7, "ck box ": 3}, "2_reg": {"bowl": 2}}),
    "ss_dataset_dirs": json.dumps({"10_ck cereal": {"n_repeats": 10, "img_count": 24}, "2_reg": {"img_count": 3}}),
}


def test_what_kohyas_scripts_write_is_understood() -> None:
    found = training_of(KOHYA)
    assert found.title == "cereal"
    assert found.settings == {
        "trained on": "2023-11-14",
        "pictures": "240",
        "steps": "1500",
        "optimizer": "AdamW8bit",
        "learning rate": "0.0001",
    }
    assert list(found.tags.items()) == [("ck box", 27), ("bowl", 9)]
    assert found.notes == ()


def test_a_tag_of_every_caption_is_a_trigger_word() -> None:
    assert training_of(KOHYA).trigger_words == ("ck box",)


def test_a_trigger_word_that_is_said_counts_more() -> None:
    said = {**KOHYA, "modelspec.trigger_phrase": "sks", "trigger_word": "sks"}
    assert training_of(said).trigger_words == ("sks",)


def test_without_captions_the_folders_words_are_the_trigger_words() -> None:
    folders = {"ss_dataset_dirs": json.dumps({"10_ck cereal": {"img_count": 4}, "5_plain": {}, "plain": {}})}
    assert training_of(folders).trigger_words == ("ck cereal", "plain")


def test_the_title_of_the_model_specification_comes_first() -> None:
    assert training_of({**KOHYA, "modelspec.title": "Cereal"}).title == "Cereal"


def test_only_so_many_tags_are_kept() -> None:
    many = {"ss_tag_frequency": json.dumps({"1_x": {f"tag {n}": n + 1 for n in range(TAGS_KEPT + 5)}})}
    found = training_of(many)
    assert len(found.tags) == TAGS_KEPT
    assert next(iter(found.tags)) == f"tag {TAGS_KEPT + 4}"


@pytest.mark.parametrize(
    ("text", "note"), [("{", "ss_tag_frequency is not JSON"), ("[1]", "ss_tag_frequency is a JSON list")]
)
def test_nonsense_is_noted(text: str, note: str) -> None:
    (said,) = training_of({"ss_tag_frequency": text}).notes
    assert said.startswith(note)


@pytest.mark.parametrize("value", ['{"a": 3}', '{"a": null}', '{"a": {"b": NaN, "c": "x", "d": 1e99}}', "{}", "null"])
def test_odd_values_do_no_harm(value: str) -> None:
    found = training_of({"ss_tag_frequency": value, "ss_dataset_dirs": value, "ss_learning_rate": "fast"})
    assert found.settings == {"learning rate": "fast"}
    assert all(count == 0 for count in found.tags.values())


def test_no_metadata_is_no_training() -> None:
    found = training_of({})
    assert (found.title, found.trigger_words, found.tags, found.settings) == (None, (), {}, {})
