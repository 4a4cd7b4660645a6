"""A hot swap in a UNet that inductor has compiled: ours beside diffusers' ``enable_lora_hotswap``, in turn.

Both sides prepare their model for a swap, load an adapter, compile the whole UNet as one graph, and run it. Then each
round puts another file of the same rank in the place of the adapter, and runs the UNet once more.

Run: python benchmarks/compiled_swap.py [--size tiny] [--coverage attention|full] [--repeats 15] [--small]
[--out FOLDER]. Prints medians, ratios and how many graphs were compiled after the first forward of each side; writes
benchmarks/results/compiled_swap_SIZE_COVERAGE.json.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from reporting import parser_of, results_file, store
from sized_unets import COVERAGES, DTYPES, PATTERNS, SIZES, inputs, make_unet, milliseconds, write_files
from torch import Tensor
from torch._dynamo.utils import counters

import lorica

FILES = 3
SIDE = 8  # of the latents
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative; that both sides do the same work


class Side(ABC):
    """One way to swap, on a compiled UNet of its own."""

    def __init__(self, size: str, coverage: str, files: list[Path], backend: str) -> None:
        self.unet: Any = make_unet(size)
        self.files, self.given = files, inputs(size, SIDE)
        self.prepare(coverage)
        self.compiled = torch.compile(self.unet, fullgraph=True, backend=backend)
        self.output()
        self.graphs = 0  # compiled after the first forward

    @abstractmethod
    def prepare(self, coverage: str) -> None:
        """Set room aside, and load the first file."""

    @abstractmethod
    def put(self, file: Path) -> None:
        """Put a file in the place of the adapter."""

    @torch.no_grad()
    def output(self) -> Tensor:
        """Run the compiled UNet."""
        return self.compiled(**self.given, return_dict=False)[0]

    def swap(self, number: int) -> tuple[float, float]:
        """Measure a swap, and the forward after it."""
        gc.collect()
        before = graphs()
        spent = milliseconds(lambda: self.put(self.files[number])), milliseconds(self.output)
        self.graphs += graphs() - before
        return spent


class Ours(Side):
    """Our side."""

    def prepare(self, coverage: str) -> None:
        """Set room aside, and load the first file."""
        self.loras = lorica.attach(self.unet)
        self.loras.reserve(COVERAGES[coverage], PATTERNS[coverage])
        self.loras.load(self.files[0], name="a0")

    def put(self, file: Path) -> None:
        """Put a file in the place of the adapter."""
        self.loras.load(file, name="a0", replace=True)


class Peft(Side):
    """The side of diffusers with PEFT."""

    def prepare(self, coverage: str) -> None:
        """Set room aside, and load the first file."""
        self.unet.enable_lora_hotswap(target_rank=COVERAGES[coverage])
        self._load(self.files[0], hotswap=False)

    def put(self, file: Path) -> None:
        """Put a file in the place of the adapter."""
        self._load(file, hotswap=True)

    def _load(self, file: Path, *, hotswap: bool) -> None:
        self.unet.load_lora_adapter(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            prefix="unet",
            adapter_name="a0",
            hotswap=hotswap,
        )


def graphs() -> int:
    """Number of graphs compiled so far."""
    return counters["stats"]["unique_graphs"]


def compare(size: str, coverage: str, repeats: int, folder: Path, backend: str) -> dict[str, Any]:
    """All times, and how many graphs each side compiled after its first forward."""
    files = write_files(make_unet(size), coverage, FILES, folder)
    sides = {"ours": Ours(size, coverage, files, backend), "peft": Peft(size, coverage, files, backend)}
    times: dict[str, dict[str, list[float]]] = {"swap": {}, "forward after it": {}}
    for turn in range(repeats + 1):  # the first is not counted
        for name, side in sides.items():
            for what, spent in zip(times, side.swap(1 + turn % (FILES - 1)), strict=True):
                if turn:
                    times[what].setdefault(name, []).append(round(spent, 3))
        check_same(sides, DTYPES[size])
    return {"measured": times, "graphs compiled again": {name: side.graphs for name, side in sides.items()}}


def check_same(sides: dict[str, Side], dtype: torch.dtype) -> None:
    """Raise if the two sides do not do the same work."""
    ours, peft = (sides[name].output().float() for name in ("ours", "peft"))
    difference = ((ours - peft).norm() / peft.norm()).item()
    if not difference < TOLERANCE[dtype]:
        raise RuntimeError(f"the two sides differ by {difference}")


def main() -> None:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--coverage", choices=COVERAGES, default="full")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    backend = "inductor"
    if given.small:
        given.size, given.repeats, backend = "least", 1, "eager"  # graphs are made and guarded, and no C++ is compiled
    with tempfile.TemporaryDirectory() as folder:
        result = compare(given.size, given.coverage, given.repeats, Path(folder), backend)
    for what, times in result["measured"].items():
        ours, peft = (statistics.median(times[side]) for side in ("ours", "peft"))
        print(f"{what:20} ours {ours:9.3f}   peft {peft:9.3f}   {peft / ours:6.1f} x")
    print(f"graphs compiled again: {result['graphs compiled again']}")
    where = results_file(given, f"compiled_swap_{given.size}_{given.coverage}")
    store(where, {"unit": "milliseconds", **result}, indent=None)


if __name__ == "__main__":
    main()
