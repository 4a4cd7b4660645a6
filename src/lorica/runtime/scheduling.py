"""Schedules that wait for a pipeline's call: checked against what is live, begun and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lorica.errors import ConfigError, StateError
from lorica.runtime.pipeline.schedule import Course, Schedule, course_of
from lorica.runtime.pipeline.steps import Courses, WaitingSchedule, Who
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


def with_waiting(state: State, schedule: WaitingSchedule) -> State:
    """The state with a schedule for the next call, in the place of another; those of a block come back after it."""
    return replace(state, schedules=(*(one for one in state.schedules if one.stays), schedule))


def with_staying(state: State, key: object) -> State:
    """The state in which a schedule holds for every call, until it is ended."""
    return replace(state, schedules=tuple(replace(one, stays=one.stays or one.key is key) for one in state.schedules))


def without_schedule(state: State, key: object) -> State:
    """The state without a schedule and those that were set within its block."""
    place = next((place for place, one in enumerate(state.schedules) if one.key is key), len(state.schedules))
    return replace(state, schedules=state.schedules[:place])
