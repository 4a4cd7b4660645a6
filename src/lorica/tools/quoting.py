"""Words of the command lines that Lorica suggests, for any shell."""

from __future__ import annotations

import shlex

from lorica.errors import escaped


def quoted(word: str) -> str:
    """A word for a shell; one with control characters in the form that shells read escapes in."""
    if word == escaped(word):
        return shlex.quote(word)
    return "$'" + escaped(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"
