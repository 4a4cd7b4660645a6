"""Name and folder of the base model that ships with the package."""

from __future__ import annotations

from pathlib import Path

NAME = "bundled"
FOLDER = Path(__file__).parents[1] / "demo" / "model"
