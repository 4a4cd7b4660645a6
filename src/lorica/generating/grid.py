"""Grids: pictures that differ in one or two things alone, side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorica.errors import ConfigError, FileError
from lorica.formats.storage.sources import PREFERRED
from lorica.generating.choices import LoraChoice, name_of, parse_lora
from lorica.printing import expanded
from lorica.run_files import CHECKPOINT

MOST_AXES = 2
NOTHING = "none"  # on an axis of adapters: the base model
_STEP = re.compile(rf"{CHECKPOINT}(\d+)")


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from the request in one row or column.

    Args:
        label: the words at the row or above the column.
        factor: what the strength of each adapter is multiplied by.
        seed: the seed of every picture; None for the request's own.
        steps: number of denoising steps; None for the request's own.
        adapter: an adapter beside those of the request.
    """

    label: str = ""
    factor: float = 1.0
    seed: int | None = None
    steps: int | None = None
    adapter: LoraChoice | None = None

    def __and__(self, other: Variant) -> Variant:
        """Both together; where both say the same thing, what the other says."""
        return Variant(
            label=", ".join(filter(None, (self.label, other.label))),
            factor=self.factor * other.factor,
            seed=self.seed if other.seed is None else other.seed,
            steps=self.steps if other.steps is None else other.steps,
            adapter=other.adapter or self.adapter,
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a grid.

    Args:
        name: ``strength``, ``seed``, ``steps``, ``adapter`` or ``checkpoint``.
        variants: one for each row or column.
    """

    name: str
    variants: tuple[Variant, ...] = field(default_factory=tuple[Variant, ...])


def parse_axis(text: str) -> Axis:
    """Axis in ``strength=0,0.5,1``, ``seed=1,2``, ``steps=10,20``, ``adapter=a.pt,none`` or ``checkpoint=FOLDER``.

    Raises:
        ConfigError: if the axis is unknown, or a value cannot be read.
        FileError: if a folder on the axis of checkpoints holds none.
    """
    name, _, values = (part.strip() for part in text.partition("="))
    if name not in AXES:
        raise ConfigError(f"--grid compares {', '.join(AXES)}, such as --grid strength=0,0.5,1; got {text!r}.")
    parts = [value.strip() for value in values.split(",")]
    if not all(parts):
        raise ConfigError(f"--grid {text}: a value is missing; write them with commas between.")
    return Axis(name, tuple(variant for part in parts for variant in AXES[name](part, text)))


def check_named_once(axes: Sequence[Axis], given: Collection[str]) -> None:
    """Refuse options that an axis takes the place of.

    Args:
        axes: the axes.
        given: the options that were given.

    Raises:
        ConfigError: if one of them would do nothing.
    """
    for axis in axes:
        if axis.name in given:
            raise ConfigError(f"--{axis.name} and --grid {axis.name}=... both say the {axis.name}; leave one out.")


def check_axes(axes: Sequence[Axis], *, adapters: bool, pictures: int) -> None:
    """Refuse axes that cannot be drawn together.

    Args:
        axes: the axes.
        adapters: whether there are adapters on the command line.
        pictures: number of pictures for each prompt.

    Raises:
        ConfigError: if there are too many, one comes twice, or one would change nothing.
    """
    names = [axis.name for axis in axes]
    kinds = {"adapter" if name == "checkpoint" else name for name in names}
    if len(axes) > MOST_AXES or len(kinds) < len(axes):
        raise ConfigError(f"--grid compares one or two different things, got {', '.join(names)}.")
    if "strength" in kinds and not adapters and "adapter" not in kinds:
        raise ConfigError("--grid strength=... compares strengths of adapters: name at least one with --lora.")
    if "seed" in kinds and pictures > 1:
        raise ConfigError(f"--grid seed=... names the seeds, so --num {pictures} has no meaning; leave one out.")


def _strength(value: str, text: str) -> Iterator[Variant]:
    number = _number(float, value, text)
    yield Variant(f"strength {number:g}", factor=number)


def _seed(value: str, text: str) -> Iterator[Variant]:
    yield Variant(f"seed {value}", seed=_number(int, value, text))


def _steps(value: str, text: str) -> Iterator[Variant]:
    yield Variant(f"{value} steps", steps=_number(int, value, text))


def _number(kind: Callable[[str], Any], value: str, text: str) -> Any:
    try:
        number = kind(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--grid {text}: every value must be a {'whole ' * (kind is int)}number, got {value!r}.")
    return number


def _adapter(value: str, text: str) -> Iterator[Variant]:
    del text
    if value == NOTHING:
        yield Variant("base")
        return
    choice = parse_lora(value)
    yield Variant(choice.tag.name, adapter=choice)


def _checkpoint(value: str, text: str) -> Iterator[Variant]:
    """The checkpoint of a folder, or all checkpoints of a run's folder and its final adapter."""
    choice = parse_lora(value)
    folder = expanded(choice.source)
    if not folder.is_dir():
        yield from _adapter(value, text)
        return
    steps = [(int(found[1]), path) for path in folder.iterdir() if (found := _STEP.fullmatch(path.name))]
    final = any((folder / name).is_file() for name in PREFERRED)
    if not steps and not final:
        raise FileError(f"--grid {text}: {folder} holds neither checkpoint-N folders nor an adapter.")
    labelled = [(f"step {step}", path) for step, path in sorted(steps)]
    labelled += [("final" if steps else name_of(str(folder)), folder)] * final
    for label, path in labelled:
        yield Variant(label, adapter=replace(choice, source=str(path)))


AXES: Mapping[str, Callable[[str, str], Iterator[Variant]]] = {
    "strength": _strength,
    "seed": _seed,
    "steps": _steps,
    "adapter": _adapter,
    "checkpoint": _checkpoint,
}
