"""The strengths of the live adapters, turned for a while and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lorica.runtime.roster import Resolved, Roster, Samples
from lorica.runtime.strengths import Strength

Live = dict[str, tuple[Strength, Resolved]]
Kept = tuple[Live, Samples | None]


@dataclass(frozen=True, slots=True)
class Dials:
    """What changes the live set and puts it back.

    Args:
        roster: who is live.
        write: makes exactly these adapters live, for all samples or each its own, all or nothing.
    """

    roster: Roster
    write: Callable[[Live, Samples | None], None]

    def turn(self, strengths: Mapping[tuple[str, int | None], Strength]) -> None:
        """Set the strengths of these adapters, which become live, and leave the others.

        Args:
            strengths: of an adapter in one sample of a batch or, without a number, wherever it is live; where samples
                have sets of their own, those are the samples that name it.

        Raises:
            UnknownNameError: if an adapter, component, block or module is unknown; nothing is changed then.
            ConfigError: if a strength is not a finite number.
            StateError: if one of the adapters is fused.
        """
        roster = self.roster
        roster.check_not_fused({name for name, _ in strengths})
        if roster.samples is None:
            self.write(
                {**roster.live, **roster.resolved({name: value for (name, _), value in strengths.items()})}, None
            )
            return
        sets = [dict(one) for one in roster.samples.sets]
        for (name, sample), value in strengths.items():
            resolved = roster.resolved({name: value})
            for index, one in enumerate(sets):
                if index == sample or (sample is None and name in one):
                    one.update(resolved)
        self.write({}, replace(roster.samples, sets=tuple(sets)))

    def keep(self) -> Kept:
        """Return what :meth:`restore` needs to put all strengths back."""
        return dict(self.roster.live), self.roster.samples

    def restore(self, kept: Kept) -> None:
        """Put all strengths back, also where one was replaced; adapters that were removed or fused since stay so."""
        live, samples = kept
        sets = samples and tuple(self._again(one) for one in samples.sets)
        self.write(self._again(live), samples and replace(samples, sets=sets))

    def _again(self, live: Live) -> Live:
        """Return the same strengths for the adapters that are in no weights, in the layers that they change by now."""
        held = self.roster.plans_beside(self.roster.in_weights)
        return self.roster.resolved({name: strength for name, (strength, _) in live.items() if name in held})
