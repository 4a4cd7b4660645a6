"""Grids over any two things: parsed, and drawn as the single pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorica.errors import ConfigError, FileError
from lorica.generating.choices import LoraChoice
from lorica.generating.grid import AXES, Axis, Variant, parse_axis
from lorica.generating.request import Request
from lorica.generating.run import generate
from lorica.generating.sampling import SamplingSettings
from lorica.training.output.sheet import grid

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
QUICK = SamplingSettings(steps=2, guidance=3.0, batch_size=4)


def test_each_axis_has_its_values() -> None:
    factors = (
        Variant("strength 0", factor=0.0),
        Variant("strength 0.5", factor=0.5),
        Variant("strength -1", factor=-1.0),
    )
    assert parse_axis("strength=0, 0.5,-1") == Axis("strength", factors)
    assert parse_axis("seed=3,4").variants == (Variant("seed 3", seed=3), Variant("seed 4", seed=4))
    assert parse_axis("steps=10").variants == (Variant("10 steps", steps=10),)
    a = Variant("a", adapter=LoraChoice.of("x/a.pt", 0.5))
    assert parse_axis("adapter=x/a.pt:0.5,none").variants == (a, Variant("base"))


@pytest.mark.parametrize("text", ["strength", "strength=", "strength=0,loud", "rank=1,2", "0,1", "seed=1.5", "steps=,"])
def test_another_grid_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--grid"):
        parse_axis(text)


def test_the_checkpoints_of_a_run_are_an_axis(tmp_path: Path) -> None:
    for name in ("checkpoint-100", "checkpoint-20", "previews"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "pytorch_lora_weights.safetensors").touch()
    variants = parse_axis(f"checkpoint={tmp_path / 'run'}:0.8").variants
    assert [variant.label for variant in variants] == ["step 20", "step 100", "final"]
    assert [Path(variant.adapter.source).name for variant in variants if variant.adapter] == [
        "checkpoint-20", "checkpoint-100", "run",
    ]  # fmt: skip
    assert {variant.adapter.tag.unet for variant in variants if variant.adapter} == {0.8}
    one = parse_axis(f"checkpoint={tmp_path / 'run' / 'pytorch_lora_weights.safetensors'}").variants
    assert [variant.label for variant in one] == ["run"]
    with pytest.raises(FileError, match="previews holds neither checkpoint-N folders nor an adapter"):
        parse_axis(f"checkpoint={tmp_path / 'run' / 'previews'}")


def picture(base: Path, output: Path, **changes: Any) -> Image.Image:
    given = {"prompts": ["a red heart"], "settings": QUICK, "device": "cpu", **changes}
    with Image.open(generate(Request(base=str(base), output=output, **given), quiet=True)[0]) as opened:
        return opened.copy()


def test_two_axes_show_what_single_requests_draw(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(adapter.read_bytes())
    axes = {
        "seed=1,2": [{"seed": 1}, {"seed": 2}],
        f"adapter=none,{other}:-0.5": [{}, {"loras": [LoraChoice.of(str(other), -0.5)]}],
        "steps=2,3": [{"settings": QUICK}, {"settings": SamplingSettings(steps=3, guidance=3.0)}],
    }
    for first, second in (("seed=1,2", "steps=2,3"), (f"adapter=none,{other}:-0.5", "seed=1,2")):
        together = picture(base, tmp_path / "grid.png", grid=[parse_axis(first), parse_axis(second)])
        rows = [
            [picture(base, tmp_path / "one.png", **above, **beside) for above in axes[first]] for beside in axes[second]
        ]
        columns = [variant.label for variant in parse_axis(first).variants]
        labels = [variant.label for variant in parse_axis(second).variants]
        expected = grid(rows, row_labels=labels, column_labels=columns)
        assert together.size == expected.size
        # rounding of batches moves a pixel by at most 1 of 255, which the enlarged sheet keeps
        assert np.abs(np.asarray(together, int) - np.asarray(expected, int)).max() <= 2


def test_strengths_multiply_every_adapter_of_a_grid(base: Path, adapter: Path, tmp_path: Path) -> None:
    path = str(adapter)
    axes = [parse_axis(f"adapter={path}:0.5,none"), parse_axis("strength=0,1")]
    text = picture(base, tmp_path / "grid.png", grid=axes)
    assert text.info["grid"] == "loud, base by strength 0, strength 1"
    cells = np.asarray(text)
    plain = picture(base, tmp_path / "plain.png")
    loud = picture(base, tmp_path / "loud.png", loras=[LoraChoice.of(path, 0.5)])
    expected = grid(
        [[plain, plain], [loud, plain]], row_labels=["strength 0", "strength 1"], column_labels=["loud", "base"]
    )
    assert np.abs(cells.astype(int) - np.asarray(expected, int)).max() <= 2


def test_prompts_stand_at_the_rows_beside_the_second_axis(base: Path, tmp_path: Path) -> None:
    axes = [parse_axis("seed=1,2,3"), parse_axis("steps=1,2")]
    both = picture(base, tmp_path / "grid.png", grid=axes, prompts=["a heart", "a star"])
    one = picture(base, tmp_path / "grid.png", grid=axes, prompts=["a heart"])
    assert both.width == one.width
    assert both.height > 1.8 * one.height


def test_every_axis_is_in_the_help_of_the_error() -> None:
    with pytest.raises(ConfigError, match=", ".join(AXES)):
        parse_axis("x=1")
