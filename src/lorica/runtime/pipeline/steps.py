"""One call of a pipeline under schedules: which step is running, and the strengths that belong to it.

A pipeline opens its progress bar when its loop begins, and its scheduler's ``step`` ends every evaluation of the
denoiser. Both lie outside the models, so strengths are written between two forwards and compiled graphs stay as they
are. A scheduler of higher order evaluates the denoiser several times a step; all of them run at that step's strength.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from lorica.runtime.pipeline.schedule import Course
from lorica.runtime.strengths import Strength

Who = tuple[str, int | None]  # an adapter, in one sample of a batch or wherever it is live
Courses = Mapping[Who, tuple[Course, Sequence[str]]]  # each with the components that its adapter changes
Write = Callable[[Mapping[Who, Strength]], None]  # sets strengths, by component
RUNGE_KUTTA = 4  # evaluations of a step that PNDM makes that way


@dataclass(frozen=True, slots=True, eq=False)
class WaitingSchedule:
    """Schedules that wait for the next call of a pipeline.

    Args:
        courses: the schedule of each adapter.
        key: known to the handle that the user has.
        stays: whether they hold for every call, within a ``with`` block.
    """

    courses: Courses
    key: object
    stays: bool = False

    def without(self, names: Collection[str]) -> WaitingSchedule:
        """The same without some adapters."""
        return replace(self, courses={who: course for who, course in self.courses.items() if who[0] not in names})


@dataclass(slots=True)
class Stage:
    """One denoising loop: a pipeline or, of a combined one, a part.

    Args:
        pipeline: whose progress bar opens the loop.
        schedulers: whose ``step`` ends each evaluation.
        components: what is denoised with; their strengths follow the steps.
    """

    pipeline: Any
    schedulers: Sequence[Any]
    components: Sequence[str]
    total: int = 0
    order: int = 1
    extra: int = 0  # evaluations more than steps times order, which belong to the first step (PNDM)
    first: int = 0  # evaluations at the beginning that are several to a step (PNDM, where it is told to)
    evaluations: int = 0

    def begin(self, scheduler: Any, total: int | None, entries: int | None) -> None:
        """Begin the loop: ``total`` steps as the pipeline counts them, or ``entries`` timesteps, or all there are."""
        self.order = max(int(getattr(scheduler, "order", 1)), 1)
        steps, timesteps = getattr(scheduler, "num_inference_steps", None), getattr(scheduler, "timesteps", ())
        runge_kutta = getattr(scheduler, "prk_timesteps", None)
        self.first = 0 if runge_kutta is None else len(runge_kutta)
        saved = self.first - self.first // RUNGE_KUTTA
        self.extra = max(len(timesteps) - steps * self.order - saved, 0) if steps else 0
        counted = len(timesteps) if entries is None else entries
        self.total = total or -(-max(counted - self.extra - saved, 1) // self.order)
        self.evaluations = 0

    @property
    def step(self) -> int:
        """The index of the step that runs now."""
        count = self.evaluations
        count = count // RUNGE_KUTTA if count < self.first else count - self.first + self.first // RUNGE_KUTTA
        return min(max(count - self.extra, 0) // self.order, max(self.total - 1, 0))


@dataclass(slots=True)
class Run:
    """The schedules of one call, followed from its first forward to its last.

    Args:
        courses: the schedule of each adapter.
        stages: the denoising loops that the call may have.
        write: sets the strengths of these adapters.
        over: whether the call has ended.
    """

    courses: Courses
    stages: Sequence[Stage]
    write: Write
    over: bool = False
    _now: dict[Who, dict[str, Strength]] = field(default_factory=dict[Who, dict[str, Strength]])
    _plan: dict[int, dict[Who, dict[str, list[Strength]]]] = field(
        default_factory=dict[int, dict[Who, dict[str, list[Strength]]]]
    )

    def start(self) -> None:
        """Set the strengths that hold before the first step."""
        self._now = {who: course.before(parts) for who, (course, parts) in self.courses.items()}
        self.write(self._now)

    def loop(self, pipeline: Any, total: int | None, entries: int | None) -> None:
        """The start of a loop: a pipeline opened its progress bar."""
        for stage in self.stages:
            if stage.pipeline is pipeline and stage.schedulers:
                self._begin(stage, stage.schedulers[0], total, entries)

    def timesteps(self, scheduler: Any) -> None:
        """New timesteps of a scheduler: a loop without a progress bar begins so."""
        for stage in self._stages_of(scheduler):
            self._begin(stage, scheduler, None, None, check=False)

    def stepped(self, scheduler: Any) -> None:
        """The end of one evaluation of the denoiser: its scheduler made a step."""
        for stage in self._stages_of(scheduler):
            if id(stage) not in self._plan:
                self._begin(stage, scheduler, None, None)
            before = stage.step
            stage.evaluations += 1
            if stage.step != before:
                self._show(stage)

    def _begin(
        self, stage: Stage, scheduler: Any, total: int | None, entries: int | None, *, check: bool = True
    ) -> None:
        stage.begin(scheduler, total, entries)
        if not check and any(course.is_listed for course, _ in self.courses.values()):
            return  # how many steps will run is not known yet: the first ones are left out with picture to picture
        self._plan[id(stage)] = {
            who: course.steps([part for part in parts if part in stage.components], stage.total)
            for who, (course, parts) in self.courses.items()
        }
        self._show(stage)

    def _show(self, stage: Stage) -> None:
        for who, parts in self._plan.get(id(stage), {}).items():
            self._now[who] = {**self._now[who], **{part: values[stage.step] for part, values in parts.items()}}
        self.write(self._now)

    def _stages_of(self, scheduler: Any) -> list[Stage]:
        return [stage for stage in self.stages if any(scheduler is one for one in stage.schedulers)]


def stages_of(pipeline: Any, components: Mapping[str, nn.Module]) -> list[Stage]:
    """The loops of a pipeline; a combined one has one for each pipeline that it holds.

    Args:
        pipeline: a diffusers pipeline.
        components: the parts that adapters can act on, by name.
    """
    return [_stage(one, components) for one in (inner_pipelines(pipeline) or [pipeline])]


def inner_pipelines(pipeline: Any) -> list[Any]:
    """The pipelines that a combined one holds, such as a prior's and a decoder's."""
    return [part for part in vars(pipeline).values() if part is not pipeline and _is_pipeline(part)]


def _stage(pipeline: Any, components: Mapping[str, nn.Module]) -> Stage:
    parts = list(pipeline.components.values())
    schedulers = [part for part in parts if hasattr(part, "set_timesteps") and hasattr(part, "step")]
    own = [name for name, module in components.items() if "text_encoder" not in name and _holds(parts, module)]
    return Stage(pipeline, schedulers, own)


def _holds(parts: Sequence[Any], module: nn.Module) -> bool:
    return any(part is module or getattr(part, "_orig_mod", None) is module for part in parts)


def _is_pipeline(part: Any) -> bool:
    return hasattr(type(part), "progress_bar") and hasattr(type(part), "components") and callable(part)
