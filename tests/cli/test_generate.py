"""``lorica generate``: what is typed becomes a request, and what comes back is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.cli.main import run
from lorica.generating.choices import LoraChoice, RegionChoice
from lorica.generating.grid import parse_axis
from lorica.generating.request import Request
from lorica.generating.sampling import SamplingSettings
from tiny_base import save_tiny_base


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that are made, in place of pictures."""
    requests: list[Request] = []

    def generate(request: Request) -> list[Path]:
        requests.append(request)
        names = [
            request.output.stem,
            *(f"{request.output.stem}-{number}" for number in range(1, len(request.shots) + 1)),
        ]
        return [Path(f"{name}.png") for name in (names if len(names) > 2 else names[:1])]

    monkeypatch.setattr("lorica.generating.run.generate", generate)
    return requests


def test_every_option_reaches_the_request(seen: list[Request], tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a star\n", encoding="utf-8")
    line = (
        f"generate --base models/x --lora a.safetensors:0.8 --lora b.safetensors --prompt heart --prompts-file "
        f"{tmp_path / 'more.txt'} --negative-prompt blur --num 4 --seed 11 --steps 12 --guidance 3.5 --scheduler ddim "
        f"--height 48 --width 56 --batch_size 3 --grid strength=0,1 --grid adapter=c.pt,none --device cpu "
        "--dtype bfloat16 --output new/x.png --region a=left.png --region b=right.png"
    )
    assert run(line.split()) == 0
    assert seen == [
        Request(
            prompts=["heart", "a star"],
            output=Path("new/x.png"),
            base="models/x",
            loras=[LoraChoice.of("a.safetensors", 0.8), LoraChoice.of("b.safetensors", 1.0)],
            num=4,
            seed=11,
            scheduler="ddim",
            settings=SamplingSettings(
                steps=12, guidance=3.5, negative_prompt="blur", height=48, width=56, batch_size=3
            ),
            grid=[parse_axis("strength=0,1"), parse_axis("adapter=c.pt,none")],
            device="cpu",
            dtype="bfloat16",
            regions=[RegionChoice("a", Path("left.png")), RegionChoice("b", Path("right.png"))],
        )
    ]


def test_the_names_of_diffusers_and_train_are_taken_too(seen: list[Request]) -> None:
    theirs = "--pretrained_model_name_or_path x --num_inference_steps 7 --guidance_scale 2 --num-images-per-prompt 3"
    assert run(f"generate --prompt heart {theirs}".split()) == 0
    assert run(["generate", "--prompt", "heart", "--base", "x", "--steps", "7", "--guidance", "2", "--num", "3"]) == 0
    assert seen[0] == seen[1]
    assert (seen[0].base, seen[0].num, seen[0].settings.steps, seen[0].settings.guidance) == ("x", 3, 7, 2.0)


def test_the_base_is_the_bundled_one_by_default(seen: list[Request]) -> None:
    assert run(["generate", "--prompt", "a heart"]) == 0
    assert (seen[0].base, seen[0].output, seen[0].num, seen[0].loras) == ("bundled", Path("out.png"), 1, [])


def test_it_says_what_it_wrote(seen: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    run(["generate", "--prompt", "a heart", "--num", "3"])
    assert (
        capsys.readouterr().out == "Wrote out.png, a sheet of 3 pictures, and each of them: out-1.png to out-3.png.\n"
    )
    run(["generate", "--prompt", "a heart", "--json"])
    assert json.loads(capsys.readouterr().out) == {"output": "out.png", "files": ["out.png"], "seed": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--prompt"),
        (["--prompt", "x", "--lora", "a.safetensors:loud"], "must be a number"),
        (["--prompt", "x", "--grid", "strength=0,1"], "--lora"),
        (["--prompt", "x", "--steps", "0"], "steps must be at least 1"),
        (["--prompt", "x", "--height", "128"], "give --height and --width, or neither"),
        (["--prompt", "x", "--sed", "3"], "--sed"),
    ],
)
def test_bad_input_is_one_paragraph_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_whole_road_leaves_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, output = save_tiny_base(tmp_path / "base"), tmp_path / "out.png"
    line = [
        "generate",
        "--base",
        str(base),
        "--prompt",
        "a heart",
        "--num",
        "2",
        "--steps",
        "2",
        "--output",
        str(output),
    ]
    assert run([*line, "--device", "cpu"]) == 0
    assert "a sheet of 2 pictures" in capsys.readouterr().out
    assert [path.exists() for path in (output, tmp_path / "out-1.png", tmp_path / "out-2.png")] == [True] * 3


def test_a_missing_adapter_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_tiny_base(tmp_path / "base")
    arguments = ["--base", str(base), "--prompt", "x", "--lora", str(tmp_path / "gone.safetensors"), "--device", "cpu"]
    assert run(["generate", *arguments, "--output", str(tmp_path / "o.png")]) == 2
    assert "gone.safetensors" in capsys.readouterr().err
