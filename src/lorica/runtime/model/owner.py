"""How a component of a live model knows whose adapters it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from lorica.errors import StateError

if TYPE_CHECKING:
    from lorica.runtime.engine import Engine

ATTRIBUTE = "_lorica_owner"


class Owner:
    """A component's reference to its adapters. A copy of the component is on its own."""

    def __init__(self, loras: Engine | None) -> None:
        self.loras = loras

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        del memo
        return Owner(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Owner, (None,))


def mark(component: nn.Module, loras: Engine, *, owned: bool) -> None:
    """Let a component know its adapters, or forget them if it is theirs."""
    if owned:
        component.__dict__[ATTRIBUTE] = Owner(loras)
    elif (owner := owner_of(component)) is not None and owner.loras is loras:
        del component.__dict__[ATTRIBUTE]


def owner_of(component: nn.Module) -> Owner | None:
    """Return the owner of a component, None for one without adapters."""
    return component.__dict__.get(ATTRIBUTE)


def check_owned(component: nn.Module, loras: Engine) -> None:
    """Raise if a component carries the adapters of somebody else.

    Raises:
        StateError: if it was attached twice before anything was loaded, and the other one's adapters came first.
    """
    owner = owner_of(component)
    if owner is not None and owner.loras is not loras:
        raise StateError(
            f"this {type(component).__name__} already belongs to another attached pipeline or module. Use what "
            "lorica.attach returns now, or call the other one's .detach() first."
        )
