"""The shape of the code: imports point one way, files and functions stay small, everything public says what it is."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rooms import FILES, LAYERS, ROOMS, imports, layer_of, may_import, name_of, parse, room_of, steps_of, way

# What does not hold yet, as "check name". A name that holds by now is to be removed: the list only shrinks.
STILL_OPEN: tuple[str, ...] = ()

ROOMS_WITHOUT_TOPIC = {"utils", "helpers", "common", "misc"}
RIVALS = {"peft", "lycoris"}
FORBIDDEN_OPENINGS = ("Return what ", "Tell whether ", "Let ")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

# Imports inside functions are for what is optional, and for what would make the command line slow to start.
HEAVY = {
    "torch", "diffusers", "transformers", "accelerate", "datasets", "matplotlib", "huggingface_hub", "numpy", "PIL",
}  # fmt: skip
OPTIONAL = {
    "bitsandbytes",
    "pillow_heif",
    "pillow_jxl",
    "torchao",
    "prodigyopt",
    "pytorch_optimizer",
    "tensorboard",
    "wandb",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(node: Function) -> int:
    """Lines of a function without its docstring: explaining is free."""
    first = node.body[0]
    explained = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if explained else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def public_definitions(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions of a file, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (item for item in node.body if isinstance(item, Function) and not item.name.startswith("_"))


every_file = pytest.mark.parametrize("path", FILES, ids=name_of)


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 30
    assert {layer_of(name_of(path)) for path in FILES} <= set(LAYERS), "a new folder: give it a place in LAYERS"
    assert len(imports()) > 300


def check(kind: str, offenders: Mapping[str, str]) -> None:
    """Fail for an offender that is not known to be one, and for a known one that no longer is.

    Args:
        kind: of the check, as ``STILL_OPEN`` says it.
        offenders: name to what is wrong with it.
    """
    known = {name for entry, _, name in (line.partition(" ") for line in STILL_OPEN) if entry == kind}
    new = [f"{name}: {reason}" for name, reason in sorted(offenders.items()) if name not in known]
    assert not new, "\n".join(new)
    mended = sorted(f"{kind} {name}" for name in known - offenders.keys())
    assert not mended, f"no longer so; remove from STILL_OPEN: {', '.join(mended)}"


def test_what_is_still_open_belongs_to_a_check() -> None:
    kinds = {"circle", "class", "docstring", "room", "shape"}
    assert {line.partition(" ")[0] for line in STILL_OPEN} <= kinds
    assert len(set(STILL_OPEN)) == len(STILL_OPEN)


def test_folders_import_only_what_stands_above_them() -> None:
    wrong = [
        f"{one.importer}:{one.line} imports {one.imported}"
        for one in imports()
        if LAYERS.index(layer_of(one.imported)) > LAYERS.index(layer_of(one.importer))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ROOMS)
def test_every_file_has_a_room(folder: str) -> None:
    inside = [name_of(path) for path in FILES if layer_of(name_of(path)) == folder]
    homeless = [name for name in inside if room_of(name) is None]
    assert not homeless, f"give them a place in ROOMS: {', '.join(homeless)}"
    gone = {name for step in ROOMS[folder] for name in steps_of(step)} - {room_of(name) for name in inside}
    assert not gone, f"they stand in ROOMS, and are not there: {', '.join(sorted(gone))}"


def test_rooms_import_only_what_stands_above_them() -> None:
    offenders: dict[str, str] = {}
    for one in imports():
        folder = layer_of(one.importer)
        if folder in ROOMS and folder == layer_of(one.imported):
            room, other = room_of(one.importer), room_of(one.imported)
            if room is not None and other is not None and not may_import(folder, room, other):
                offenders.setdefault(one.importer, f"line {one.line} imports {one.imported}")
    check("room", offenders)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not in a round-about way either, and not under TYPE_CHECKING."""
    circles = {name: way(name, name) for name in map(name_of, FILES)}
    check("circle", {name: " imports ".join(circle) for name, circle in circles.items() if circle})


def test_one_word_names_one_class() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{name_of(path)}:{node.lineno}")
    check("class", {name: ", ".join(found) for name, found in places.items() if len(found) > 1})


def test_a_shape_has_one_name() -> None:
    """Elsewhere it is imported, or ``tuple[int, ...]`` is written out."""
    aliases = {
        f"{name_of(path)}:{ast.unparse(target)}": "an alias of tuple[int, ...]"
        for path in FILES
        for target, value in assignments(parse(path))
        if ast.unparse(value) == "tuple[int, ...]"
    }
    check("shape", aliases if len(aliases) > 1 else {})


def assignments(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets and values of the assignments of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield node.target, node.value


def test_docstrings_name_the_thing() -> None:
    """They open with the noun: "Shapes by path.", "Whether it fits." """
    offenders: dict[str, str] = {}
    for path in FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Module | ast.ClassDef | Function):
                text = ast.get_docstring(node) or ""
                if text.startswith(FORBIDDEN_OPENINGS):
                    line = node.body[0].lineno
                    offenders.setdefault(name_of(path), f"line {line}: {text.splitlines()[0]}")
    check("docstring", offenders)


@every_file
def test_a_room_has_a_topic(path: Path) -> None:
    assert path.stem not in ROOMS_WITHOUT_TOPIC, f"{name_of(path)}: name the file after its topic"


@every_file
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name_of(path)} has {lines} lines: two topics share a room; split it by topic"


@every_file
def test_functions_stay_short(path: Path) -> None:
    long = {node.name: length(node) for node in functions(parse(path)) if length(node) > LONGEST_FUNCTION}
    assert not long, f"{name_of(path)} has functions over {LONGEST_FUNCTION} lines: {long}"


@every_file
def test_everything_public_says_what_it_is(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    silent = [node.name for node in public_definitions(tree) if not ast.get_docstring(node) and not is_repeat(node)]
    assert not silent, f"{name_of(path)}: no docstring on {', '.join(silent)}"


def is_repeat(node: ast.ClassDef | Function) -> bool:
    """Overloads and overrides say again what is said elsewhere."""
    return any(ast.unparse(mark) in {"overload", "override"} for mark in node.decorator_list)


@every_file
def test_imports_stand_at_the_top(path: Path) -> None:
    late = [module for node in functions(parse(path)) for module in imported_modules(node)]
    allowed = HEAVY | OPTIONAL | ({"lorica"} if layer_of(name_of(path)) in ("cli", "web") else set())
    surprising = [module for module in late if module.split(".")[0] not in allowed]
    assert not surprising, f"{name_of(path)} imports inside a function: {', '.join(surprising)}"


@every_file
def test_the_rivals_are_no_part_of_the_engine(path: Path) -> None:
    """Parity with them is measured in tests; our own roads never run on them."""
    used = {module.split(".")[0] for module in imported_modules(parse(path))} & RIVALS
    assert not used, f"{name_of(path)} imports {', '.join(used)}"


@every_file
def test_nothing_unfinished_is_left(path: Path) -> None:
    marks = re.findall(r"\b(?:TODO|FIXME|XXX)\b|raise NotImplementedError", path.read_text(encoding="utf-8"))
    assert not marks, f"{name_of(path)}: {', '.join(marks)}"
