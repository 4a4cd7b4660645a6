"""This checkout beside another one, operation by operation, through public names only.

Each checkout has a process of its own that imports Lorica from it. Both hold a UNet with the same random weights and
read the same files. An operation is done by one process, then by the other, round after round, and who goes first
alternates, so what disturbs the machine disturbs both. A ratio is the time of this checkout in parts of the other's;
beside that of medians stands that of the fastest rounds, which were disturbed least. An operation is over its bound
only if both are.

Memory is what the process holds more, with no file behind it, after an adapter was loaded and acted.

Run: python benchmarks/against_commit.py OTHER_CHECKOUT [--size tiny|sd15|sdxl] [--coverage attention|full]
[--rounds 15] [--threads 1] [--only load set ...] [--small] [--out FOLDER]. Prints a table; writes
benchmarks/results/against_commit_SIZE_COVERAGE.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from checkout_worker import COMPILED_SWAP, OPERATIONS
from reporting import parser_of, results_file, store
from sized_unets import COVERAGES, SIZES

HERE = Path(__file__).parent
SIDES = ("other", "this")
ALL = [*OPERATIONS, COMPILED_SWAP]
USUAL_BOUND = 1.2
BOUNDS = {
    "set": 1.1, "off": 1.1, "unfuse one": 1.1, "unfuse two": 1.1, "forward, a set for each sample": 1.1,
    COMPILED_SWAP: 1.1, "load": 1.3, "load a second": 1.3,
}  # fmt: skip


class Worker:
    """A process that holds a UNet and imports Lorica from one checkout; it answers each line with a line of JSON."""

    def __init__(self, checkout: Path, setting: dict[str, Any]) -> None:
        source = checkout.resolve() / "src"
        if not (source / "lorica").is_dir():
            raise SystemExit(f"{checkout} is no checkout of Lorica: it has no src/lorica.")
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, str(HERE / "checkout_worker.py"), str(source)],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(setting)

    def tell(self, question: object) -> None:
        """Send a question."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the question sent first."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended with code {self._process.wait()}; its error stands above.")
        return json.loads(line)

    def ask(self, question: object) -> Any:
        """Send a question, and wait for its answer."""
        self.tell(question)
        return self.answer()

    def end(self) -> None:
        """Let the process end by itself."""
        self._process.communicate()


Times = dict[str, dict[str, list[float]]]  # operation to side to milliseconds, or to megabytes


def measure(workers: dict[str, Worker], operations: Iterable[str], rounds: int) -> Times:
    """Every operation by both sides, round after round. A first round warms up, and is not counted."""
    times: Times = {operation: {side: [] for side in SIDES} for operation in operations}
    for number in range(rounds + 1):
        for place, operation in enumerate(times):
            for side in SIDES if (number + place) % 2 else SIDES[::-1]:
                spent = workers[side].ask(operation)
                if number:
                    times[operation][side] += [round(one, 3) for one in spent]
    return times


@contextmanager
def workers_of(other: Path, setting: dict[str, Any]) -> Iterator[dict[str, Worker]]:
    """One worker for each checkout, ready to work, until the end of the ``with`` block."""
    workers = {side: Worker(path, setting) for side, path in zip(SIDES, (other, HERE.parent), strict=True)}
    try:
        for worker in workers.values():
            worker.answer()  # it is ready; both got ready at the same time
        yield workers
    finally:
        for worker in workers.values():
            worker.end()


def compare(other: Path, size: str, coverage: str, operations: list[str], rounds: int) -> Times:
    """Times of all operations, and the memory of an adapter, which is measured before anything else was loaded."""
    times: Times = {}
    common = {"coverage": coverage}
    with tempfile.TemporaryDirectory() as folder, workers_of(other, {**common, "size": size, "folder": folder}) as both:
        memory = {side: [worker.ask("memory")] for side, worker in both.items()}
        times |= measure(both, [one for one in operations if one != COMPILED_SWAP], rounds)
    if COMPILED_SWAP in operations:
        small = size == "least"  # else the tiny one: inductor takes minutes for a larger one
        setting = {**common, "size": size if small else "tiny", "backend": "eager" if small else "inductor"}
        with tempfile.TemporaryDirectory() as folder, workers_of(other, {**setting, "folder": folder}) as both:
            times |= measure(both, [COMPILED_SWAP], rounds)
    return {**times, "memory, MB": memory}


def ratio(sides: dict[str, list[float]], of: Callable[[list[float]], float]) -> float:
    """Figure of this checkout in parts of the other's."""
    return of(sides["this"]) / max(of(sides["other"]), 1e-9)


def show(times: Times) -> None:
    """Print the table."""
    print("| operation | other, median | this, median | ratio | other, fastest | this, fastest | ratio | bound |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for operation, sides in times.items():
        cells = [operation]
        for of in (median, min):
            cells += [f"{of(sides[side]):.3f}" for side in SIDES] + [f"{ratio(sides, of):.2f}"]
        bound = BOUNDS.get(operation, USUAL_BOUND)
        over = min(ratio(sides, median), ratio(sides, min)) > bound
        print(f"| {' | '.join(cells)} | {bound}{' **over**' if over else ''} |")


def commit_of(checkout: Path) -> str:
    """Commit of a checkout, with a mark if files differ from it; ``unknown`` outside of git."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Compare, print, and write the result."""
    parser = parser_of(__doc__)
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT", help="folder of another checkout")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--coverage", choices=COVERAGES, default="full")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of each worker; more than one waits for the slowest")
    parser.add_argument("--only", choices=ALL, nargs="+", default=ALL, metavar="OPERATION")
    given = parser.parse_args()
    if given.small:
        given.size, given.rounds = "least", 1
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    torch.set_num_threads(given.threads)  # so that the results say it
    times = compare(given.other, given.size, given.coverage, given.only, given.rounds)
    show(times)
    commits = {"other": commit_of(given.other), "this": commit_of(HERE.parent)}
    where = results_file(given, f"against_commit_{given.size}_{given.coverage}")
    store(where, {"unit": "milliseconds; memory in MB", "commits": commits, "measured": times}, indent=None)


if __name__ == "__main__":
    main()
