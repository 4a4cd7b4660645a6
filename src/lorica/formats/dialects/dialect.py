"""What a format is, and what it makes of the keys of a file. ``FORMATS`` lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lorica.adapters import Adapter, AdapterLayer
from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.keys_to_modules import FileModules, Keys
from lorica.formats.names import Location
from lorica.formats.storage.files import FileContents
from lorica.models import Target
from lorica.models.folding import Shape


def no_default(component: str, path: str, rank: int) -> None:
    """None: a module without an alpha of its own has its rank for one."""
    del component, path, rank


def as_it_is(path: str, layer: AdapterLayer, shape: Shape | None) -> AdapterLayer | str:
    """The layer itself: its tensors tell all of it."""
    del path, shape
    return layer


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the keys of a file mean.

    Args:
        modules: the modules, by the names that the file gives them.
        locate: such a name to where it stands in the model, or the reason why there is no such place.
        target: the model that the locations belong to, if it is known.
        default_alpha: ``(component, path, rank)`` to the alpha of a module whose keys hold none; None means the rank.
        known: the modules that the file could have named, to find the nearest ones when a key is refused.
        embeddings: token to component to vectors.
        zero_is_rank: whether an alpha of 0 means the rank.
        revise: ``(path, layer, shape)`` to the layer as the file's configuration means it, or the reason why there is
            none; the shape is that of the weight, if it is known.
    """

    modules: FileModules
    locate: Callable[[str], Location | str]
    target: Target | None
    default_alpha: Callable[[str, str, int], float | None] = no_default
    known: Callable[[], list[str]] = list[str]
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]])
    zero_is_rank: bool = True
    revise: Callable[[str, AdapterLayer, Shape | None], AdapterLayer | str] = as_it_is


@dataclass(frozen=True, kw_only=True, eq=False)
class Dialect(ABC):
    """One way to write an adapter into named tensors; read only, unless it has a ``compose`` of its own.

    Args:
        name: what users call it.
    """

    name: str

    @abstractmethod
    def recognises(self, keys: Keys) -> bool:
        """Whether a file with these keys is in this format."""

    @abstractmethod
    def parse(self, contents: FileContents, target: Target | None, account: Account) -> Parsed:
        """The meaning of the keys; those without one are left in the account."""

    def compose(self, adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """The tensors of an adapter under this format's names, and the metadata that they need.

        Raises:
            FormatError: listing what the format cannot hold, or that files in it are only read.
        """
        raise FormatError(
            f"files in {self.name} format are read, not written, so this one of {len(adapter)} layers"
            f"{f' for {target.name}' if target else ''} is not. Use format='diffusers' or 'kohya'."
        )

    def model_for(self, adapter: Adapter, target: Target | None) -> Target | None:
        """The model whose names a file gets: the one given, or else what the adapter says; None if any will do.

        Raises:
            FormatError: if it may be for several models whose modules the format names differently.
        """
        del adapter
        return target
