"""Adapters, regions, grids and prompts as they are typed."""

from pathlib import Path

import pytest

from lorica.errors import ConfigError
from lorica.generating.choices import LoraChoice, RegionChoice, parse_grid, parse_lora, parse_region, read_prompts


@pytest.mark.parametrize(
    ("text", "source", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1.5", "a.safetensors", -1.5),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        ("a.safetensors:2", "a.safetensors", 2.0),
        ("a.safetensors:1e-1", "a.safetensors", 0.1),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:0.7", r"C:\loras\a.safetensors", 0.7),
        ("C:/loras/a.safetensors:3", "C:/loras/a.safetensors", 3.0),
        ("user/repo", "user/repo", 1.0),
        ("user/repo/file.safetensors:0.25", "user/repo/file.safetensors", 0.25),
    ],
)
def test_a_lora_is_a_path_and_a_strength(text: str, source: str, strength: float) -> None:
    assert parse_lora(text) == LoraChoice(source, strength)


def test_a_file_whose_name_ends_like_a_strength_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "epoch:10"
    path.touch()
    assert parse_lora(str(path)) == LoraChoice(str(path))
    assert parse_lora(f"{path}:0.3") == LoraChoice(str(path), 0.3)


@pytest.mark.parametrize("text", ["a.safetensors:", "a.safetensors:loud", "a.safetensors:nan", "a.safetensors:1e999"])
def test_a_strength_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a number"):
        parse_lora(text)


def test_a_grid_is_a_list_of_strengths() -> None:
    assert parse_grid("strength=0, 0.5,-1") == (0.0, 0.5, -1.0)


@pytest.mark.parametrize("text", ["strength", "strength=", "strength=0,loud", "rank=1,2", "0,1"])
def test_another_grid_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--grid"):
        parse_grid(text)


def test_prompts_stand_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa heart\n\n# not this\n  a star  \n", encoding="utf-8")
    assert read_prompts(path) == ["a heart", "a star"]


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(ConfigError, match="cannot read"):
        read_prompts(tmp_path / "missing.txt")


def test_a_region_is_a_name_and_a_file() -> None:
    assert parse_region("style=masks/a=b.png") == RegionChoice("style", Path("masks/a=b.png"))


@pytest.mark.parametrize("text", ["style", "=left.png", "style=", ""])
def test_a_region_without_a_name_or_a_mask_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--region takes an adapter and its mask, such as --region style=left.png"):
        parse_region(text)
