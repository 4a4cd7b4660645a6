"""Operations on a live UNet: ours beside diffusers with PEFT, in one process, in turn.

Floors, measured in the same run: reading the file and casting it; one in-place ``addmm`` for each weight, summed in
float32; copying as many weights as unfusing restores.

Run: python benchmarks/adapter_ops.py [--size tiny|sd15|sdxl] [--coverage attention|full] [--repeats 7]
[--parts load fifth swap unload set fuse1 fuse2 memory] [--add] [--small] [--out FOLDER].
Prints medians and ratios; writes benchmarks/results/adapter_ops_SIZE_COVERAGE.json. ``--add`` keeps what
else the file holds already, so that long parts can be measured in several runs.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reporting import parser_of, results_file, store
from safetensors.torch import load_file
from sized_unets import COVERAGES, DTYPES, SIZES, inputs, make_unet, milliseconds, write_files
from torch import Tensor, nn

import lorica

ADAPTERS = 5
PARTS = ("load", "fifth", "swap", "unload", "set", "fuse1", "fuse2", "memory")
ROWS_AT_ONCE = 1 << 20  # numbers of a bfloat16 weight that the floor of fusing widens to float32 at a time
UNIT = "milliseconds; memory in MB"
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
        return milliseconds(lambda: self.loras.load(self.files[number], name="a0", replace=True))

    def fuse(self, names: list[str]) -> float:
        """Put adapters into the weights."""
        return milliseconds(lambda: self.loras.fuse(dict.fromkeys(names, 1.0)))

    def unfuse(self) -> float:
        """Take them out."""
        return milliseconds(self.loras.unfuse)

    def unload(self) -> float:
        """Take everything off."""
        return milliseconds(self.loras.detach)

    def layers(self, number: int) -> dict[str, tuple[nn.Module, Any]]:
        """Layers that an adapter changes by path, each with its part of the adapter."""
        changes = lorica.read(self.files[number]).layers()
        return {path: (self.unet.get_submodule(path), change) for _, path, change in changes}


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


def load_and_unload(side: Side) -> float:
    """Measure the first load; taking it off again does not count."""
    gc.collect()  # nobody pays for what the other side has thrown away; likewise below
    spent = side.load(0)
    side.unload()
    return spent


def unload_two(side: Side) -> float:
    """Measure taking two adapters off; loading them does not count."""
    side.load(0)
    side.load(1)
    gc.collect()
    return side.unload()


def load_fifth(side: Side) -> float:
    """Measure the fifth load."""
    for number in range(ADAPTERS - 1):
        side.load(number)
    gc.collect()
    spent = side.load(ADAPTERS - 1)
    side.unload()
    return spent


def swapped(side: Side) -> float:
    """Measure a swap in a running session: not the first one. What is before and after does not count."""
    side.load(0)
    side.swap(2)
    gc.collect()
    spent = side.swap(1)
    side.unload()
    return spent


def read_and_cast(file: Path, dtype: torch.dtype) -> float:
    """Measure the floor of loading."""

    def floor() -> list[Tensor]:
        return [tensor.to(dtype) for tensor in load_file(file).values()]

    return milliseconds(floor)


def add_products(layers: list[tuple[nn.Module, list[Any]]]) -> float:
    """Measure the floor of fusing: one in-place ``addmm`` for each weight, all adapters along the rank, in float32."""

    def floor() -> None:
        for layer, changes in layers:
            rows = layer.weight.data.flatten(1)
            up = torch.cat([change.up.flatten(1) for change in changes], dim=1).float()
            down = torch.cat([change.down.flatten(1) for change in changes]).float()
            if rows.dtype == torch.float32:
                rows.addmm_(up, down, alpha=1e-9)
                continue
            step = max(ROWS_AT_ONCE // rows.shape[1], 1)
            for part, factors in zip(rows.split(step), up.split(step), strict=True):
                part.copy_(torch.addmm(part.float(), factors, down, alpha=1e-9))

    return milliseconds(floor)


def copy_weights(pairs: list[tuple[nn.Module, nn.Module]]) -> float:
    """Measure the floor of unfusing: copying as many weights. The fused ones are overwritten; unfusing follows."""

    def floor() -> None:
        for layer, other in pairs:
            layer.weight.data.copy_(other.weight.data)

    return milliseconds(floor)


def check_same(ours: Ours, peft: Peft, size: str) -> None:
    """Raise if the two sides do not do the same work."""
    given = inputs(size, 8)
    with torch.no_grad():
        a, b = (side.unet(**given, return_dict=False)[0].float() for side in (ours, peft))
    difference = ((a - b).norm() / b.norm()).item()
    if not difference < TOLERANCE[DTYPES[size]]:
        raise RuntimeError(f"the two sides differ by {difference}")


Times = dict[str, dict[str, list[float]]]  # operation to side to milliseconds


class Comparison:
    """The two sides, and what was measured of them.

    Args:
        size: of the UNet.
        coverage: of the adapters.
        folder: where their files are put.
        where: the file of results, if any; it is written after each measurement, so that a long run can be stopped.
        times: what was measured before; what is measured again takes its place.
    """

    def __init__(self, size: str, coverage: str, folder: Path, where: Path | None, times: Times) -> None:
        unet = make_unet(size)
        self.size, self.files = size, write_files(unet, coverage, ADAPTERS, folder)
        self.ours, self.peft = Ours(unet, self.files), Peft(make_unet(size), self.files)
        self.times, self.where = times, where
        self._again: set[str] = set()

    def note(self, operation: str, **spent: float) -> None:
        """Enter one round of an operation."""
        if operation not in self._again:
            self._again.add(operation)
            self.times.pop(operation, None)
        for side, time in spent.items():
            self.times.setdefault(operation, {}).setdefault(side, []).append(round(time, 3))
        store(self.where, {"unit": UNIT, "measured": self.times}, indent=None)

    def rounds(self, operation: str, run: Callable[[Side], float], repeats: int) -> None:
        """Measure both sides in turn, so that what disturbs the machine disturbs both."""
        for _ in range(repeats):
            self.note(operation, ours=run(self.ours), peft=run(self.peft))

    def load(self, repeats: int) -> None:
        """Load a first adapter."""
        for _ in range(repeats):
            self.rounds("load the first", load_and_unload, 1)
            self.note("load the first", floor=read_and_cast(self.files[0], DTYPES[self.size]))

    def fifth(self, repeats: int) -> None:
        """Load a fifth beside four."""
        self.rounds("load the fifth", load_fifth, repeats)

    def swap(self, repeats: int) -> None:
        """Put one in the place of another."""
        for _ in range(repeats):
            self.rounds("hot swap", swapped, 1)
            self.note("hot swap", floor=read_and_cast(self.files[1], DTYPES[self.size]))

    def unload(self, repeats: int) -> None:
        """Take two off."""
        self.rounds("unload two", unload_two, repeats)

    def warm_up(self) -> None:
        """Touch memory for the first time, on both sides."""
        for side in (self.ours, self.peft):
            load_and_unload(side)

    def set(self, repeats: int) -> None:
        """New strengths, switch, off."""
        self._load_two()
        check_same(self.ours, self.peft, self.size)
        turns = iter(range(10**6))
        self.rounds("set two strengths", lambda side: side.set({"a0": 0.1 + next(turns) % 7, "a1": 0.3}), 4 * repeats)
        for _ in range(4 * repeats):
            for side in (self.ours, self.peft):
                side.set({"a0": 1.0, "a1": 1.0})
            self.rounds("switch to one", lambda side: side.set({"a0": 1.0}), 1)
        for _ in range(4 * repeats):
            self.rounds("off", lambda side: side.off(), 1)
            for side in (self.ours, self.peft):
                side.on()
        self._unload()

    def fuse1(self, repeats: int) -> None:
        """Fuse one adapter, and unfuse it."""
        self._fuse(["a0"], "one", repeats)

    def fuse2(self, repeats: int) -> None:
        """Fuse two adapters, and unfuse them."""
        self._fuse(["a0", "a1"], "two", repeats)

    def _fuse(self, names: list[str], count: str, repeats: int) -> None:
        self._load_two()
        adapters = [self.ours.layers(number) for number in range(len(names))]
        layers = [(layer, [one[path][1] for one in adapters]) for path, (layer, _) in adapters[0].items()]
        twins = [(layer, self.peft.unet.get_submodule(path).base_layer) for path, (layer, _) in adapters[0].items()]
        for _ in range(repeats):
            floor = add_products(layers)
            before = [layer.weight.clone() for layer, _ in layers[:3]]
            ours, peft = self.ours.fuse(names), self.peft.fuse(names)
            self.note(f"fuse {count}, with fresh memory", ours=ours, peft=peft, floor=floor)
            again = milliseconds(lambda: self.ours.loras.fuse(dict.fromkeys(names, 0.5)))
            self.note(f"fuse {count} at other strengths", ours=again, peft=peft, floor=floor)
            back = copy_weights(twins)
            self.note(f"unfuse {count}", ours=self.ours.unfuse(), peft=self.peft.unfuse(), floor=back)
            if not all(torch.equal(layer.weight, was) for (layer, _), was in zip(layers, before, strict=False)):
                raise RuntimeError("unfusing was not exact")
        self._unload()

    def memory(self) -> None:
        """Load three adapters, of which none acts: megabytes of memory that no file stands behind, and of the files."""
        self.note("memory", files=sum(file.stat().st_size for file in self.files[:3]) / 1e6)
        for side, name in ((self.ours, "ours"), (self.peft, "peft")):
            before = anonymous_megabytes()
            for number in range(3):
                if isinstance(side, Ours):
                    side.loras.load(self.files[number], name=f"a{number}", strength=0.0)
                else:
                    side.load(number)
            if isinstance(side, Peft):
                side.off()
            self.note("memory", **{name: anonymous_megabytes() - before})
            side.unload()

    def _load_two(self) -> None:
        for side in (self.ours, self.peft):
            side.load(0)
            side.load(1)
            side.set({"a0": 1.0, "a1": 1.0})

    def _unload(self) -> None:
        for side in (self.ours, self.peft):
            side.unload()


def anonymous_megabytes() -> float:
    """Memory of this process that no file stands behind."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def print_row(name: str, times: dict[str, list[float]]) -> None:
    """Print one operation."""
    medians = {side: statistics.median(measured) for side, measured in times.items()}
    text = f"{name:32} " + "   ".join(f"{side} {value:9.3f}" for side, value in medians.items())
    if "peft" in medians and "files" not in medians:
        text += f"   {medians['peft'] / medians['ours']:6.1f} x"
    if "floor" in medians:
        text += f"   {medians['ours'] / medians['floor']:5.2f} x the floor"
    print(text)


def main() -> None:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--coverage", choices=COVERAGES, default="full")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--add", action="store_true")
    given = parser.parse_args()
    if given.small:
        given.size, given.repeats = "least", 1
    where = results_file(given, f"adapter_ops_{given.size}_{given.coverage}")
    times: Times = json.loads(where.read_text())["measured"] if given.add and where and where.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(given.size, given.coverage, Path(folder), where, times)
        if "memory" in given.parts:  # before anything else was loaded
            comparison.memory()
        comparison.warm_up()
        for part in PARTS:
            if part in given.parts and part != "memory":
                getattr(comparison, part)(given.repeats)
    for name, measured in times.items():
        print_row(name, measured)


if __name__ == "__main__":
    main()
