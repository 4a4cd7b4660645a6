"""Every error that Lorica raises on purpose: one tree under :class:`LoRAError`, each also a standard type.

A message says what happened, to what, what was found and what was expected, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_LONGEST_WORD, _LONGEST = 400, 8000  # characters of a message; names in files have no limit of their own
_WORD = re.compile(rf"\S{{{_LONGEST_WORD},}}")
# What would move the cursor of a terminal, turn the direction of text, or cannot be printed; not tabs and new lines.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """A text with escapes for characters that a terminal must not get, as long as it may be."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: str) -> str:
    """A text with escapes for characters that a terminal must not get, and its longest words and itself shortened."""
    short = _WORD.sub(lambda found: f"{found[0][:200]}...{found[0][-80:]}", escaped(text))
    return short if len(short) <= _LONGEST else f"{short[: _LONGEST - 500]} ... {short[-400:]}"


class LoRAError(Exception):
    """Root of every deliberate error. Its message may be printed whatever names a file brought into it."""

    def __str__(self) -> str:
        """The message, as it may be printed; its arguments stay as they are, so that torch can trace a raise."""
        return shortened(Exception.__str__(self))  # KeyError, which some are too, would print it quoted


class ShapeError(LoRAError, ValueError):
    """Tensors whose shapes do not fit each other, or the layer that they are for."""


class UnknownNameError(LoRAError, KeyError):
    """A name that is not among the known ones."""

    @classmethod
    def choose(cls, what: str, got: str, known: Iterable[str]) -> UnknownNameError:
        """Error with the name that was asked for, the nearest known name, and the full list."""
        names = sorted(known)
        near = get_close_matches(got, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(f"unknown {what} {got!r}.{hint} Known: {', '.join(names) or 'none'}.")

    @classmethod
    def among_many(cls, what: str, got: str, known: Sequence[str]) -> UnknownNameError:
        """Error for a long list: the nearest three names and the count."""
        near = get_close_matches(got, known, n=3, cutoff=0.3)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        return cls(f"unknown {what} {got!r}; none of the {len(known)} known ones.{hint}")


class FileError(LoRAError, OSError):
    """A file that cannot be read or written, or that is broken."""


class FormatError(LoRAError, ValueError):
    """A file whose format is not recognised, or whose content could not all be used."""


class ModelError(LoRAError, ValueError):
    """An adapter and a model that do not fit each other."""


class StateError(LoRAError, RuntimeError):
    """An operation that the present state of a model does not allow."""


class ConfigError(LoRAError, ValueError):
    """A setting that is unknown, out of range or contradicts another."""


class DataError(LoRAError, ValueError):
    """Pictures or captions that cannot be used."""


class TrainingError(LoRAError, RuntimeError):
    """A training run that cannot go on."""


class MissingExtraError(LoRAError, ImportError):
    """A library that an optional feature needs and that is not installed."""

    @classmethod
    def for_package(cls, package: str, purpose: str, extra: str) -> MissingExtraError:
        """Error with the purpose of the package, and the command that installs it."""
        return cls(
            f"{purpose} needs the package {package!r}, which is not installed. Run: pip install 'lorica[{extra}]'"
        )
