"""The adapters of a pipeline as a table: what each changes, how strongly, and what it costs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lorica.errors import escaped
from lorica.notebook import table
from lorica.runtime.fusing.originals import Originals
from lorica.runtime.model.layers import Place
from lorica.runtime.state import Loaded, State
from lorica.runtime.strengths import Dial, Strength

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
        """Cells of the table's row."""
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
        caption = self._caption()
        table = Table(*HEADINGS, caption=Text(escaped(caption)) if caption else None, caption_justify="left")
        for line in self.lines:
            table.add_row(*(Text(escaped(cell)) for cell in line.cells()))
        yield table

    def _repr_html_(self) -> str:
        """Table for notebooks."""
        return table(HEADINGS, [line.cells() for line in self.lines], self._caption() or "")

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


def summary_of(state: State, originals: Mapping[Place, Originals]) -> Summary:
    """The adapters of one pipeline as a table.

    Args:
        state: what is loaded.
        originals: what is kept of weights before fusing.
    """
    sets = {name for one in state.live for name in one}
    shown = state.fused if state.per_sample else {**state.live[0], **state.fused}
    strengths = {name: dial.given for name, dial in shown.items()}
    states = {
        **dict.fromkeys(sets, "per sample" if state.per_sample else "live"),
        **dict.fromkeys(state.fused, "fused"),
    }
    lines = tuple(
        _line(name, loaded, states.get(name, "off"), strengths.get(name)) for name, loaded in state.loaded.items()
    )
    kept = bytes_of(tensor for held in originals.values() for tensor in held.values())
    return Summary(lines, kept, state.enabled, tuple(state.masks.by_name))


def given(dials: Mapping[str, Dial]) -> dict[str, Strength]:
    """Strengths as they were given, in mappings of their own."""
    return {name: dial.copied() for name, dial in dials.items()}


def described(state: State) -> str:
    """The adapters of one pipeline in one line."""
    strengths, fused = {} if state.per_sample else given(state.live[0]), given(state.fused)
    listed = [f"{name}: {strengths.get(name, 'off')}" for name in state.loaded if name not in fused]
    listed += [f"{name}: fused at {strength}" for name, strength in fused.items()]
    return escaped(f"Loras({', '.join(listed) or 'none loaded'}; components: {', '.join(state.components)})")


def _line(name: str, loaded: Loaded, state: str, strength: Strength | None) -> Line:
    layers = list(loaded.layers.values())
    components: dict[str, int] = {}
    for component, _ in loaded.layers:
        components[component] = components.get(component, 0) + 1
    ranks = [layer.rank for layer in layers] or [0]  # an adapter may bring words alone
    kinds = tuple(sorted({layer.kind for _, _, layer in loaded.adapter.layers()}))
    tensors = (tensor for layer in layers for tensor in layer.tensors.values())
    return Line(name, state, strength, components, kinds, (min(ranks), max(ranks)), bytes_of(tensors))


def bytes_of(tensors: Iterable[Any]) -> int:
    """Memory that some tensors take; what is no tensor takes none."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def _strength(strength: Strength | None) -> str:
    if strength is None:
        return "-"
    return f"{strength:g}" if isinstance(strength, (int, float)) else "by block"


def _size(count: int) -> str:
    power = min(len(str(max(count, 1))) - 1, 11) // 3
    return f"{count / 1000**power:.3g} {UNITS[power]}"
