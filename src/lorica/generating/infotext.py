"""The ``parameters`` text of a PNG file, as A1111's web UI writes it and as ComfyUI and Civitai read it too.

Three lines: the prompt with ``<lora:name:strength>`` tags; ``Negative prompt:``, also where it is empty, since ComfyUI
looks for it; and the settings as ``Name: value``, with commas between. Civitai knows the files by their hashes: of the
tensors in ``Lora hashes`` (AutoV3), of the whole file in ``Model hash`` and ``Hashes`` (AutoV2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.errors import LoRAError
from lorica.formats.storage.sources import locate
from lorica.generating.sampling import SamplingSettings, Shot
from lorica.printing import expanded
from lorica.runtime.prompt.tags import Tag, parse_tags
from lorica.tools.digests import Digests

PROGRAM = "lorica"
BASE = ""  # the base model among the names of adapters
MARKS = ("Negative prompt:", "Steps:")
AUTO_V2, AUTO_V3 = 10, 12  # digits of the two hashes that Civitai keeps
SAFETENSORS = ".safetensors"
_PART_OF_A_LIST = str.maketrans(dict.fromkeys(',:"', "_"))  # what would end a name inside of a quoted list


@dataclass(frozen=True, slots=True)
class FileHashes:
    """Hashes of one file, in the lengths that Civitai keeps.

    Args:
        whole: of all bytes.
        tensors: of the tensors alone; empty if the file is no safetensors file.
    """

    whole: str
    tensors: str


class Hashing:
    """Hashes of the files of a request, computed by threads while the pictures are made.

    Args:
        sources: name to file, folder or Hub id. What is no file here has no hash.
    """

    def __init__(self, sources: Mapping[str, str | Path]) -> None:
        self._stack = ExitStack()
        files = {name: path for name, source in sources.items() if (path := _file(source))}
        self._running = {name: (path, self._stack.enter_context(Digests(path))) for name, path in files.items()}

    def __enter__(self) -> Hashing:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def values(self) -> dict[str, FileHashes]:
        """Hashes by name; waits for the threads."""
        found: dict[str, FileHashes] = {}
        for name, (path, digests) in self._running.items():
            try:
                whole, tensors = digests.values()
            except (OSError, ValueError):  # the file went away: the pictures are there all the same
                continue
            own = tensors[:AUTO_V3] if path.suffix.lower() == SAFETENSORS else ""
            found[name] = FileHashes(whole[:AUTO_V2], own)
        return found


def _file(source: str | Path) -> Path | None:
    """The file of an adapter or a base model, or None for a folder of many files or a model on the Hub."""
    path = expanded(source)
    if path.is_file():
        return path
    try:
        return locate(path) if path.is_dir() else None
    except LoRAError:
        return None


def infotext(
    shot: Shot,
    settings: SamplingSettings,
    size: tuple[int, int],
    *,
    sampler: str,
    base: str,
    adapters: Sequence[Tag],
    hashes: Mapping[str, FileHashes],
) -> str:
    """Text of one picture.

    Args:
        shot: its prompt and seed.
        settings: steps, guidance and the rest.
        size: width and height.
        sampler: the scheduler, by the name that A1111 has for it.
        base: the base model.
        adapters: those that are not named in the prompt.
        hashes: of the adapters' files by name, and of the base model's as ``BASE`` if it is one file.
    """
    prompt = " ".join([shot.prompt.strip(), *(f"<lora:{tag.name}:{tag.strengths}>" for tag in adapters)])
    facts: dict[str, Any] = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "CFG scale": f"{settings.guidance:g}",
        "Seed": shot.seed,
        "Size": f"{size[0]}x{size[1]}",
    }
    whole = {"model": hashes[BASE].whole} if BASE in hashes else {}
    if whole:
        facts["Model hash"] = whole["model"]
    facts["Model"] = Path(base).stem if whole else base
    used = dict.fromkeys(tag.name for tag in (*adapters, *parse_tags(shot.prompt)[1]))
    known = {name: hashes[name] for name in used if name in hashes}
    tensors = {name: own.tensors for name, own in known.items() if own.tensors}
    if tensors:
        facts["Lora hashes"] = ", ".join(f"{name.translate(_PART_OF_A_LIST)}: {own}" for name, own in tensors.items())
    facts["RNG"] = "CPU"  # where the noise is drawn, for every device
    whole |= {f"lora:{name}": own.whole for name, own in known.items()}
    last = [f"Hashes: {json.dumps(whole)}"] if whole else []
    listed = [*(f"{name}: {_quoted(str(value))}" for name, value in facts.items()), *last, f"Version: {PROGRAM}"]
    negative = _paragraph(settings.negative_prompt or "")
    return f"{_paragraph(prompt)}\nNegative prompt: {negative}\n{', '.join(listed)}"


def _paragraph(text: str) -> str:
    """A text without empty lines, and without lines that begin as those below it do."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(f" {line}" if line.lstrip().startswith(MARKS) else f"\n{line}" for line in lines).removeprefix("\n")


def _quoted(text: str) -> str:
    """A value as A1111 writes it: in quotes where it holds what separates values."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
