"""Which adapters the banks hold: those that act and, within a bound on memory, those that acted last.

All others stay what they were when they were read, mapped files mostly, and are copied into the banks when they are
switched on. So hundreds can be loaded at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lorica.runtime.bank.strength_table import Row
from lorica.runtime.banks import Banks
from lorica.runtime.everywhere import acts
from lorica.runtime.model.plan import Plan


class Residents:
    """Keeps the banks within a bound.

    Args:
        banks: what holds the adapters.
    """

    def __init__(self, banks: Banks) -> None:
        self._banks = banks
        self._last: dict[str, None] = {}  # from the one that acted longest ago to the last one
        self.limit: int | None = None  # bytes; None: what was held once stays

    def show(
        self,
        plans: Mapping[str, Plan],
        rows: Sequence[Row],
        *,
        gone: Collection[str] = (),
        guidance: int | None = None,
    ) -> None:
        """Let the banks hold every adapter that acts, and set the strengths, or on an error leave all as it is.

        Args:
            plans: every adapter that is loaded.
            rows: strengths as :meth:`Banks.write` takes them.
            gone: adapters that the banks must not hold any longer as they hold them now.
            guidance: likewise.
        """
        acting = {name: plans[name] for row in rows for name, strengths in row.items() if acts(strengths)}
        held = self._kept(acting, gone)
        wanted = {name: acting[name] if name in acting else self._banks.plans[name] for name in held}
        if len(wanted) == len(self._banks.plans) and all(self._banks.plans.get(n) is p for n, p in wanted.items()):
            self._banks.write(rows, guidance)
        else:
            self._banks.commit(self._banks.prepare(wanted), rows, guidance)
        for name in acting:
            self._last.pop(name, None)
            self._last[name] = None
        self._last = {name: None for name in self._last if name in held}

    def keep(self) -> tuple[dict[str, None], int | None]:
        """Return what :meth:`restore` takes."""
        return dict(self._last), self.limit

    def restore(self, kept: tuple[dict[str, None], int | None]) -> None:
        """Remember again who acted last, and the bound."""
        self._last, self.limit = kept

    def _kept(self, acting: Mapping[str, Plan], gone: Collection[str]) -> dict[str, None]:
        """Return what the banks are to hold: of those that do not act, the last ones that there is room for."""
        idle = [name for name in self._banks.plans if name not in acting and name not in gone]
        if self.limit is not None and idle:
            order = list(self._last)
            room = self.limit - sum(self._banks.size_of(plan) for plan in acting.values())
            kept: list[str] = []
            for name in sorted(idle, key=lambda name: order.index(name) if name in self._last else -1, reverse=True):
                room -= self._banks.size_of(self._banks.plans[name])
                if room < 0:
                    break
                kept.append(name)
            idle = [name for name in idle if name in kept]
        return dict.fromkeys([*(name for name in self._banks.plans if name in idle or name in acting), *acting])
