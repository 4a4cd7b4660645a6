"""One forward of a UNet with adapters: ours beside diffusers with PEFT, in one process, in turn.

What counts is the time above the base model. Also: ten adapters loaded and one of them acting; a batch in which every
sample has an adapter of its own, beside the same batch with one adapter for all.

Run: python benchmarks/forward.py [--size tiny|sd15|sdxl] [--coverage attention|full] [--side 16] [--repeats 7]
[--device cpu|cuda] [--part peft|loaded|batch] [--small] [--out FOLDER]. Prints medians, and ratios within
rounds; writes benchmarks/results/forward_SIZE_COVERAGE_SIDE.json.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import init_empty_weights
from adapter_ops import Ours, Peft, check_same
from diffusers import UNet2DConditionModel
from reporting import parser_of, results_file, store
from sized_unets import COVERAGES, SIZES, inputs, make_unet, milliseconds, write_files
from torch import nn

LOADED = 10
BATCH = 8


Case = tuple[Any, Callable[[], object], Mapping[str, Any]]  # the model, what to do before, what to give it


def beside_peft(plain: nn.Module, files: list[Path], given: Mapping[str, Any], size: str) -> dict[str, Case]:
    """Return the forwards with one and with three adapters, and the same of diffusers with PEFT."""
    ours, peft = Ours(_twin(plain, size), files), Peft(_twin(plain, size), files)
    for number in range(3):
        ours.load(number)
        peft.load(number)
    one, three = {"a0": 1.0}, {f"a{number}": 0.5 for number in range(3)}
    for side in (ours, peft):
        side.set(three)
    check_same(ours, peft, size)
    return {
        "base": (plain, _nothing, given),
        "ours off": (ours.unet, lambda: ours.set({}), given),
        "ours 1": (ours.unet, lambda: ours.set(one), given),
        "peft 1": (peft.unet, lambda: peft.set(one), given),
        "ours 3": (ours.unet, lambda: ours.set(three), given),
        "peft 3": (peft.unet, lambda: peft.set(three), given),
    }


def beside_fewer(plain: nn.Module, files: list[Path], given: Mapping[str, Any], size: str) -> dict[str, Case]:
    """Return a forward with one adapter of many, and one with the only adapter that is loaded."""
    few, many = Ours(_twin(plain, size), files), Ours(_twin(plain, size), files)
    few.load(4)
    for number in range(len(files)):
        many.load(number)
    return {
        "1 of 1 loaded": (few.unet, _nothing, given),
        "1 of 10 loaded": (many.unet, lambda: many.set({"a4": 1.0}), given),
    }


def one_each(plain: nn.Module, files: list[Path], given: Mapping[str, Any], size: str) -> dict[str, Case]:
    """Return the forwards of a batch with one adapter for all samples, and with one for each."""
    ours = Ours(_twin(plain, size), files)
    for number in range(BATCH):
        ours.load(number)
    own = [{f"a{number}": 1.0} for number in range(BATCH)]
    return {
        "batch, base": (plain, _nothing, given),
        "batch, one for all": (ours.unet, lambda: ours.set(own[0]), given),
        "batch, one each": (ours.unet, lambda: ours.loras.per_sample(own, guidance=1), given),
    }


PARTS = {"peft": (beside_peft, 1), "loaded": (beside_fewer, 1), "batch": (one_each, BATCH)}


def measure(part: str, size: str, coverage: str, side: int, repeats: int, device: str) -> dict[str, list[float]]:
    """Return the times of every case, round by round. All sides compute with the same weights in memory."""
    make_cases, batch = PARTS[part]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        plain = make_unet(size, device)
        files = write_files(plain, coverage, LOADED, Path(folder))
        return _rounds(make_cases(plain, files, inputs(size, side, batch, device), size), repeats)


def _nothing() -> None:
    pass


def _twin(plain: nn.Module, size: str) -> nn.Module:
    """Return another UNet with the same weights in memory."""
    with init_empty_weights():
        twin = UNet2DConditionModel(**SIZES[size])
    twin.load_state_dict(plain.state_dict(), assign=True)
    return twin.eval().requires_grad_(False)


def _rounds(cases: Mapping[str, Case], repeats: int) -> dict[str, list[float]]:
    """Time every case once a round, after a forward that does not count: a picture has many steps."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(repeats + 1):  # in the first round memory is touched for the first time
        for name, (model, prepare, given) in cases.items():
            prepare()
            model(**given, return_dict=False)
            spent = milliseconds(lambda model=model, given=given: model(**given, return_dict=False))
            if number:
                times[name].append(spent)
    return times


def print_results(times: Mapping[str, list[float]]) -> None:
    """Print the medians, and what the targets are about: ratios within rounds."""
    for name, spent in times.items():
        print(f"{name:20} {median(spent):10.2f} ms")
    if "base" in times:
        own, theirs = ({count: _above(times, f"{side} {count}") for count in (1, 3)} for side in ("ours", "peft"))
        for count in own:
            print(f"above the base, {count}: {own[count]:.2f} ms, {own[count] / theirs[count]:.2f} of PEFT's")
        print(f"above the base, 3 in parts of 1: {own[3] / own[1]:.2f}")
    if "1 of 10 loaded" in times:
        print(f"10 loaded, 1 acting: {_ratio(times, '1 of 10 loaded', '1 of 1 loaded'):.3f} of 1 loaded")
    if "batch, one each" in times:
        print(f"one each: {_ratio(times, 'batch, one for all', 'batch, one each'):.3f} of one for all's throughput")


def _above(times: Mapping[str, list[float]], name: str) -> float:
    """Return the median of what a case took more than the base of its round."""
    return median(spent - base for spent, base in zip(times[name], times["base"], strict=True))


def _ratio(times: Mapping[str, list[float]], name: str, other: str) -> float:
    return median(one / two for one, two in zip(times[name], times[other], strict=True))


def main() -> None:
    """Run from the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--coverage", choices=COVERAGES, default="full")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this; the default is everything")
    given = parser.parse_args()
    if given.small:
        given.size, given.side, given.repeats = "least", 8, 1
    where = results_file(given, f"forward_{given.size}_{given.coverage}_{given.side}")
    stored = json.loads(where.read_text()) if where and where.exists() else {"milliseconds": {}}
    for part in given.part or PARTS:
        times = measure(part, given.size, given.coverage, given.side, given.repeats, given.device)
        print_results(times)
        stored["milliseconds"] |= {name: [round(one, 3) for one in spent] for name, spent in times.items()}
    store(where, stored)


if __name__ == "__main__":
    main()
