"""No committed file holds a path of the machine on which it was made."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = re.compile(r"(?<![\w.:/-])(?:/(?:root|work)/|/(?:home|Users)/\w|[A-Z]:\\Users\\)")
TEMPORARY = re.compile(r"(?<![\w.:/-])/(?:var/)?tmp/")


def tracked_texts() -> list[tuple[str, str]]:
    """Name and content of every text file that is committed."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    contents = {path: path.read_bytes() for path in paths}
    return [
        (path.relative_to(ROOT).as_posix(), content.decode("utf-8", "replace"))
        for path, content in contents.items()
        if b"\0" not in content[:8000]
    ]


def test_no_file_holds_a_path_of_a_machine() -> None:
    texts = tracked_texts()
    assert len(texts) > 300
    found = [
        f"{name}: {match[0]}"
        for name, text in texts
        for pattern in (
            [HOMES] if name.startswith("tests/") else [HOMES, TEMPORARY]
        )  # tests may invent temporary paths
        for match in pattern.finditer(text)
    ]
    assert not found, "paths of a machine: " + "; ".join(found)


@pytest.mark.parametrize("path", ["root/x", "work/x", "home/me", "Users/me"])
def test_a_path_of_a_machine_is_recognised(path: str) -> None:
    assert HOMES.search(f'"model": "/{path}"')
    assert not HOMES.search(f"https://example.org/{path}")
    assert not HOMES.search(f"src/{path}")
