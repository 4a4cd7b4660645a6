"""Every example runs as it stands, on the bundled model, and is short."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.demo.subject import write_lesson
from lorica.models import FAMILIES

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
LONGEST = 60


def sample_adapter(rank: int) -> Adapter:
    """A LoRA on the attention of the bundled UNet, with values of the size that training gives."""
    paths = {path: shape for path, shape in FAMILIES["bundled"].target.components["unet"].items() if "attn" in path}
    matrices = {path: shape for path, shape in paths.items() if len(shape) == 2}
    layers = {
        path: LoRA(torch.randn(rank, shape[1]) / rank, torch.randn(shape[0], rank) / 50, alpha=rank / 2)
        for path, shape in matrices.items()
    }
    return Adapter({"unet": layers})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: Path) -> Callable[..., None]:
    """Run an example by its number in an empty folder, with these arguments."""
    assert bundled.is_dir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)  # where Python looks first when an example is run

    def run_example(number: str, *arguments: str) -> None:
        (path,) = (example for example in EXAMPLES if example.name.startswith(number))
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")

    return run_example


def differ(a: str, b: str) -> bool:
    with Image.open(a) as one, Image.open(b) as other:
        return one.tobytes() != other.tobytes()


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def samples(run: Callable[..., None]) -> None:
    """The adapters that examples take when they are given no files, as they lie there at a second run."""
    lorica.write(sample_adapter(3), "sample-adapters/subject.safetensors")
    lorica.write(sample_adapter(2), "sample-adapters/style.safetensors", format="kohya")


@pytest.mark.usefixtures("samples")
def test_01_turns_the_dial(run: Callable[..., None]) -> None:
    run("01")
    assert differ("strength_0.0.png", "strength_1.0.png")


@pytest.mark.usefixtures("samples")
def test_02_shows_five_pictures_in_a_row(run: Callable[..., None]) -> None:
    run("02")
    assert size("two_at_once.png") == (5 * 64, 64)


@pytest.mark.usefixtures("samples")
def test_03_fuses_and_takes_out_again(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("03")
    assert differ("both.png", "subject.png")
    assert not differ("base.png", "base_again.png")
    assert "bit for bit: True" in capsys.readouterr().out


def test_04_converts_and_loses_nothing(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    adapter = sample_adapter(5)
    lorica.write(adapter, "kohya.safetensors", format="kohya")
    run("04", "kohya.safetensors", "diffusers.safetensors")
    assert lorica.read("diffusers.safetensors") == adapter
    assert "kohya format" in capsys.readouterr().out


@pytest.mark.usefixtures("samples")
def test_04_converts_a_sample(run: Callable[..., None]) -> None:
    run("04")
    assert lorica.read("diffusers.safetensors") == lorica.read("sample-adapters/style.safetensors")


@pytest.mark.usefixtures("samples")
def test_05_says_what_a_file_is(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("05")
    text = capsys.readouterr().out
    assert "modules in kohya format" in text
    assert "fits the bundled model: True" in text
    assert "sshs_model_hash" in text
    run("05", "sample-adapters/style.safetensors", "sdxl")
    assert "fits Stable Diffusion XL: False" in capsys.readouterr().out


@pytest.mark.usefixtures("samples")
def test_06_shows_one_part_at_a_time(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("06")
    assert differ("all_blocks.png", "no_block.png")
    assert differ("only_up.png", "no_block.png")
    assert differ("only_one_block.png", "only_cross_attention.png")
    assert "cross_attention  moves a pixel by" in capsys.readouterr().out


@pytest.mark.usefixtures("samples")
def test_07_takes_adapters_from_the_prompt(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("07")
    names = ["plain", "both", "no_text", "late", "outputs"]
    assert all(differ(f"{one}.png", f"{other}.png") for one in names for other in names if one != other)
    text = capsys.readouterr().out
    assert "afterwards loaded: []" in text
    assert "unknown adapter 'stile'. Did you mean 'style'?" in text


@pytest.mark.slow  # compiling alone takes ten seconds
@pytest.mark.usefixtures("samples")
def test_08_compiles_once(run: Callable[..., None]) -> None:
    run("08")
    assert differ("base.png", "subject.png")
    assert differ("subject.png", "style.png")
    assert not differ("base.png", "base_again.png")


@pytest.mark.usefixtures("samples")
def test_09_draws_each_prompt_with_its_own(run: Callable[..., None]) -> None:
    run("09")
    assert size("per_sample.png") == (4 * 64, 2 * 64)


def test_11_trains_a_subject_beside_its_class(run: Callable[..., None]) -> None:
    run("11", str(write_lesson("mine", ordinary=0)), "2")
    assert len(list(Path("class-pictures").glob("*.png"))) == 4
    assert size("subject.png") == size("class.png") == (64, 64)


def test_12_resumes_bit_for_bit(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("12", str(write_lesson("mine", ordinary=0)), "2")
    text = capsys.readouterr().out
    assert "the same adapter, bit for bit: True" in text
    assert "another one than the checkpoint's own: True" in text


@pytest.mark.usefixtures("samples")
def test_13_switches_between_many(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("13")
    assert "20 adapters are loaded" in capsys.readouterr().out
    assert differ("adapter_0.png", "adapter_19.png")


def test_10_trains_and_shows_what_was_learnt(run: Callable[..., None]) -> None:
    run("10", str(write_lesson("mine", ordinary=0)), "2")
    assert Path("trained-lora/pytorch_lora_weights.safetensors").is_file()
    assert size("learnt.png") == (64, 64)


@pytest.mark.slow
def test_10_draws_pictures_of_its_own(run: Callable[..., None]) -> None:
    run("10")
    assert len(list(Path("pictures").glob("*.png"))) == 6
    assert size("learnt.png") == (64, 64)


@pytest.mark.usefixtures("samples")
def test_14_draws_one_picture_for_each_schedule(run: Callable[..., None]) -> None:
    run("14")
    assert differ("list.png", "function.png")
    assert differ("function.png", "shape.png")
    assert not differ("window.png", "tag.png")


@pytest.mark.usefixtures("samples")
def test_15_limits_an_adapter_to_a_half(run: Callable[..., None]) -> None:
    run("15")
    pictures = ["everywhere.png", "left.png", "left_only.png", "base.png"]
    assert all(differ(one, other) for one in pictures for other in pictures if one != other)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["01", "02", "03", "05", "06", "09", "13", "15"])
def test_files_of_ones_own_are_taken(run: Callable[..., None], number: str) -> None:
    lorica.write(sample_adapter(3), "mine.safetensors")
    files = ["mine.safetensors"] if number in ("05", "06") else ["mine.safetensors", "other.safetensors"]
    lorica.write(sample_adapter(2), "other.safetensors")
    run(number, *files)
    assert not Path("sample-adapters").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", ["11", "12"])
def test_runs_start_without_arguments(number: str, run: Callable[..., None]) -> None:
    run(number)
    assert len(list(Path("pictures").glob("*.png"))) == 6


@pytest.mark.slow
def test_14_takes_a_folder_and_a_name(run: Callable[..., None]) -> None:
    lorica.write(sample_adapter(3), "loras/mine.safetensors")
    run("14", "loras", "mine")
    assert not differ("window.png", "tag.png")


@pytest.mark.slow
def test_samples_are_trained_when_they_are_missing(run: Callable[..., None]) -> None:
    run("01")
    assert {path.name for path in Path("sample-adapters").iterdir()} == {"subject.safetensors"}
    assert differ("strength_0.0.png", "strength_1.0.png")


def test_every_example_has_a_test() -> None:
    numbers = {path.name[:2] for path in EXAMPLES}
    assert numbers == {name[5:7] for name in globals() if name.startswith("test_") and name[5:7].isdigit()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST
