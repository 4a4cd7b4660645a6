"""``bundled_model``: the folder of the base model that ships with the package."""

from __future__ import annotations

from pathlib import Path

from lorica.errors import FileError
from lorica.models import bundled


def bundled_model() -> Path:
    """Folder of the base model that ships with the package, in diffusers' format.

    ``StableDiffusionPipeline.from_pretrained(lorica.bundled_model())`` loads it.

    Raises:
        FileError: if its weights are not there, as in a checkout whose large files were left out.
    """
    if missing := bundled.missing_weights():
        raise FileError(
            f"the bundled base model is incomplete: no weights of {', '.join(missing)} in {bundled.FOLDER}. Install "
            "the package anew, or train the model again with `make base` (hours on a CPU)."
        )
    return bundled.FOLDER
