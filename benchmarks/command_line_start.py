"""How long the command line takes to answer: every ``--help``, beside an empty Python and ``import torch``.

Run: python benchmarks/command_line_start.py [--repeats 9]. Prints a table; seconds, median and fastest.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from lorica.cli.main import VERBS

REFERENCES = {"python (nothing)": ["-c", ""], "import torch": ["-c", "import torch"]}


def seconds(arguments: list[str], repeats: int) -> list[float]:
    """Return the wall time of each repeat, after one that warms the disk cache."""
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Time each command and print one line for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    helps = {f"lorica {verb} --help": ["-m", "lorica", verb, "--help"] for verb in VERBS}
    commands = {**REFERENCES, "lorica --help": ["-m", "lorica", "--help"], **helps}
    print("| command | median s | fastest s |\n|---|---:|---:|")
    for name, arguments in commands.items():
        times = seconds(arguments, repeats)
        print(f"| `{name}` | {statistics.median(times):.3f} | {min(times):.3f} |")


if __name__ == "__main__":
    main()
