"""The format of LyCORIS without Kohya's scripts (its wrapper, SimpleTuner): ``lycoris_<flat path>.<leaf>``.

The prefix does not say the component: the paths do, and a path that several components have is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorica.adapters import Adapter
from lorica.formats.account import Account
from lorica.formats.dialects.dialect import Parsed
from lorica.formats.dialects.naming import Naming, compose_named, parse_flat
from lorica.formats.keys import Keys
from lorica.formats.storage.files import Stored
from lorica.formats.writing import LYCORIS_LEAVES, refuse_embeddings
from lorica.models import Target

NAME = "lycoris"
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("lycoris",),
    "transformer": ("lycoris",),
    "prior": ("lycoris",),
}
_START = "lycoris_"


def recognises(keys: Keys) -> bool:
    """Tell whether any key begins with the prefix."""
    return keys.start(_START)


def parse(stored: Stored, target: Target | None, account: Account) -> Parsed:
    """Return the meaning of the keys: looked up in the target's table, or in that of the family that fits best."""
    return parse_flat(stored, target, account, NAMING)


def compose(adapter: Adapter, target: Target | None) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the tensors under flat names.

    Raises:
        FormatError: listing what the format cannot hold.
    """
    refuse_embeddings(adapter, NAME)
    return compose_named(adapter, target, NAMING, LYCORIS_LEAVES), {}


NAMING = Naming(NAME, lambda _model: PREFIXES, "_")
