"""Operations on a live UNet: ours beside diffusers with PEFT, in one process, in turn.

Floors, measured in the same run: reading the file and casting it; one in-place ``addmm`` for each weight; copying the
originals back.

Run: python benchmarks/adapter_ops.py [--size tiny|sd15|sdxl] [--coverage attention|full] [--repeats 7] [--no-fuse].
Prints medians and ratios; writes benchmarks/results/adapter_ops_SIZE_COVERAGE.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sized_unets import COVERAGES, DTYPES, SIZES, in_turn, inputs, make_unet, milliseconds, write_files
from torch import Tensor, nn

import lorica

ADAPTERS = 5
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative; that both sides do the same work


class Ours:
    """Our side, on a UNet of its own."""

    def __init__(self, unet: nn.Module, files: list[Path]) -> None:
        self.unet, self.files, self.loras = unet, files, lorica.attach(unet)

    def load(self, number: int) -> float:
        """Load and activate one file."""
        return milliseconds(lambda: self.loras.load(self.files[number], name=f"a{number}"))

    def set(self, strengths: dict[str, float]) -> float:
        """Set strengths of loaded adapters."""
        return milliseconds(lambda: self.loras.set(strengths))

    def off(self) -> float:
        """Switch off."""
        return milliseconds(self.loras.disable)

    def on(self) -> float:
        """Switch on."""
        return milliseconds(self.loras.enable)

    def swap(self, number: int) -> float:
        """Put another file in the place of the only adapter."""

        def both() -> None:
            self.loras.remove("a0")
            self.loras.load(self.files[number], name="a0")

        return milliseconds(both)

    def fuse(self, names: list[str]) -> float:
        """Put adapters into the weights."""
        return milliseconds(lambda: self.loras.fuse(dict.fromkeys(names, 1.0)))

    def unfuse(self) -> float:
        """Take them out."""
        return milliseconds(self.loras.unfuse)

    def unload(self) -> float:
        """Take everything off."""
        return milliseconds(self.loras.detach)


class Peft:
    """The side of diffusers with PEFT, on a UNet of its own."""

    def __init__(self, unet: Any, files: list[Path]) -> None:
        self.unet, self.files = unet, files

    def load(self, number: int) -> float:
        """Load and activate one file."""
        return milliseconds(lambda: self._load(number, f"a{number}"))

    def _load(self, number: int, name: str, *, hotswap: bool = False) -> None:
        file = self.files[number]
        self.unet.load_lora_adapter(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            prefix="unet",
            adapter_name=name,
            hotswap=hotswap,
        )

    def set(self, strengths: dict[str, float]) -> float:
        """Set strengths of loaded adapters."""
        return milliseconds(lambda: self.unet.set_adapters(list(strengths), list(strengths.values())))

    def off(self) -> float:
        """Switch off."""
        return milliseconds(self.unet.disable_lora)

    def on(self) -> float:
        """Switch on."""
        return milliseconds(self.unet.enable_lora)

    def swap(self, number: int) -> float:
        """Put another file in the place of the only adapter."""
        return milliseconds(lambda: self._load(number, "a0", hotswap=True))

    def fuse(self, names: list[str]) -> float:
        """Put adapters into the weights."""
        return milliseconds(lambda: self.unet.fuse_lora(adapter_names=names))

    def unfuse(self) -> float:
        """Take them out."""
        return milliseconds(self.unet.unfuse_lora)

    def unload(self) -> float:
        """Take everything off."""
        return milliseconds(self.unet.unload_lora)


Side = Ours | Peft


def check_same(ours: Ours, peft: Peft, size: str) -> float:
    """Return the relative difference of the two sides' outputs; raise if they do not do the same work."""
    given = inputs(size, 8)
    with torch.no_grad():
        a, b = (side.unet(**given, return_dict=False)[0].float() for side in (ours, peft))
    difference = ((a - b).norm() / b.norm()).item()
    if not difference < TOLERANCE[DTYPES[size]]:
        raise RuntimeError(f"the two sides differ by {difference}")
    return difference


def load_and_unload(side: Side) -> float:
    """Measure the first load; taking it off again does not count."""
    spent = side.load(0)
    side.unload()
    return spent


def unload_two(side: Side) -> float:
    """Measure taking two adapters off; loading them does not count."""
    side.load(0)
    side.load(1)
    return side.unload()


def load_fifth(side: Side) -> float:
    """Measure the fifth load."""
    for number in range(ADAPTERS - 1):
        side.load(number)
    spent = side.load(ADAPTERS - 1)
    side.unload()
    return spent


def swapped(side: Side) -> float:
    """Measure a swap; the first load does not count."""
    side.load(0)
    spent = side.swap(1)
    side.unload()
    return spent


def read_and_cast(file: Path, dtype: torch.dtype) -> float:
    """Measure the floor of loading."""

    def floor() -> list[Tensor]:
        return [tensor.to(dtype) for tensor in load_file(file).values()]

    return milliseconds(floor)


def measure(size: str, coverage: str, repeats: int, *, fuse: bool) -> dict[str, dict[str, float]]:
    """Return the medians of every operation for every side."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours_unet = make_unet(size)
        files = write_files(ours_unet, coverage, ADAPTERS, Path(folder))
        ours, peft = Ours(ours_unet, files), Peft(make_unet(size), files)
        sides: dict[str, Side] = {"ours": ours, "peft": peft}

        def compare(
            name: str, run: Callable[[Any], float], times: int = repeats, **floors: Callable[[], float]
        ) -> None:
            parts = {side: lambda which=which: run(which) for side, which in sides.items()}
            results[name] = in_turn({**parts, **floors}, times)
            print_row(name, results[name])

        for side in sides.values():
            load_and_unload(side)  # memory is touched for the first time
        compare("load the first", load_and_unload, floor=lambda: read_and_cast(files[0], DTYPES[size]))
        compare("load the fifth", load_fifth)
        compare("swap for another", swapped)
        compare("unload two", unload_two)
        for side in sides.values():
            side.load(0)
            side.load(1)
            side.set({"a0": 1.0, "a1": 1.0})
        check_same(ours, peft, size)
        turns = iter(range(10_000))
        compare("set two strengths", lambda side: side.set({"a0": 0.1 + next(turns) % 7, "a1": 0.3}), 4 * repeats)
        compare("switch to one", lambda side: side.set({"a0": 1.0, "a1": 1.0}) * 0 + side.set({"a0": 1.0}), 4 * repeats)
        compare("off", lambda side: side.on() * 0 + side.off(), 4 * repeats)
        for side in sides.values():
            side.on()
        if fuse:
            for names in (["a0"], ["a0", "a1"]):
                compare(f"fuse {len(names)}", lambda side, names=names: side.fuse(names) + 0 * side.unfuse())
            compare("unfuse 1", lambda side: side.fuse(["a0"]) * 0 + side.unfuse())
    return results


def print_row(name: str, medians: dict[str, float]) -> None:
    """Print one operation."""
    ratio = medians["peft"] / medians["ours"]
    floor = f"   {medians['ours'] / medians['floor']:5.2f} x the floor" if "floor" in medians else ""
    print(f"{name:20} ours {medians['ours']:9.3f} ms   peft {medians['peft']:9.3f} ms   {ratio:6.1f} x faster{floor}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--coverage", choices=COVERAGES, default="full")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-fuse", action="store_true")
    given = parser.parse_args()
    results = measure(given.size, given.coverage, given.repeats, fuse=not given.no_fuse)
    where = Path(__file__).parent / "results" / f"adapter_ops_{given.size}_{given.coverage}.json"
    where.parent.mkdir(exist_ok=True)
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.platform()}
    where.write_text(json.dumps({"milliseconds": results, **machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
