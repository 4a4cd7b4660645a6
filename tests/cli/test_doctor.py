"""What ``lorica doctor`` finds: versions, extras, devices, folders, and the remedy for what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from lorica.cli import environment
from lorica.cli.doctor import lines
from lorica.cli.environment import Device, examine, free_gib
from lorica.cli.main import run

DECLARED = [
    "torch>=2.6",
    "pillow>=10.3",
    'tomli>=2.0; python_version < "3.0"',
    'bitsandbytes>=0.45; extra == "bnb"',
    'ruff>=0.8; extra == "dev"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that Lorica declares ``DECLARED`` and that just these versions are installed."""

    def pretend(**versions: str) -> None:
        known = {"lorica": "0.1.0", **versions}

        def version(name: str) -> str:
            if name not in known:
                raise PackageNotFoundError(name)
            return known[name]

        monkeypatch.setattr(environment, "version", version)
        monkeypatch.setattr(environment, "requires", lambda _: DECLARED)

    return pretend


def test_everything_there_is_healthy(installed: Callable[..., None]) -> None:
    installed(torch="2.13.0+cpu", pillow="13.0.0", bitsandbytes="0.50.0", ruff="0.17.0")
    facts = examine()
    assert facts.healthy
    assert [package.name for package in facts.packages] == ["torch", "pillow"]  # tomli is not for this Python
    assert [package.name for package in facts.extras["bnb"]] == ["bitsandbytes"]


def test_a_version_that_is_too_old_is_told_with_its_remedy(
    installed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed(torch="2.13.0", pillow="9.1.0", bitsandbytes="0.50.0", ruff="0.17.0")
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "pillow>=10.3 (9.1.0 is installed)\n    pip install 'pillow>=10.3'" in shown
    assert "Something necessary is missing:" in shown


def test_a_missing_extra_is_told_and_no_failure(installed: Callable[..., None]) -> None:
    installed(torch="2.13.0", pillow="13.0.0", ruff="0.17.0")
    facts = examine()
    assert facts.healthy
    assert "  extra 'bnb': bitsandbytes\n    pip install 'lorica[bnb]'" in list(lines(facts))


def test_a_missing_bundled_model_is_told(
    installed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(torch="2.13.0", pillow="13.0.0", bitsandbytes="0.50.0", ruff="0.17.0")
    monkeypatch.setattr("lorica.models.bundled.FOLDER", tmp_path)
    facts = examine()
    assert not facts.bundled_model
    assert [missing.what for missing in facts.missing] == ["the weights of the bundled base model"]
    assert facts.healthy


def test_gpus_come_first_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "Sample GPU"
        total_memory = 24 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    first, *_, last = environment.devices()
    assert first == Device("cuda:0", "Sample GPU", 24.0)
    assert last.name == "cpu"


def test_it_works_where_every_library_is_missing(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed()
    for name in ("torch", "huggingface_hub", "huggingface_hub.constants"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "torch>=2.6 (not installed)\n    pip install 'torch>=2.6'" in shown


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert free_gib(tmp_path / "not" / "yet") == pytest.approx(free_gib(tmp_path), rel=0.01)
