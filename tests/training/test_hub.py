"""The upload: what is sent, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import RepoUrl

from lorica.errors import ConfigError, FileError
from lorica.training.config.config import RunConfig
from lorica.training.output import hub
from lorica.training.run import train


class Api:
    """Stands for the Hub, and keeps what it was asked."""

    sent: dict[str, Any]

    def create_repo(self, name: str, *, exist_ok: bool) -> RepoUrl:
        assert exist_ok
        return RepoUrl(f"https://huggingface.co/{name if '/' in name else f'me/{name}'}")

    def upload_folder(self, **options: Any) -> None:
        Api.sent = options


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: "token")
    monkeypatch.setattr(hub, "HfApi", Api)


@pytest.mark.usefixtures("login")
def test_a_finished_run_is_uploaded_without_checkpoints(settings: Callable[..., RunConfig]) -> None:
    result = train(settings(push_to_hub=True, hub_model_id="them/red", max_train_steps=1), quiet=True)
    assert (Api.sent["repo_id"], Api.sent["folder_path"]) == ("them/red", result.output_dir)
    assert "checkpoint-*/**" in Api.sent["ignore_patterns"]


@pytest.mark.usefixtures("login")
def test_the_name_is_that_of_the_folder_if_none_is_given(tmp_path: Path) -> None:
    assert hub.push_folder(tmp_path / "blue", None) == "https://huggingface.co/me/blue"


def test_without_a_login_the_run_does_not_start(
    settings: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="hf auth login"):
        train(settings(push_to_hub=True), quiet=True)


@pytest.mark.usefixtures("login")
def test_a_failed_upload_says_how_to_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(Api, "upload_folder", fail)
    with pytest.raises(FileError, match=r"is complete in .*: no network To repeat it: hf upload me/x "):
        hub.push_folder(tmp_path, "me/x")
