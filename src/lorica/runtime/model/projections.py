"""Projections that diffusers has fused (``fuse_qkv_projections``): adapters for their parts act on rows of the whole.

A fused attention keeps ``to_q``, ``to_k`` and ``to_v`` but calls ``to_qkv``, whose weight stacks theirs along the
output. So what an adapter has for the parts is joined to one change of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from lorica.adapters import AdapterLayer, JoinedRows
from lorica.errors import StateError
from lorica.runtime.model.layers import LayerIndex, Place, Watched
from lorica.runtime.model.supported_layers import layer_at, weight_shape

# The fused layer of an attention, and its parts from the first row on.
WHOLES: dict[str, tuple[str, ...]] = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
LEAVES = {*WHOLES, *(part for parts in WHOLES.values() for part in parts)}
Rows = tuple[int, int]


def join_projections(
    plan: Mapping[Place, AdapterLayer], indices: Mapping[str, LayerIndex]
) -> dict[Place, AdapterLayer]:
    """Return the plan with the parts of fused projections joined to changes of the whole."""
    joined: dict[Place, AdapterLayer] = {}
    parts: dict[Place, dict[Rows, AdapterLayer]] = {}
    for place, change in plan.items():
        component, path = place
        leaf = path.rpartition(".")[2]
        attention = indices[component].parent(path) if leaf in LEAVES else None
        whole = attention and _whole_of(attention, leaf)
        if whole is None:
            joined[place] = change
        else:
            home = (component, f"{path[: -len(leaf)]}{whole}")
            parts.setdefault(home, {})[_rows(attention, whole, leaf)] = change
    for (component, path), found in parts.items():
        shape = weight_shape(layer_at(indices[component].root, path))
        joined[component, path] = JoinedRows(dict(sorted(found.items())), shape)
    return joined


class Projections:
    """The attentions whose projections carry adapters.

    Args:
        components: the model's parts by name.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self._components = components
        self._attentions: list[tuple[Any, dict[bool, list[Place]]]] = []

    def hold(self, places: Iterable[Place]) -> None:
        """Check the attentions of these layers, and no others, from now on."""
        found: dict[Place, list[Place]] = {}
        for place in places:
            component, path = place
            parent, _, leaf = path.rpartition(".")
            if leaf in LEAVES:
                found.setdefault((component, parent), []).append(place)
        self._attentions = [
            (layer_at(self._components[component], path), _by_kind(there)) for (component, path), there in found.items()
        ]

    def watched(self) -> list[Watched]:
        """What says which projections an attention calls; as long as it stays, :meth:`check` would find nothing."""
        tables = [vars(attention) for attention, _ in self._attentions]
        flags = [(table, "fused_projections", table.get("fused_projections")) for table in tables]
        return flags + [(table, "processor", table.get("processor")) for table in tables]

    def check(self) -> None:
        """Raise if projections were fused, or taken apart again, after adapters were put on them.

        Raises:
            StateError: if one of the layers is not what the model calls now.
        """
        for attention, places in self._attentions:
            if places[not _is_fused(attention)]:  # parts that are fused, or a whole that is not
                _check(attention, [*places[False], *places[True]])


def _by_kind(places: Iterable[Place]) -> dict[bool, list[Place]]:
    """Return under True the places of fused layers, and under False those of parts."""
    kinds: dict[bool, list[Place]] = {False: [], True: []}
    for place in places:
        kinds[place[1].rpartition(".")[2] in WHOLES].append(place)
    return kinds


def _check(attention: Any, places: Iterable[Place]) -> None:
    for component, path in places:
        leaf = path.rpartition(".")[2]
        apart = leaf in WHOLES and hasattr(attention, "fused_projections") and not _is_fused(attention)
        if apart or _whole_of(attention, leaf) is not None:
            made, undo = ("taken apart", "fuse") if apart else ("fused", "unfuse")
            raise StateError(
                f"the projections of {component}.{path} were {made} after adapters were loaded, so they would "
                f"not act there. Call {undo}_qkv_projections() on the model to go back, or detach the adapters "
                "first and load them again after."
            )


def _whole_of(attention: Any, leaf: str) -> str | None:
    """Return the fused layer that is called in the place of this part, None where the part itself is called."""
    if not _is_fused(attention):
        return None
    found: Sequence[str] = [whole for whole, parts in WHOLES.items() if leaf in parts and _has(attention, whole)]
    return found[0] if found else None


def _is_fused(attention: Any) -> bool:
    """Whether the fused layer is what runs: a UNet's attention keeps it when its processor no longer calls it."""
    if not getattr(attention, "fused_projections", False):
        return False
    return hasattr(attention, "_supports_qkv_fusion") or "Fused" in type(attention.processor).__name__


def _has(attention: Any, name: str) -> bool:
    return isinstance(getattr(attention, name, None), nn.Linear)


def _rows(attention: Any, whole: str, leaf: str) -> Rows:
    before = WHOLES[whole][: WHOLES[whole].index(leaf)]
    start = sum(weight_shape(getattr(attention, part))[0] for part in before)
    return start, start + weight_shape(getattr(attention, leaf))[0]
