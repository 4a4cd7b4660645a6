"""Where the base model that ships with the package lies: known here, below all who ask for it by name."""

from __future__ import annotations

from pathlib import Path

NAME = "bundled"
FOLDER = Path(__file__).parents[1] / "demo" / "model"
