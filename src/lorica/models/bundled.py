"""Name and folder of the base model that ships with the package."""

from __future__ import annotations

from pathlib import Path

NAME = "bundled"
FOLDER = Path(__file__).parents[1] / "demo" / "model"


def missing_weights() -> list[str]:
    """Networks whose weights are not there, as in a checkout whose large files were left out."""
    return [part for part in ("unet", "vae", "text_encoder") if not any((FOLDER / part).glob("*.safetensors"))]
