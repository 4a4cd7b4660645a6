"""The entry point: quick help, one paragraph for each error, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest

from lorica.cli import main as entry
from lorica.cli.main import VERBS, run
from lorica.errors import ConfigError, LoRAError, StateError, TrainingError

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "datasets", "numpy", "matplotlib", "PIL")


def add_verb(monkeypatch: pytest.MonkeyPatch, raises: BaseException | None, returns: int | None = None) -> None:
    """Put a verb ``sample`` on the table that raises or returns what the test wants."""

    @click.command()
    def command() -> int | None:
        if raises:
            raise raises
        return returns

    monkeypatch.setitem(VERBS, "sample", "A sample.")
    module = type(sys)("lorica.cli.sample")
    module.command = command
    monkeypatch.setitem(sys.modules, "lorica.cli.sample", module)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Usage: lorica" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_on_the_table_has_a_command_with_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(import_module(f"lorica.cli.{verb}").command, click.Command)
    assert run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: lorica {verb}" in shown
    assert shown.count("--traceback") == 1
    assert "\\b" not in shown  # click's mark for a paragraph that keeps its lines was understood


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from lorica.cli.main import run; run(sys.argv[1:]); "
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("heavy: []"), done.stdout.splitlines()[-1]


def test_help_answers_at_once() -> None:
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lorica", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0  # 0.05 s measured; the promise is 0.3 s, and the machine may be busy


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trian"]) == 2
    assert "unknown command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


def test_an_unknown_option_names_the_nearest_and_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--jsn"]) == 2
    shown = capsys.readouterr().err
    assert "No such option '--jsn'" in shown
    assert "--json" in shown
    assert "See `lorica doctor --help`." in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("rank: 0"), 2),
        (LoRAError("no"), 2),
        (StateError("taken"), 2),
        (TrainingError("NaN"), 1),
        (RuntimeError("boom"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_are_a_paragraph_on_standard_error_and_a_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_verb(monkeypatch, error)
    assert run(["sample"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert str(error) in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("arguments", [["sample", "--traceback"], ["--traceback", "sample"]], ids=" ".join)
def test_the_traceback_is_shown_when_asked_for(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_verb(monkeypatch, RuntimeError("boom"))
    assert run(arguments) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_is_told_and_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_verb(monkeypatch, KeyboardInterrupt())
    assert run(["sample"]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


def test_an_interrupt_that_says_how_to_go_on_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_verb(monkeypatch, KeyboardInterrupt("stopped after step 3"))
    assert run(["sample"]) == 130
    assert capsys.readouterr().err.strip() == "stopped after step 3"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_verb_may_return_its_exit_code(returned: int | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    add_verb(monkeypatch, None, returned)
    assert run(["sample"]) == code


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert import_module("lorica").__version__ in capsys.readouterr().out


def test_every_file_of_a_verb_is_on_the_table() -> None:
    folder = Path(entry.__file__).parent
    with_command = {path.stem for path in folder.glob("*.py") if "\ndef command(" in path.read_text(encoding="utf-8")}
    assert with_command == set(VERBS)


def test_doctor_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["lorica"] == import_module("lorica").__version__
    assert {"torch", "diffusers"} <= {package["name"] for package in facts["packages"]}
    assert facts["devices"][-1]["name"] == "cpu"
