"""One forward of a UNet with adapters: ours beside diffusers with PEFT, in one process, in turn.

What counts is the time above the base model. Also: ten adapters loaded and one of them acting; a batch in which every
sample has an adapter of its own, beside the same batch with one adapter for all.

Run: python benchmarks/forward.py [--size tiny|sd15|sdxl] [--coverage attention|full] [--side 16] [--repeats 7]
[--device cpu|cuda]. Prints medians and ratios; writes benchmarks/results/forward_SIZE_COVERAGE.json.
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
from adapter_ops import Ours, Peft
from sized_unets import COVERAGES, SIZES, in_turn, inputs, make_unet, milliseconds, write_files

LOADED = 10
BATCH = 8


def measure(size: str, coverage: str, side: int, repeats: int, device: str) -> dict[str, float]:
    """Return the medians of every case."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        unet = make_unet(size, device)
        files = write_files(unet, coverage, LOADED, Path(folder))
        ours, given = Ours(unet, files), inputs(size, side, 1, device)
        batch = inputs(size, side, BATCH, device)
        peft = Peft(make_unet(size, device), files)

        def timed(model: Any, what: Any) -> float:
            return milliseconds(lambda: model(**what, return_dict=False))

        def after(prepare: Callable[[], object], what: Any = given, model: Any = unet) -> Callable[[], float]:
            def run() -> float:
                prepare()
                return timed(model, what)

            return run

        cases: dict[str, Callable[[], float]] = {"base": lambda: timed(unet, given)}
        results = in_turn(cases, 3)  # memory is touched for the first time
        for number in range(3):
            ours.load(number)
            peft.load(number)
        one, three = {"a0": 1.0}, {f"a{number}": 0.5 for number in range(3)}
        cases = {
            "base": after(ours.loras.disable),
            "ours 1": after(lambda: (ours.loras.enable(), ours.set(one))),
            "peft 1": after(lambda: peft.set(one), model=peft.unet),
            "ours 3": after(lambda: ours.set(three)),
            "peft 3": after(lambda: peft.set(three), model=peft.unet),
        }
        for case in cases.values():
            case()
        results = in_turn(cases, repeats)
        ours.loras.enable()
        peft.unload()
        for number in range(3, LOADED):
            ours.load(number)
        own = [{f"a{number}": 1.0} for number in range(BATCH)]
        cases = {
            "ours 1 of 10 loaded": after(lambda: ours.set({"a4": 1.0})),
            "ours batch, one for all": after(lambda: ours.set(one), batch),
            "ours batch, one each": after(lambda: ours.loras.per_sample(own, guidance=1), batch),
        }
        for case in cases.values():
            case()
        return {**results, **in_turn(cases, repeats)}


def print_results(times: dict[str, float]) -> None:
    """Print the medians, and what the targets are about."""
    for name, spent in times.items():
        print(f"{name:26} {spent:10.2f} ms   {spent / times['base']:6.3f} x the base")
    above = {name: spent - times["base"] for name, spent in times.items()}
    print(f"above the base, 1 adapter : {above['ours 1'] / above['peft 1']:.2f} of PEFT's")
    print(f"above the base, 3 adapters: {above['ours 3'] / above['peft 3']:.2f} of PEFT's")
    print(f"above the base, 3 adapters: {above['ours 3'] / above['ours 1']:.2f} of 1 adapter")
    print(f"10 loaded, 1 acting       : {times['ours 1 of 10 loaded'] / times['ours 1']:.3f} of 1 loaded")
    each = times["ours batch, one for all"] / times["ours batch, one each"]
    print(f"one adapter each sample   : {each:.3f} of the throughput of one for all")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--coverage", choices=COVERAGES, default="full")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    results = measure(given.size, given.coverage, given.side, given.repeats, given.device)
    print_results(results)
    where = Path(__file__).parent / "results" / f"forward_{given.size}_{given.coverage}.json"
    where.parent.mkdir(exist_ok=True)
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.platform()}
    where.write_text(json.dumps({"milliseconds": results, "side": given.side, **machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
