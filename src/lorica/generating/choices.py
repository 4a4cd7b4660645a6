"""Parsers of adapters, regions and grids as they are typed: ``file.safetensors:0.8``, ``strength=0,0.5,1``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from lorica.errors import ConfigError

AXIS = "strength"
NUMERIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """An adapter and its strength, which may be negative or above 1."""

    source: str
    strength: float = 1.0

    def __str__(self) -> str:
        return f"{self.source}:{self.strength:g}"


def parse_lora(text: str) -> LoraChoice:
    r"""Adapter in ``PATH`` or ``PATH:STRENGTH``; a colon inside the path, as in ``C:\a.safetensors``, is part of it.

    Raises:
        ConfigError: if the text after the last colon is meant as a strength and is no number.
    """
    source, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return LoraChoice(text)
    if NUMERIC.fullmatch(tail) and math.isfinite(float(tail)):
        return LoraChoice(source, float(tail))
    if Path(source).exists() or source.endswith(".safetensors"):
        raise ConfigError(f"--lora {text}: the strength after the last colon must be a number, got {tail!r}.")
    return LoraChoice(text)


@dataclass(frozen=True, slots=True)
class RegionChoice:
    """Region of an adapter: the adapter's name, and the file of the mask, white where the adapter acts."""

    name: str
    mask: Path


def parse_region(text: str) -> RegionChoice:
    """Region in ``NAME=MASK.png``.

    Raises:
        ConfigError: if one of the two is missing.
    """
    name, _, mask = text.partition("=")
    if not name.strip() or not mask.strip():
        raise ConfigError(f"--region takes an adapter and its mask, such as --region style=left.png; got {text!r}.")
    return RegionChoice(name.strip(), Path(mask.strip()))


def parse_grid(text: str) -> tuple[float, ...]:
    """Strengths in ``strength=0,0.5,1``.

    Raises:
        ConfigError: if the axis is not ``strength``, or a value is no number.
    """
    axis, _, values = text.partition("=")
    if axis.strip() != AXIS:
        raise ConfigError(f"--grid compares {AXIS}s, such as --grid {AXIS}=0,0.5,1; got {text!r}.")
    numbers = [value.strip() for value in values.split(",")]
    wrong = [number for number in numbers if not NUMERIC.fullmatch(number)]
    if wrong:
        raise ConfigError(f"--grid {text}: every strength must be a number, got {wrong[0]!r}.")
    return tuple(float(number) for number in numbers)


def read_prompts(path: Path) -> list[str]:
    """Prompts in a file, one per line; empty lines and lines that begin with ``#`` are left out.

    Raises:
        ConfigError: if the file cannot be read or holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the prompts in {path}: {error}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not prompts:
        raise ConfigError(f"{path} holds no prompt; write one a line.")
    return prompts
