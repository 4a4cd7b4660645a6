"""Every benchmark starts, and stores nothing in a small run; walks and training steps are what they are said to be."""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("peft")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
RESULTS = FOLDER / "results"
SUPPORT = {"checkout_worker", "reporting", "sized_unets"}  # imported, or started by another one
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SUPPORT)
ARGUMENTS = {"against_commit": [str(ROOT)]}
SLOW = {"adapter_ops", "against_commit", "compiled_swap", "train_step"}

# The walks that are still longer than the targets of `benchmarks/walk.py`. Remove what has come below its target.
WALKS_TOO_LONG = {"load"}


@pytest.mark.usefixtures("bundled")
@pytest.mark.filterwarnings("ignore")  # those of diffusers and PEFT, which the programs run as they are
@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in PROGRAMS])
def test_it_runs_and_stores_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)  # where Python looks first when a program of the folder is run
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *ARGUMENTS.get(name, []), "--small"])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.count("\n") > 2
    assert before == {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    assert not list(tmp_path.iterdir())


def test_every_file_is_a_program_or_its_support() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} >= SUPPORT
    assert all('if __name__ == "__main__":' in (FOLDER / f"{name}.py").read_text(encoding="utf-8") for name in PROGRAMS)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_nothing_of_the_runtime_is_used_but_its_public_names(path: Path) -> None:
    assert "lorica.runtime" not in path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """What an operation passes, counted in a process of its own; another test would have been there before."""
    out = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(FOLDER / "walk.py"), "--small", "--json", "--out", str(out)]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert json.loads((out / "walk.json").read_text(encoding="utf-8"))["walked"] == printed
    return printed


def test_a_walk_is_counted(walks: dict[str, dict[str, int]]) -> None:
    assert {"load", "set", "forward", "fuse", "unfuse"} <= walks.keys()
    assert all(walk["functions"] >= walk["files"] >= 1 for walk in walks.values())
    assert walks["load"]["functions"] > walks["set"]["functions"]


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(one, marks=pytest.mark.xfail(strict=True) if one in WALKS_TOO_LONG else ())
        for one in ("load", "set", "forward")
    ],
)
def test_a_reader_has_a_short_walk(operation: str, walks: dict[str, dict[str, int]]) -> None:
    functions, files = module("walk").TARGETS[operation]
    assert walks[operation]["functions"] < functions
    assert walks[operation]["files"] < files


@pytest.mark.slow
@pytest.mark.usefixtures("bundled")
def test_a_training_step_is_compared_in_time_parts_and_memory() -> None:
    benchmark = module("train_step")
    figures = benchmark.compare("bundled", 1, 2)
    assert set(figures["milliseconds"]) == {"script", "script, cached", "ours", "floor", "ours, checkpointed"}
    for name in ("script", "script, cached", "ours"):
        assert all(figures["split_milliseconds"][name][part] > 0 for part in benchmark.PARTS)
    assert figures["peak_megabytes"]["ours, checkpointed"] < 0.5 * figures["peak_megabytes"]["ours"]
    assert figures["peak_megabytes"]["ours"] == pytest.approx(figures["peak_megabytes"]["floor"], rel=0.2)


def module(name: str) -> ModuleType:
    """A benchmark as a module, which is not run."""
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    made = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        found.loader.exec_module(made)
    return made
