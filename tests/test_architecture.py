"""The shape of the code: imports point one way, files and functions stay small, everything public says what it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "lorica"
FILES = sorted(ROOT.rglob("*.py"))

# Each may import only what stands before it. The public names (__init__) stand last: everybody's door, nobody's tool.
LAYERS = (
    "errors", "atomic", "rng", "linalg", "dtypes", "adapters", "models", "formats", "runtime", "merging", "tools",
    "data", "training", "generating", "diffusers", "demo", "cli", "web", "__init__",
)  # fmt: skip

ROOMS_WITHOUT_TOPIC = {"utils", "helpers", "common", "misc"}
RIVALS = {"peft", "lycoris"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

# Imports inside functions are for what is optional, and for what would make the command line slow to start.
HEAVY = {
    "torch", "diffusers", "transformers", "accelerate", "datasets", "matplotlib", "huggingface_hub", "numpy", "PIL",
}  # fmt: skip
OPTIONAL = {"bitsandbytes", "torchao", "prodigyopt", "pytorch_optimizer", "tensorboard", "wandb"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_of(path: Path) -> str:
    """The folder, or the file at the top; ``__main__`` is a door like ``__init__``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py").replace("__main__", "__init__")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_layers(path: Path) -> set[str]:
    """The layers that a file imports from; ``import lorica`` alone means its public names."""
    own = [module.split(".") for module in imported_modules(parse(path)) if module.split(".")[0] == "lorica"]
    return {parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__" for parts in own}


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
    assert {layer_of(path) for path in FILES} <= set(LAYERS), "a new folder: give it a place in LAYERS"


@every_file
def test_imports_point_one_way(path: Path) -> None:
    own = LAYERS.index(layer_of(path))
    for other in imported_layers(path):
        assert LAYERS.index(other) <= own, f"{name_of(path)} ({layer_of(path)}) must not import {other}"


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
    allowed = HEAVY | OPTIONAL | ({"lorica"} if layer_of(path) in ("cli", "web") else set())
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
