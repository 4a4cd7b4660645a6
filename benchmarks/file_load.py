"""A large Kohya file: understanding its keys, reading it, and looking into it, beside diffusers and safetensors.

The file is made up: Stable Diffusion XL, every linear and convolution layer of the UNet and both text encoders, rank
32, float16, in kohya's spelling. Three questions, each with both sides in one process, in turn:

- **map**: from a state dict in memory to modules of the model: our recognising, accounting and building of layers, and
  diffusers' conversion of the same dict (``lora_state_dict``).
- **read**: ``lorica.read`` of the file in the disk cache, and safetensors handing out all tensors.
- **inspect**: ``lorica.inspect`` from the header alone, and as a process with norms and hashes.

Once in a process the tables of the base model are made, which is *once* and in none of the others.

Run: python benchmarks/file_load.py [--repeats 9] [--cpu] [--small] [--out FOLDER]. Prints medians and ratios; writes
benchmarks/results/file_load.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from reporting import parser_of, results_file
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import lorica
from lorica.formats import FORMATS
from lorica.formats.reading import interpret, recognise
from lorica.formats.storage.files import FileContents
from lorica.models import FAMILIES
from lorica.models.spellings import spellings_of

WANTED = {"map": "at least 3 times as fast", "read": "no slower", "header": "at most 30 ms", "process": "under 0.5 s"}
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def kohya_tensors(rank: int) -> dict[str, Tensor]:
    """Return the tensors of the made-up file: the UNet's under the names of the original checkpoint."""
    tensors: dict[str, Tensor] = {}
    for component, shapes in FAMILIES["sdxl"].target.components.items():
        table = spellings_of(shapes)["ldm"].table(shapes) if component == "unet" else {path: path for path in shapes}
        for name, parts in table.items():
            shape = shapes[parts if isinstance(parts, str) else parts[0].path]
            if len(shape) > 1 and "embedding" not in name and "text_projection" not in name:
                flat = f"{PREFIXES[component]}_{name.replace('.', '_')}"
                ones = [1] * (len(shape) - 2)
                tensors[f"{flat}.alpha"] = torch.tensor(rank / 2).half()
                tensors[f"{flat}.lora_down.weight"] = torch.randn(rank, *shape[1:]).half()
                tensors[f"{flat}.lora_up.weight"] = torch.randn(shape[0], rank, *ones).half()
    return tensors


def map_ours(tensors: dict[str, Tensor]) -> None:
    """Understand every key of a state dict."""
    contents = FileContents("the state dict", tensors)
    adapter = interpret(contents, recognise(contents, FORMATS), None, strict=True, check_values=False)
    assert adapter.report is not None
    assert len(adapter.report.used) == len(tensors)


def map_diffusers(tensors: dict[str, Tensor], config: Any) -> None:
    """Convert the same state dict as diffusers does when it loads it."""
    converted, _ = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=config)
    assert converted


def read_safetensors(path: Path) -> None:
    """Ask for every tensor of a file."""
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118  # not a dictionary
            file.get_tensor(key)


def in_process(path: Path, *, cpu: bool) -> float:
    """Return the seconds of ``lorica inspect`` from its start to its end, with norms and hashes."""

    def now() -> float:
        times = os.times()
        return times.children_user + times.children_system if cpu else times.elapsed

    start = now()
    subprocess.run([sys.executable, "-m", "lorica", "inspect", str(path)], check=True, capture_output=True)  # noqa: S603
    return now() - start


def timed(sides: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the milliseconds of each side: in turn, again and again, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            start = clock()
            run()
            if turn:
                times[name].append((clock() - start) * 1e3)
    return times


def questions(path: Path, tensors: dict[str, Tensor], config: Any) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield for each question the sides that are timed in turn."""
    yield {
        "map, ours": lambda: map_ours(tensors),
        "map, diffusers": lambda: map_diffusers(tensors, config),
    }
    yield {
        "read, ours": lambda: lorica.read(path),
        "read, safetensors": lambda: read_safetensors(path),
    }
    yield {
        "inspect, header": lambda: lorica.inspect(path, norms=False, hashes=False),
        "inspect, norms": lambda: lorica.inspect(path, hashes=False),
        "inspect, norms and hashes": lambda: lorica.inspect(path),
    }


def measure(folder: Path, rank: int, process_rank: int, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Write the files, time every side, and return what was found."""
    tensors = kohya_tensors(rank)
    path, smaller = folder / "large.safetensors", folder / "smaller.safetensors"
    save_file(tensors, path)
    save_file(kohya_tensors(process_rank), smaller)
    with torch.device("meta"):
        config = UNet2DConditionModel(**_sdxl_config()).config
    begin = clock()
    map_ours(tensors)
    every = {"map, once": [(clock() - begin) * 1e3]}
    for question in questions(path, tensors, config):
        every |= timed(question, repeats, clock)
    every["inspect, process"] = [in_process(smaller, cpu=clock is time.process_time) * 1e3 for _ in range(repeats)]
    times = {name: statistics.median(values) for name, values in every.items()}
    return {
        "milliseconds": {name: round(value, 2) for name, value in times.items()},
        "fastest": {name: round(min(values), 2) for name, values in every.items()},
        "megabytes": {"large": path.stat().st_size / 1e6, "smaller": smaller.stat().st_size / 1e6},
        "keys": len(tensors),
        "ratios": {
            question: round(times[f"{question}, {rival}"] / times[f"{question}, ours"], 2)
            for question, rival in (("map", "diffusers"), ("read", "safetensors"))
        },
    }


def _sdxl_config() -> dict[str, Any]:
    return dict(FAMILIES["sdxl"].published.networks["unet"].config)


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    times, fastest, ratios, sizes = (found[part] for part in ("milliseconds", "fastest", "ratios", "megabytes"))
    print(f"Kohya SDXL, {found['keys']} keys, {sizes['large']:.0f} MB; the process on {sizes['smaller']:.0f} MB\n")
    print("| what | ms | fastest |\n|---|---:|---:|")
    for name, value in times.items():
        print(f"| {name} | {value:.1f} | {fastest[name]:.1f} |")
    print()
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times as fast; wanted: {WANTED[name]}")
    print(f"inspect from the header: {times['inspect, header']:.1f} ms; wanted: {WANTED['header']}")
    print(f"inspect as a process: {times['inspect, process']:.0f} ms; wanted: {WANTED['process']}")


def main() -> None:
    """Measure, print, and write the result."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cpu", action="store_true", help="processor time, for a machine that is busy otherwise")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    rank, process_rank, repeats = (2, 1, 1) if options.small else (32, 25, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), rank, process_rank, repeats, clock)
    found["clock"] = "processor" if options.cpu else "wall"
    found["machine"] = {
        "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
        "torch": torch.__version__, "diffusers": diffusers.__version__, "load": os.getloadavg()[0],
    }  # fmt: skip
    show(found)
    where = results_file(options, "file_load")
    if where is not None:
        where.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
