"""One look at a folder finds everything that is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.caption_length import CaptionMeasure
from lorica.data.findings import PROBLEMS, SEVERITIES, Finding, by_problem
from lorica.data.items import find_items
from lorica.data.prepare import Limits, Survey, examine_folder
from lorica.demo.captions import random_scene
from lorica.demo.drawing import draw
from lorica.errors import ConfigError, DataError

LIMITS = Limits(resolution=60)


def drawing(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return draw(random_scene(random.Random(seed))).resize(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures with captions: nothing is wrong."""
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("a.png", "b.png", "sub/c.png"), 10):
        drawing(number).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"picture {number}")
    return tmp_path


def told(survey: Survey) -> list[tuple[str, str]]:
    return [(finding.problem, finding.name) for finding in survey.findings]


def test_a_folder_without_faults_is_ready(folder: Path) -> None:
    survey = examine_folder(folder, LIMITS)
    assert told(survey) == []
    assert (survey.usable, survey.ready, survey.found) == (True, True, 3)
    assert [(picture.name, picture.size, picture.captions) for picture in survey.pictures] == [
        ("a.png", (64, 64), ("picture 10",)),
        ("b.png", (64, 64), ("picture 11",)),
        ("sub/c.png", (64, 64), ("picture 12",)),
    ]


def test_a_folder_that_is_ready_is_one_that_training_reads(folder: Path) -> None:
    assert examine_folder(folder, LIMITS).ready
    assert len(find_items(folder)) == 3
    (folder / "b.txt").unlink()
    assert not examine_folder(folder, LIMITS).ready
    with pytest.raises(DataError):
        find_items(folder)


def test_pictures_that_cannot_be_read_are_found_and_the_rest_goes_on(folder: Path) -> None:
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])
    (folder / "b.png").write_text("no picture")
    survey = examine_folder(folder, LIMITS)
    assert told(survey) == [("unreadable", "a.png"), ("unreadable", "b.png")]
    assert survey.findings[0].detail.startswith("is broken or cut short")
    assert survey.usable
    assert not survey.ready


def test_a_folder_of_nothing_readable_is_not_usable(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_text("")
    assert not examine_folder(folder, LIMITS).usable


def test_a_folder_of_the_name_of_a_picture_is_a_folder(folder: Path) -> None:
    (folder / "d.png").mkdir()
    assert told(examine_folder(folder, LIMITS, caption="all")) == []


def test_copies_are_told_once_and_not_as_lookalikes_too(folder: Path) -> None:
    for name in ("x.png", "y.png"):
        (folder / name).write_bytes((folder / "b.png").read_bytes())
    drawing(11, (90, 90)).save(folder / "z.jpg", quality=60)
    exact, near = examine_folder(folder, LIMITS, caption="all").findings
    assert exact == Finding("exact_duplicate", "b.png", "3 files of the same bytes", ("x.png", "y.png"))
    assert near == Finding("near_duplicate", "b.png", "2 pictures that look alike", ("z.jpg",))


def test_the_distance_of_lookalikes_can_be_set(folder: Path) -> None:
    drawing(11, (90, 90)).save(folder / "z.jpg", quality=60)
    strict = examine_folder(folder, Limits(resolution=60, edges=0), caption="all")
    loose = examine_folder(folder, Limits(resolution=60, edges=20), caption="all")
    assert (len(strict.findings), len(loose.findings)) == (0, 1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((60, 90), []), ((59, 90), ["tiny"]), ((90, 59), ["tiny"]), ((180, 60), []), ((60, 181), ["extreme_aspect"]),
     ((40, 130), ["tiny", "extreme_aspect"])],
)  # fmt: skip
def test_small_and_long_pictures_are_found(size: tuple[int, int], expected: list[str], folder: Path) -> None:
    drawing(30, size).save(folder / "d.png")
    survey = examine_folder(folder, LIMITS, caption="all")
    assert told(survey) == [(problem, "d.png") for problem in expected]
    assert all(f"{size[0]} x {size[1]}" in finding.detail for finding in survey.findings)
    assert survey.ready  # harm, but no stop


def test_the_size_is_that_of_the_upright_picture(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    drawing(30, (64, 80)).save(folder / "d.jpg", exif=exif)
    survey = examine_folder(folder, LIMITS, caption="all")
    assert {picture.name: picture.size for picture in survey.pictures}["d.jpg"] == (80, 64)


def test_captions_missing_empty_and_too_long_are_found(folder: Path) -> None:
    (folder / "a.txt").unlink()
    (folder / "b.txt").write_text(" \n")
    (folder / "sub" / "c.txt").write_text("w " * 5)
    limits = Limits(resolution=60, measure=CaptionMeasure("w", 4, lambda caption: caption.count("w")))
    survey = examine_folder(folder, limits)
    assert told(survey) == [("caption_missing", "a.png"), ("caption_empty", "b.png"), ("caption_too_long", "sub/c.png")]
    assert survey.findings[2].detail == "5 w, at most 4"
    (folder / "sub" / "c.txt").write_text("w " * 4)
    assert len(examine_folder(folder, limits).findings) == 2


def test_the_longest_and_the_emptiest_of_several_captions_count(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": ["a", ""]}\n{"file_name": "b.png", "text": ["w w", "b"]}\n'
        '{"file_name": "sub/c.png", "text": "c"}\n'
    )
    limits = Limits(resolution=60, measure=CaptionMeasure("w", 1, lambda caption: caption.count("w")))
    assert told(examine_folder(folder, limits)) == [("caption_empty", "a.png"), ("caption_too_long", "b.png")]


def test_metadata_comes_before_text_files_unless_told_otherwise(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from metadata"}\n')
    survey = examine_folder(folder, LIMITS)
    assert survey.captions == {folder / "a.png": ("from metadata",)}
    assert survey.captions_from == "metadata.jsonl"
    assert told(survey) == [("caption_missing", "b.png"), ("caption_missing", "sub/c.png")]
    texts = examine_folder(folder, LIMITS, only_text_files=True)
    assert (len(texts.captions), texts.captions_from, told(texts)) == (3, "text files", [])


def test_a_picture_of_any_name_in_metadata_is_looked_at(folder: Path) -> None:
    (folder / "odd.data").write_text("no picture")
    (folder / "metadata.jsonl").write_text('{"file_name": "odd.data", "text": "odd"}\n')
    survey = examine_folder(folder, LIMITS)
    assert ("unreadable", "odd.data") in told(survey)
    assert survey.found == 4


def test_one_caption_for_all_needs_no_files(folder: Path) -> None:
    (folder / "a.txt").unlink()
    (folder / "lonely.txt").write_text("x")
    survey = examine_folder(folder, LIMITS, caption="a cat")
    assert told(survey) == []
    assert set(survey.captions.values()) == {("a cat",)}


def test_a_text_file_without_a_picture_is_a_note(folder: Path) -> None:
    (folder / "lonely.txt").write_text("x")
    survey = examine_folder(folder, LIMITS)
    assert told(survey) == [("caption_without_picture", "lonely.txt")]
    assert survey.ready


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 0}, "resolution must be at least 1, got 0"),
        ({"edges": -1}, "edges must be at least 0, got -1"),
        ({"aspect": 0.5}, "at least 1; got 0.5"),
        ({"aspect": float("nan")}, "got nan"),
    ],
)
def test_a_limit_that_nothing_can_meet_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**settings)


def test_no_folder_and_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        examine_folder(tmp_path / "no", LIMITS)
    with pytest.raises(DataError, match="there is no picture in"):
        examine_folder(tmp_path, LIMITS)


def test_progress_counts_every_picture_once(folder: Path) -> None:
    (folder / "a.png").write_text("broken")
    totals, steps = [], []

    def progress(title: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        totals.append((title, total))
        return nullcontext(lambda: steps.append(title))

    examine_folder(folder, LIMITS, progress=progress)
    assert totals == [("reading pictures", 3), ("comparing pictures", 1)]
    assert steps == ["reading pictures"] * 3 + ["comparing pictures"]


def test_findings_are_sorted_by_how_bad_they_are() -> None:
    severities = list(SEVERITIES)
    ranks = [severities.index(problem.severity) for problem in PROBLEMS.values()]
    assert ranks == sorted(ranks)
    grouped = by_problem([Finding("tiny", "a", ""), Finding("unreadable", "b", ""), Finding("tiny", "c", "")])
    assert [(problem.name, len(group)) for problem, group in grouped.items()] == [("unreadable", 1), ("tiny", 2)]
