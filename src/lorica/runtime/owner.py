"""How a component of a live model knows whose adapters it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from lorica.runtime.loras import Loras

ATTRIBUTE = "_lorica_owner"


class Owner:
    """A component's reference to its adapters. A copy of the component is on its own."""

    def __init__(self, loras: Loras | None) -> None:
        self.loras = loras

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        del memo
        return Owner(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Owner, (None,))


def mark(component: nn.Module, loras: Loras | None) -> None:
    """Let a component know its adapters, or, with None, forget them."""
    if loras is None:
        component.__dict__.pop(ATTRIBUTE, None)
    else:
        component.__dict__[ATTRIBUTE] = Owner(loras)


def owner_of(component: nn.Module) -> Owner | None:
    """Return the owner of a component, None for one without adapters."""
    return component.__dict__.get(ATTRIBUTE)
