"""Tables as notebooks show them: HTML, in which nothing that a file brought along is markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lorica.errors import escaped


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """HTML of a table.

    Args:
        headings: words above the columns; none for a table of names and values.
        rows: the cells of each row.
        caption: a line above it; none if empty.
    """
    head = f"<thead><tr>{_cells('th', headings)}</tr></thead>" if headings else ""
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    above = f"<caption style='text-align: left'>{_text(caption)}</caption>" if caption else ""
    return f"<table>{above}{head}<tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    """HTML of a paragraph."""
    return f"<p>{_text(text)}</p>"


def _cells(tag: str, cells: Iterable[object]) -> str:
    return "".join(f"<{tag} style='text-align: left'>{_text(str(cell))}</{tag}>" for cell in cells)


def _text(text: str) -> str:
    return escape(escaped(text)).replace("\n", "<br>")
