from __future__ import annotations

import pytest

from lorica.models.folding import fold, fold_names, unfold, unfold_names

BLOCKS: dict[str, tuple[int, ...]] = {"norm": (5,), "attn.to_q": (5, 7)}


def blocks(start: str, count: int) -> dict[str, tuple[int, ...]]:
    return {f"{start}.{number}.{path}": shape for number in range(count) for path, shape in BLOCKS.items()}


def test_blocks_that_are_alike_stand_once() -> None:
    modules = {"conv_in": (3, 4, 2, 1), **blocks("layers", 60), "conv_out": (4, 3)}
    assert fold(modules) == {
        "conv_in": [3, 4, 2, 1],
        "layers.[0-59]": {"norm": [5], "attn.to_q": [5, 7]},
        "conv_out": [4, 3],
    }


def test_runs_stand_inside_of_runs() -> None:
    modules = {f"outer.{number}.{path}": shape for number in (0, 1) for path, shape in blocks("inner", 3).items()}
    assert fold(modules) == {"outer.[0-1]": {"inner.[0-2]": {"norm": [5], "attn.to_q": [5, 7]}}}


def test_blocks_that_take_turns_stand_once_each() -> None:
    kinds: list[dict[str, tuple[int, ...]]] = [{"depthwise": (7, 1, 3, 3), "channelwise": (28, 7)}, {"mapper": (14, 5)}]
    modules = {f"blocks.{n}.{path}": shape for n in range(7) for path, shape in kinds[n % 2].items()}
    kept = {f"+{n}": {path: list(shape) for path, shape in kind.items()} for n, kind in enumerate(kinds)}
    assert fold(modules) == {"blocks.[0-6]": kept}


@pytest.mark.parametrize(
    "modules",
    [
        {"a.0": (1,), "a.1": (1,), "a.2": (2,), "a.3": (1,)},  # a block that differs
        {"a.0": (1,), "a.2": (1,), "a.3": (1,)},  # a number that is left out
        {"a.3": (1,), "a.2": (1,), "a.1": (1,)},  # numbers that fall
        {"a.0.x": (1,), "a.0.y": (2,), "a.1.y": (2,), "a.1.x": (1,)},  # another order inside
        {"a": (3,), "a.0": (1,), "a.1": (1,)},  # a module with modules below it
        {"a.0": (3,), "a.0.x": (1,), "a.1": (3,), "a.1.x": (1,)},
        {"2.1": (1,), "2.2": (1,), "3": (4,)},
        {"x.2-1.linear": (1,), "x.2-2.linear": (1,)},
        {"a.0.b.0": (1,), "a.0.b.1": (1,), "a.0.c": (2,), "a.1.c": (2,), "a.1.b.0": (1,), "a.1.b.1": (1,)},
        {f"a.{number}": (number % 2 + 1,) for number in range(5)},  # two kinds in turns, the last turn cut off
        {f"a.{number}.x": (number % 3 + 1,) for number in range(2, 9)},
        {"a.0": (1,), "a.1": (2,), "a.2": (1,), "a.3": (3,), "a.4": (1,), "a.5": (3,)},
        {f"a.{number}{inner}": (number % 2 + 1,) for number in range(4) for inner in ("", ".x.0", ".x.1")},
        {"deep.0.0": (1,), "deep.0.1": (1,), "deep.1.0": (1,), "deep.1.1": (1,), "deep.2.0": (1,)},
    ],
)
def test_every_table_comes_back_in_its_order(modules: dict[str, tuple[int, ...]]) -> None:
    assert list(unfold(fold(modules)).items()) == list(modules.items())


def test_names_are_folded_too() -> None:
    names = ("conv_in", "blocks.0", "blocks.1", "blocks.2", "norm", "blocks.3", "up.0", "up.2", "up.3", "up.10")
    folded = ["conv_in", "blocks.[0-2]", "norm", "blocks.3", "up.0", "up.[2-3]", "up.10"]
    assert fold_names(names) == folded
    assert unfold_names(folded) == names


def test_a_kind_that_comes_once_is_no_turn() -> None:
    modules: dict[str, tuple[int, ...]] = {"a.0": (1,), "a.1": (2,), "a.2": (1,)}
    assert fold(modules) == {"a.0": [1], "a.1": [2], "a.2": [1]}
