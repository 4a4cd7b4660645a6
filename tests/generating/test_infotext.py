"""The ``parameters`` text, read again by the rules of the three programs that read it."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorica.generating.choices import LoraChoice
from lorica.generating.infotext import BASE, FileHashes, Hashing, infotext
from lorica.generating.request import Request
from lorica.generating.run import generate
from lorica.generating.sampling import SamplingSettings, Shot
from lorica.generating.schedulers import SAMPLERS, SCHEDULERS, sampler_name
from lorica.runtime.prompt.tags import Tag

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def a1111(text: str) -> dict[str, str]:
    """By the rule of the web UI: the last line holds the settings, a value may be JSON in quotes."""
    *lines, last = text.strip().split("\n")
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    assert len(found) >= 3
    negative = next((number for number, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    values = {name: json.loads(value) if value.startswith('"') else value for name, value in found}
    return {**values, "prompt": "\n".join(lines[:negative]), "negative": "\n".join(lines[negative:])[16:].strip()}


def comfyui(text: str) -> dict[str, str]:
    """By the rule of ComfyUI's front end: both marks must be there, and the settings stand in the line after."""
    start = text.rindex("\nSteps:")
    negative = text.rindex("\nNegative prompt:", 0, start)
    line = text[start:].split("\n")[1]
    pairs = [found[0].split(":") for found in re.findall(r'\s*([^:]+:\s*([^"\{].*?|".*?"|\{.*?\}))\s*(,|$)', line)]
    values = {pair[0].strip().lower(): pair[1].strip() for pair in pairs}
    return {**values, "positive": text[:negative].strip(), "negative_text": text[negative + 18 : start].strip()}


def civitai(text: str) -> dict[str, Any]:
    """By the rule of the site: hashes as JSON, the lists of hashes in quotes, adapters from the prompt."""
    line = next(line for line in text.split("\n") if line.startswith("Steps: "))
    hashes = re.search(r", Hashes:\s*({[^}]+})", line)
    loras = re.search(r'Lora hashes: "([^"]*)"', line)
    return {
        "hashes": json.loads(hashes[1]) if hashes else {},
        "loras": dict(pair.split(": ") for pair in loras[1].split(", ")) if loras else {},
        "tags": re.findall(r"<(?:lora|hypernet):([a-zA-Z0-9_\.\-]+):([0-9.]+)>", text.split("Negative prompt:")[0]),
    }


def text_of(**changes: Any) -> str:
    given: dict[str, Any] = {
        "shot": Shot("a cat, a dog\n\nSteps: none", 7),
        "settings": SamplingSettings(steps=20, guidance=3.5, negative_prompt="blur: bad, worse"),
        "size": (640, 512),
        "sampler": "DPM++ 2M Karras",
        "base": "models/dream, v1.safetensors",
        "adapters": [Tag("style", 0.8, 0.8), Tag('odd: "name", x', 0.5, 1.0)],
        "hashes": {
            BASE: FileHashes("0123456789", "abcdefabcdef"),
            "style": FileHashes("aaaaaaaaaa", "bbbbbbbbbbbb"),
            'odd: "name", x': FileHashes("cccccccccc", "dddddddddddd"),
            "other": FileHashes("eeeeeeeeee", "ffffffffffff"),
        },
        **changes,
    }
    shot, settings, size = (given.pop(name) for name in ("shot", "settings", "size"))
    return infotext(shot, settings, size, **given)


def test_a1111_reads_it() -> None:
    found = a1111(text_of())
    assert found["prompt"].startswith("a cat, a dog Steps: none <lora:style:0.8>")
    assert found["negative"] == "blur: bad, worse"
    expected = {
        "Steps": "20",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "3.5",
        "Seed": "7",
        "Size": "640x512",
        "Model hash": "0123456789",
        "Model": "dream, v1",
        "Lora hashes": "style: bbbbbbbbbbbb, odd_ _name__ x: dddddddddddd",
        "RNG": "CPU",
    }
    assert {name: found[name] for name in expected} == expected


def test_comfyui_reads_it() -> None:
    for negative in ("blur", None):
        found = comfyui(text_of(settings=SamplingSettings(steps=20, guidance=3.5, negative_prompt=negative)))
        assert (found["steps"], found["cfg scale"], found["seed"], found["size"]) == ("20", "3.5", "7", "640x512")
        assert found["negative_text"] == (negative or "")
        assert "<lora:style:0.8>" in found["positive"]


def test_civitai_reads_it() -> None:
    found = civitai(text_of())
    assert found["loras"]["style"] == "bbbbbbbbbbbb"
    assert found["hashes"] == {"model": "0123456789", "lora:style": "aaaaaaaaaa", 'lora:odd: "name", x': "cccccccccc"}
    assert found["tags"] == [("style", "0.8")]


def test_without_files_there_are_no_hashes() -> None:
    text = text_of(hashes={}, base="user/repo", adapters=[])
    assert "hash" not in text.lower()
    assert a1111(text)["Model"] == "user/repo"
    assert a1111(text)["Version"].startswith("lorica")


def test_every_scheduler_has_the_name_that_others_know() -> None:
    assert SAMPLERS.keys() == SCHEDULERS.keys()
    assert sampler_name("dpm++_karras") == "DPM++ 2M Karras"
    assert sampler_name("EulerDiscreteScheduler") == "Euler"
    assert sampler_name("FlowMatchEulerDiscreteScheduler") == "FlowMatchEulerDiscreteScheduler"


def test_a_picture_names_the_hashes_of_its_files(base: Path, adapter: Path, tmp_path: Path) -> None:
    content = adapter.read_bytes()
    whole = sha256(content).hexdigest()[:10]
    tensors = sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
    quick = SamplingSettings(steps=1, guidance=3.0)
    for given in (
        {"prompts": ["a heart"], "loras": [LoraChoice.of(str(adapter), 0.5)]},
        {"prompts": ["a heart <lora:loud:0.5>"], "lora_dir": adapter.parent},
    ):
        request = Request(base=str(base), output=tmp_path / "a.png", settings=quick, device="cpu", **given)  # type: ignore[arg-type]
        with Image.open(generate(request, quiet=True)[0]) as picture:
            found = civitai(picture.info["parameters"])
        assert (found["hashes"], found["loras"]) == ({"lora:loud": whole}, {"loud": tensors})
        assert found["tags"] == [("loud", "0.5")]


def test_plain_text_is_of_the_kind_that_every_program_reads(base: Path, tmp_path: Path) -> None:
    def kinds(prompt: str) -> set[bytes]:
        request = Request(
            base=str(base),
            output=tmp_path / "a.png",
            prompts=[prompt],
            device="cpu",
            settings=SamplingSettings(steps=1),
        )
        content = generate(request, quiet=True)[0].read_bytes()
        return {kind for kind in (b"tEXtparameters", b"iTXtparameters") if kind in content}

    assert kinds("a heart") == {b"tEXtparameters"}
    assert kinds("ein Herz für 猫") == {b"iTXtparameters"}


def test_a_file_that_is_no_file_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"0123456789")
    (tmp_path / "empty.safetensors").touch()
    sources = {"pt": tmp_path / "a.pt", "hub": "user/repo", "folder": tmp_path, "empty": tmp_path / "empty.safetensors"}
    with Hashing(sources) as hashing:
        found = hashing.values()
    assert found == {"pt": FileHashes(sha256(b"0123456789").hexdigest()[:10], "")}
