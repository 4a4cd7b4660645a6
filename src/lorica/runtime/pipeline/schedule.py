"""Strengths that change while a picture is made: a value for each denoising step of a pipeline's call.

A schedule is a list (one strength a step), a callable of progress in ``[0, 1]``, or a :class:`Shape`. Progress is 0 at
the first step that runs and 1 at the last. A schedule may also name components, each with a schedule or a strength of
its own. Components that run once, before the first step (text encoders), take the first entry of a list, a callable's
value at 0 and a shape's ``first``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from lorica.errors import ConfigError, UnknownNameError
from lorica.runtime.strengths import Strength

# How a shape goes from its first value (at 0) to its last (at 1).
CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 0.0,
    "linear": lambda x: x,
    "cosine": lambda x: (1.0 - math.cos(math.pi * x)) / 2.0,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A named course of the strength over the steps of a run.

    Args:
        shape: ``constant`` (``first`` throughout), ``linear``, or ``cosine`` (half a cosine wave).
        first: the strength at the first step of the window.
        last: the strength at the last step of the window; unused by ``constant``.
        start: where the window begins, as a fraction of the run.
        end: where it ends. Step ``k`` of ``n`` is inside if ``start <= k / n < end``; outside the strength is 0.

    Raises:
        UnknownNameError: if there is no such shape.
        ConfigError: if a value is not finite, or the window is not inside ``[0, 1]``.
    """

    shape: str = "constant"
    first: float = 1.0
    last: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in CURVES:
            raise UnknownNameError.choose("shape", self.shape, CURVES)
        for name in ("first", "last", "start", "end"):
            _check_number(getattr(self, name), f"{name} of a {self.shape} schedule")
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ConfigError(
                f"the window of a schedule must lie inside 0 to 1 and begin before it ends, got {self.start:g} to "
                f"{self.end:g}."
            )

    def steps(self, total: int) -> list[float]:
        """Return the strength at each of ``total`` steps."""
        inside = [k for k in range(total) if self.start <= k / total < self.end]
        curve, length = CURVES[self.shape], max(len(inside) - 1, 1)
        values = [self.first + (self.last - self.first) * curve(k / length) for k in range(len(inside))]
        return [values[k - inside[0]] if k in inside else 0.0 for k in range(total)]


@dataclass(frozen=True, slots=True)
class Sum:
    """Shapes that add up at every step, as windows that follow each other do.

    Args:
        shapes: what is added.
    """

    shapes: tuple[Shape, ...]

    @property
    def first(self) -> float:
        """The sum of their first values."""
        return sum(shape.first for shape in self.shapes)

    def steps(self, total: int) -> list[float]:
        """Return the strength at each of ``total`` steps."""
        return [sum(values) for values in zip(*(shape.steps(total) for shape in self.shapes), strict=True)]


@dataclass(frozen=True, slots=True)
class ByModule:
    """Shapes that each count differently from module to module of a component, and add up at every step.

    Args:
        shapes: each with what it is multiplied by in every module, all of the same modules.
    """

    shapes: tuple[tuple[Shape, Mapping[str, float]], ...]

    @property
    def first(self) -> dict[str, float]:
        """The sum of their first values, module by module."""
        return self._total([shape.first for shape, _ in self.shapes])

    def steps(self, total: int) -> list[dict[str, float]]:
        """Return the strength of every module at each of ``total`` steps."""
        return [self._total(values) for values in zip(*(shape.steps(total) for shape, _ in self.shapes), strict=True)]

    def _total(self, values: Sequence[float]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for value, (_, weights) in zip(values, self.shapes, strict=True):
            for path, weight in weights.items():
                sums[path] = sums.get(path, 0.0) + value * weight
        return sums


SHAPES = (Shape, Sum, ByModule)

# What one adapter's schedule may be; see the head of this file.
Schedule = float | Sequence[Any] | Callable[[float], Any] | Shape | Sum | ByModule | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Course:
    """A schedule, checked: the strength before the first step, and at each step, for every component.

    Args:
        parts: component to its own schedule, or the key ``""`` for the schedule of every component.
    """

    parts: Mapping[str, Any]

    @property
    def is_listed(self) -> bool:
        """Whether any part lists one strength a step, so that the number of steps must be known."""
        return any(isinstance(part, (list, tuple)) for part in self.parts.values())

    def before(self, components: Sequence[str]) -> dict[str, Strength]:
        """Return the strength until the first step begins."""
        return {name: _before(self._part(name)) for name in components}

    def steps(self, components: Sequence[str], total: int) -> dict[str, list[Strength]]:
        """Return for each component the strength at each of ``total`` steps.

        Raises:
            ConfigError: if a list has another length.
        """
        return {name: _steps(self._part(name), total) for name in components}

    def _part(self, component: str) -> Any:
        return self.parts[component] if component in self.parts else self.parts.get("", 1.0)


def course_of(schedule: Schedule, components: Sequence[str]) -> Course:
    """Return a schedule as a course over these components, those that the adapter changes.

    Raises:
        UnknownNameError: if it names a component that the adapter does not change, or an unknown shape.
        ConfigError: if it is no schedule.
    """
    if not isinstance(schedule, Mapping) or "shape" in schedule:
        return Course({"": _checked(schedule)})
    for name in schedule:
        if name not in components:
            raise UnknownNameError.choose("component", name, components)
    return Course({name: _checked(part) for name, part in schedule.items()})


def _checked(part: Any) -> Any:
    """Return one component's schedule, shapes in one form."""
    if isinstance(part, str):
        return Shape(part)
    if isinstance(part, Mapping) and "shape" in part:
        return _shape_from(cast("Mapping[str, Any]", part))
    if isinstance(part, (list, tuple)) and not part:
        raise ConfigError("a schedule needs at least one strength, got an empty list.")
    return part


def _shape_from(spec: Mapping[str, Any]) -> Shape:
    known = [field.name for field in fields(Shape)]
    for name in spec:
        if name not in known:
            raise UnknownNameError.choose("setting of a shape", name, known)
    return Shape(**spec)


def _before(part: Any) -> Any:
    if isinstance(part, SHAPES):
        return part.first
    if isinstance(part, (list, tuple)):
        return part[0]
    return part(0.0) if callable(part) else part


def _steps(part: Any, total: int) -> list[Any]:
    if isinstance(part, SHAPES):
        return list(part.steps(total))
    if isinstance(part, (list, tuple)):
        return _listed(cast("Sequence[Any]", part), total)
    if callable(part):
        return [part(k / (total - 1) if total > 1 else 0.0) for k in range(total)]
    return [part] * total


def _listed(values: Sequence[Any], total: int) -> list[Any]:
    if len(values) != total:
        raise ConfigError(
            f"the schedule lists {len(values)} strengths, but the pipeline runs {total} denoising steps. Give one "
            "strength a step (picture to picture runs only the last part of its steps), a callable of progress, or a "
            "Shape."
        )
    return list(values)


def _check_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{what} must be a finite number, got {value!r}.")
