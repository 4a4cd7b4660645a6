"""The part of PEFT's configuration that says how strong each module is: read as PEFT does, written without traps.

PEFT keeps one rank and one alpha for all modules, and exceptions in ``rank_pattern`` and ``alpha_pattern``. A pattern
is a regular expression that must match the end of a module's path, from a dot on, and the first that matches wins.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, cast

from lorica.adapters import AdapterLayer
from lorica.errors import FormatError
from lorica.models.clip import spellings, without_wrapper

METADATA_KEY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
ALPHA_ALONE = ("alpha", "lora_alpha")  # metadata
DEFAULT_ALPHA = 8  # PEFT's, where a configuration names none
# The settings that decide what the layers are; PEFT writes many more, and other versions other ones.
_MEANING = (
    "peft_type", "r", "rank_pattern", "lora_alpha", "alpha", "alpha_pattern", "use_rslora", "feedforward_modules",
    "block_share", "use_cayley_neumann", "num_cayley_neumann_terms", "coft", "fan_in_fan_out",
)  # fmt: skip
_PLAIN = re.compile(r"\^?(?:\w|-|\\?\.)+")  # a path, its dots escaped or not


class Patterns:
    """Exceptions by module path, found in one look-up where the patterns are plain paths."""

    def __init__(self, patterns: Mapping[str, float]) -> None:
        self._values = list(patterns.values())
        self._whole: dict[str, int] = {}  # path to the place of the pattern in the order
        self._ends: dict[str, int] = {}
        self._others: list[tuple[int, re.Pattern[str]]] = []
        for place, pattern in enumerate(patterns):
            if not _PLAIN.fullmatch(pattern):
                self._others.append((place, re.compile(rf"(.*\.)?({pattern})$")))
                continue
            table = self._whole if pattern.startswith("^") else self._ends
            table.setdefault(pattern.removeprefix("^").replace("\\", ""), place)

    def get(self, path: str) -> float | None:
        """Return the value of the first pattern that matches, or None."""
        if not self._values:
            return None
        places = [place for place, pattern in self._others if pattern.match(path)]
        if path in self._whole:
            places.append(self._whole[path])
        if self._ends:
            parts = path.split(".")
            ends = (".".join(parts[start:]) for start in range(len(parts)))
            places += [self._ends[end] for end in ends if end in self._ends]
        return self._values[min(places)] if places else None


@dataclass(frozen=True, slots=True)
class Strengths:
    """The alphas of one component, as its configuration gives them."""

    alpha: float
    patterns: Patterns
    rank_stabilised: bool

    def alpha_of(self, path: str, rank: int) -> float:
        """Return the alpha for which alpha / rank is the module's scaling."""
        exceptions = (self.patterns.get(spelling) for spelling in spellings(path))
        alpha = next((value for value in exceptions if value is not None), self.alpha)
        return alpha * sqrt(rank) if self.rank_stabilised else alpha


def parse_strengths(metadata: Mapping[str, str], source: str) -> dict[str, Strengths]:
    """Return the strengths of each component that the metadata of a file configures; ``""`` is a file of one component.

    Raises:
        FormatError: if the configuration is malformed.
    """
    text = metadata.get(METADATA_KEY)
    if not text:
        # MiniMax' trainer, and others of one component, write the alpha of all modules as a text of its own.
        alone = next((metadata[name] for name in ALPHA_ALONE if name in metadata), None)
        return {"": _strengths({"alpha": _text_or_number(alone)}, f"{source}: its metadata")} if alone else {}
    what = f"{source}: its metadata {METADATA_KEY!r}"
    configs: dict[str, dict[str, Any]] = {}
    for name, value in _object(text, what).items():
        component, _, field = name.rpartition(".")
        configs.setdefault(component, {})[field] = value
    return {component: _strengths(config, what) for component, config in configs.items()}


def parse_adapter_config(text: str, source: str) -> tuple[dict[str, Any], Strengths]:
    """PEFT's ``adapter_config.json`` and the strengths that it gives.

    Raises:
        FormatError: if it is malformed.
    """
    what = f"{source}: its {CONFIG_FILE}"
    config = _object(text, what)
    return config, _strengths(config, what)


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is malformed: {error}.") from error
    if not isinstance(found, dict):
        raise FormatError(f"{what} is malformed: a JSON {type(found).__name__}; expected an object of settings.")
    return cast("dict[str, Any]", found)


def _text_or_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def differing(one: str, other: str, source: str) -> list[str]:
    """Return the settings in which two configurations mean different layers.

    Raises:
        FormatError: if one is malformed.
    """
    first, second = (parse_adapter_config(text, source)[0] for text in (one, other))
    return [name for name in _MEANING if (first.get(name) or None) != (second.get(name) or None)]


def make_config(layers: Mapping[str, AdapterLayer], ranks: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the configuration from which PEFT gives every layer its own rank and scaling.

    Args:
        layers: the layers by path.
        ranks: path to rank, where PEFT's are not those of the layers.

    A text encoder's patterns are written from the end of the path (``encoder.layers...``), which no other module
    shares, because transformers versions differ in how it begins. All others are anchored: ``proj_out`` must not also
    mean ``single_transformer_blocks.0.proj_out``.
    """
    own = {path: layer.rank for path, layer in layers.items()} if ranks is None else ranks
    rank = _commonest(list(own.values()))
    alpha = _commonest([layer.alpha for layer in layers.values()])
    others = {_pattern(path): number for path, number in own.items() if number != rank}
    alphas = {_pattern(path): _number(layer.alpha) for path, layer in layers.items() if layer.alpha != alpha}
    config = {
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": others,
        "alpha_pattern": alphas,
        "target_modules": make_targets(layers),
    }
    if any("bias" in layer.tensors for layer in layers.values()):
        config["lora_bias"] = True
    return config


def _strengths(config: Mapping[str, Any], what: str) -> Strengths:
    """The strengths that a configuration gives; ``what`` says where it stands, for messages."""
    patterns: Any = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise FormatError(f"{what}: alpha_pattern is {patterns!r:.80}; expected an object of paths and numbers.")
    named = cast("Mapping[str, Any]", patterns)
    try:
        found = Patterns(
            {path: number_in(value, f"{what}: the alpha of {path!r:.80}") for path, value in named.items()}
        )
    except re.error as error:
        raise FormatError(f"{what}: alpha_pattern is malformed: {error}.") from error
    name = "lora_alpha" if "lora_alpha" in config else "alpha"
    alpha = number_in(config.get(name, DEFAULT_ALPHA), f"{what}: {name}")
    return Strengths(alpha=alpha, patterns=found, rank_stabilised=bool(config.get("use_rslora", False)))


def number_in(value: object, what: str) -> float:
    """A number from outside: JSON has Infinity, NaN, null and lists too.

    Raises:
        FormatError: if it is none, beginning with what it is.
    """
    with suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(number := float(value)):
            return number
    raise FormatError(f"{what} is {value!r:.80}; expected a finite number, such as the rank.")


def _pattern(path: str) -> str:
    bare = without_wrapper(path)
    return re.escape(bare) if len(spellings(path)) > 1 else f"^{re.escape(path)}"


def make_targets(layers: Mapping[str, AdapterLayer]) -> list[str] | str:
    """The modules that PEFT may touch. Its lists match ends of paths, so a path without a dot needs an expression."""
    paths = sorted(without_wrapper(path) for path in layers)
    return paths if all("." in path for path in paths) else expression(paths)


def expression(paths: Iterable[str]) -> str:
    """Return the regular expression that matches these paths whole, a text encoder's in all their spellings."""
    bare = map(without_wrapper, paths)
    return "|".join(rf"(.*\.)?{re.escape(path)}" if len(spellings(path)) > 1 else re.escape(path) for path in bare)


def _commonest(numbers: Sequence[Any]) -> Any:
    """Return the number that occurs most often; of several, the smallest."""
    counts = Counter(numbers)
    return min(counts, key=lambda number: (-counts[number], number))


def _number(alpha: float) -> float | int:
    return int(alpha) if alpha.is_integer() else alpha
