from __future__ import annotations

from lorica.formats.keys_to_modules import Keys

KEYS = Keys.of(["a.0.lora1.up", "a.11.lora1.up", "b2.#.down"])


def test_keys_that_differ_in_digits_alone_are_one_kind() -> None:
    same = Keys.of(["a.0.up", "a.7.up", "a.10.up", "a.7.up2"])
    assert same.kinds == "\na.#.up\na.##.up\na.#.up#\n"


def test_a_mark_with_digits_counts_only_with_its_own() -> None:
    assert KEYS.hold(".lora1.")
    assert not KEYS.hold(".lora2.")
    assert KEYS.start("a.11.")
    assert not KEYS.start("a.12.")
    assert not KEYS.start("b3.")
    assert KEYS.end(".up")
    assert not KEYS.end("up1")


def test_a_key_is_held_as_a_whole() -> None:
    assert KEYS.hold_key("x", "a.0.lora1.up")
    assert not KEYS.hold_key("a.1.lora1.up", "0.lora1.up", "a.0.lora1")


def test_all_start_with_one_of_several() -> None:
    assert KEYS.all_start("a.", "b")
    assert not KEYS.all_start("a.")
