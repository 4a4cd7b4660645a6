"""Where the bundled base model lies."""

from __future__ import annotations

from pathlib import Path

from lorica.errors import FileError
from lorica.models import bundled

WEIGHTS = ("unet", "vae", "text_encoder")


def bundled_model() -> Path:
    """Return the folder of the base model that ships with the package, in diffusers' format.

    ``StableDiffusionPipeline.from_pretrained(lorica.bundled_model())`` loads it.

    Raises:
        FileError: if its weights are not there, as in a checkout whose large files were left out.
    """
    missing = [part for part in WEIGHTS if not any((bundled.FOLDER / part).glob("*.safetensors"))]
    if missing:
        raise FileError(
            f"the bundled base model is incomplete: no weights of {', '.join(missing)} in {bundled.FOLDER}. Install "
            "the package anew, or train the model again with `make base` (hours on a CPU)."
        )
    return bundled.FOLDER
