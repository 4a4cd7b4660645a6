"""Parsers of adapters, regions and prompts as they are typed: ``file.pt:0.8:lbw=1,0,...``, ``style=left.png``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorica.errors import ConfigError, UnknownNameError
from lorica.formats.storage.sources import SUFFIXES
from lorica.printing import expanded, read_lines
from lorica.runtime.prompt.lookup import find_adapter, short_name
from lorica.runtime.prompt.tags import KEYS, Tag, read_tag

_WINDOW = r"@[\d.]*-[\d.]*"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_OPTION = re.compile(rf"(?:{_NUMBER}|(?:{'|'.join(KEYS)})=[^:]*?)(?:{_WINDOW})?")
_WINDOW_ALONE = re.compile(rf"(?P<source>.+(?:{'|'.join(map(re.escape, SUFFIXES))}))(?P<window>{_WINDOW})")


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """An adapter and how strong it is, in the terms of a prompt's tag.

    Args:
        source: the file, folder or Hub id.
        tag: its strengths, block weights and window; the name in it is the adapter's own.
    """

    source: str
    tag: Tag

    @classmethod
    def of(cls, source: str, strength: float = 1.0) -> LoraChoice:
        """An adapter at one strength, which may be negative or above 1."""
        return cls(source, Tag(name_of(source), strength, strength))

    def __str__(self) -> str:
        tag = self.tag
        blocks = f":lbw={','.join(f'{value:g}' for value in tag.blocks)}" if tag.blocks else ""
        ranks = f":dyn={tag.ranks}" if tag.ranks else ""
        return f"{Path(self.source).name}:{tag.strengths}{ranks}{blocks}" + (
            f"@{tag.start:g}-{tag.end:g}" if tag.windowed else ""
        )


def parse_lora(text: str) -> LoraChoice:
    r"""Adapter in ``PATH``, ``PATH:STRENGTH`` or with all that a tag takes: ``PATH:0.5:0.8:lbw=1,0,...@0-0.5``.

    A colon inside the path, as in ``C:\a.safetensors``, is part of it.

    Raises:
        ConfigError: if what stands after the path cannot be read.
    """
    source, options = _split(text)
    head, colon, tail = source.rpartition(":")
    if colon and not Path(source).exists() and (Path(head).exists() or head.lower().endswith(SUFFIXES)):
        raise ConfigError(
            f"--lora {text}: what stands after a colon must be a number (the strength) or one of "
            f"{', '.join(f'{key}=' for key in KEYS)}; got {tail!r}."
        )
    if not source.strip():
        raise ConfigError(f"--lora takes a file, such as --lora style.safetensors:0.8; got {text!r}.")
    return LoraChoice(source, read_tag(f"--lora {text}", name_of(source), options))


def _split(text: str) -> tuple[str, str]:
    """The path, and the options behind it; a path that is there is taken whole."""
    source, options = text, ""
    window = _WINDOW_ALONE.fullmatch(text)
    if window and not Path(text).exists():
        return window["source"], window["window"]
    while not Path(source).exists():
        head, colon, tail = source.rpartition(":")
        if not colon or not _OPTION.fullmatch(tail):
            break
        source, options = head, f"{tail}:{options}" if options else tail
    return source, options


def located(choice: LoraChoice, folder: Path | None) -> LoraChoice:
    """The choice by its file, where its source is no path but a name in the folder of adapters.

    Raises:
        ConfigError: if it is the name of several files there.
    """
    if folder is None or expanded(choice.source).exists():
        return choice
    try:
        return replace(choice, source=str(find_adapter(folder, choice.source)))
    except UnknownNameError:
        return choice  # on the Hub, or nowhere, which loading it says


def name_of(source: str) -> str:
    """Name of a source's adapter: its file's or folder's, or that of the folder around a file with a usual name."""
    path = Path(source)
    return short_name(path) if path.suffix.lower() in SUFFIXES else path.name


def distinct_names(sources: Sequence[str]) -> list[str]:
    """Name of each source; where several would have one, with the folders before it, and at last with a number."""
    names = [name_of(source) for source in sources]
    for depth in range(1, 1 + max((len(Path(source).parts) for source in sources), default=0)):
        counts = Counter(names)
        names = [
            name if counts[name] == 1 else _longer(source, name, depth)
            for name, source in zip(names, sources, strict=True)
        ]
    seen: Counter[str] = Counter()
    distinct: list[str] = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct


def _longer(source: str, name: str, depth: int) -> str:
    path = Path(source)
    own = path.parent if name_of(source) == path.parent.name else path
    folders = own.parent.parts[-depth:]
    return "/".join((*folders, name_of(source))) if len(folders) == depth else name


@dataclass(frozen=True, slots=True)
class RegionChoice:
    """Region of an adapter: the adapter's name, and the file of the mask, white where the adapter acts."""

    name: str
    mask: Path


def parse_region(text: str) -> RegionChoice:
    """Region in ``NAME=MASK.png``.

    Raises:
        ConfigError: if one of the two is missing.
    """
    name, _, mask = text.partition("=")
    if not name.strip() or not mask.strip():
        raise ConfigError(f"--region takes an adapter and its mask, such as --region style=left.png; got {text!r}.")
    return RegionChoice(name.strip(), Path(mask.strip()))


def read_prompts(path: Path) -> list[str]:
    """Prompts in a file, one per line; empty lines and lines that begin with ``#`` are left out.

    Raises:
        ConfigError: if the file cannot be read or holds no prompt.
    """
    try:
        prompts = read_lines(path)
    except OSError as error:
        raise ConfigError(f"cannot read the prompts in {path}: {error}") from error
    if not prompts:
        raise ConfigError(f"{path} holds no prompt; write one a line.")
    return prompts
