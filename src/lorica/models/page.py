"""Tables of the documentation's page on families: ``python -m lorica.models.page docs/families.md`` updates them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from lorica.models import FAMILIES
from lorica.models.folding import Shape
from lorica.models.spellings import SPELLINGS

_BEGIN, _END = "<!-- {}: made by lorica.models.page -->\n", "<!-- end of {} -->\n"
_TELLING = ("attn.qkv", "qkv", "in_proj", "attention.attn", "query_key", "self_attn.q", "w2q", "q_norm", "to_q")


def main() -> None:
    """Update the tables of the page whose path is the argument."""
    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text("utf-8")), "utf-8")


def renewed(page: str) -> str:
    """Page with its tables as they are now."""
    for name, lines in (("families", _families()), ("spellings", _spellings())):
        begin, end = _BEGIN.format(name), _END.format(name)
        before, _, rest = page.partition(begin)
        page = "".join((before, begin, "\n".join(lines), "\n", end, rest.partition(end)[2]))
    return page


def _families() -> Iterator[str]:
    yield "| family | model | component | modules | blocks | spellings |"
    yield "|---|---|---|--:|---|---|"
    for name, family in FAMILIES.items():
        for component, shapes in family.target.components.items():
            first = component == next(iter(family.target.components))
            cells = (
                f"`{name}`" if first else "",
                family.title if first else "",
                f"`{component}`",
                str(len(shapes)),
                _blocks(family.block_order[component]),
                ", ".join(f"`{spelling}`" for spelling in family.spellings[component]),
            )
            yield f"| {' | '.join(cells)} |"


def _blocks(order: tuple[str, ...]) -> str:
    """Lists of blocks with the length of each: ``19 transformer_blocks``."""
    heads = (block.rpartition(".")[0] or block for block in order)
    return ", ".join(f"{len(list(run))} `{head}`" for head, run in groupby(heads) if f"{head}.0" in order)


def _spellings() -> Iterator[str]:
    yield "| network | spelling | for example | stands for |"
    yield "|---|---|---|---|"
    for key, spelling in SPELLINGS.items():
        table = spelling.table(next(shapes for shapes in _components() if spelling.fits(shapes)))
        foreign = next(name for word in _TELLING for name in table if word in name and name != table[name][0].path)
        parts = ", ".join(f"`{part.path}`" for part in table[foreign])
        yield f"| {key.partition('.')[0]} | `{spelling.name}` | `{foreign}` | {parts} |"


def _components() -> Iterator[Mapping[str, Shape]]:
    return (shapes for family in FAMILIES.values() for shapes in family.target.components.values())


if __name__ == "__main__":
    main()
