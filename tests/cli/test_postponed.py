"""Postponed modules: nothing is imported until something is asked, and then everything is as if it had been at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorica.cli.postponed import is_postponed, postpone

PACKAGE = {
    "slow/__init__.py": "print('imported'); from slow.inner import Thing, make; number = 7; kind = Thing",
    "slow/inner.py": "class Thing: pass\ndef make(): return Thing()",
    "user.py": (
        "from __future__ import annotations\n"
        "from collections.abc import Mapping\n"
        "import slow\n"
        "from slow import Thing\n"
        "from slow import inner as I\n"
        "from slow.inner import make\n"
        "Table = str | Mapping[str, Thing]\n"
        "KINDS = (Thing, I.Thing)\n"
        "def is_thing(value): return isinstance(value, KINDS)\n"
    ),
}
START = (
    "from lorica.cli.postponed import postpone, is_postponed\npostpone('slow', names=('Thing',), modules=('inner',))\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def lines(folder: Path, code: str) -> list[str]:
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n{START}{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_naming_imports_nothing(folder: Path) -> None:
    assert lines(folder, "import user; print(is_postponed('slow'), is_postponed('slow.inner'))") == ["True True"]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        ("user.slow.number", "7"),
        ("user.is_thing(3)", "False"),
        ("user.is_thing(user.make())", "True"),
        ("type(user.Thing()).__name__", "Thing"),
        ("user.I.make().__class__.__name__", "Thing"),
        ("issubclass(int, user.Thing)", "False"),
        ("issubclass(__import__('types').new_class('Own', (user.Thing,)), user.slow.kind)", "True"),
        ("user.Thing == user.slow.kind and user.slow.kind == user.Thing", "True"),
        ("user.Thing == int", "False"),
        ("{user.Thing: 5}[user.slow.kind]", "5"),
        ("(user.Thing | None).__args__[0] is user.slow.kind", "True"),
        ("user.Thing.__name__", "Thing"),
    ],
)
def test_what_is_asked_is_answered_by_the_real_one(ask: str, answer: str, folder: Path) -> None:
    assert lines(folder, f"import user; print({ask})") == ["imported", answer]
    assert lines(folder, f"import user; print({ask}); print(is_postponed('slow'))")[-1] == "False"


def test_another_module_of_the_package_can_be_imported(folder: Path) -> None:
    (folder / "slow" / "other.py").write_text("value = 9")
    assert lines(folder, "import user, slow.other; print(slow.other.value, is_postponed('slow'))") == [
        "imported", "9 False",
    ]  # fmt: skip


def test_a_name_that_is_not_listed_imports_at_once(folder: Path) -> None:
    assert lines(folder, "from slow import number; print(number)") == ["imported", "7"]


def test_what_is_not_there_stays_so(folder: Path) -> None:
    assert lines(folder, "postpone('nothing_of_this_name'); print('nothing_of_this_name' in sys.modules)") == ["False"]
    code = "import slow\ntry:\n    slow.missing\nexcept AttributeError as error:\n    print(error)"
    assert lines(folder, code)[-1].endswith("has no attribute 'missing'")


def test_what_is_imported_already_stays_as_it_is() -> None:
    before = sys.modules["pytest"]
    postpone("pytest", names=("fixture",))
    assert sys.modules["pytest"] is before
    assert not is_postponed("pytest")
