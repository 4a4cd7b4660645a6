"""The pages for those who come from another program: each line of their tables holds."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import PeftAdapterMixin, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from PIL import Image
from safetensors.torch import load_file

import lorica
from lorica.adapters import Adapter, LoRA
from lorica.cli.main import program, run
from lorica.cli.train import configuration
from lorica.formats import FORMATS
from lorica.models import FAMILIES
from lorica.training.config.config import RunConfig
from lorica.training.config.refused import REFUSED
from lorica.training.config.settings import second_names

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("coming_from_*.md"))
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Row:
    """One line of a table: the cells below the first two headings, which name the programs."""

    page: str
    theirs: str
    ours: str

    @property
    def code(self) -> tuple[str, str]:
        """The code that each of the two cells begins with, or nothing."""
        found = [CODE.match(cell) for cell in (self.theirs, self.ours)]
        return tuple(match[1] if match else "" for match in found)  # type: ignore[return-value]

    def __str__(self) -> str:
        return f"{self.page}: {self.theirs}"


def rows() -> Iterator[Row]:
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) >= 2 and not set(cells[0]) <= set("-:") and cells[1] != "Lorica":
                yield Row(page.stem, cells[0].replace("\\|", "|"), cells[1].replace("\\|", "|"))


ROWS = list(rows())
PYTHON = [row for row in ROWS if re.match(r"(loras|lorica)\.|loras\[|with loras|adapter = |len\(", row.code[1])]
COMMANDS = [row for row in ROWS if row.code[1].startswith("lorica ")]
FLAGS = [row for row in ROWS if row.code[0].startswith("--") and row.code[1].startswith("--")]
REFUSALS = [row for row in ROWS if row.code[0].startswith("--") and row.ours == "refused"]


def sample(seed: int) -> Adapter:
    shapes = FAMILIES["bundled"].target.components["unet"]
    torch.manual_seed(seed)
    layers = {
        path: LoRA(torch.randn(2, shape[1]), torch.randn(shape[0], 2) / 50)
        for path, shape in shapes.items()
        if ".attn2.to_k" in path
    }
    return Adapter({"unet": layers})


def with_text(adapter: Adapter) -> Adapter:
    """The same with a layer of the text encoder."""
    shapes = FAMILIES["bundled"].target.components["text_encoder"]
    path, shape = next((path, shape) for path, shape in shapes.items() if path.endswith("mlp.fc1"))
    layer = LoRA(torch.randn(2, shape[1]), torch.randn(shape[0], 2) / 50)
    return Adapter({**adapter.components, "text_encoder": {path: layer}})


@pytest.fixture(scope="module")
def pipe(bundled: Path) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(bundled)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def names(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the code of a line finds: files, a pipeline with two adapters loaded, and a state dict."""
    monkeypatch.chdir(tmp_path)
    adapters = {name: sample(seed) for seed, name in enumerate("ab")}
    for name, adapter in adapters.items():
        for folder in (".", "loras"):
            lorica.write(adapter, f"{folder}/{name}.safetensors")
    for folder in ("folder", "checkpoint-500", "old"):
        lorica.write(adapters["a"], folder)
    state_dict = load_file("a.safetensors")
    for name in ("old/pytorch_lora_weights.bin", "last.pt"):
        torch.save(state_dict, name)
    for name in ("kohya", "comfyui"):
        lorica.write(adapters["a"], f"{name}.safetensors", format=name)
    for name in ("loras/ikea", "models/loras/style"):
        lorica.write(adapters["b"], f"{name}.safetensors")
    Image.new("L", (8, 8), 255).save("left.png")
    loras = lorica.attach(pipe)
    for name, adapter in {**adapters, "both": with_text(adapters["a"])}.items():
        loras.load(adapter, name=name)
    yield {"pipe": pipe, "loras": loras, "lorica": lorica, "state_dict": state_dict, "adapter": adapters["a"]}
    loras.detach()


def test_there_are_pages_with_lines_of_every_kind() -> None:
    assert {row.page for row in ROWS} == {page.stem for page in PAGES}
    assert all(len(kind) > 2 for kind in (PYTHON, COMMANDS, FLAGS, REFUSALS))


@pytest.mark.parametrize("row", PYTHON, ids=str)
def test_our_code_runs(row: Row, names: dict[str, Any]) -> None:
    code = row.code[1]
    if re.search(r'load\([^)]*name="a"', code) and "replace" not in code:
        names["loras"].remove("a")
    if "unfuse" in code:
        names["loras"].fuse({"a": 0.5})
    exec(compile(code, str(row), "exec"), names)  # noqa: S102  # it is our own page


@pytest.mark.parametrize("row", [row for row in ROWS if row.code[0].startswith("pipe")], ids=str)
def test_their_call_exists(row: Row) -> None:
    """A name that is not theirs would mislead those who look for it."""
    for node in ast.walk(ast.parse(row.code[0])):
        if isinstance(node, ast.Attribute) and node.attr != "unet":
            owner = UNet2DConditionModel if ast.unparse(node.value) == "pipe.unet" else StableDiffusionPipeline
            assert hasattr(owner, node.attr), node.attr


@pytest.mark.parametrize("row", COMMANDS, ids=str)
def test_our_command_line_parses(row: Row) -> None:
    words = shlex.split(row.code[1])[1:]
    command = program.get_command(program.make_context("lorica", [], resilient_parsing=True), words[0])
    assert command is not None
    command.make_context(words[0], words[1:], resilient_parsing=False)


def settings_of(line: str) -> RunConfig:
    """The settings of a training run with these options."""
    command = program.get_command(program.make_context("lorica", [], resilient_parsing=True), "train")
    assert command is not None
    options = command.make_context("train", shlex.split(line)).params
    own = {name: options.pop(name) for name in ("what", "pairs")}
    for name in ("dry_run", "as_json"):
        options.pop(name)
    return configuration(own["what"], own["pairs"], options)


@pytest.mark.parametrize("row", FLAGS, ids=str)
def test_both_flags_give_the_same_settings(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if row.page != "coming_from_diffusers":
        pytest.importorskip("lorica.training.config.kohya")
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat\n", encoding="utf-8")
    theirs, ours = map(settings_of, row.code)
    assert theirs == ours
    assert ours != settings_of("")


@pytest.mark.parametrize("row", REFUSALS, ids=str)
def test_a_flag_is_refused_with_a_reason(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    if row.page != "coming_from_diffusers":
        pytest.importorskip("lorica.training.config.kohya")
    assert run(["train", *shlex.split(row.code[0])]) == 2
    assert "is not offered" in capsys.readouterr().err


def test_every_call_of_theirs_is_on_the_page() -> None:
    text = (DOCS / "coming_from_diffusers.md").read_text(encoding="utf-8")
    owners = (LoraBaseMixin, StableDiffusionLoraLoaderMixin, PeftAdapterMixin, TextualInversionLoaderMixin)
    calls = {name for owner in owners for name in vars(owner) if not name.startswith("_")}
    missing = {name for name in calls - {"unet_name", "text_encoder_name"} if not re.search(rf"\b{name}\b", text)}
    assert not missing


def test_every_flag_of_theirs_is_on_the_page_or_has_the_same_name() -> None:
    text = (DOCS / "coming_from_diffusers.md").read_text(encoding="utf-8")
    flags = json.loads((Path(__file__).parent / "training" / "diffusers_flags.json").read_text("utf-8"))
    assert {flag for flag in flags if flag in REFUSED} == {
        flag for flag in flags if f"`--{flag}" in text
    } & REFUSED.keys()
    assert {flag for flag in flags if flag not in REFUSED} <= {*RunConfig.model_fields, *second_names(RunConfig)}


def test_every_option_of_kohyas_that_is_known_here_is_on_the_page() -> None:
    kohya = pytest.importorskip("lorica.training.config.kohya")
    text = (DOCS / "coming_from_kohya_onetrainer_comfyui.md").read_text(encoding="utf-8")
    known = {*kohya.KOHYA_REFUSED, *kohya.TRANSLATED, *kohya.ALWAYS_SO}
    assert not {name for name in known if f"`--{name}" not in text}


def test_formats_that_a_page_names_are_there() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r'format="(\w+)"', text) + re.findall(r"--to (\w+)", text)) <= FORMATS.keys()
