"""Names and files from outside: shown with escapes, read with their line, expanded once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lorica.data.cache import cache_folder
from lorica.data.caption_length import by_tokens, resolution_of
from lorica.data.prepare import Limits, examine_folder
from lorica.data.tables import find_rows
from lorica.errors import ConfigError, FileError, LoRAError
from lorica.printing import is_text, printable, read_text
from lorica.training.config.config import RunConfig
from lorica.training.config.settings import read_toml
from lorica.training.recipes.load import load_pipeline


def test_what_no_terminal_shows_is_escaped_and_long_texts_are_cut() -> None:
    assert printable("café\x1b[31m\n\udcff") == r"café\x1b[31m\n\udcff"
    assert printable("n" * 5000) == f"{'n' * 100}...{'n' * 100}"
    assert is_text("é😀")
    assert not is_text("\ud800")


def test_a_text_file_is_read_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9")
    assert read_text(path) == "café"
    path.write_bytes(b"a\nb\nc\xe9d")
    with pytest.raises(FileError, match=r"/a, line 3 is not UTF-8"):
        read_text(path)
    with pytest.raises(FileError, match="more than 4 bytes"):
        read_text(path, 4)
    with pytest.raises(FileError, match="cannot be read: File name too long"):
        read_text(tmp_path / ("n" * 300))
    with pytest.raises(FileError, match="cannot be read: embedded null"):
        read_text(tmp_path / "a\0b")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "gone")


def test_home_is_expanded_once_in_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = RunConfig.from_values(
        {
            "train_data_dir": "~/pictures",
            "output_dir": "~/out",
            "validation_data_dir": "~/held",
            "pretrained_model_name_or_path": "~/base",
            "resume_from_checkpoint": "~/out/checkpoint-3",
            "datasets": ["folder=~/more"],
            "validation_prompt": "~ a tilde",
        }
    )
    assert config.output_dir == tmp_path / "out"
    assert config.validation_data_dir == tmp_path / "held"
    assert [one.train_data_dir for one in config.sets()] == [tmp_path / "pictures", tmp_path / "more"]
    assert config.pretrained_model_name_or_path == str(tmp_path / "base")
    assert config.resume_from_checkpoint == str(tmp_path / "out" / "checkpoint-3")
    assert config.validation_prompt == ("~ a tilde",)
    assert "~/" not in config.to_toml()


def test_no_home_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(Path, "home", lambda: nobody(None))
    for name in ("LORICA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder().name.startswith("lorica-cache-")
    with pytest.raises(ConfigError, match=r"there is no home folder for ~nobody/x; write the whole path"):
        RunConfig(train_data_dir="~nobody/x", dataset_name=None)


@pytest.mark.parametrize("name", ["output_dir", "train_data_dir", "trigger_word", "validation_prompt"])
def test_a_setting_that_no_file_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: a\\udcff is not UTF-8"):
        RunConfig(**{name: "a\udcff"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b".".join([b"a"] * 50000) + b" = 1", r"run\.toml, line 1 has more than 20 keys in keys"),
        (b"\n[" + b".".join([b'"a"'] * 50000) + b"]", r"line 2 has more than 20 keys in keys"),
        (b"a = {" + b".".join([b"a"] * 50000) + b" = 1}", r"line 1 has more than 20 keys in keys"),
        (b"a = " + b"[" * 100000, "is not valid TOML"),
        (b"[" * 100000, "is not valid TOML"),
        (b"a = " + b"9" * 1_000_000, r"run\.toml (is not valid TOML|.*more than)"),
        (b"a = 1\nb = caf\xe9", "line 2 is not UTF-8"),
        (b"a = 1\n" * 200_000, "more than 1,048,576 bytes"),
    ],
    ids=["keys", "header", "inline keys", "lists", "tables", "digits", "latin", "long"],
)
def test_a_run_file_that_is_none_has_one_error(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises((ConfigError, FileError), match=said) as caught:
        read_toml(tmp_path / "run.toml")
    assert len(str(caught.value)) < 600


def test_a_run_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(
        b"\xef\xbb\xbfrank = 3\ntrigger_word = 'a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x'"
    )
    assert read_toml(tmp_path / "run.toml")["rank"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="names of bytes")
def test_a_console_that_is_not_utf8_gets_escapes(tmp_path: Path) -> None:
    folder = tmp_path / "bilder-\u00fc-\u2603"
    folder.mkdir()
    raw = os.fsencode(folder) + b"/0\xff.png"
    Image.new("RGB", (700, 600), "red").save(folder / "a.png")
    Path(os.fsdecode(raw)).write_bytes((folder / "a.png").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "HOME": str(tmp_path)}
    arguments = ["-m", "lorica", "prepare", str(folder), "--instance_prompt", "x", "--no_report"]
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert b"bilder-\xfc-" + rb"\u2603: 2 pictures" in done.stdout
    assert rb"0\udcff.png" in done.stdout


@pytest.mark.parametrize("name", ["n" * 300, "/" + "n" * 5000, "a\0b"])
def test_what_can_be_no_path_is_refused_by_the_settings(name: str) -> None:
    for setting in ("output_dir", "train_data_dir", "pretrained_model_name_or_path", "resume_from_checkpoint"):
        with pytest.raises(ConfigError, match=rf"{setting}: .* can be no path"):
            RunConfig(**{setting: name})


@pytest.mark.parametrize("name", ["n" * 300, "/" + "n" * 5000, "a\0b", "~no-such-user/x", "a\udcffb"])
def test_what_can_be_no_path_is_named_by_what_reads_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for read in (
        lambda: load_pipeline(name),
        lambda: find_rows(name),
        lambda: by_tokens(name),
        lambda: examine_folder(Path(name), Limits()),
    ):
        with pytest.raises(LoRAError):
            read()
    assert resolution_of(name) is None
