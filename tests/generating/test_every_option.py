"""No option of ``lorica generate`` does nothing: each changes the picture, the files or the words, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lorica.cli.generate import command
from lorica.cli.main import run

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLAIN = "--prompt heart --steps 3 --device cpu"
# Option to what is added to the line, and what the line is without it, if that is not PLAIN.
CHANGES: dict[str, tuple[str, str]] = {
    "base": ("--base {other}", ""),
    "loras": ("--lora {lora}", ""),
    "lora_dir": ("--lora_dir {folder} --prompt <lora:loud>star", "--prompt star"),
    "regions": ("--region loud=black.png", "--lora {lora}"),
    "strict": ("--no_strict --lora {partly}", ""),
    "prompts": ("--prompt star", ""),
    "prompts_file": ("--prompts_file more.txt", ""),
    "negative_prompt": ("--negative_prompt fish", ""),
    "num": ("--num 2", ""),
    "seed": ("--seed 5", ""),
    "steps": ("--steps 4", ""),
    "guidance": ("--guidance 9", ""),
    "scheduler": ("--scheduler euler", ""),
    "height": ("--height 24 --width 32", ""),
    "width": ("--height 32 --width 24", ""),
    "grid": ("--grid seed=1,2", ""),
    "dtype": ("--dtype bfloat16", ""),
    "output": ("--output other.png", ""),
    "as_json": ("--json", ""),
}
ELSEWHERE = {
    "batch_size": "changes the speed alone: tests/generating/test_run.py",
    "device": "needs another device: tests/generating/test_run.py",
    "traceback": "tests/cli/test_main.py",
}
REFUSED = {
    "--lora partly.safetensors": "unet.nowhere.lora_A.weight",
    "--steps 0": "steps must be at least 1",
    "--height 24": "give --height and --width, or neither",
    "--width 24": "give --height and --width, or neither",
    "--negative_prompt fish --guidance 1": "acts only with guidance above 1",
    "--seed 3 --grid seed=1,2": "--seed and --grid seed=... both say the seed",
    "--steps 3 --grid steps=1,2": "--steps and --grid steps=... both say the steps",
    "--num 2 --grid seed=1,2": "--num 2 has no meaning",
    "--grid strength=0,1": "name at least one with --lora",
    "--region loud=black.png": "unknown adapter 'loud'",
    "--lora_dir nowhere": "there is no folder nowhere",
    "--guidance -1": "guidance must be a number from 0",
    "--batch_size 0": "batch_size must be at least 1",
    "--seed -1": "a seed must be from 0",
    "--scheduler eulr": "Did you mean 'euler'",
    "--height 30 --width 30": "divisible by 8",
    "--output a.jpg": "must end in .png",
    "--dtype float17": "float16",
}


@pytest.fixture
def draw(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[object, ...]]:
    """Run a command line and return all that it left: its words, the names of files, their pixels and texts."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("black.png")
    Path("more.txt").write_text("star\n", encoding="utf-8")
    save_file({**load_file(adapter), "unet.nowhere.lora_A.weight": torch.ones(2, 3)}, "partly.safetensors")
    places = {"partly": "partly.safetensors", "lora": f"{adapter}:0.5", "folder": adapter.parent, "other": "bundled"}

    def left(line: str) -> tuple[object, ...]:
        for path in Path().glob("*out*.png"):
            path.unlink()
        default = [] if "--base" in line else ["--base", str(base)]
        code = run(["generate", *default, *line.format(**places).split()])
        captured = capsys.readouterr()
        files = sorted(path for path in Path().glob("*.png") if path.name != "black.png")
        assert code in (0, 2)
        contents = [(path.name, sha256(path.read_bytes()).hexdigest()) for path in files]
        return code, captured.out, contents, captured.err if code else ""

    return left


def test_every_option_is_in_the_table() -> None:
    assert {*CHANGES, *ELSEWHERE} == {"traceback", *(param.name for param in command.params)}


@pytest.mark.parametrize("option", [option for option in CHANGES if option != "base"])
def test_an_option_changes_something(option: str, draw: Callable[[str], tuple[object, ...]]) -> None:
    added, without = CHANGES[option]
    start = PLAIN.replace("--steps 3", "") if option == "steps" else PLAIN
    before, after = draw(f"{start} {without}"), draw(f"{start} {without} {added}")
    assert (before[0], after[0]) == (0, 0)
    assert before != after


@pytest.mark.parametrize("line", REFUSED)
def test_what_would_do_nothing_is_refused(line: str, draw: Callable[[str], tuple[object, ...]]) -> None:
    start = PLAIN.replace("--steps 3", "") if "steps" in line else PLAIN
    code, _, files, error = draw(f"{start} {line}")
    assert (code, files) == (2, [])
    assert REFUSED[line] in str(error)
