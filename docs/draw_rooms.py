"""Draw the rooms of ``src/lorica`` and the imports between them, as they are in the files.

A panel is a stack of rooms in their order: a room may import only what stands above it. Each line goes from a room up
to one that it imports; it is the thicker, the more imports there are. The number in a box is that of its files. The
order and the imports come from ``tests/rooms.py``, which the architecture test reads too.

Run: PYTHONPATH=tests python docs/draw_rooms.py [FILE.svg] (``make docs`` does); writes docs/images/rooms.svg.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from rooms import FILES, LAYERS, ROOMS, imports, layer_of, name_of, room_of, steps_of

PICTURE = Path(__file__).parent / "images" / "rooms.svg"
COLORS = ("#4269d0", "#e07b00", "#c4393f", "#2a9d8f", "#3a8f3e", "#b0539b", "#8a63c9", "#8c6239", "#6b7785")
INK, PAPER = "#1f2430", "#f3f4f7"
WIDTH, HEIGHT = 3.0, 0.62  # of a box; the next one begins 1 further down
WRONG = "#d00000"  # of a line that goes down, against the order

Links = Counter[tuple[str, str]]  # importing and imported room to the number of imports


def layers() -> tuple[list[str], Counter[str], Links]:
    """Folders and files at the top in their order, how many files each has, and the imports between them."""
    sizes = Counter(layer_of(name_of(path)) for path in FILES)
    return [name for name in LAYERS if name in sizes], sizes, links_by(layer_of, list(map(name_of, FILES)))


def rooms(folder: str) -> tuple[list[str], Counter[str], Links]:
    """The same of the rooms in a folder."""
    inside = [name for name in map(name_of, FILES) if layer_of(name) == folder]
    sizes = Counter(str(room_of(name)) for name in inside)
    order = [name for step in ROOMS[folder] for name in steps_of(step)]
    return [name for name in (*order, "__init__") if name in sizes], sizes, links_by(room_of, inside)


def links_by(place: Callable[[str], str | None], files: list[str]) -> Links:
    """Imports among files, counted by where the two stand; those within one place are left out."""
    known = set(files)
    pairs = [(place(one.importer), place(one.imported)) for one in imports() if {one.importer, one.imported} <= known]
    return Counter((str(a), str(b)) for a, b in pairs if a != b)


def draw_stack(axes: Axes, title: str, stack: tuple[list[str], Counter[str], Links]) -> None:
    """Draw one panel."""
    names, sizes, links = stack
    depth = {name: -number for number, name in enumerate(names)}
    for (importer, imported), count in sorted(links.items(), key=lambda item: item[1]):
        draw_link(axes, depth[importer], depth[imported], count, COLORS[-depth[importer] % len(COLORS)])
    for number, name in enumerate(names):
        draw_box(axes, "its own files" if name == "*" else name, sizes[name], depth[name], COLORS[number % len(COLORS)])
    reach = max((abs(depth[a] - depth[b]) for a, b in links), default=1)
    axes.set_xlim(-0.1, WIDTH + bulge(reach) / 2 + 0.2)
    axes.set_ylim(depth[names[-1]] - 0.5, 1.0)
    axes.text(0, 0.62, title, fontsize=13, fontweight="bold", color=INK)
    axes.set_axis_off()


def draw_box(axes: Axes, name: str, files: int, y: float, color: str) -> None:
    """Draw a room: its name, how many files it has, and the colour of the lines that go out from it."""
    axes.add_patch(
        FancyBboxPatch(
            (0, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", fc=PAPER, ec=INK, zorder=3
        )
    )
    axes.add_patch(FancyBboxPatch((0, y - HEIGHT / 2), 0.12, HEIGHT, boxstyle="square,pad=0", color=color, zorder=4))
    axes.text(0.25, y, name, va="center", fontsize=11, color=INK, zorder=5)
    axes.text(WIDTH - 0.12, y, str(files), va="center", ha="right", fontsize=9, color="#6b7785", zorder=5)


def draw_link(axes: Axes, start: float, end: float, count: int, color: str) -> None:
    """Draw a line from a room to one that it imports; against the order it is dashed."""
    side = HEIGHT * 0.28  # lines go out above the middle and come in below it
    upwards = end > start
    curve = bulge(abs(start - end)) / abs(start - end)
    axes.add_patch(
        FancyArrowPatch(
            (WIDTH, start + side),
            (WIDTH + 0.06, end - side),
            connectionstyle=f"arc3,rad={curve if upwards else -curve:.3f}",
            arrowstyle="-|>,head_length=4,head_width=2",
            linewidth=0.7 + 0.5 * sqrt(count),
            linestyle="-" if upwards else "--",
            color=color if upwards else WRONG,
            alpha=0.75,
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )


def bulge(distance: float) -> float:
    """How far the control point of a line's curve stands to the right."""
    return 0.5 + 0.42 * distance


def main() -> None:
    """Draw all panels into one picture."""
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    figure = Figure(figsize=(14, 11), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1.25, 1, 1.1])
    draw_stack(figure.add_subplot(grid[:, 0]), "src/lorica", layers())
    for folder, cell in zip(ROOMS, (grid[0, 1], grid[1, 1], grid[:, 2]), strict=True):
        draw_stack(figure.add_subplot(cell), f"{folder}/", rooms(folder))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lorica"}):  # words stay words
        figure.savefig(place, metadata={"Date": None} if place.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    main()
