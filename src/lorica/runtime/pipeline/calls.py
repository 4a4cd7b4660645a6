"""What surrounds a pipeline's call while adapters are attached: turns among threads, components, schedules."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from torch import nn

from lorica.errors import StateError
from lorica.runtime.dials import Dials
from lorica.runtime.model.targets import components_of
from lorica.runtime.pipeline.batch import here
from lorica.runtime.pipeline.intercept import Around, listen, listens, silence, unlisten
from lorica.runtime.pipeline.steps import Courses, Run, inner_pipelines, stages_of
from lorica.runtime.pipeline.threads import Turns


class Scheduled:
    """Schedules that wait for the next call. In a ``with`` statement they hold for every call within the block."""

    def __init__(self, calls: Calls, courses: Courses) -> None:
        self.courses, self.stays, self._calls = dict(courses), False, calls

    def end(self) -> None:
        """Let them act no longer."""
        self._calls.end(self)

    def __enter__(self) -> Scheduled:
        self.stays = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.end()


IMAGES = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")  # what pipelines call it

KeptSchedules = tuple[tuple[Scheduled, ...], "Run | None"]


class Calls:
    """Listens to the calls of the pipelines that share one set of components.

    Args:
        turns: the order among threads.
        components: what the adapters act on.
        dials: the strengths of the adapters.
        check: raises if the adapters would not act on the components as they are now.
    """

    def __init__(self, turns: Turns, components: dict[str, nn.Module], dials: Dials, check: Callable[[], None]) -> None:
        self._turns, self._components, self._dials, self._check = turns, components, dials, check
        self._pipelines: list[weakref.ref[Any]] = []
        self._listening = False
        self._scheduled: tuple[Scheduled, ...] = ()  # the last one is for the next call; those before hold in a block
        self.run: Run | None = None

    @property
    def waiting(self) -> Scheduled | None:
        """The schedules that the next call follows, if there are any."""
        return self._scheduled[-1] if self._scheduled else None

    @property
    def pipelines(self) -> list[Any]:
        """The pipelines that are followed, as far as they still exist."""
        return [pipeline for ref in self._pipelines if (pipeline := ref()) is not None]

    def follow(self, model: Any) -> None:
        """Take a pipeline among those that are listened to; a module has no calls to follow."""
        if not isinstance(model, nn.Module) and not any(known is model for known in self.pipelines):
            self._pipelines.append(weakref.ref(model))
            self.listen(on=self._listening)

    def listen(self, *, on: bool) -> None:
        """Begin to listen to all pipelines, or give them their own classes again."""
        self._listening = on
        for pipeline in self.pipelines:
            for one in (*inner_pipelines(pipeline), pipeline):
                if on:
                    if not listens(one, self):
                        silence(one)  # whoever listened had all its components taken away
                    listen(one, self, OF_PIPELINES)
                else:
                    unlisten(one, self)
        if not on:
            self.end()

    def schedule(self, courses: Courses) -> Scheduled:
        """Let these schedules wait for the next call, in the place of others; those of a block come back after it.

        Raises:
            StateError: if there is no pipeline whose steps they could follow.
        """
        if not self.pipelines:
            raise StateError(
                "a schedule follows the steps of a pipeline, but the adapters were attached to a module. Attach the "
                "pipeline, or call set() between the steps of your own loop."
            )
        scheduled = Scheduled(self, courses)
        self._scheduled = (*(one for one in self._scheduled if one.stays), scheduled)
        return scheduled

    def end(self, scheduled: Scheduled | None = None) -> None:
        """Let no schedule (or not this one) act any longer. Strengths stay as they are."""
        self._scheduled = () if scheduled is None else tuple(one for one in self._scheduled if one is not scheduled)
        if scheduled is None:
            self.run = None

    def keep(self) -> KeptSchedules:
        """Return what :meth:`restore` needs to let the same schedules act again."""
        return self._scheduled, self.run

    def restore(self, kept: KeptSchedules) -> None:
        """Let the same schedules wait, or be followed, as when they were kept; a call that ended since stays ended."""
        self._scheduled, run = kept
        if run is not None and not run.over:
            self.run = run

    def forget(self, name: str) -> None:
        """Drop the schedules of an adapter that is gone."""
        for one in self._scheduled:
            one.courses = {who: course for who, course in one.courses.items() if who[0] != name}
        if self.run is not None:
            self.run.forget(name)
        self._scheduled = tuple(one for one in self._scheduled if one.courses)

    def check_components(self) -> None:
        """Raise unless every pipeline runs the modules that the adapters act on."""
        for pipeline in self.pipelines:
            check_same(pipeline, self._components)

    def pick_up(self, *, replace: bool) -> None:
        """Take in what pipelines were given since: new components and, if nothing depends on them, replaced ones."""
        for pipeline in self.pipelines:
            found = components_of(pipeline)
            self._components.update(
                {name: part for name, part in found.items() if replace or name not in self._components}
            )

    def check_followed(self, component: nn.Module) -> None:
        """Raise if a denoiser runs outside of the calls that are followed while schedules wait for one.

        Raises:
            StateError: if so: they would not act.
        """
        if self.waiting is None or self.run is not None:
            return
        name = next((name for name, part in self._components.items() if part is component), None)
        for pipeline in self.pipelines:
            for stage in stages_of(pipeline, self._components):
                if stage.schedulers and name in stage.components:
                    raise StateError(
                        f"a schedule waits for a call of the {type(pipeline).__name__} that was attached, but its "
                        f"{name} runs outside of one, so the schedule would not act. Attach the pipeline that you call "
                        "(lorica.attach(pipeline) returns the same adapters), or end the schedule with set()."
                    )

    def _check_parts(self, pipeline: Any) -> None:
        """Raise unless a pipeline, or the stage of a combined one, runs the modules that the adapters act on."""
        if any(pipeline is known for known in self.pipelines):
            check_same(pipeline, self._components)
        else:
            check_stage(pipeline, self._components)

    @contextmanager
    def around(self, pipeline: Any, images: int = 1) -> Iterator[None]:
        """Surround one call of a pipeline, which makes so many pictures of each prompt."""
        self._turns.enter()
        outside, here.images = here.images, here.images or images  # the stages of a combined pipeline make no more
        try:
            self._check_parts(pipeline)
            self._check()
            if self.waiting is None or self.run is not None:
                yield
            else:
                with self._following(pipeline, self.waiting):
                    yield
        finally:
            here.images = outside
            self._turns.leave()

    @contextmanager
    def _following(self, pipeline: Any, scheduled: Scheduled) -> Iterator[None]:
        stages = stages_of(pipeline, self._components)
        schedulers = [scheduler for stage in stages for scheduler in stage.schedulers]
        kept = self._dials.keep()
        self.run = run = Run(scheduled.courses, stages, self._dials.turn)
        try:
            for scheduler in schedulers:
                listen(scheduler, self, OF_SCHEDULERS)
            run.start()
            yield
        finally:
            run.over = True
            for scheduler in schedulers:
                unlisten(scheduler, self)
            if self.run is run:  # set() within the call ends the schedule, and what it set stays
                self.run = None
                self._dials.restore(kept)
                if not scheduled.stays:
                    self.end(scheduled)


def check_same(pipeline: Any, components: Mapping[str, nn.Module]) -> None:
    """Raise unless a pipeline runs the modules that the adapters act on; one that was taken out runs none.

    Raises:
        StateError: if it got another module since.
    """
    for name, module in components_of(pipeline).items():
        if name in components and components[name] is not module:
            raise _replaced(name, pipeline)


def check_stage(stage: Any, components: Mapping[str, nn.Module]) -> None:
    """Raise unless a stage of a combined pipeline, which has names of its own for its parts, runs the whole's modules.

    Raises:
        StateError: if it got another module since.
    """
    for name, module in components_of(stage).items():
        if not any(module is known for known in components.values()):
            raise _replaced(name, stage)


def _replaced(name: str, pipeline: Any) -> StateError:
    return StateError(
        f"the component {name!r} of this {type(pipeline).__name__} was replaced after adapters were attached, so they "
        "would not act on it. Call .detach() on the adapters, lorica.attach(pipeline) again, and load them anew."
    )


def _call(calls: Calls, pipeline: Any, method: Any, args: Any, kwargs: Any) -> Any:
    with calls.around(pipeline, _images_of(method, args, kwargs)):
        return method(*args, **kwargs)


def _images_of(method: Any, args: Any, kwargs: Any) -> int:
    """Return how many pictures of each prompt a call makes."""
    try:
        given = inspect.signature(method).bind(*args, **kwargs)
    except TypeError:  # the call itself will say what is wrong
        return 1
    given.apply_defaults()
    return next((given.arguments[name] or 1 for name in IMAGES if name in given.arguments), 1)


def _progress_bar(calls: Calls, pipeline: Any, method: Any, args: Any, kwargs: Any) -> Any:
    if calls.run is not None:
        iterable = args[0] if args else kwargs.get("iterable")
        entries = len(iterable) if hasattr(iterable, "__len__") else None
        calls.run.loop(pipeline, kwargs.get("total") if iterable is None else None, entries)
    return method(*args, **kwargs)


def _set_timesteps(calls: Calls, scheduler: Any, method: Any, args: Any, kwargs: Any) -> Any:
    result = method(*args, **kwargs)
    if calls.run is not None:
        calls.run.timesteps(scheduler)
    return result


def _step(calls: Calls, scheduler: Any, method: Any, args: Any, kwargs: Any) -> Any:
    result = method(*args, **kwargs)
    if calls.run is not None:
        calls.run.stepped(scheduler)
    return result


OF_PIPELINES: dict[str, Around] = {"__call__": _call, "progress_bar": _progress_bar}
OF_SCHEDULERS: dict[str, Around] = {"set_timesteps": _set_timesteps, "step": _step}
