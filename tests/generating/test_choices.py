"""Adapters, regions, grids and prompts as they are typed."""

from pathlib import Path

import pytest

from lorica.errors import ConfigError
from lorica.generating.choices import LoraChoice, RegionChoice, distinct_names, parse_lora, parse_region, read_prompts
from lorica.runtime.prompt.tags import Tag


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
    assert parse_lora(text) == LoraChoice.of(source, strength)


def test_a_file_whose_name_ends_like_a_strength_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "epoch:10"
    path.touch()
    assert parse_lora(str(path)) == LoraChoice.of(str(path))
    assert parse_lora(f"{path}:0.3") == LoraChoice.of(str(path), 0.3)


@pytest.mark.parametrize("text", ["a.safetensors:", "a.safetensors:loud", "a.safetensors:nan", "a.safetensors:1e999"])
def test_a_strength_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a number|where a number is expected"):
        parse_lora(text)


BLOCKS = (1.0, *[0.5] * 16)


@pytest.mark.parametrize(
    ("options", "tag"),
    [
        (":0.5:0.8", Tag("a", 0.5, 0.8)),
        (":te=0:unet=0.8", Tag("a", 0.0, 0.8)),
        (":0.8:dyn=4", Tag("a", 0.8, 0.8, ranks=4)),
        (f":0.8:lbw={','.join(map(str, BLOCKS))}", Tag("a", 0.8, 0.8, blocks=BLOCKS)),
        (":0.7@0-0.5", Tag("a", 0.7, 0.7, 0.0, 0.5)),
        ("@0.5-", Tag("a", 1.0, 1.0, 0.5, 1.0)),
    ],
)
def test_all_that_a_tag_takes_may_follow_the_path(options: str, tag: Tag) -> None:
    for source in ("a.safetensors", "C:/loras/a.safetensors", "user/repo/a.safetensors"):
        assert parse_lora(source + options) == LoraChoice(source, tag)
    assert parse_lora(str(parse_lora(f"a.safetensors{options}"))) == LoraChoice("a.safetensors", tag)


def test_options_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--lora a.pt:0.5:lbw=1,2 cannot be read: lbw= takes a number for each block"
    ):
        parse_lora("a.pt:0.5:lbw=1,2")
    with pytest.raises(
        ConfigError, match=r"must be a number \(the strength\) or one of te=, unet=, dyn=, lbw=; got 'x=1'"
    ):
        parse_lora("a.pt:x=1")
    with pytest.raises(ConfigError, match="--lora takes a file"):
        parse_lora("")


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a.pt", "b.pt"], ["a", "b"]),
        (["x/a.pt", "y/a.pt", "c.pt"], ["x/a", "y/a", "c"]),
        (["1/x/a.pt", "2/x/a.pt"], ["1/x/a", "2/x/a"]),
        (["a.pt", "a.safetensors"], ["a", "a_2"]),
        (["x/a.pt", "x/a.pt"], ["x/a", "x/a_2"]),
        (["x/pytorch_lora_weights.safetensors", "y/pytorch_lora_weights.safetensors"], ["x", "y"]),
        (["1/x/pytorch_lora_weights.safetensors", "2/x/pytorch_lora_weights.safetensors"], ["1/x", "2/x"]),
        (["runs/v1.5/checkpoint-10", "user/repo"], ["checkpoint-10", "repo"]),
    ],
)
def test_adapters_get_names_that_all_differ(sources: list[str], names: list[str]) -> None:
    assert distinct_names(sources) == names


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
