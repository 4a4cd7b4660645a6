"""From a request to files: seeds, strengths, sheets, and the facts in every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lorica.errors import ConfigError, FileError, LoRAError, ModelError, UnknownNameError
from lorica.generating.choices import LoraChoice, RegionChoice, parse_lora
from lorica.generating.grid import parse_axis
from lorica.generating.request import Request
from lorica.generating.run import generate, prepare_pipeline
from lorica.generating.sampling import SamplingSettings, Shot, count_steps, sample
from lorica.generating.schedulers import SCHEDULERS, use_scheduler
from tiny_base import SIDE

# numpy's advice to torch, from inside diffusers' schedulers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUICK = SamplingSettings(steps=2, guidance=3.0, batch_size=2)


def make(base: Path, output: Path, **changes: Any) -> list[Path]:
    values: dict[str, Any] = {"prompts": ["a red heart"], "settings": QUICK, "device": "cpu"}
    return generate(Request(base=str(base), output=output, **{**values, **changes}), quiet=True)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=float)


def facts(path: Path) -> dict[str, str]:
    with Image.open(path) as picture:
        picture.load()
        return dict(picture.text)  # type: ignore[attr-defined]


def test_one_picture_is_one_file_that_says_how_it_was_made(base: Path, adapter: Path, tmp_path: Path) -> None:
    files = make(base, tmp_path / "new" / "out.png", seed=7, loras=[LoraChoice.of(str(adapter), 0.5)])
    assert files == [tmp_path / "new" / "out.png"]
    assert pixels(files[0]).shape == (SIDE, SIDE, 3)
    found = facts(files[0])
    assert found.pop("parameters").startswith("a red heart <lora:loud:0.5>\nNegative prompt: \nSteps: 2, ")
    assert found == {
        "prompt": "a red heart",
        "negative_prompt": "",
        "seed": "7",
        "steps": "2",
        "guidance": "3",
        "scheduler": "dpm++",
        "base": str(base),
        "adapters": "loud.safetensors:0.5",
    }


def test_several_pictures_are_a_sheet_and_a_file_each(base: Path, tmp_path: Path) -> None:
    files = make(base, tmp_path / "out.png", prompts=["a red heart", "a blue star"], num=3, seed=4)
    assert [path.name for path in files] == ["out.png", *(f"out-{number}.png" for number in range(1, 7))]
    assert [facts(path)["seed"] for path in files[1:]] == ["4", "5", "6"] * 2
    assert [facts(path)["prompt"] for path in files[3:5]] == ["a red heart", "a blue star"]
    assert facts(files[0])["prompt"] == "a red heart\na blue star"


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(base: Path, tmp_path: Path) -> None:
    """Measured: rounding moves a pixel by at most 1 of 255."""
    together = make(base, tmp_path / "a.png", num=3, seed=4)
    alone = make(base, tmp_path / "b.png", seed=6)
    assert np.abs(pixels(together[3]) - pixels(alone[0])).max() <= 1
    assert np.abs(pixels(together[2]) - pixels(alone[0])).max() > 20


def test_the_strength_is_applied(base: Path, adapter: Path, tmp_path: Path) -> None:
    plain = pixels(make(base, tmp_path / "plain.png")[0])
    off, half, full = (
        pixels(make(base, tmp_path / "out.png", loras=[LoraChoice.of(str(adapter), strength)])[0])
        for strength in (0.0, 0.5, 1.0)
    )
    assert np.array_equal(plain, off)
    assert np.abs(half - plain).max() > 5
    assert np.abs(full - half).max() > 5


def test_the_same_file_twice_adds_up(base: Path, adapter: Path, tmp_path: Path) -> None:
    once = pixels(make(base, tmp_path / "once.png", loras=[LoraChoice.of(str(adapter), 0.75)])[0])
    parts = [LoraChoice.of(str(adapter), 0.5), LoraChoice.of(str(adapter), 0.25)]
    twice = pixels(make(base, tmp_path / "twice.png", loras=parts)[0])
    assert np.abs(twice - once).mean() <= 2  # measured 0.5: rounding, which a model of noise amplifies


def test_a_grid_has_a_column_for_each_strength_and_a_row_for_each_picture(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    shape = {"prompts": ["a red heart", "a blue star"], "loras": [LoraChoice.of(str(adapter), 0.8)]}
    small = make(base, tmp_path / "a.png", grid=[parse_axis("strength=0,1")], **shape)
    large = make(base, tmp_path / "b.png", grid=[parse_axis("strength=0,0.5,1")], num=2, **shape)
    assert [path.name for path in (*small, *large)] == ["a.png", "b.png"]
    assert pixels(large[0]).shape[1] > pixels(small[0]).shape[1]
    assert pixels(large[0]).shape[0] > 1.8 * pixels(small[0]).shape[0]
    assert facts(large[0])["grid"] == "strength 0, strength 0.5, strength 1"


def test_size_and_negative_prompt_are_passed_on(base: Path, tmp_path: Path) -> None:
    plain = pixels(make(base, tmp_path / "a.png")[0])
    wide = make(base, tmp_path / "b.png", settings=SamplingSettings(steps=2, height=24, width=40))
    assert pixels(wide[0]).shape == (24, 40, 3)
    settings = SamplingSettings(steps=2, guidance=3.0, batch_size=2, negative_prompt="a green fish")
    assert not np.array_equal(pixels(make(base, tmp_path / "c.png", settings=settings)[0]), plain)


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_every_scheduler_draws(name: str, base: Path) -> None:
    pipeline = prepare_pipeline(str(base), device="cpu")
    assert use_scheduler(pipeline, name) == name
    assert type(pipeline.scheduler).__name__ == SCHEDULERS[name][0]
    steps = SamplingSettings(steps=4)
    assert np.ptp(np.asarray(sample(pipeline, [Shot("a heart", 1)], steps)[0])) > 0


def test_without_a_name_ddpm_is_replaced_and_others_are_kept(base: Path) -> None:
    pipeline = prepare_pipeline(str(base), device="cpu")
    assert use_scheduler(pipeline) == "dpm++"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    use_scheduler(pipeline, "EULER")
    assert use_scheduler(pipeline) == "EulerDiscreteScheduler"


def test_an_unknown_scheduler_is_refused_with_the_nearest(base: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'euler_a'"):
        use_scheduler(prepare_pipeline(str(base), device="cpu"), "euler-a")


def test_progress_is_counted_in_denoising_steps(base: Path) -> None:
    count = []
    shots = [Shot("a heart", seed) for seed in range(5)]
    sample(
        prepare_pipeline(str(base), device="cpu"),
        shots,
        SamplingSettings(steps=3, batch_size=2),
        advance=lambda: count.append(1),
    )
    assert len(count) == count_steps(5, SamplingSettings(steps=3, batch_size=2)) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "nothing to draw"),
        ({"prompts": ["a \udcff"]}, r"no text: 'a \\\\udcff'"),
        ({"prompts": ["a \0"]}, "no text"),
        ({"settings": SamplingSettings(negative_prompt="\x1b[0m")}, "no text"),
        ({"num": 0}, "--num"),
        ({"grid": [parse_axis("strength=0,1")]}, "--lora"),
        ({"grid": [parse_axis("seed=1,2")], "num": 2}, "--num 2"),
        ({"grid": [parse_axis("seed=1,-2")]}, "a seed must be from 0"),
        ({"grid": [parse_axis("steps=1,0")]}, "steps must be at least 1, got 0"),
        ({"grid": [parse_axis("seed=1"), parse_axis("seed=2")]}, "two different things, got seed, seed"),
        ({"grid": [parse_axis("seed=1"), parse_axis("steps=2"), parse_axis("adapter=a.pt")]}, "one or two different"),
        ({"grid": [parse_axis("adapter=a.pt"), parse_axis("checkpoint=b.pt")]}, "different things"),
        ({"seed": -1}, "a seed must be from 0"),
        ({"seed": 2**63 - 1, "num": 2}, "a seed must be from 0"),
        ({"output": Path("out.jpg")}, "must end in .png"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Request(**{"prompts": ["x"], "output": Path("out.png"), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"height": 128}, "height is 128 and width is not given, so the model's own size would be used"),
        ({"width": 64}, "width is 64 and height is not given"),
        ({"height": 0, "width": 64}, "height must be at least 1, got 0"),
        ({"guidance": float("nan")}, "guidance must be a number from 0, got nan"),
        ({"guidance": -1.0}, "guidance must be a number from 0"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingSettings(**changes)


def test_a_negative_prompt_without_guidance_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"acts only with guidance above 1, and guidance is 1:"):
        make(base, tmp_path / "a.png", settings=SamplingSettings(steps=1, guidance=1.0, negative_prompt="blur"))


def test_a_size_that_the_model_refuses_is_bad_input(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"refuses these settings: .*divisible by 8"):
        make(base, tmp_path / "a.png", settings=SamplingSettings(steps=1, height=30, width=32))


def test_an_adapter_given_as_base_is_told_in_plain_words(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"loud.safetensors is an adapter, not a base model: .*--lora .*loud"):
        make(adapter, tmp_path / "a.png")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "pytorch_lora_weights.safetensors").write_bytes(adapter.read_bytes())
    with pytest.raises(ModelError, match=r"run is an adapter, not a base model"):
        make(folder, tmp_path / "a.png")


def test_unknown_devices_types_and_settings_are_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match="device 'gpu'"):
        prepare_pipeline(str(base), device="gpu")
    with pytest.raises(UnknownNameError, match="float16"):
        Request(prompts=["x"], output=Path("out.png"), dtype="float17")
    with pytest.raises(ConfigError, match="steps"):
        SamplingSettings(steps=0)


def test_a_folder_that_cannot_be_written_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(FileError, match="taken"):
        make(base, tmp_path / "taken" / "out.png")


def test_a_flow_model_refuses_a_scheduler_for_noise() -> None:
    class FlowMatchEulerDiscreteScheduler:
        pass

    class Pipeline:
        scheduler = FlowMatchEulerDiscreteScheduler()

    with pytest.raises(ModelError, match="flow-matching"):
        use_scheduler(Pipeline(), "ddim")


def test_prompts_name_adapters_as_tags(base: Path, adapter: Path, tmp_path: Path) -> None:
    plain = pixels(make(base, tmp_path / "plain.png")[0])
    loud = pixels(make(base, tmp_path / "loud.png", loras=[LoraChoice.of(str(adapter), 0.5)])[0])
    prompts = ["a red heart <lora:loud:0.5>", "a red heart", "a red heart <lora:loud:0.5@0-0.5>"]
    files = make(base, tmp_path / "out.png", prompts=prompts, lora_dir=adapter.parent)
    tagged, without, half = (pixels(path) for path in files[1:])
    assert (tagged == loud).all()
    assert (without == plain).all()
    assert not (half == loud).all()
    assert not (half == plain).all()
    assert facts(files[1])["prompt"] == prompts[0]


def test_a_region_limits_its_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (8, 8))
    mask.save(tmp_path / "nowhere.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "everywhere.png")
    Image.new("L", (8, 8), 128).save(tmp_path / "half.png")
    choice = [LoraChoice.of(str(adapter), 0.5)]

    def picture(name: str) -> Any:
        regions = [RegionChoice("loud", tmp_path / f"{name}.png")] if name else []
        files = make(base, tmp_path / f"out{name}.png", loras=choice, regions=regions)
        assert facts(files[0]).get("regions") == (f"loud: {name}.png" if name else None)
        return pixels(files[0]).astype(int)

    loud, plain = picture(""), pixels(make(base, tmp_path / "plain.png")[0]).astype(int)
    assert abs(picture("everywhere") - loud).max() <= 1
    assert abs(loud - plain).max() > 10
    assert abs(picture("half") - loud).max() > 1
    assert abs(picture("nowhere") - loud).max() > 1


def test_a_tag_that_names_no_file_is_refused_by_name(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown adapter 'lout'\. Did you mean 'loud'"):
        make(base, tmp_path / "out.png", prompts=["a heart <lora:lout>"], lora_dir=adapter.parent)


def test_block_weights_and_windows_of_an_adapter_act_as_in_a_tag(base: Path, adapter: Path, tmp_path: Path) -> None:
    options = f"0.5:lbw={','.join(['1'] + ['0.5'] * 11)}@0-0.5"
    typed = make(base, tmp_path / "typed.png", loras=[parse_lora(f"{adapter}:{options}")])
    tagged = make(base, tmp_path / "tag.png", prompts=[f"a red heart <lora:loud:{options}>"], lora_dir=adapter.parent)
    plain = make(base, tmp_path / "plain.png", loras=[LoraChoice.of(str(adapter), 0.5)])
    assert (pixels(typed[0]) == pixels(tagged[0])).all()
    assert not (pixels(typed[0]) == pixels(plain[0])).all()
    assert facts(typed[0])["adapters"] == f"loud.safetensors:{options}"


def test_the_first_ranks_of_an_adapter_are_taken_as_in_a_tag(base: Path, adapter: Path, tmp_path: Path) -> None:
    typed = make(base, tmp_path / "typed.png", loras=[parse_lora(f"{adapter}:0.5:dyn=1")])
    prompt = "a red heart <lora:loud:0.5:dyn=1>"
    tagged = make(base, tmp_path / "tag.png", prompts=[prompt], lora_dir=adapter.parent)
    assert (pixels(typed[0]) == pixels(tagged[0])).all()


def test_a_tag_takes_the_place_of_the_requests_own_strength(base: Path, adapter: Path, tmp_path: Path) -> None:
    own = [LoraChoice.of(str(adapter), 0.9)]
    files = make(base, tmp_path / "a.png", prompts=["a red heart <lora:loud:0.5>", "a red heart"], loras=own)
    most = make(base, tmp_path / "b.png", loras=own)[0]
    assert (pixels(files[2]) == pixels(most)).all()
    half = make(base, tmp_path / "b.png", loras=[LoraChoice.of(str(adapter), 0.5)])[0]
    assert (pixels(files[1]) == pixels(half)).all()


def test_two_adapters_of_one_file_name_have_names_of_their_own(base: Path, adapter: Path, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "sample.safetensors" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(adapter.read_bytes())
    choices = [LoraChoice.of(str(path), 0.25) for path in paths]
    assert (
        "<lora:one/sample:0.25> <lora:two/sample:0.25>"
        in facts(make(base, tmp_path / "a.png", loras=choices)[0])["parameters"]
    )
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    regions = [RegionChoice("two/sample", tmp_path / "white.png")]
    make(base, tmp_path / "a.png", loras=choices, regions=regions)
    with pytest.raises(UnknownNameError, match="Known: one/sample, two/sample"):
        make(base, tmp_path / "a.png", loras=choices, regions=[RegionChoice("sample", tmp_path / "white.png")])


def test_a_folder_of_adapters_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no folder .*lorras"):
        Request(prompts=["x"], output=Path("out.png"), lora_dir=tmp_path / "lorras")


def test_without_strict_what_does_not_fit_is_left_out_and_said(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partly = tmp_path / "loud.safetensors"
    save_file({**load_file(adapter), "unet.nowhere.lora_A.weight": torch.ones(2, 3)}, partly)
    whole = make(base, tmp_path / "a.png", loras=[LoraChoice.of(str(adapter), 0.5)])
    choice = [LoraChoice.of(str(partly), 0.5)]
    with pytest.raises(LoRAError, match="nowhere"):
        make(base, tmp_path / "b.png", loras=choice)
    given: dict[str, Any] = {"base": str(base), "prompts": ["a red heart"], "settings": QUICK, "device": "cpu"}
    request = Request(**given, loras=choice, strict=False, output=tmp_path / "c.png")
    assert (pixels(generate(request)[0]) == pixels(whole[0])).all()
    assert "1 keys of" in (said := capsys.readouterr().err)
    assert "unet.nowhere.lora_A.weight: " in said
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 3), "unet.nowhere.lora_B.weight": torch.ones(4, 2)}, partly)
    with pytest.raises(ModelError, match=r"nothing of .*loud.safetensors can be used on this model: unet.nowhere"):
        generate(request, quiet=True)


def test_names_that_are_no_text_do_not_stop_a_picture(base: Path, adapter: Path, tmp_path: Path) -> None:
    """A name that is not UTF-8 on the disk is half of a character in Python, which no PNG can hold."""
    odd = tmp_path / "l\udcffud.safetensors"
    odd.write_bytes(adapter.read_bytes())
    files = make(base, tmp_path / "a.png", loras=[LoraChoice.of(str(odd), 0.5)])
    assert facts(files[0])["adapters"] == r"l\udcffud.safetensors:0.5"


def test_an_adapter_of_the_folder_may_be_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    named = make(base, tmp_path / "a.png", loras=[parse_lora("loud:0.5")], lora_dir=adapter.parent)
    by_path = make(base, tmp_path / "b.png", loras=[parse_lora(f"{adapter}:0.5")])
    assert (pixels(named[0]) == pixels(by_path[0])).all()
    with pytest.raises(FileError, match="there is no file lout"):
        make(base, tmp_path / "a.png", loras=[parse_lora("lout:0.5")], lora_dir=adapter.parent)
