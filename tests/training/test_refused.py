"""A run that is refused leaves nothing behind, and says in plain words what the base model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorica.adapters import Adapter, LoRA
from lorica.errors import LoRAError, StateError
from lorica.formats import write
from lorica.training.config.config import RunConfig
from lorica.training.run import train

Settings = Callable[..., RunConfig]


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 10**6},
        {"resolution": 30},
        {"train_data_dir": Path("/gone")},
        {"report_to": "tensorboard", "rank": 10**6},
    ],
)
def test_a_refused_run_leaves_no_folder(settings: Settings, tmp_path: Path, change: dict[str, object]) -> None:
    folder = tmp_path / "new" / "deep" / "out"
    with pytest.raises(LoRAError):
        train(settings(output_dir=folder, **change), quiet=True)
    assert not (tmp_path / "new").exists()


def test_what_was_in_the_folder_stays(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(LoRAError):
        train(settings(output_dir=folder, resolution=30), quiet=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_refused_run_deletes_no_checkpoint(settings: Settings) -> None:
    result = train(settings(max_train_steps=1), quiet=True)
    with pytest.raises(LoRAError):
        train(settings(overwrite_output_dir=True, resolution=30), quiet=True)
    assert (result.output_dir / "checkpoint-1").is_dir()


def test_a_run_that_cannot_resume_keeps_its_run_file(settings: Settings) -> None:
    result = train(settings(max_train_steps=1), quiet=True)
    before = (result.output_dir / "run.toml").read_bytes()
    with pytest.raises(StateError):
        train(settings(rank=5, resume_from_checkpoint="latest"), quiet=True)
    assert (result.output_dir / "run.toml").read_bytes() == before


def test_an_adapter_is_no_base_model(settings: Settings, tmp_path: Path) -> None:
    layer = LoRA(torch.zeros(2, 8), torch.zeros(8, 2), 2.0)
    path = write(Adapter({"unet": {"mid_block.attentions.0.proj_in": layer}}), tmp_path / "style.safetensors")
    with pytest.raises(LoRAError, match=r"style.safetensors: it is no base model but an adapter\. Give the model"):
        train(settings(pretrained_model_name_or_path=str(path)), quiet=True)
    folder = tmp_path / "adapter"
    folder.mkdir()
    path.rename(folder / "pytorch_lora_weights.safetensors")
    with pytest.raises(LoRAError, match="is no base model: it holds the adapter pytorch_lora_weights"):
        train(settings(pretrained_model_name_or_path=str(folder)), quiet=True)


def test_a_pipeline_that_is_not_known_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "TomorrowPipeline", "_diffusers_version": "9"}')
    with pytest.raises(LoRAError, match=r"it is a TomorrowPipeline, which the installed diffusers .* does not know"):
        train(settings(pretrained_model_name_or_path=str(tmp_path)), quiet=True)
