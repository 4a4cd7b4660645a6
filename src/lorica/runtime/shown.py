"""What can be read of the adapters of one pipeline: which there are, how strong they are, and a table of them."""

from __future__ import annotations

import copy
from pathlib import Path

from lorica.adapters import Adapter
from lorica.formats import write
from lorica.models.target import Target
from lorica.runtime.engine import Engine
from lorica.runtime.strengths import Strength
from lorica.runtime.summary import Summary, bytes_of, lines_of


class Shown(Engine):
    """The adapters as they are, to look at and to save; nothing here changes the model."""

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order of loading."""
        return list(self._roster.adapters)

    @property
    def active(self) -> list[str]:
        """The live adapters; none of them acts while :meth:`disable` holds."""
        live, samples = self._roster.live, self._roster.samples
        return list(dict.fromkeys(name for one in samples.sets for name in one) if samples else live)

    @property
    def strengths(self) -> dict[str, Strength]:
        """The strength of each live adapter, as it was given; none while :meth:`per_sample` holds."""
        return {name: copy.deepcopy(strength) for name, (strength, _) in self._roster.live.items()}

    @property
    def fused(self) -> dict[str, Strength]:
        """The adapters inside the weights, and the strength that each was fused at."""
        return copy.deepcopy(self._roster.in_weights)

    def __getitem__(self, name: str) -> Adapter:
        """Return a loaded adapter as a value."""
        return self._roster.adapters[self._roster.known(name)]

    def modules(self, name: str) -> dict[str, list[str]]:
        """Return what an adapter changes: component to the paths of its modules, as the live model has them."""
        found: dict[str, list[str]] = {}
        for component, path in self._roster.plans[self._roster.known(name)]:
            found.setdefault(component, []).append(path)
        return found

    def target(self) -> Target:
        """Return the module paths and shapes of the live model, by which files are read and written."""
        return self._layout.target()

    def save(self, name: str, path: str | Path, format: str = "diffusers") -> Path:  # noqa: A002  # the public name
        """Write one loaded adapter to a file, whole or not at all. Returns the path."""
        return write(self[name], path, format=format, target=self.target())

    def summary(self) -> Summary:
        """Return what is loaded, as a table to print: adapter, state, strength, components, modules, rank, memory."""
        kept = (tensor for held in self._fused.originals.kept.values() for tensor in held.values())
        return Summary(lines_of(self._roster), bytes_of(kept), self._enabled, tuple(self.bounds.masks))

    def __repr__(self) -> str:
        listed = [f"{name}: {self.strengths.get(name, 'off')}" for name in self.names if name not in self.fused]
        listed += [f"{name}: fused at {strength}" for name, strength in self.fused.items()]
        return f"Loras({', '.join(listed) or 'none loaded'}; components: {', '.join(self.components)})"
