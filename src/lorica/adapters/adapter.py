"""The whole of an adapter, as a value: module path to change of weight, for each component of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from torch import Tensor

from lorica.adapters.base import AdapterLayer, same
from lorica.adapters.report import Report
from lorica.notebook import table

Layers = Mapping[str, AdapterLayer]


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a LoRA file holds. Immutable: every operation returns a new one.

    Args:
        components: component (``unet``, ``transformer``, ``text_encoder``, ...) to module path to layer.
        metadata: free text that travels with the file.
        embeddings: textual-inversion embeddings: token to component to vectors ``(n, width)``.
        report: what became of each key of the file that this was read from; None if it was not read.
    """

    components: Mapping[str, Layers]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]])
    report: Report | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled and copied as plain dictionaries, as read-only views of them cannot be."""
        components = {name: dict(layers) for name, layers in self.components.items()}
        embeddings = {token: dict(parts) for token, parts in self.embeddings.items()}
        return Adapter, (components, dict(self.metadata), embeddings, self.report)

    def __post_init__(self) -> None:
        parts = {name: MappingProxyType(dict(layers)) for name, layers in self.components.items() if layers}
        tokens = {token: MappingProxyType(dict(parts)) for token, parts in self.embeddings.items()}
        object.__setattr__(self, "components", MappingProxyType(parts))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "embeddings", MappingProxyType(tokens))

    def layers(self) -> Iterator[tuple[str, str, AdapterLayer]]:
        """Yield ``(component, module path, layer)`` for every layer."""
        for component, layers in self.components.items():
            for path, layer in layers.items():
                yield component, path, layer

    def map(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """Return the same adapter with ``change`` applied to each tensor of its layers."""
        parts = {
            name: {path: layer.map(change) for path, layer in part.items()} for name, part in self.components.items()
        }
        return replace(self, components=parts)

    def with_metadata(self, metadata: Mapping[str, str]) -> Adapter:
        """Return the same adapter with these entries added to its metadata."""
        return replace(self, metadata={**self.metadata, **metadata})

    def __len__(self) -> int:
        return sum(len(layers) for layers in self.components.values())

    def __eq__(self, other: object) -> bool:
        """Equal means the same layers and embeddings bit for bit; metadata and report do not count."""
        return (
            isinstance(other, Adapter)
            and {name: dict(part) for name, part in self.components.items()}
            == {name: dict(part) for name, part in other.components.items()}
            and _same_embeddings(self.embeddings, other.embeddings)
        )

    __hash__ = None  # type: ignore[assignment]  # compares by content of tensors

    def _repr_html_(self) -> str:
        """Table for notebooks: a row for each component."""
        rows = [
            (
                name,
                len(layers),
                ", ".join(sorted({layer.kind for layer in layers.values()})),
                ", ".join(map(str, sorted({layer.rank for layer in layers.values()}))),
            )
            for name, layers in self.components.items()
        ]
        rows += [(f"word {token}", "", "embedding", "") for token in self.embeddings]
        base = self.report.base_model if self.report else None
        source = f"from {self.report.source}, in {self.report.format} format" if self.report else ""
        facts = ["adapter", f"for {base}" if base else "", source]
        return table(("component", "modules", "methods", "rank"), rows, " ".join(filter(None, facts)))

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {len(layers)} layers" for name, layers in self.components.items())
        return f"Adapter({parts})"


def _same_embeddings(a: Mapping[str, Mapping[str, Tensor]], b: Mapping[str, Mapping[str, Tensor]]) -> bool:
    return a.keys() == b.keys() and all(
        parts.keys() == b[token].keys() and all(same(vectors, b[token][name]) for name, vectors in parts.items())
        for token, parts in a.items()
    )
