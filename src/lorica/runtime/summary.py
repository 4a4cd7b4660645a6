"""The adapters of a pipeline as a table: what each changes, how strongly, and what it costs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from lorica.adapters import Adapter
from lorica.runtime.model.plan import Plan
from lorica.runtime.roster import Roster
from lorica.runtime.strengths import Strength

UNITS = ("B", "kB", "MB", "GB")
WIDTH = 120  # of the table as a text
HEADINGS = ("adapter", "state", "strength", "components", "modules", "kinds", "rank", "memory")


@dataclass(frozen=True, slots=True)
class Line:
    """What the table says of one adapter.

    Args:
        name: the adapter's.
        state: ``live``, ``per sample``, ``off`` or ``fused``.
        strength: as it was given; None if it is off, or differs from sample to sample.
        components: component to the number of its layers that change.
        kinds: the methods.
        ranks: the smallest and the largest rank.
        memory: bytes of the adapter's own tensors.
    """

    name: str
    state: str
    strength: Strength | None
    components: Mapping[str, int]
    kinds: tuple[str, ...]
    ranks: tuple[int, int]
    memory: int

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table's row."""
        low, high = self.ranks
        return (
            self.name,
            self.state,
            _strength(self.strength),
            ", ".join(self.components),
            str(sum(self.components.values())),
            ", ".join(self.kinds),
            str(low) if low == high else f"{low} to {high}",
            _size(self.memory),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """The adapters of one pipeline. Printed it is a table, also with rich; its lines are values.

    Args:
        lines: one for each adapter, in the order of loading.
        originals: bytes that are kept of weights before fusing.
        enabled: whether live adapters act.
        limited: the adapters that act in a region of the picture alone.
    """

    lines: tuple[Line, ...]
    originals: int
    enabled: bool
    limited: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table."""
        table = Table(*HEADINGS, caption=self._caption(), caption_justify="left")
        for line in self.lines:
            table.add_row(*line.cells())
        yield table

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=WIDTH, color_system=None).print(self)
        return text.getvalue().rstrip("\n")

    def _caption(self) -> str | None:
        facts = [] if self.enabled else ["disabled: no live adapter acts until enable()"]
        if self.originals:
            facts.append(f"originals of fused weights: {_size(self.originals)}")
        if self.limited:
            facts.append(f"limited to a region: {', '.join(self.limited)}")
        return "; ".join(facts) or None


def lines_of(roster: Roster) -> tuple[Line, ...]:
    """Return what the table says of every loaded adapter."""
    per_sample = {name for one in (roster.samples.sets if roster.samples else ()) for name in one}
    strengths = {**{name: value for name, (value, _) in roster.live.items()}, **roster.in_weights}
    states = {
        **dict.fromkeys(roster.live, "live"),
        **dict.fromkeys(per_sample, "per sample"),
        **dict.fromkeys(roster.in_weights, "fused"),
    }
    return tuple(
        _line(name, adapter, roster.plans[name], states.get(name, "off"), strengths.get(name))
        for name, adapter in roster.adapters.items()
    )


def _line(name: str, adapter: Adapter, plan: Plan, state: str, strength: Strength | None) -> Line:
    layers = list(plan.values())
    components: dict[str, int] = {}
    for component, _ in plan:
        components[component] = components.get(component, 0) + 1
    ranks = [layer.rank for layer in layers] or [0]  # an adapter may bring words alone
    kinds = tuple(sorted({layer.kind for _, _, layer in adapter.layers()}))
    tensors = (tensor for layer in layers for tensor in layer.tensors.values())
    return Line(name, state, strength, components, kinds, (min(ranks), max(ranks)), bytes_of(tensors))


def bytes_of(tensors: Iterable[Any]) -> int:
    """Return how much memory some tensors take; what is no tensor takes none."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def _strength(strength: Strength | None) -> str:
    if strength is None:
        return "-"
    return f"{strength:g}" if isinstance(strength, (int, float)) else "by block"


def _size(count: int) -> str:
    power = min(len(str(max(count, 1))) - 1, 11) // 3
    return f"{count / 1000**power:.3g} {UNITS[power]}"
