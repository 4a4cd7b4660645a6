"""Which pictures of a folder are trained on, and what is said of the rest."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.decoding import suffixes
from lorica.data.items import find_items
from lorica.data.picture_files import find_masks, find_pictures, list_folder
from lorica.errors import DataError


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.new("RGB", (3, 5)).save(path)
        else:
            path.write_bytes(b"x")


def names(folder: Path, *others: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_pictures(folder, others)]


def test_outputs_of_a_run_are_no_pictures(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "out/run.toml", "out/metrics.jsonl", "out/loss.png", "out/previews/step-1-0.png")
    put(tmp_path, "killed/run.toml", "killed/checkpoint-3/state.safetensors", "killed/previews/b.png")
    assert names(tmp_path) == ["a.png"]
    assert list(list_folder(tmp_path).remarks()) == [
        f"left out of {tmp_path}, as outputs of Lorica or folders for other uses: killed, out"
    ]


def test_outputs_among_the_pictures_are_left_out_too(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "sub/loss.png", "run.toml", "metrics.jsonl", "loss.png", "previews/b.png", "kept/c.png")
    assert names(tmp_path) == ["a.png", "kept/c.png", "sub/loss.png"]
    assert [path.name for path in list_folder(tmp_path).left_out] == ["loss.png", "previews"]


def test_folders_for_other_uses_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "class/b.png", "held/c.png")
    assert names(tmp_path, tmp_path / "class", tmp_path / "held", tmp_path, tmp_path / "no") == ["a.png"]
    assert names(tmp_path / "class", tmp_path, tmp_path / "class") == ["b.png"]


def test_links_are_followed_once_and_after_real_folders(tmp_path: Path) -> None:
    put(tmp_path / "far", "x.png", "deep/y.png")
    put(tmp_path / "own", "real/a.png")
    (tmp_path / "own" / "a-link").symlink_to(tmp_path / "own" / "real")
    (tmp_path / "own" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "own")
    (tmp_path / "own" / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "own" / "itself.png").symlink_to(tmp_path / "own" / "itself.png")
    assert names(tmp_path / "own") == ["linked/deep/y.png", "linked/x.png", "real/a.png"]


def test_suffixes_are_those_of_pillow_and_the_rest_is_counted(tmp_path: Path) -> None:
    read = [f"a{suffix}" for suffix in (".jfif", ".jpe", ".jp2", ".tga", ".ppm", ".TIFF", ".webp")]
    put(tmp_path, *read, "b.xyz", "c.XYZ", "noending", "d.txt", "e.json", "x.png/in.png", "mask/a.md", ".hidden")
    assert names(tmp_path) == sorted([*read, "x.png/in.png"])
    assert list(list_folder(tmp_path).remarks()) == ["3 files are not read: 1 without an ending, 2 .xyz"]


@pytest.mark.skipif(".heic" in suffixes(), reason="the extra is installed")
def test_pictures_of_an_extra_name_it(tmp_path: Path) -> None:
    put(tmp_path, "a.heic")
    with pytest.raises(
        DataError, match=r"1 file is not read: 1 \.heic \(pip install 'lorica\[pictures\]' reads \.heic"
    ):
        find_pictures(tmp_path)


def test_a_name_that_is_too_long_is_no_folder() -> None:
    with pytest.raises(DataError, match=r"there is no folder n+\.\.\.n+; name a folder"):
        find_pictures(Path("n" * 300))


def test_masks_lie_beside_pictures_or_in_a_tree_of_the_same_folders(tmp_path: Path) -> None:
    put(tmp_path, "cats/a.png", "mask/cats/a.jpg", "dogs/b.png", "dogs/mask/b.png", "c.png", "mask/c.png")
    found = find_masks(find_pictures(tmp_path), tmp_path)
    assert {path.name: mask.relative_to(tmp_path).as_posix() for path, mask in found.items()} == {
        "a.png": "mask/cats/a.jpg", "b.png": "dogs/mask/b.png", "c.png": "mask/c.png"
    }  # fmt: skip
    put(tmp_path, "cats/mask/a.png")
    with pytest.raises(DataError, match="there are two masks"):
        find_masks(find_pictures(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["p.txt", "p.TXT", "p.caption", "p.png.txt"])
def test_captions_beside_a_picture_may_have_any_usual_name(name: str, tmp_path: Path) -> None:
    put(tmp_path, "p.png")
    (tmp_path / name).write_text("a cat")
    assert [item.caption for item in find_items(tmp_path)] == ["a cat"]


@pytest.mark.parametrize(
    ("name", "head"),
    [("metadata.csv", "file_name,text"), ("captions.csv", "image,caption"), ("captions.csv", "path,prompt")],
)  # fmt: skip
def test_captions_may_stand_in_a_csv(name: str, head: str, tmp_path: Path) -> None:
    put(tmp_path, "p.png", "sub/q.png")
    (tmp_path / name).write_text(f'\ufeff{head}\np.png,"a cat, two\nlines"\nsub/q.png,a dog\n', encoding="utf-8")
    assert [item.caption for item in find_items(tmp_path)] == ["a cat, two\nlines", "a dog"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\np.png,x\n", r"captions\.csv, line 2: there is no field 'file_name'"),
        ("image,label\np.png,x\n", r"line 2: there is no field 'text'\. It holds: 'file_name', 'label'"),
        ("image,text\np.png," + "x" * 200000, r"line \d: not valid CSV"),
        ("image,text\nq.png,x\n", r"line 2: there is no file .*q\.png"),
        ("", r"says nothing about 1 of 1 pictures"),
    ],
)
def test_a_fault_of_a_csv_names_its_line(content: str, said: str, tmp_path: Path) -> None:
    put(tmp_path, "p.png")
    (tmp_path / "captions.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        find_items(tmp_path)


def test_captions_that_lie_elsewhere_are_named_with_what_works(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "10_sks dog/b.png")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n')
    with pytest.raises(DataError, match=r"There is .*/train/metadata\.jsonl: train with --train_data_dir .*/train\."):
        find_items(tmp_path)
    assert find_items(tmp_path / "train")[0].caption == "x"
    (tmp_path / "train" / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"The folder's name says --instance_prompt 'sks dog'"):
        find_items(tmp_path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one(form: str, tmp_path: Path) -> None:
    name = unicodedata.normalize(form, "café")
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "café")
    put(tmp_path, f"{name}.png")
    (tmp_path / f"{other}.txt").write_text("beside")
    assert [item.caption for item in find_items(tmp_path)] == ["beside"]
    row = json.dumps({"file_name": f"{other}.png", "text": "in the table"})
    (tmp_path / "metadata.jsonl").write_text(row)
    assert [(item.caption, item.path) for item in find_items(tmp_path)] == [("in the table", tmp_path / f"{name}.png")]


def test_a_caption_of_megabytes_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "p.png")
    (tmp_path / "p.txt").write_text("w " * 3_000_000)
    with pytest.raises(DataError, match=r"p\.txt cannot be used: has more than 1,048,576 bytes"):
        find_items(tmp_path)
    (tmp_path / "p.txt").write_text("w " * 10_000)
    with pytest.raises(DataError, match=r"has a caption of 19,999 characters, at most 10,000"):
        find_items(tmp_path)


def test_a_fault_in_a_caption_file_names_its_line(tmp_path: Path) -> None:
    put(tmp_path, "p.png")
    (tmp_path / "p.txt").write_bytes(b"one\ntwo\ncaf\xe9 \n")
    with pytest.raises(DataError, match=r"p\.txt cannot be used: line 3 is not UTF-8"):
        find_items(tmp_path)
