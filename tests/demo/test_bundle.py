"""Where the bundled base lies, and what is said when it does not."""

from pathlib import Path

import pytest

import lorica
from lorica.demo.bundle import bundled_model
from lorica.errors import FileError
from lorica.models import bundled as place


def test_missing_weights_are_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").touch()
    monkeypatch.setattr(place, "FOLDER", tmp_path)
    with pytest.raises(FileError, match=r"no weights of unet, text_encoder.*make base"):
        bundled_model()


def test_the_folder_is_returned(bundled: Path) -> None:
    assert lorica.bundled_model() == bundled == bundled_model()
    assert (bundled / "model_index.json").is_file()
