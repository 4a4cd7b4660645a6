from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lorica.models import FAMILIES
from lorica.models.page import main, renewed
from lorica.models.spellings import SPELLINGS

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def test_the_page_says_what_the_tables_say_today() -> None:
    """Run ``python -m lorica.models.page docs/families.md`` if it does not."""
    text = PAGE.read_text("utf-8")
    assert renewed(text) == text


def test_the_page_has_every_family_and_every_spelling() -> None:
    text = PAGE.read_text("utf-8")
    assert all(f"| `{name}` |" in text for name in FAMILIES)
    assert all(f"| {name.partition('.')[0]} | `{spelling.name}` |" in text for name, spelling in SPELLINGS.items())
    assert "| 19 `transformer_blocks`, 38 `single_transformer_blocks` | `bfl` |" in text


def test_an_old_page_is_renewed_around_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = PAGE.read_text("utf-8")
    page = tmp_path / "families.md"
    page.write_text(now.replace("| `sd1` |", "| `sd0` |").replace("| `bfl` |", "| `old` |"), "utf-8")
    monkeypatch.setattr(sys, "argv", ["page", str(page)])
    main()
    assert page.read_text("utf-8") == now
