"""What surrounds a pipeline's call while adapters are attached: the thread guard, checks of components, schedules."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from lorica.errors import StateError
from lorica.runtime.bank.batch import context
from lorica.runtime.model.targets import components_of
from lorica.runtime.pipeline.intercept import Around, intercept, is_intercepted, release, release_any
from lorica.runtime.pipeline.steps import Run, WaitingSchedule, Write, inner_pipelines, stages_of
from lorica.runtime.pipeline.threads import ThreadGuard

IMAGES = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")  # what pipelines call it


class LiveStrengths(Protocol):
    """The strengths of the adapters, as a call that follows a schedule needs them."""

    @property
    def waiting(self) -> WaitingSchedule | None:
        """The schedules that the next call follows."""
        ...

    @property
    def following(self) -> Run | None:
        """The call that follows schedules just now."""
        ...

    def begin_run(self, make: Callable[[Write], Run]) -> Any:
        """Begin a run, which sets strengths. Returns what :meth:`end_run` needs to restore those before."""
        ...

    def end_run(self, run: Run, waiting: WaitingSchedule, before: Any) -> None:
        """End a run, unless ``set`` has ended it: restore strengths, and drop schedules that were for one call."""
        ...

    def note_images(self, images: int) -> None:
        """Tell compiled graphs how many pictures of each prompt there are; 0 if that is not known."""
        ...


class Calls:
    """The calls of the pipelines that share one set of components.

    Args:
        guard: the order among threads.
        components: what the adapters act on.
        strengths: of the adapters.
        check: raises if the adapters would not act on the components as they are now.
    """

    def __init__(
        self, guard: ThreadGuard, components: dict[str, nn.Module], strengths: LiveStrengths, check: Callable[[], None]
    ) -> None:
        self._guard, self._components, self._check = guard, components, check
        self.strengths = strengths
        self._pipelines: list[weakref.ref[Any]] = []

    @property
    def pipelines(self) -> list[Any]:
        """The pipelines that are followed, as far as they still exist."""
        return [pipeline for ref in self._pipelines if (pipeline := ref()) is not None]

    def follow(self, model: Any) -> None:
        """Take a pipeline among those that are followed; a module has no calls."""
        if not isinstance(model, nn.Module) and not any(known is model for known in self.pipelines):
            self._pipelines.append(weakref.ref(model))

    def intercept(self, *, on: bool) -> None:
        """Intercept the calls of all pipelines, or leave them to their own classes."""
        for pipeline in self.pipelines:
            for one in (*inner_pipelines(pipeline), pipeline):
                if not on:
                    release(one, self)
                    continue
                if not is_intercepted(one, self):
                    release_any(one)  # for whom it was intercepted had all its components taken away
                intercept(one, self, OF_PIPELINES)

    def check_components(self, components: Mapping[str, nn.Module]) -> None:
        """Raise unless every pipeline runs these modules, which the adapters act on."""
        for reference in self._pipelines:
            if (pipeline := reference()) is not None:
                check_same(pipeline, components)

    def found_components(self, *, replace: bool) -> dict[str, nn.Module]:
        """The components as pipelines have them now: with new ones and, if nothing depends on them, replaced ones."""
        components = dict(self._components)
        for pipeline in self.pipelines:
            found = components_of(pipeline)
            components.update({name: part for name, part in found.items() if replace or name not in components})
        return components

    def check_followed(self, component: nn.Module) -> None:
        """Raise if a denoiser runs outside of the calls that are followed while schedules wait for one.

        Raises:
            StateError: if so: they would not act.
        """
        if self.strengths.waiting is None or self.strengths.following is not None:
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

    @contextmanager
    def around(self, pipeline: Any, images: int) -> Iterator[None]:
        """Surround one call of a pipeline, which makes so many pictures of each prompt."""
        outside, context.images = context.images, context.images or images  # the stages of a combined one make no more
        try:
            self._check_parts(pipeline)
            self._check()
            self.strengths.note_images(context.images)
            waiting = self.strengths.waiting
            if waiting is None or self.strengths.following is not None:
                yield
            else:
                with self._following(pipeline, waiting):
                    yield
        finally:
            context.images = outside
            self.strengths.note_images(outside or 0)

    @contextmanager
    def _following(self, pipeline: Any, waiting: WaitingSchedule) -> Iterator[None]:
        stages = stages_of(pipeline, self._components)
        schedulers = [scheduler for stage in stages for scheduler in stage.schedulers]
        runs: list[Run] = []

        def make(write: Write) -> Run:
            runs.append(Run(waiting.courses, stages, write))
            return runs[0]

        before = self.strengths.begin_run(make)
        run = runs[0]
        try:
            for scheduler in schedulers:
                intercept(scheduler, self, OF_SCHEDULERS)
            run.start()
            yield
        finally:
            run.over = True
            for scheduler in schedulers:
                release(scheduler, self)
            self.strengths.end_run(run, waiting, before)

    def _check_parts(self, pipeline: Any) -> None:
        """Raise unless a pipeline, or the stage of a combined one, runs the modules that the adapters act on."""
        if any(pipeline is known for known in self.pipelines):
            check_same(pipeline, self._components)
        else:
            check_stage(pipeline, self._components)

    def call(self, pipeline: Any, method: Any, args: Any, kwargs: Any) -> Any:
        """One call of a pipeline."""
        self._guard.enter(sys._getframe())  # pyright: ignore[reportPrivateUsage]
        try:
            with self.around(pipeline, _images_of(method, args, kwargs)):
                return method(*args, **kwargs)
        finally:
            self._guard.leave()


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


def _images_of(method: Any, args: Any, kwargs: Any) -> int:
    """How many pictures of each prompt a call makes."""
    try:
        given = inspect.signature(method).bind(*args, **kwargs)
    except TypeError:  # the call itself will say what is wrong
        return 1
    given.apply_defaults()
    return next((given.arguments[name] or 1 for name in IMAGES if name in given.arguments), 1)


def _progress_bar(calls: Calls, pipeline: Any, method: Any, args: Any, kwargs: Any) -> Any:
    run = calls.strengths.following
    if run is not None:
        iterable = args[0] if args else kwargs.get("iterable")
        entries = len(iterable) if hasattr(iterable, "__len__") else None
        run.loop(pipeline, kwargs.get("total") if iterable is None else None, entries)
    return method(*args, **kwargs)


def _set_timesteps(calls: Calls, scheduler: Any, method: Any, args: Any, kwargs: Any) -> Any:
    result = method(*args, **kwargs)
    run = calls.strengths.following
    if run is not None:
        run.timesteps(scheduler)
    return result


def _step(calls: Calls, scheduler: Any, method: Any, args: Any, kwargs: Any) -> Any:
    result = method(*args, **kwargs)
    run = calls.strengths.following
    if run is not None:
        run.stepped(scheduler)
    return result


OF_PIPELINES: dict[str, Around] = {"__call__": Calls.call, "progress_bar": _progress_bar}
OF_SCHEDULERS: dict[str, Around] = {"set_timesteps": _set_timesteps, "step": _step}
