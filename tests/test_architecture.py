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
STILL_OPEN: tuple[str, ...] = (
    "room runtime/bank/apart.py", "room runtime/bank/bank.py", "room runtime/bank/limited.py",
    "room runtime/bank/roads.py", "room runtime/bank/stack.py", "room runtime/bank/strength_table.py",
    "room runtime/bank/thin.py", "room runtime/fusing/fuse.py", "room runtime/fusing/originals.py",
    "room runtime/model/layout.py", "room runtime/model/owner.py", "room runtime/model/shared.py",
    "room runtime/model/textual_inversion.py", "room runtime/pipeline/calls.py", "room runtime/pipeline/schedule.py",
    "room runtime/pipeline/steps.py", "room runtime/regions/regions.py", "circle runtime/bank/bank.py",
    "circle runtime/bank/reserve.py", "circle runtime/bank/strength_table.py", "circle runtime/banks.py",
    "circle runtime/dials.py", "circle runtime/engine.py", "circle runtime/fusing/fuse.py",
    "circle runtime/model/layout.py", "circle runtime/model/owner.py", "circle runtime/model/placed.py",
    "circle runtime/model/plan.py", "circle runtime/model/projections.py", "circle runtime/model/textual_inversion.py",
    "circle runtime/pipeline/calls.py", "circle runtime/pipeline/forward_checks.py",
    "circle runtime/regions/regions.py", "circle runtime/residents.py", "circle runtime/roster.py", "class Entry",
    "class Group", "class Layout", "class Part", "class Plan", "class Read", "class Recipe", "class Request",
    "class Settings", "class Shares", "class Spelling", "class Stored", "class Turns", "class Watch", "class Writer",
    "shape formats/methods/builders.py:Shape", "shape formats/methods/peft_lokr.py:Shape",
    "shape formats/methods/peft_methods.py:Shape", "shape formats/methods/recipes.py:Shape",
    "shape formats/places.py:Shape", "shape models/folding.py:Shape", "shape models/index.py:Numbers",
    "shape models/index.py:Size", "shape models/spellings/part.py:Shape", "shape models/target.py:Shape",
    "shape tools/as_lora.py:Shape", "docstring adapters/base.py", "docstring adapters/bias.py",
    "docstring adapters/boft.py", "docstring adapters/dora.py", "docstring adapters/glora.py",
    "docstring adapters/loha.py", "docstring adapters/lokr.py", "docstring adapters/oft.py",
    "docstring adapters/oft_v2.py", "docstring adapters/operation.py", "docstring adapters/rotation.py",
    "docstring cli/complaints.py", "docstring cli/inspect_report.py", "docstring cli/postponed.py",
    "docstring cli/prepare.py", "docstring cli/train.py", "docstring data/bucket_batches.py",
    "docstring data/buckets.py", "docstring data/caption_edits.py", "docstring data/caption_length.py",
    "docstring data/images.py", "docstring data/mixture.py", "docstring data/picture_files.py",
    "docstring demo/comparison.py", "docstring demo/score.py", "docstring demo/subject.py", "docstring demo/words.py",
    "docstring formats/dialects/bfl_control.py", "docstring formats/dialects/cloneofsimo.py",
    "docstring formats/dialects/comfyui.py", "docstring formats/dialects/control_lora.py",
    "docstring formats/dialects/dialect.py", "docstring formats/dialects/diffusers.py",
    "docstring formats/dialects/hcp.py", "docstring formats/dialects/kohya.py", "docstring formats/dialects/lycoris.py",
    "docstring formats/dialects/omi.py", "docstring formats/dialects/onetrainer.py",
    "docstring formats/dialects/peft.py", "docstring formats/dialects/uso.py", "docstring formats/dialects/wan_fun.py",
    "docstring formats/dialects/xlabs.py", "docstring formats/keys.py", "docstring formats/looks.py",
    "docstring formats/methods/layers.py", "docstring formats/methods/leaves.py",
    "docstring formats/methods/peft_methods.py", "docstring formats/methods/peft_plans.py",
    "docstring formats/methods/recipes.py", "docstring formats/peft_config.py", "docstring formats/storage/files.py",
    "docstring formats/storage/header.py", "docstring formats/storage/unread.py", "docstring formats/widened.py",
    "docstring linalg.py", "docstring models/detect.py", "docstring models/folding.py", "docstring models/generate.py",
    "docstring models/spellings/ldm.py", "docstring models/spellings/part.py", "docstring models/spellings/rules.py",
    "docstring runtime/attach.py", "docstring runtime/bank/bank.py", "docstring runtime/bank/products.py",
    "docstring runtime/bank/roads.py", "docstring runtime/bank/stack.py", "docstring runtime/bank/strength_table.py",
    "docstring runtime/bank/thin.py", "docstring runtime/banks.py", "docstring runtime/blocks.py",
    "docstring runtime/dials.py", "docstring runtime/engine.py", "docstring runtime/everywhere.py",
    "docstring runtime/exchange.py", "docstring runtime/fusing/fuse.py", "docstring runtime/fusing/originals.py",
    "docstring runtime/live.py", "docstring runtime/loras.py", "docstring runtime/model/layout.py",
    "docstring runtime/model/owner.py", "docstring runtime/model/plan.py", "docstring runtime/model/projections.py",
    "docstring runtime/model/supported_layers.py", "docstring runtime/model/textual_inversion.py",
    "docstring runtime/pages.py", "docstring runtime/pipeline/calls.py", "docstring runtime/pipeline/forward_checks.py",
    "docstring runtime/pipeline/intercept.py", "docstring runtime/pipeline/steps.py",
    "docstring runtime/pipeline/threads.py", "docstring runtime/prompt/prompt.py",
    "docstring runtime/regions/picture_layers.py", "docstring runtime/regions/regions.py",
    "docstring runtime/residents.py", "docstring runtime/shown.py", "docstring runtime/strengths.py",
    "docstring runtime/summary.py", "docstring runtime/trainable/initials.py", "docstring runtime/trainable/linear.py",
    "docstring runtime/trainable/norms.py", "docstring runtime/trainable/recompute.py",
    "docstring runtime/trainable/trainable.py", "docstring tools/advice.py", "docstring tools/as_lora.py",
    "docstring tools/inspect.py", "docstring tools/places.py", "docstring tools/trainer.py",
    "docstring tools/training_facts.py", "docstring training/config/config.py", "docstring training/config/settings.py",
    "docstring training/dataset/sifting.py", "docstring training/dataset/sources.py",
    "docstring training/dataset/texts.py", "docstring training/dataset/validation.py",
    "docstring training/interrupt.py", "docstring training/loop.py", "docstring training/memory/estimate.py",
    "docstring training/optimizer.py", "docstring training/optimizers.py", "docstring training/recipes/base.py",
    "docstring training/recipes/load.py", "docstring training/recipes/recipe.py", "docstring training/recipes/sd.py",
    "docstring training/setup.py", "docstring training/state.py",
)  # fmt: skip

ROOMS_WITHOUT_TOPIC = {"utils", "helpers", "common", "misc"}
RIVALS = {"peft", "lycoris"}
FORBIDDEN_OPENINGS = ("Return what ", "Tell whether ", "Let ")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

# Imports inside functions are for what is optional, and for what would make the command line slow to start.
HEAVY = {
    "torch", "diffusers", "transformers", "accelerate", "datasets", "matplotlib", "huggingface_hub", "numpy", "PIL",
}  # fmt: skip
OPTIONAL = {"bitsandbytes", "torchao", "prodigyopt", "pytorch_optimizer", "tensorboard", "wandb"}

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
