"""How strong an adapter is in each module: one number, or numbers by component, block and module."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

from lorica.errors import ConfigError, UnknownNameError
from lorica.runtime.blocks import by_index, by_unet_block, is_block_weights

UNET = ("down_blocks.", "mid_block.", "up_blocks.")  # how the layers of a UNet's blocks begin

# A number for the whole adapter, or a LoRA-block-weight list (see blocks.py), or component -> number or such a list, or
# component -> block, glob or path -> number, list of numbers (one for each attention of a block, or for each block of a
# kind) or a further mapping. What is not named has strength 1. Numbers may be negative, and above 1.
Strength = float | Sequence[float] | Mapping[str, Any]

LARGEST = 3.4e38  # about the largest number of 32 bits, which strengths have

# Short names of the parts of a UNet, as diffusers' users write them, and of a transformer, as Flux's authors do.
PARTS: dict[str, tuple[str, ...]] = {
    "down": ("down_blocks",),
    "mid": ("mid_block",),
    "up": ("up_blocks",),
    "double_blocks": ("transformer_blocks", "joint_transformer_blocks"),
    "single_blocks": ("single_transformer_blocks",),
}


Place = tuple[str, str]  # component, module path


@dataclass(frozen=True, slots=True)
class Dial:
    """A strength as it was given, and as it is in each layer that the adapter changes.

    Args:
        given: what the user said.
        value: the number in all layers alike; None if they differ.
        by_place: the number in each layer, if they differ.
    """

    given: Strength
    value: float | None
    by_place: Mapping[Place, float] = field(default_factory=dict[Place, float])

    @classmethod
    def of(cls, strength: Strength, places: Collection[Place]) -> Dial:
        """The strength of an adapter that changes these layers.

        Raises:
            UnknownNameError: if a component, block or module is unknown.
            ConfigError: if a strength is not a finite number.
        """
        given = copy.deepcopy(strength)  # the caller may go on changing the mappings within
        if not isinstance(given, (Mapping, list, tuple)):
            return cls(given, _number(given, "the strength"))
        modules: dict[str, list[str]] = {}
        for component, path in places:
            modules.setdefault(component, []).append(path)
        found = resolve(given, modules)
        return cls(given, None, {(component, path): found[component][path] for component, path in places})

    def at(self, place: Place) -> float:
        """The number in one layer; 0 in a layer that the adapter does not change."""
        return self.by_place.get(place, 0.0) if self.value is None else self.value

    def copied(self) -> Strength:
        """What the user said, in mappings of its own."""
        return copy.deepcopy(self.given)

    @property
    def acts(self) -> bool:
        """Whether it is not 0 everywhere."""
        return any(self.by_place.values()) if self.value is None else bool(self.value)


def resolve(strength: Strength, modules: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
    """Return the strength of every module: component to module path to number.

    Args:
        strength: one number, a list of block weights, or a mapping as described above.
        modules: component to the paths of the modules that the adapter changes.

    Raises:
        UnknownNameError: if a component, block or pattern names nothing that the adapter changes.
        ConfigError: if a strength is not a finite number, or a list has the wrong length.
    """
    if is_block_weights(strength):
        base = cast("Sequence[Any]", strength)[0]
        strength = {part: base if "text_encoder" in part else strength for part in modules}
    if not isinstance(strength, Mapping):
        value = _number(strength, "the strength")
        return {component: dict.fromkeys(paths, value) for component, paths in modules.items()}
    for component in strength:
        if component not in modules:
            raise UnknownNameError.choose("component", component, modules)
    return {component: _by_module(strength.get(component, 1.0), list(paths)) for component, paths in modules.items()}


def _by_module(spec: Any, paths: list[str]) -> dict[str, float]:
    result = dict.fromkeys(paths, 1.0)
    if is_block_weights(spec) and any(path.startswith(UNET) for path in paths):
        numbers = [_number(value, "a block weight") for value in spec]
        return by_unet_block(numbers, paths)
    _fill(result, spec, "", paths)
    return result


def _fill(result: dict[str, float], spec: Any, prefix: str, paths: list[str]) -> None:
    """Write ``spec`` over the strengths of ``paths``, all of which lie under ``prefix``; later entries win."""
    if isinstance(spec, Mapping):
        for key, inner in cast("Mapping[str, Any]", spec).items():
            if not prefix and key in result and not isinstance(inner, (Mapping, list, tuple)):
                result[key] = _number(inner, f"the strength of {key!r}")  # a module's own path, and no search for it
                continue
            under, chosen = _choose(key, prefix, paths)
            _fill(result, inner, under, chosen)
    elif isinstance(spec, (list, tuple)):
        _fill_list(result, cast("Sequence[Any]", spec), prefix, paths)
    else:
        value = _number(spec, f"the strength of {prefix!r}" if prefix else "the strength")
        result.update(dict.fromkeys(paths, value))


def _fill_list(result: dict[str, float], values: Sequence[Any], prefix: str, paths: list[str]) -> None:
    """Give each numbered block its own number or, inside one block of a UNet, each attention."""
    numbers = by_index(values, prefix, paths)
    if numbers is None:
        _fill_attentions(result, values, prefix, paths)
    else:
        result.update({path: _number(value, f"a strength of {prefix!r}") for path, value in numbers.items()})


def _fill_attentions(result: dict[str, float], values: Sequence[Any], prefix: str, paths: list[str]) -> None:
    """Give each attention of a block its own number; the block's other layers keep what they had."""
    found = sorted(
        {path.removeprefix(f"{prefix}.attentions.").split(".")[0] for path in paths if ".attentions." in path}
    )
    if len(found) != len(values):
        raise ConfigError(
            f"expected {len(found)} strengths for the attentions of {prefix!r}, got {len(values)}: {values}."
        )
    for index, value in zip(found, values, strict=True):
        under = f"{prefix}.attentions.{index}"
        _fill(result, value, under, [path for path in paths if path.startswith(f"{under}.")])


def _choose(key: str, prefix: str, paths: list[str]) -> tuple[str, list[str]]:
    """The path that ``key`` stands for below ``prefix``, and the module paths there."""
    under, chosen = "", list[str]()
    for name in PARTS.get(key, (key.removeprefix("block_"),)):
        under = f"{prefix}.{name}" if prefix else name
        chosen = [path for path in paths if path == under or path.startswith(f"{under}.")]
        if chosen:
            break
    chosen = chosen or [path for path in paths if fnmatchcase(path, key)]
    if not chosen:
        raise UnknownNameError.among_many("block or module", under, paths)
    return under, chosen


def _number(value: Any, what: str) -> float:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
    if not abs(number) <= LARGEST:
        raise ConfigError(f"{what} must be a finite number, got {value!r}.")
    return number
