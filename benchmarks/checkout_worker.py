"""The half of ``against_commit.py`` that does the work: one process for each checkout, told what to do line by line.

Every operation sets its stage, times itself, and clears the stage; only public names are used, so that old and new
checkouts run the same program. Run by ``against_commit.py``, not by hand.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.utils as dynamo
from sized_unets import COVERAGES, PATTERNS, inputs, make_unet, milliseconds, write_files

import lorica

FILES = 4
SIDE = 8  # of the latents
QUICK = 10  # an operation of less than a millisecond is done so often in one round
ADAPTERS = [f"a{number}" for number in range(FILES)]
COMPILED_SWAP = "compiled swap"
BY_BLOCK = {"unet": {"down": 0.2, "mid": 1.0, "up": 0.6}}


class Stage:
    """A UNet with adapters, their files, and what is done with them; every operation leaves the UNet bare.

    Args:
        size: of the UNet.
        coverage: of the adapters.
        folder: where the files of both checkouts are.
    """

    def __init__(self, size: str, coverage: str, folder: str) -> None:
        self.unet = make_unet(size)
        self.files = files_in(self.unet, coverage, Path(folder))
        self.loras = lorica.attach(self.unet)
        self.given, self.batch = inputs(size, SIDE), inputs(size, SIDE, FILES)
        self.turn = 0

    def run(self, operation: str) -> list[float]:
        """Do an operation, clear the stage, and return the milliseconds."""
        try:
            return list(OPERATIONS[operation](self))
        finally:
            self.loras.detach()

    def load(self, *numbers: int) -> None:
        """Load adapters by their numbers."""
        for number in numbers:
            self.loras.load(self.files[number], name=ADAPTERS[number])

    def forward(self, given: dict[str, Any]) -> float:
        """Time a forward that is not the first one."""
        self.unet(**given)
        gc.collect()
        return milliseconds(lambda: self.unet(**given))

    def timed(self, run: Callable[[], object]) -> float:
        """Time a call; what was thrown away before does not count."""
        gc.collect()
        return milliseconds(run)

    def quick(self, run: Callable[[float], object]) -> list[float]:
        """Time a call that takes a strength, with another strength each time."""
        gc.collect()
        self.turn += 1
        return [milliseconds(lambda s=s: run(s)) for s in [0.1 + (self.turn + i) % 7 / 10 for i in range(QUICK)]]


class CompiledStage:
    """A compiled UNet with room reserved, one adapter on it, and other files to put in its place.

    It has a process to itself: all compiled graphs are forgotten when hooks are put on any model or taken off.
    """

    def __init__(self, size: str, coverage: str, folder: str, backend: str) -> None:
        unet: Any = make_unet(size)
        self.files, self.given = files_in(unet, coverage, Path(folder)), inputs(size, SIDE)
        self.loras = lorica.attach(unet)
        self.loras.reserve(COVERAGES[coverage], PATTERNS[coverage])
        self.loras.load(self.files[0], name="a0")
        self.compiled = torch.compile(unet, fullgraph=True, backend=backend)
        self.compiled(**self.given)
        self.turn = 0

    def run(self, operation: str) -> list[float]:
        """Swap, and see that the model runs on without compiling anything again."""
        assert operation == COMPILED_SWAP
        self.turn += 1
        file, before = self.files[1 + self.turn % (FILES - 1)], graphs()
        gc.collect()
        spent = milliseconds(lambda: self.loras.load(file, name="a0", replace=True))
        self.compiled(**self.given)
        assert graphs() == before, "a swap compiled the model again"
        return [spent]


def graphs() -> int:
    """Number of graphs compiled so far."""
    return dynamo.counters["stats"]["unique_graphs"]


def files_in(unet: Any, coverage: str, folder: Path) -> list[Path]:
    """Files of adapters, written by whichever checkout comes first."""
    files = [folder / f"{number}.safetensors" for number in range(FILES)]
    return files if all(file.exists() for file in files) else write_files(unet, coverage, FILES, folder)


def read(stage: Stage) -> Iterator[float]:
    """Read a file."""
    yield stage.timed(lambda: lorica.read(stage.files[0]))


def load(stage: Stage) -> Iterator[float]:
    """Load on a bare model."""
    yield stage.timed(lambda: stage.load(0))


def load_second(stage: Stage) -> Iterator[float]:
    """Load beside another adapter."""
    stage.load(0)
    yield stage.timed(lambda: stage.load(1))


def hot_swap(stage: Stage) -> Iterator[float]:
    """Put another file in the place of the only adapter; not the first swap."""
    stage.load(0)
    for number in (2, 1):
        gc.collect()
        spent = milliseconds(lambda number=number: stage.loras.load(stage.files[number], name="a0", replace=True))
    yield spent


def set_two(stage: Stage) -> Iterator[float]:
    """Set two strengths."""
    stage.load(0, 1)
    yield from stage.quick(lambda strength: stage.loras.set({"a0": strength, "a1": 0.3}))


def set_by_block(stage: Stage) -> Iterator[float]:
    """Set strengths by block."""
    stage.load(0, 1)
    yield from stage.quick(lambda strength: stage.loras.set({"a0": BY_BLOCK, "a1": strength}))


def off(stage: Stage) -> Iterator[float]:
    """Switch two adapters off."""
    stage.load(0, 1)
    gc.collect()
    for _ in range(QUICK):
        yield milliseconds(stage.loras.disable)
        stage.loras.enable()


def on(stage: Stage) -> Iterator[float]:
    """Switch two adapters on."""
    stage.load(0, 1)
    gc.collect()
    for _ in range(QUICK):
        stage.loras.disable()
        yield milliseconds(stage.loras.enable)


def fuse(stage: Stage, *numbers: int) -> Iterator[float]:
    """Fuse adapters; not the first fuse."""
    stage.load(0, 1)
    names = {ADAPTERS[number]: 0.7 for number in numbers}
    stage.loras.fuse(names)
    stage.loras.unfuse()
    yield stage.timed(lambda: stage.loras.fuse(names))


def unfuse(stage: Stage, *numbers: int) -> Iterator[float]:
    """Take adapters out of the weights."""
    stage.load(0, 1)
    stage.loras.fuse({ADAPTERS[number]: 0.7 for number in numbers})
    yield stage.timed(stage.loras.unfuse)


def forward(stage: Stage, count: int) -> Iterator[float]:
    """Run the UNet with adapters."""
    stage.load(*range(count))
    stage.loras.set(dict.fromkeys(ADAPTERS[:count], 0.5))
    yield stage.forward(stage.given)


def forward_per_sample(stage: Stage) -> Iterator[float]:
    """Run a batch in which each sample has an adapter of its own."""
    stage.load(*range(FILES))
    stage.loras.per_sample([{name: 1.0} for name in ADAPTERS], guidance=1)
    yield stage.forward(stage.batch)
    stage.loras.set({})


def detach(stage: Stage) -> Iterator[float]:
    """Take two adapters and the engine off."""
    stage.load(0, 1)
    yield stage.timed(stage.loras.detach)


OPERATIONS: dict[str, Callable[[Stage], Iterator[float]]] = {
    "read": read,
    "load": load,
    "load a second": load_second,
    "hot swap": hot_swap,
    "set": set_two,
    "set by block": set_by_block,
    "off": off,
    "on": on,
    "fuse one": lambda stage: fuse(stage, 0),
    "fuse two": lambda stage: fuse(stage, 0, 1),
    "unfuse one": lambda stage: unfuse(stage, 0),
    "unfuse two": lambda stage: unfuse(stage, 0, 1),
    "forward, 1 adapter": lambda stage: forward(stage, 1),
    "forward, 3 adapters": lambda stage: forward(stage, 3),
    "forward, a set for each sample": forward_per_sample,
    "detach": detach,
}


def memory_of_one(stage: Stage) -> float:
    """Megabytes that a loaded adapter holds after it acted, beyond what a forward of the bare model needs."""
    stage.unet(**stage.given)
    before = anonymous_megabytes()
    stage.load(0)
    stage.unet(**stage.given)
    held = anonymous_megabytes() - before
    stage.loras.detach()
    return held


def anonymous_megabytes() -> float:
    """Memory of this process that no file stands behind."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


@torch.no_grad()
def main() -> None:
    """Answer on the standard output that there was at first; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    source = Path(sys.argv[1])
    assert Path(lorica.__file__).is_relative_to(source), f"Lorica came from {lorica.__file__}, and not from {source}"
    stages: list[Stage | CompiledStage] = []
    for line in sys.stdin:
        question = json.loads(line)
        if not stages:  # the first question says what to set up
            stages.append(CompiledStage(**question) if "backend" in question else Stage(**question))
            gc.freeze()  # so that collecting is quick
        answer = answer_to(stages[0], question) if isinstance(question, str) else None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def answer_to(stage: Stage | CompiledStage, question: str) -> Any:
    """Milliseconds of an operation, or the megabytes of an adapter."""
    return memory_of_one(stage) if question == "memory" and isinstance(stage, Stage) else stage.run(question)


if __name__ == "__main__":
    main()
