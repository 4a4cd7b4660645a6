"""The pages keep their word: code blocks run, command lines parse, links lead somewhere, public names are explained."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lorica
from lorica.cli.main import VERBS, program
from lorica.models import FAMILIES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
GUIDES = [page for page in PAGES if "decisions" not in page.parts and page.name != "CHANGELOG.md"]  # not history

BLOCK = re.compile(r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]+)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)(?P<path>[^)#\s]+)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of each ``lorica`` command that a page shows; a backslash joins lines."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["lorica"]:
                yield words[1:]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with the pictures of the bundled subject and the file that the quickstart leaves."""
    from lorica.demo.subject import write_lesson

    write_lesson(tmp_path / "pictures", ordinary=0)
    path, (out, width) = next(iter(attention_of_the_bundled_unet().items()))
    layer = lorica.LoRA(torch.zeros(2, width), torch.zeros(out, 2))
    lorica.write(lorica.Adapter({"unet": {path: layer}}), tmp_path / "quickstart")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attention_of_the_bundled_unet() -> dict[str, tuple[int, ...]]:
    shapes = FAMILIES["bundled"].target.components["unet"]
    return {path: shape for path, shape in shapes.items() if path.endswith("attn2.to_q")}


def test_there_are_pages() -> None:
    assert {"docs/index.md", "docs/vocabulary.md", "README.md"} <= {name_of(page) for page in PAGES}


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "python")], ids=name_of)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path, place: Path, request: pytest.FixtureRequest) -> None:
    if "bundled" in "".join(blocks(page, "python")):
        request.getfixturevalue("bundled")  # skips where the model has no weights
    names: dict[str, object] = {"__name__": "__page__"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)  # noqa: S102  # it is our own page
    assert place == Path.cwd()


@pytest.mark.parametrize("page", [page for page in GUIDES if any(command_lines(page))], ids=name_of)
def test_the_command_lines_of_a_page_parse(page: Path) -> None:
    for words in command_lines(page):
        if words[0] in VERBS:
            command = program.get_command(program.make_context("lorica", [], resilient_parsing=True), words[0])
            assert command is not None
            command.make_context(words[0], words[1:], resilient_parsing=False)
        else:
            assert words[0] in ("--help", "--version"), f"{name_of(page)} shows an unknown command: {words[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [match["path"] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, f"{name_of(page)} links to {', '.join(missing)}"


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    names = [name for name in NAMED.findall(page.read_text(encoding="utf-8")) if "NNNN" not in name]
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing, f"{name_of(page)} names {', '.join(missing)}"


def test_every_public_name_is_in_the_vocabulary() -> None:
    text = (DOCS / "vocabulary.md").read_text(encoding="utf-8")
    missing = [name for name in dir(lorica) if not name.startswith("_") and f"`{name}`" not in text]
    assert not missing, f"docs/vocabulary.md does not explain {', '.join(missing)}"


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(lorica, name) is not None for name in dir(lorica))


def test_an_unknown_public_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'atach'.*attach"):
        _ = lorica.atach


def test_decisions_have_their_five_parts() -> None:
    for page in sorted((DOCS / "decisions").glob("0*.md")):
        parts = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        expected = ["Question", "Measured", "Chosen", "What would change our mind", "Status"]
        assert parts == expected, f"{name_of(page)} has the parts {parts}"
