"""From the keys of a file to its modules: marks of formats, whose key is whose, and which modules are alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

from torch import Tensor

from lorica.errors import FormatError
from lorica.formats.account import Account
from lorica.formats.methods.layers import size_of
from lorica.formats.methods.leaves import FOREIGN, leaf_tables, unknown
from lorica.formats.storage.files import FileContents
from lorica.formats.storage.unread import Unread
from lorica.models.folding import Shape

Leaves = dict[str, str]  # meaning (lora.down, alpha, ...) to the key that holds it
Split = Iterable[tuple[str, str, str]]  # key, module's name, meaning
EMBEDDINGS = "bundle_emb."  # what the keys of embeddings begin with, which are of no module
_DIGITS = bytes.maketrans(b"0123456789", b"#" * 10)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a file as one text, and its metadata: what a format is recognised by.

    A file has the same keys for block after block. In ``kinds`` stands ``#`` for every digit, and what is then the same
    stands once: a tenth as long as ``text``, and a mark that is not in the one is not in the other.
    """

    text: str
    kinds: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, keys: Iterable[str], metadata: Mapping[str, str] | None = None) -> Keys:
        """The keys of a file, each on its own line."""
        text = "\n".join(keys)
        kinds = "\n".join(dict.fromkeys(_without_digits(text).split("\n")))
        return cls(f"\n{text}\n", f"\n{kinds}\n", metadata or {})

    def start(self, *starts: str) -> bool:
        """Whether any key starts with one of these."""
        return any(self._holds(f"\n{start}") for start in starts)

    def all_start(self, *starts: str) -> bool:
        """Whether each key starts with one of these, which are without digits."""
        return sum(self.kinds.count(f"\n{start}") for start in starts) == self.kinds.count("\n") - 1

    def hold(self, *parts: str) -> bool:
        """Whether any key has one of these in it."""
        return any(map(self._holds, parts))

    def end(self, *ends: str) -> bool:
        """Whether any key ends in one of these."""
        return any(self._holds(f"{end}\n") for end in ends)

    def hold_key(self, *keys: str) -> bool:
        """Whether one of these is a key."""
        return any(self._holds(f"\n{key}\n") for key in keys)

    def _holds(self, mark: str) -> bool:
        kind = _without_digits(mark)
        return kind in self.kinds and (kind == mark or mark in self.text)


def _without_digits(text: str) -> str:
    """A text with ``#`` for every digit; of bytes, which takes a tenth of the time that characters take."""
    return text.encode("utf-8", "surrogatepass").translate(_DIGITS).decode("utf-8", "surrogatepass")


class FileModules:
    """The modules of a file, and which of them are alike.

    Of one kind are those whose leaves have the same meanings, shapes and dtypes, and whose flags are the same. A file
    has the same few kinds in block after block, so what was found out of one module holds for many.

    Args:
        contents: the file.
        split: its keys with the names of their modules and their meanings.

    Raises:
        FormatError: if two keys are the same tensor of the same module in two spellings.
    """

    def __init__(self, contents: FileContents, split: Split) -> None:
        self._tensors = contents.tensors
        by_name = group(split, contents.source)
        self.leaves: dict[str, Leaves] = _full_rank(by_name, contents.metadata)
        form = _forms(contents.tensors).__getitem__
        flags = leaf_tables().flags
        numbers: dict[Any, int] = {}
        self.kinds: dict[str, int] = {}  # the same, as a number
        for name, leaves in self.leaves.items():
            kind: Any = (*leaves, *map(form, leaves.values()))
            if not flags.isdisjoint(leaves):
                kind += tuple(_is_on(self._tensors[leaves[flag]]) for flag in sorted(flags & leaves.keys()))
            self.kinds[name] = numbers.setdefault(kind, len(numbers))

    @cached_property
    def sizes(self) -> list[Shape | None]:
        """For each kind outputs and inputs of its modules, as far as they are told."""
        samples = {number: name for name, number in reversed(self.kinds.items())}
        first = (self.leaves[samples[number]] for number in range(len(samples)))
        return [size_of({meaning: self._tensors[key] for meaning, key in leaves.items()}) for leaves in first]


def _full_rank(modules: dict[str, Leaves], metadata: Mapping[str, str]) -> dict[str, Leaves]:
    """The modules, whose ``down`` is the whole change if ai-toolkit trained them in full rank: no ``up`` is there."""
    if "ai-toolkit" not in metadata.get("software", "") or any(
        leaves.keys() - {"lora.down", "alpha"} for leaves in modules.values()
    ):
        return modules
    return {name: {"full.diff": leaves["lora.down"]} for name, leaves in modules.items() if "lora.down" in leaves}


def group(split: Split, source: str) -> dict[str, Leaves]:
    """The keys of each module by its name in the file.

    Args:
        split: key, module's name, meaning.
        source: what to call the file in messages.

    Raises:
        FormatError: if two keys are the same tensor of the same module in two spellings.
    """
    modules: dict[str, Leaves] = {}
    for key, name, meaning in split:
        leaves = modules.get(name)
        if leaves is None:
            modules[name] = {meaning: key}
        elif leaves.setdefault(meaning, key) != key:
            raise twice(source, leaves[meaning], key, f"{meaning.rpartition('.')[2]} of {name}")
    return modules


def twice(source: str, first: str, second: str, what: str) -> FormatError:
    """The error for two keys that mean one thing."""
    return FormatError(f"{source}: {first!r} and {second!r} are both the {what}; a file may hold it once.")


def split_flat(keys: Iterable[str]) -> Split:
    """Each key with the module's name, which ends at the first dot, and its meaning."""
    leaves = leaf_tables().flat
    for key in keys:
        name, _, leaf = key.partition(".")
        if not key.startswith(EMBEDDINGS):
            yield key, name, leaves.get(leaf) or unknown(leaf)


def split_dotted(
    keys: Collection[str], account: Account, otherwise: Callable[[str], tuple[str, str] | None] = lambda _key: None
) -> Split:
    """Each dotted key with the module's name and its meaning; those that end in no leaf known are left in the account.

    Args:
        keys: all keys of the file.
        account: what becomes of them.
        otherwise: the name and the meaning of a key that has no leaf of any method, for a format that has more.
    """
    tables = leaf_tables()
    for key in keys:
        found = tables.split(key, keys) or otherwise(key)
        if found:
            yield key, *found
        else:
            name = FOREIGN.get(key.rpartition(".")[2])
            account.leave(
                [key], f"it is of {name}, which is not read." if name else "its ending is none that this format knows."
            )


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """For each key what is the same for tensors of one shape and dtype. All tensors are unread, or none."""
    unread = isinstance(next(iter(tensors.values()), None), Unread)
    shapes = map(attrgetter("shape"), tensors.values())
    dtypes = map(attrgetter("stored_dtype" if unread else "dtype"), tensors.values())
    return dict(zip(tensors, zip(shapes, dtypes, strict=True), strict=True))


def _is_on(flag: Tensor) -> bool:
    return flag.numel() == 1 and bool(flag.item())
