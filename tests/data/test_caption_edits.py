"""What becomes of captions: each edit by itself, their order, and the list of everything that can come out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lorica.data.caption_edits import CaptionEdits, Captions, edit, holds_word, variants
from lorica.errors import ConfigError, DataError
from lorica.training.rng import generator

TAGS = "ä, b c, d,e , f"
WAYS = 400


def draws(captions: Captions, edits: CaptionEdits, count: int = WAYS) -> list[str]:
    return [edit(captions, edits, generator(3, step, "caption")) for step in range(count)]


def one(captions: Captions, **settings: object) -> str:
    [text] = set(draws(captions, CaptionEdits(**settings), 20))
    return text


def share_of(texts: list[str], text: str) -> float:
    return texts.count(text) / len(texts)


def test_without_edits_a_caption_stays_as_written() -> None:
    assert one("a  {b|c} , d ||| é,,f") == "a  {b|c} , d ||| é,,f"


def test_the_same_sample_of_the_same_step_gets_the_same_text() -> None:
    edits = CaptionEdits(shuffle=True, dropout=0.2, tag_dropout=0.3, wildcards=True)
    torch.manual_seed(1)
    first = draws([TAGS, "{g|h}, i, j"], edits)
    torch.manual_seed(2)
    assert draws([TAGS, "{g|h}, i, j"], edits) == first
    assert len(set(first)) > 40


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draws([TAGS, "g"], CaptionEdits(shuffle=True, dropout=0.2, tag_dropout=0.3))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_of_several_captions_is_drawn_with_equal_chances() -> None:
    texts = draws(["a", "b", "c"], CaptionEdits())
    assert set(texts) == {"a", "b", "c"}
    assert share_of(texts, "a") == pytest.approx(1 / 3, abs=0.08)


def test_shuffling_gives_every_order_equally_often() -> None:
    texts = draws("a, b,c", CaptionEdits(shuffle=True), 1200)
    expected = {", ".join(order) for order in itertools.permutations("abc")}
    assert set(texts) == expected
    assert all(share_of(texts, text) == pytest.approx(1 / 6, abs=0.05) for text in expected)


def test_kept_tags_stay_at_the_front() -> None:
    texts = draws(TAGS, CaptionEdits(shuffle=True, keep_tags=2))
    assert all(text.startswith("ä, b c, ") for text in texts)
    assert {text.removeprefix("ä, b c, ") for text in texts} == {
        ", ".join(order) for order in itertools.permutations("def")
    }


def test_more_kept_tags_than_there_are_keep_all() -> None:
    assert one("a, b", shuffle=True, tag_dropout=0.9, keep_tags=7) == "a, b"


def test_the_mark_keeps_what_stands_before_it_and_behind_the_second() -> None:
    edits = CaptionEdits(shuffle=True, keep_separator="|||", keep_tags=3)
    assert set(draws("a, b ||| c, d", edits)) == {"a, b, c, d", "a, b, d, c"}
    assert set(draws("a|||c, d|||e, f", edits)) == {"a, c, d, e, f", "a, d, c, e, f"}
    assert set(draws("||| c, d ||| e ||| f", edits)) == {"c, d, e, f", "d, c, e, f"}


def test_a_caption_without_the_mark_falls_back_to_the_count() -> None:
    assert set(draws("a, b, c", CaptionEdits(shuffle=True, keep_separator="|||", keep_tags=1))) == {
        "a, b, c",
        "a, c, b",
    }


def test_the_mark_is_taken_out_even_if_nothing_moves() -> None:
    assert one("a, b ||| c", keep_separator="|||") == "a, b, c"


@pytest.mark.parametrize(
    ("separator", "caption", "expected"),
    [(";", "a,b; c", "a,b; c"), ("、", "赤、 青", "赤、青"), (" | ", "a | b", "a | b"), (" ", "a  b", "a b")],
)
def test_tags_are_joined_as_their_separator_is_written(separator: str, caption: str, expected: str) -> None:
    assert one(caption, separator=separator, keep_separator="@@") == expected


def test_whole_captions_are_dropped_as_often_as_asked_and_then_nothing_is_added() -> None:
    texts = draws("a", CaptionEdits(dropout=0.3, trigger="sks", prefix="p", suffix="s"))
    assert set(texts) == {"", "p sks, a s"}
    assert share_of(texts, "") == pytest.approx(0.3, abs=0.07)


def test_single_tags_are_dropped_as_often_as_asked_and_kept_ones_never() -> None:
    texts = draws("k, a, b", CaptionEdits(tag_dropout=0.25, keep_tags=1))
    assert {"k, a, b", "k, a", "k, b", "k"} == set(texts)
    assert sum("a" in text for text in texts) / WAYS == pytest.approx(0.75, abs=0.07)
    assert share_of(texts, "k") == pytest.approx(0.25**2, abs=0.04)


@pytest.mark.parametrize(("share", "expected"), [(0.0, "a, b"), (1.0, "")])
def test_shares_of_nothing_and_of_all_are_exact(share: float, expected: str) -> None:
    assert one("a, b", tag_dropout=share) == expected
    assert one("a, b", dropout=share) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog", "sks, a dog"),
        ("SKS dog", "SKS dog"),
        ("a (sks)", "a (sks)"),
        ("he asks", "sks, he asks"),
        ("sks1", "sks, sks1"),
        ("", "sks"),
    ],
)
def test_the_trigger_is_added_where_it_is_missing(caption: str, expected: str) -> None:
    assert one(caption, trigger=" sks ") == expected


@pytest.mark.parametrize("side", ["prefix", "suffix"])
def test_a_trigger_in_the_prefix_or_suffix_is_not_said_twice(side: str) -> None:
    assert one("x", trigger="sks", **{side: "a sks"}) in ("a sks x", "x a sks")


def test_the_trigger_is_there_even_if_its_tag_was_dropped() -> None:
    assert one("sks, a", trigger="sks", tag_dropout=1.0) == "sks"


def test_words_are_found_in_every_script() -> None:
    assert holds_word("eine gru\u0308ne Wiese", "grüne")  # u and its dots apart, and as one character
    assert holds_word("黒猫がいる", "猫")
    assert not holds_word("grünes", "grüne")
    assert holds_word("wow<sks>it", "<sks>")
    assert not holds_word("c", "c++")


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("a photo of ", " on grey", "a photo of x on grey"),
        ("", ", best", "x, best"),
        ("", "。", "x。"),
        ("p", "", "p x"),
    ],
)
def test_prefix_and_suffix_stand_around(prefix: str, suffix: str, expected: str) -> None:
    assert one("x", prefix=prefix, suffix=suffix) == expected


def test_an_empty_caption_gets_prefix_and_suffix_without_stray_spaces() -> None:
    assert one("", prefix="p", suffix="s") == "p s"


def test_prefix_and_suffix_are_not_shuffled() -> None:
    texts = set(draws("a, b", CaptionEdits(shuffle=True, trigger="t", prefix="p,", suffix=", s")))
    assert texts == {"p, t, a, b, s", "p, t, b, a, s"}


def test_wildcards_are_drawn_each_for_itself() -> None:
    texts = draws("a {rote|blaue|} Kugel{!}{,|.}", CaptionEdits(wildcards=True))
    assert set(texts) == {f"a {colour} Kugel!{end}" for colour in ("rote", "blaue", "") for end in ",."}


def test_wildcards_come_before_tags_are_cut() -> None:
    texts = set(draws("{a, b|c}, d", CaptionEdits(wildcards=True, shuffle=True)))
    abd = {", ".join(order) for order in itertools.permutations("abd")}
    assert texts == abd | {"c, d", "d, c"}


@pytest.mark.parametrize("caption", ["a {b|c", "a b}", "{a|{b|c}}", "{a}}", "{", "}{"])
def test_a_wildcard_that_is_not_closed_names_the_picture(caption: str) -> None:
    edits = CaptionEdits(wildcards=True)
    for ask in (lambda: edit(caption, edits, generator(1, 2, "x"), where="cats/ä.png"),
                lambda: variants(["fine"] * 99 + [caption], edits, where="cats/ä.png", limit=1)):  # fmt: skip
        with pytest.raises(DataError, match=r"cats/ä\.png: every wildcard needs one \{ and one \}.*got '"):
            ask()


def test_no_caption_to_choose_from_is_told() -> None:
    with pytest.raises(DataError, match=r"cats/b\.png: there is no caption to choose from"):
        edit([], CaptionEdits(), generator(1, 2, "x"), where="cats/b.png")
    with pytest.raises(DataError, match="no caption"):
        variants((), CaptionEdits())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.5}, "dropout is the share .* got 1.5"),
        ({"tag_dropout": -0.1}, "tag_dropout is the share .* got -0.1"),
        ({"dropout": math.nan}, "got nan"),
        ({"keep_tags": -2}, "keep_tags counts .* got -2"),
        ({"separator": ""}, "separator is empty"),
        ({"keep_separator": ""}, "keep_separator must be a mark .* got ''"),
        ({"keep_separator": ","}, "keep_separator must be a mark .* got ','"),
        ({"separator": " || ", "keep_separator": "||"}, "keep_separator must be a mark"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CaptionEdits(**settings)


@pytest.mark.parametrize(
    ("captions", "settings"),
    [
        ("a", {}),
        (["a", "b", "a"], {"prefix": "p"}),
        ("a, b, c", {"shuffle": True}),
        ("a, b, c", {"tag_dropout": 0.5, "dropout": 0.2}),
        ("a, b, c, d", {"tag_dropout": 0.5, "shuffle": True, "keep_tags": 1, "trigger": "t"}),
        ("{a|b}, {c|d|e}, f", {"wildcards": True, "suffix": "s"}),
        ("a ||| b, c ||| d", {"shuffle": True, "keep_separator": "|||"}),
        ("a, b", {"dropout": 1.0}),
        ("a, b, c", {"tag_dropout": 1.0, "keep_tags": 1}),
    ],
)
def test_the_list_of_variants_is_what_is_drawn(captions: Captions, settings: dict[str, object]) -> None:
    edits = CaptionEdits(**settings)
    listed = variants(captions, edits)
    assert listed is not None
    assert set(listed) == set(draws(captions, edits))
    assert len(set(listed)) == len(listed)


def test_more_ways_than_the_limit_are_not_listed() -> None:
    edits = CaptionEdits(shuffle=True)
    assert variants("a, b, c", edits, limit=5) is None
    assert len(variants("a, b, c", edits, limit=6) or ()) == 6
    assert variants(", ".join("abcdefghijklmnopqrst"), edits) is None  # 20! orders: none of them is counted
    assert variants("{0|1}" * 40, CaptionEdits(wildcards=True)) is None
    assert variants(", ".join("abcdefgh"), edits) is None


def test_captions_that_say_the_same_are_one_variant() -> None:
    assert variants(["a"] * 99, CaptionEdits()) == ("a",)
    assert variants("a, a", CaptionEdits(shuffle=True)) == ("a, a",)
