"""Where the bundled base lies, and what is said when it does not."""

import json
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

import lorica
from lorica.demo.base.autoencoder import make_autoencoder
from lorica.demo.base.build import assemble
from lorica.demo.base.denoiser import Denoiser
from lorica.demo.base.tokenizer import make_tokenizer
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


@pytest.mark.filterwarnings("ignore:.*token_id must be", "ignore:The configuration file:FutureWarning")
def test_a_model_that_is_built_does_not_note_where(tmp_path: Path) -> None:
    make_autoencoder().save_pretrained(tmp_path / "stage")
    autoencoder, tokenizer = AutoencoderKL.from_pretrained(tmp_path / "stage"), make_tokenizer()
    assemble(autoencoder, Denoiser(tokenizer), tokenizer, tmp_path / "model")
    configs = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "model").rglob("*.json")]
    assert len(configs) > 5
    assert not any(str(tmp_path) in json.dumps(config) for config in configs)
    assert AutoencoderKL.from_pretrained(tmp_path / "model" / "vae").config["block_out_channels"] == [32, 48, 64]
