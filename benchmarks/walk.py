"""How many functions and files of Lorica one passes in an operation on a live model: what a reader has to follow.

``sys.setprofile`` tells every Python function that is called. Counted are those of ``src/lorica``, each once, by its
file and qualified name; comprehensions and lambdas count as functions. The adapters are Kohya files, written without
Lorica, on tiny UNets. The first load of the process, of a small file, also makes tables and imports what is imported
late; ``load`` is the next one, of a larger file on a fresh UNet. The rest is done with the small file, on attention.

Run: python benchmarks/walk.py [--names] [--json] [--small] [--out FOLDER]. Prints a table; ``--names`` adds the
functions in the order in which they are entered; ``--json`` prints one JSON object in place of the table. Writes
benchmarks/results/walk.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from reporting import parser_of, results_file, store
from safetensors.torch import save_file
from sized_unets import inputs, make_unet, paths_of
from torch import nn

import lorica

SOURCE = Path(lorica.__file__).parent
RANK = 4
TARGETS = {"load": (150, 36), "set": (24, 8), "forward": (14, 6)}  # fewer functions, and fewer files

Step = tuple[str, str]  # the file below src/lorica, and the qualified name


def kohya_file(unet: nn.Module, coverage: str, folder: Path) -> Path:
    """Write an adapter in the spelling of Kohya's scripts."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths_of(unet, coverage):
        out, *rest = unet.get_submodule(path).weight.shape
        name = f"lora_unet_{path.replace('.', '_')}"
        tensors[f"{name}.alpha"] = torch.tensor(float(RANK))
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, *rest) / 50
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, RANK, *[1] * (len(rest) - 1)) / 50
    save_file(tensors, folder / f"{coverage}.safetensors")
    return folder / f"{coverage}.safetensors"


def walk(run: Callable[[], object]) -> list[Step]:
    """The functions of Lorica that a call passes, in the order in which they are first entered."""
    seen: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.setdefault(frame.f_code)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(dict.fromkeys(step for code in seen if (step := step_of(code)) is not None))


def step_of(code: CodeType) -> Step | None:
    """File and name of a function of Lorica; None for other code, and for the body of a module."""
    path = Path(code.co_filename)
    if code.co_name == "<module>" or not path.is_relative_to(SOURCE):
        return None
    return path.relative_to(SOURCE).as_posix(), getattr(code, "co_qualname", code.co_name)  # Python 3.11 has the former


@torch.no_grad()
def walks(folder: Path) -> dict[str, list[Step]]:
    """Every operation with the functions that it passes."""
    unet, other, given = make_unet("tiny"), make_unet("tiny"), inputs("tiny", 8)
    small, large = (kohya_file(unet, coverage, folder) for coverage in ("attention", "full"))
    loras, others = lorica.attach(unet), lorica.attach(other)
    found = {
        "load, the first of the process": walk(lambda: loras.load(small, name="a")),
        "load": walk(lambda: others.load(large, name="a")),
    }
    loras.set({"a": 1.0})
    found["set"] = walk(lambda: loras.set({"a": 0.5}))
    for name, model in (("forward", unet), ("forward, with convolutions", other)):
        model(**given)
        model(**given)
        found[name] = walk(lambda model=model: model(**given))
    found["fuse"] = walk(lambda: loras.fuse({"a": 1.0}))
    found["unfuse"] = walk(loras.unfuse)
    return found


def figures_of(steps: list[Step]) -> dict[str, int]:
    """Number of functions and of files."""
    return {"functions": len(steps), "files": len({file for file, _ in steps})}


def show(found: dict[str, list[Step]], *, names: bool) -> None:
    """Print the table, and the functions below it."""
    print("| operation | functions | files | target |\n|---|---:|---:|---|")
    for operation, steps in found.items():
        functions, files = figures_of(steps).values()
        target = f"under {TARGETS[operation][0]} and {TARGETS[operation][1]}" if operation in TARGETS else ""
        print(f"| {operation} | {functions} | {files} | {target} |")
    for operation, steps in found.items() if names else ():
        print(f"\n{operation}:")
        for number, (file, name) in enumerate(steps, 1):
            print(f"{number:4} {file:40} {name}")


def main() -> None:
    """Count, print, and write the result."""
    parser = parser_of(__doc__)
    parser.add_argument("--names", action="store_true", help="also print the functions")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = walks(Path(folder))
    figures: dict[str, Any] = {operation: figures_of(steps) for operation, steps in found.items()}
    if given.json:
        print(json.dumps({**figures, **({"names": found} if given.names else {})}))
    else:
        show(found, names=given.names)
    store(results_file(given, "walk"), {"walked": figures})


if __name__ == "__main__":
    main()
