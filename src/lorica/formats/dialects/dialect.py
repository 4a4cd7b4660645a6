"""What a format is: a few names that a module defines. ``FORMATS`` lists the modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.keys import Keys
from lorica.formats.kinds import Kinds
from lorica.formats.methods.layers import Leaves
from lorica.formats.places import Place, Shape
from lorica.formats.storage.files import Stored
from lorica.models import Target


def no_default(component: str, path: str, rank: int) -> None:
    """Return None: a module without an alpha of its own has its rank for one."""
    del component, path, rank


def as_it_is(path: str, layer: AdapterLayer, shape: Shape | None) -> AdapterLayer | str:
    """Return the layer: its tensors tell all of it."""
    del path, shape
    return layer


def nothing_known() -> list[str]:
    """Return no names: those that a file could have used are not known."""
    return []


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the keys of a file mean.

    Args:
        modules: the keys of each module, by the name that the file gives it.
        locate: such a name to where it stands in the model, or the reason why there is no such place.
        target: the model that the places belong to, if it is known.
        default_alpha: ``(component, path, rank)`` to the alpha of a module whose keys hold none; None means the rank.
        known: the modules that the file could have named, to find the nearest ones when a key is refused.
        embeddings: token to component to vectors.
        kinds: the kinds of the modules, if they were looked at.
        zero_is_rank: whether an alpha of 0 means the rank.
        revise: ``(path, layer, shape)`` to the layer as the file's configuration means it, or the reason why there is
            none; the shape is that of the weight, if it is known.
    """

    modules: Mapping[str, Leaves]
    locate: Callable[[str], Place | str]
    target: Target | None
    default_alpha: Callable[[str, str, int], float | None] = no_default
    known: Callable[[], list[str]] = nothing_known
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]])
    kinds: Kinds | None = None
    zero_is_rank: bool = True
    revise: Callable[[str, AdapterLayer, Shape | None], AdapterLayer | str] = as_it_is


def read_only(format_name: str) -> FormatError:
    """Return the error for writing in a format that is only read."""
    return FormatError(f"files in {format_name} format are read, not written. Use format='diffusers' or 'kohya'.")


class Dialect(Protocol):
    """One way to write an adapter into named tensors."""

    @property
    def NAME(self) -> str:  # noqa: N802  # a constant of the module
        """What users call it."""
        ...

    def recognises(self, keys: Keys) -> bool:
        """Tell whether a file with these keys is in this format."""
        ...

    def parse(self, stored: Stored, target: Target | None, account: Account) -> Parsed:
        """Return the meaning of the keys; those without one are left in the account."""
        ...

    def compose(self, adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """Return the tensors of an adapter under this format's names, and the metadata that they need.

        Raises:
            FormatError: listing what the format cannot hold, or that files in it are only read.
        """
        ...
