"""Schedules that a user gives, checked against what is live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorica.errors import ConfigError, StateError
from lorica.runtime.pipeline.schedule import Course, Schedule, course_of
from lorica.runtime.pipeline.steps import Courses, Who
from lorica.runtime.state import State

Schedules = Mapping[str, Schedule] | Sequence[Mapping[str, Schedule]]


def courses_of(state: State, schedules: Schedules, *, on_pipeline: bool) -> Courses:
    """The course of every adapter that follows a schedule, wherever it is live or in one sample.

    Args:
        state: what is loaded and live.
        schedules: as :meth:`Loras.schedule` takes them.
        on_pipeline: whether there is a pipeline whose steps they can follow.

    Raises:
        UnknownNameError: if an adapter, component or shape is unknown.
        ConfigError: if the mappings are not as many as the samples, or no sample names an adapter.
        StateError: if an adapter is fused, or there is no pipeline.
    """
    courses: dict[Who, tuple[Course, Sequence[str]]] = {}
    for sample, named in _by_sample(state, schedules):
        state.check_not_fused(named)
        for name, schedule in named.items():
            parts = list(dict.fromkeys(part for part, _ in state.loaded[name].layers))
            courses[name, sample] = (course_of(schedule, parts), parts)
    if not on_pipeline:
        raise StateError(
            "a schedule follows the steps of a pipeline, but the adapters were attached to a module. Attach the "
            "pipeline, or call set() between the steps of your own loop."
        )
    return courses


def _by_sample(state: State, schedules: Schedules) -> list[tuple[int | None, Mapping[str, Schedule]]]:
    """Schedules by the number of the sample, None for all."""
    sets = state.live if state.per_sample else ()
    if not isinstance(schedules, Mapping):
        if len(schedules) != len(sets):
            raise ConfigError(
                f"there are schedules for {len(schedules)} samples, but per_sample holds sets for {len(sets)}. "
                "Call per_sample first, with one set for each of the same samples."
            )
        return list(enumerate(schedules))
    for name in schedules:
        if sets and not any(state.known(name) in one for one in sets):
            raise ConfigError(
                f"{name!r} is in the set of no sample (per_sample), so nothing would follow its schedule. Name it "
                "in the samples that are to follow, give a list of schedules for each sample, or call set() first."
            )
    return [(None, schedules)]
