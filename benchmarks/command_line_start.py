"""How long the command line takes to answer: every ``--help``, beside an empty Python and ``import torch``.

Run: python benchmarks/command_line_start.py [--repeats 9] [--small] [--out FOLDER]. Prints a table; seconds, median and
fastest; writes benchmarks/results/command_line_start.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from reporting import parser_of, results_file, store

from lorica.cli.main import VERBS

REFERENCES = {"python (nothing)": ["-c", ""], "import torch": ["-c", "import torch"]}


def seconds(arguments: list[str], repeats: int) -> list[float]:
    """Wall time of each repeat, after one that warms the disk cache."""
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Time each command and print one line for it."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    verbs, repeats = (list(VERBS)[:1], 1) if given.small else (VERBS, given.repeats)
    helps = {f"lorica {verb} --help": ["-m", "lorica", verb, "--help"] for verb in verbs}
    commands = {**REFERENCES, "lorica --help": ["-m", "lorica", "--help"], **helps}
    measured: dict[str, list[float]] = {}
    print("| command | median s | fastest s |\n|---|---:|---:|")
    for name, arguments in commands.items():
        measured[name] = seconds(arguments, repeats)
        print(f"| `{name}` | {statistics.median(measured[name]):.3f} | {min(measured[name]):.3f} |")
    store(results_file(given, "command_line_start"), {"unit": "seconds", "measured": measured})


if __name__ == "__main__":
    main()
