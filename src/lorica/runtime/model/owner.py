"""Mark on a component of a live model: the engine whose adapters it carries."""

from __future__ import annotations

from typing import Any

from torch import nn

from lorica.errors import StateError

ATTRIBUTE = "_lorica_owner"


class OwnerMark:
    """A component's reference to the engine. A copy or pickle of the component belongs to nobody.

    Args:
        model: the engine; None on a copy.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnerMark:
        del memo
        return OwnerMark(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return (OwnerMark, (None,))


NOBODY = OwnerMark(None)


def mark(component: nn.Module, model: Any) -> None:
    """Mark a component as the engine's."""
    component.__dict__[ATTRIBUTE] = OwnerMark(model)


def unmark(component: nn.Module, model: Any) -> None:
    """Take the mark off, if it is this engine's."""
    if owner_of(component) is model:
        del component.__dict__[ATTRIBUTE]


def owner_of(component: nn.Module) -> Any | None:
    """The engine that a component belongs to; None if there is none."""
    return getattr(component, ATTRIBUTE, NOBODY).model


def is_copy(component: nn.Module) -> bool:
    """Whether a component is a copy of one that had adapters attached."""
    found: OwnerMark | None = component.__dict__.get(ATTRIBUTE)
    return found is not None and found.model is None


def owned_by_another(component: nn.Module) -> StateError:
    """The error where a component was attached twice while nothing was loaded, and the other engine loaded first."""
    return StateError(
        f"this {type(component).__name__} already belongs to another attached pipeline or module. Use what "
        "lorica.attach returns now, or call the other one's .detach() first."
    )
