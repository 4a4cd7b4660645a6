"""The rooms of ``src/lorica``, their order, and the imports between its files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent / "src" / "lorica"
FILES = sorted(ROOT.rglob("*.py"))

# The folders and files at the top: each may import only what stands before it. The public names (``__init__``) are
# loaded lazily, so what uses Lorica through them alone stands after them.
LAYERS = (
    "errors", "printing", "run_files", "notebook", "atomic", "rng", "linalg", "dtypes", "adapters", "models", "formats",
    "merging", "runtime", "tools", "data", "training", "generating", "demo", "__init__", "diffusers", "web", "scale",
    "cli", "__main__",
)  # fmt: skip

# The same within a folder. A name is a room or a file; ``*`` is every other file that stands directly in the folder.
# Names in one tuple stand beside each other: neither imports the other. The folder's ``__init__`` is its door: last.
ROOMS: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "formats": ("peft_config", "storage", "names", "methods", "*", "dialects", "modules", "reading"),
    "runtime": (
        "blocks", "strengths", "model", "bank", "fusing", "regions", "pipeline", "state", "apply", "*", "trainable",
        "attach", "prompt",
    ),
    "training": (
        "progress", "config", "plan", "recipes/recipe", "objective", "recipes", "dataset", "adapter",
        ("average", "device", "optimizer"), "loop", "output", "memory", "*", "state", "session", ("rehearsal", "run"),
    ),
}  # fmt: skip


class Import(NamedTuple):
    """One file imports another; both as paths below ``src/lorica``."""

    importer: str
    imported: str
    line: int


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(file: str) -> str:
    """The folder, or the file at the top."""
    return file.split("/")[0].removesuffix(".py")


def room_of(file: str) -> str | None:
    """The name in ``ROOMS`` under which a file stands in its folder's order; None if it has no place there."""
    folder, *rest = file.removesuffix(".py").split("/")
    inner = "/".join(rest)
    known = {name for step in ROOMS[folder] for name in steps_of(step)}
    if inner == "__init__":
        return inner
    if inner in known:
        return inner
    return next((name for name in (rest[0], "*"[: len(rest) == 1]) if name in known), None)


def steps_of(step: str | tuple[str, ...]) -> tuple[str, ...]:
    return (step,) if isinstance(step, str) else step


def may_import(folder: str, room: str, other: str) -> bool:
    """Whether a room of a folder may import another one."""
    order = {name: number for number, step in enumerate(ROOMS[folder]) for name in steps_of(step)}
    return room in (other, "__init__") or (other != "__init__" and order[other] < order[room])


@cache
def modules() -> dict[str, Path]:
    """Dotted names of all modules; a package's ``__init__`` has the name of the package."""
    dotted = {path: path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".") for path in FILES}
    return {name.removesuffix(".__init__"): path for path, name in dotted.items()}


@cache
def lazy_names(package: str) -> dict[str, str] | None:
    """Public names of a package that loads them when they are asked for, with their homes; None if it does not."""
    tree = parse(modules()[package])
    if not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        return None
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module in modules()]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def imports_of(module: str) -> Iterator[tuple[str, int]]:
    """The modules of Lorica that a module imports, anywhere in its file, with the lines.

    ``from package import name`` imports the module of that name if there is one, otherwise the package. Where the
    package loads its names lazily, it is the name's home that is imported, and the package itself imports nothing.
    """
    if lazy_names(module) is not None:
        return
    for node in ast.walk(parse(modules()[module])):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                home = (lazy_names(node.module) or {}).get(alias.name, node.module)
                yield (whole if whole in modules() else home), node.lineno


@cache
def imports() -> tuple[Import, ...]:
    """Every import of one file of Lorica by another, also under TYPE_CHECKING and inside functions."""
    paths = {module: name_of(path) for module, path in modules().items()}
    found = {
        Import(paths[module], paths[other], line)
        for module in modules()
        for other, line in imports_of(module)
        if other != module
    }
    return tuple(sorted(found))


@cache
def imported_by() -> dict[str, frozenset[str]]:
    """What each file imports."""
    table: dict[str, set[str]] = {name_of(path): set() for path in FILES}
    for one in imports():
        table[one.importer].add(one.imported)
    return {name: frozenset(others) for name, others in table.items()}


def way(start: str, end: str) -> list[str] | None:
    """The shortest chain of imports from one file to another; from a file to itself it is a circle."""
    chains = {other: [start, other] for other in imported_by()[start]}
    waiting = list(chains)
    for file in waiting:  # grows while it is gone through
        for other in imported_by()[file] - chains.keys():
            chains[other] = [*chains[file], other]
            waiting.append(other)
    return chains.get(end)
