"""``lorica prepare``: the summary, the JSON, the files it writes, and the exit codes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lorica.cli.main import run
from lorica.data.items import find_items
from lorica.demo.base.tokenizer import make_tokenizer
from lorica.demo.captions import random_scene
from lorica.demo.drawing import draw


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of 64 pixels with captions in text files; the width of the terminal is known."""
    monkeypatch.setenv("COLUMNS", "120")
    place = tmp_path / "my [red]pictures"
    place.mkdir()
    for number in range(3):
        draw(random_scene(random.Random(10 + number))).save(place / f"p{number}.png")
        (place / f"p{number}.txt").write_text(f"picture {number}")
    return place


def facts(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, object]:
    assert run(["prepare", *arguments, "--json"]) == code
    [line] = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_a_good_folder_is_ready_and_gets_its_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", str(folder), "--resolution", "64"]) == 0
    shown = capsys.readouterr().out
    assert "3 pictures, 3 can be read, 3 have a caption (from text files)." in shown
    assert f"Ready: lorica train text-to-image --train_data_dir '{folder}'" in shown
    assert f"The page with the pictures: {folder / 'report.html'}" in shown
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_problems_are_a_table_with_names_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p1.txt").unlink()
    for number in range(4):
        (folder / f"[bold]{number}.png").write_text("no picture")
    assert run(["prepare", str(folder), "--no_report"]) == 1
    shown = capsys.readouterr().out
    assert "Pictures that cannot be read" in shown
    assert "[bold]0.png, [bold]1.png, [bold]2.png and 1 more" in shown
    assert "stops training" in shown
    assert "Not ready" in shown
    assert not (folder / "report.html").exists()


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p1.txt").unlink()
    found = facts(capsys, str(folder), "--resolution", "65", "--report", str(folder.parent / "page.html"), code=1)
    assert found["usable"] is True
    assert found["ready"] is False
    assert (found["pictures"], found["readable"], found["captioned"]) == (3, 3, 2)
    assert found["problems"] == {"caption_missing": 1, "tiny": 3}
    assert found["findings"][0] == {
        "problem": "caption_missing",
        "severity": "stops",
        "file": "p1.png",
        "detail": "there is no p1.txt",
        "others": [],
    }
    assert (found["report"], found["metadata"]) == (str(folder.parent / "page.html"), None)
    assert not (folder / "report.html").exists()


def test_the_limits_come_from_the_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(capsys, str(folder))["problems"] == {"tiny": 3}  # 512 is the default
    draw(random_scene(random.Random(10))).resize((90, 60)).save(folder / "wide.png")
    (folder / "wide.txt").write_text("wide")
    options = ("--resolution", "60", "--max-aspect-ratio", "1.4", "--duplicate-distance", "144")
    assert facts(capsys, str(folder), *options)["problems"] == {"extreme_aspect": 1, "near_duplicate": 1}


def test_a_base_model_counts_tokens_and_knows_its_resolution(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tokenizer().save_pretrained(tmp_path / "base" / "tokenizer")
    for name, values in (("unet", {"sample_size": 8}), ("vae", {"block_out_channels": [3, 4, 5, 6]})):
        (tmp_path / "base" / name).mkdir()
        (tmp_path / "base" / name / "config.json").write_text(json.dumps(values))
    (folder / "p0.txt").write_text("red " * 47)
    model = str(tmp_path / "base")
    found = facts(capsys, str(folder), "--pretrained_model_name_or_path", model)
    assert (found["resolution"], found["captions_counted_in"]) == (64, f"tokens of {model}")
    assert found["problems"] == {"caption_too_long": 1}
    assert (
        facts(capsys, str(folder), "--pretrained_model_name_or_path", model, "--resolution", "65")["resolution"] == 65
    )


def test_words_are_an_estimate_and_it_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p0.txt").write_text("red " * 61)
    run(["prepare", str(folder), "--no_report"])
    assert "Captions were measured in words" in capsys.readouterr().out


def test_metadata_is_written_from_the_text_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, str(folder), "--write_metadata", "--caption_column", "note")
    assert found["metadata"] == str(folder / "metadata.jsonl")
    for path in folder.glob("*.txt"):
        path.unlink()
    assert [item.caption for item in find_items(folder, caption_column="note")] == [f"picture {i}" for i in range(3)]


def test_metadata_is_not_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "metadata.jsonl").write_text("mine")
    assert run(["prepare", str(folder), "--write_metadata"]) == 2
    assert "metadata.jsonl already" in capsys.readouterr().err
    assert (folder / "metadata.jsonl").read_text() == "mine"
    assert not (folder / "report.html").exists()  # refused before any work
    assert run(["prepare", str(folder), "--write_metadata", "--overwrite"]) == 0
    assert (folder / "metadata.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("fault", ["missing", "latin"])
def test_metadata_is_not_written_with_gaps(fault: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p1.txt").unlink()
    if fault == "latin":
        (folder / "p1.txt").write_bytes(b"caf\xe9")
    assert run(["prepare", str(folder), "--write_metadata"]) == 2
    assert "metadata.jsonl was not written: 1 of 3 pictures have no caption" in capsys.readouterr().err
    assert not (folder / "metadata.jsonl").exists()


def test_another_page_is_not_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "report.html").write_text("mine")
    assert run(["prepare", str(folder)]) == 2
    assert "report.html already" in capsys.readouterr().err
    assert (folder / "report.html").read_text() == "mine"


def test_a_folder_of_nothing_readable_is_wrong_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.glob("*.png"):
        path.write_text("no picture")
    assert run(["prepare", str(folder)]) == 2
    assert "there is nothing to train on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-folder"], "there is no folder no-such-folder"),
        (["."], "there is no picture in ."),
        ([".", "--report", "a.html", "--no_report"], "--report and --no_report contradict"),
        ([".", "--write_metadata", "--instance_prompt", "a"], "leave --instance_prompt out"),
        ([".", "--resolution", "0"], "resolution must be at least 1, got 0"),
        ([".", "--max_aspect_ratio", "0.2"], "at least 1; got 0.2"),
        ([".", "--pretrained_model_name_or_path", "."], "has no folder tokenizer/"),
    ],
)
def test_wrong_input_is_one_paragraph(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["prepare", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_what_is_not_read_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.xyz").write_text("x")
    assert run(["prepare", str(folder), "--no_report"]) == 0
    assert "\n1 file is not read: 1 .xyz.\n" in capsys.readouterr().out


def test_captions_that_do_the_work_of_the_trigger_word_are_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3, 6):
        draw(random_scene(random.Random(10 + number))).save(folder / f"p{number}.png")
    for number in range(6):
        (folder / f"p{number}.txt").write_text(f"a photo of a sks vase, blue, the {number}th one")
    (folder / "p5.txt").write_text("sks plate, sks")
    found = facts(capsys, str(folder), "--resolution", "64", "--no_report", "--trigger_word", "sks")
    assert [(one["problem"], one["file"], one["detail"]) for one in found["findings"]] == [
        ("repeats_trigger", "captions", "blue (5 of 6), one (5 of 6), vase (5 of 6)"),
        ("repeats_trigger", "p5.png", "the caption says sks 2 times"),
    ]
