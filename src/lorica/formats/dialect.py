"""What a format is: four names that a module defines. ``FORMATS`` lists the modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.files import Stored
from lorica.formats.layers import Found
from lorica.models import Target


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the keys of a file mean.

    Args:
        found: the keys whose meaning is known.
        target: the model that the paths belong to, if it is known.
        default_alpha: ``(component, path, rank)`` to the alpha of a module whose keys hold none; None means the rank.
        known: the modules that the file could have named, to find the nearest ones when a key is refused.
    """

    found: Iterable[Found]
    target: Target | None
    default_alpha: Callable[[str, str, int], float | None]
    known: Callable[[], list[str]]


class Dialect(Protocol):
    """One way to write an adapter into named tensors."""

    @property
    def NAME(self) -> str:  # noqa: N802  # a constant of the module
        """What users call it."""
        ...

    def recognises(self, keys: Iterable[str]) -> bool:
        """Tell whether any of the keys is spelled in this format."""
        ...

    def parse(self, stored: Stored, target: Target | None, account: Account) -> Parsed:
        """Return the meaning of the keys; those without one are left in the account."""
        ...

    def compose(self, adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """Return the tensors of an adapter under this format's names, and the metadata that they need."""
        ...
