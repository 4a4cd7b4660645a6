"""Which loaded adapters act, and how strongly: for all alike, for each sample its own, for a while, or by the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from lorica.errors import ConfigError
from lorica.runtime.dials import Kept
from lorica.runtime.engine import Engine
from lorica.runtime.pipeline.batch import check_apart
from lorica.runtime.pipeline.calls import KeptSchedules, Scheduled
from lorica.runtime.pipeline.schedule import Course, Schedule, course_of
from lorica.runtime.pipeline.steps import Who
from lorica.runtime.pipeline.threads import in_turn
from lorica.runtime.regions.masks import Mask, mask_of
from lorica.runtime.regions.regions import Regions
from lorica.runtime.roster import Samples
from lorica.runtime.strengths import Strength

Self = TypeVar("Self", bound="Live")


class Live(Engine):
    """The live set: the adapters that act beside the weights."""

    @in_turn
    def set(self, strengths: Mapping[str, Strength]) -> None:
        """Make exactly these adapters live, at these strengths; ``set({})`` leaves the base and what is fused.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if a strength is not a finite number.
            StateError: if one of the adapters is fused.
        """
        self._check_live()
        self._roster.check_not_fused(strengths)
        self._turn(self._roster.resolved(strengths))
        self._calls.end()

    @contextmanager
    def using(self: Self, strengths: Mapping[str, Strength]) -> Iterator[Self]:
        """Within the ``with`` block make exactly these adapters live; then restore what was, also after an error."""
        with self._turns.holding():
            kept = self._dials.keep(), self._calls.keep()
            try:
                self.set(strengths)
                yield self
            finally:
                try:
                    self._go_back(*kept)
                except BaseException:  # it broke off
                    self._go_back(*kept)
                    raise

    def _go_back(self, dials: Kept, schedules: KeptSchedules) -> None:
        self._dials.restore(dials)
        self._calls.restore(schedules)

    @in_turn
    def per_sample(self, strengths: Sequence[Mapping[str, Strength]], guidance: int | None = None) -> None:
        """Give each sample of a batch its own live adapters, until the next :meth:`set`.

        A batch may be a multiple of the list: the list stands in it ``guidance`` times (the unconditional half before
        the conditional one), and then every entry is repeated in its place, for several pictures a prompt and for the
        frames that video models merge into the batch.

        Args:
            strengths: one mapping for each prompt, as :meth:`set` takes it.
            guidance: how often the pipeline repeats the whole list: 1 without classifier-free guidance and for
                pipelines that run its halves one after the other. A pipeline that is attached tells it by itself; where
                none does, None stands for 2 if the batch is an even multiple.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if the list is empty, a strength is not a finite number, or ``guidance`` is not positive.
            StateError: if one of the adapters is fused, or acts on tokens whose sample cannot be told.
        """
        if not strengths or (guidance is not None and guidance < 1):
            raise ConfigError(f"per_sample needs a set for each sample, got {len(strengths)}, guidance {guidance}.")
        self._check_live()
        for one in strengths:
            self._roster.check_not_fused(one)
        sets = tuple(self._roster.resolved(one) for one in strengths)
        for name, (_, resolved) in {name: value for one in sets for name, value in one.items()}.items():
            check_apart(self.components, name, resolved)
        self._turn({}, Samples(sets, guidance))
        self._calls.end()

    @in_turn
    def schedule(self, schedules: Mapping[str, Schedule] | Sequence[Mapping[str, Schedule]]) -> Scheduled:
        """Let strengths follow the denoising steps of the next pipeline call; then all is as before, also on an error.

        The other adapters keep the strengths that they have. ``set`` ends a schedule that waits. In a ``with``
        statement the schedules hold for every call within the block. While :meth:`per_sample` holds, an adapter follows
        its schedule in the samples that name it, or each sample follows schedules of its own.

        Args:
            schedules: adapter to a list (one strength a step), a callable of progress in ``[0, 1]``, a
                :class:`~lorica.runtime.pipeline.schedule.Shape` (its name, its settings), or a mapping from component
                to one of these or a strength. Text encoders run before the first step and take the first value. Or a list
                of such mappings, one for each sample.

        Raises:
            UnknownNameError: if an adapter, component or shape is unknown.
            ConfigError: if the mappings are not as many as the samples, or no sample names the adapter.
            StateError: if an adapter is fused, or no pipeline is attached.
        """
        courses: dict[Who, tuple[Course, Sequence[str]]] = {}
        for sample, named in self._by_sample(schedules):
            self._roster.check_not_fused(named)
            for name, schedule in named.items():
                parts = list(dict.fromkeys(part for part, _ in self._roster.plans[name]))
                courses[name, sample] = (course_of(schedule, parts), parts)
        return self._calls.schedule(courses)

    def _by_sample(
        self, schedules: Mapping[str, Schedule] | Sequence[Mapping[str, Schedule]]
    ) -> list[tuple[int | None, Mapping[str, Schedule]]]:
        """Return schedules by the number of the sample, None for all.

        Raises:
            ConfigError: if they are not as many as the samples, or no sample names an adapter.
        """
        sets = self._roster.samples.sets if self._roster.samples else ()
        if not isinstance(schedules, Mapping):
            if len(schedules) != len(sets):
                raise ConfigError(
                    f"there are schedules for {len(schedules)} samples, but per_sample holds sets for {len(sets)}. "
                    "Call per_sample first, with one set for each of the same samples."
                )
            return list(enumerate(schedules))
        for name in schedules:
            if sets and not any(self._roster.known(name) in one for one in sets):
                raise ConfigError(
                    f"{name!r} is in the set of no sample (per_sample), so nothing would follow its schedule. Name it "
                    "in the samples that are to follow, give a list of schedules for each sample, or call set() first."
                )
        return [(None, schedules)]

    def regions(self, masks: Mapping[str, Mask], elsewhere: float = 1.0) -> Regions:
        """Limit adapters to regions of the picture, until the next call; ``regions({})`` lets all act everywhere.

        A mask says where an adapter acts, and its strength how much; so :meth:`set`, schedules and the rest go on as
        they are. In a ``with`` statement the regions that held before hold again at the end of the block.

        Args:
            masks: adapter to a tensor ``(height, width)`` from 0 (off) to 1 (its whole strength), or a picture or its
                file, white where it acts. A mask covers the whole picture, at any resolution. Adapters not named act
                everywhere.
            elsewhere: what the strength is multiplied by in layers that do not act on the picture itself (the text's
                keys and values, text encoders, the time): 1 leaves them as they are, 0 keeps the adapter out of them.

        Raises:
            UnknownNameError: if an adapter is unknown.
            FileError: if a mask's file cannot be read.
            ShapeError: if a mask has other axes.
            ConfigError: if a mask's value is outside of 0 to 1, or ``elsewhere`` is not a finite number.
            StateError: if one of the adapters is fused.
        """
        self._roster.check_not_fused(masks)
        if not math.isfinite(elsewhere):
            raise ConfigError(f"elsewhere must be a finite number, got {elsewhere!r}.")
        regions = Regions(self._limit, (self.bounds.masks, self.bounds.elsewhere))
        self._limit({name: mask_of(mask, name) for name, mask in masks.items()}, elsewhere)
        return regions

    @in_turn
    def _limit(self, masks: Mapping[str, Tensor], elsewhere: float) -> None:
        """Let these masks hold; those of adapters that are gone, or fused by now, are left out."""
        there = self._roster.plans_beside(self._roster.in_weights)
        self.bounds.set({name: mask for name, mask in masks.items() if name in there}, elsewhere)
        self._look_around()

    @in_turn
    def disable(self) -> None:
        """Turn every live adapter off until :meth:`enable`. Strengths are kept; what is fused stays fused."""
        self._switch(on=False)

    @in_turn
    def enable(self) -> None:
        """Turn the live adapters on again."""
        self._switch(on=True)
