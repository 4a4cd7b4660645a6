"""Adapters named inside a prompt, in the syntax of A1111: ``a cat <lora:ikea:0.7> <lora:feng:0.8@0-0.5>``.

``<lora:NAME>`` is strength 1, ``<lora:NAME:X>`` is X, ``<lora:NAME:T:U>`` is T for the text encoders and U for the
denoiser. The same by name: ``te=T``, ``unet=U``; ``dyn=N`` keeps the first N of the ranks; ``lbw=1,0,...`` multiplies
the strength of each block of a UNet (see blocks.py). ``@START-END`` at the end is a window: the denoiser has the
adapter from START to END, fractions of the steps; text encoders, which run before the first step, have it throughout.
``<lyco:...>`` is the same as ``<lora:...>``. A name that stands twice adds up.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from lorica.errors import ConfigError
from lorica.runtime.blocks import LAYOUTS
from lorica.runtime.pipeline.schedule import Shape

_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
_WINDOW = re.compile(r"^(?P<head>.*)@(?P<start>[\d.]*)-(?P<end>[\d.]*)$", re.DOTALL)
KEYS = ("te", "unet", "dyn", "lbw")
FORMS = (
    "<lora:name>, <lora:name:0.7>, <lora:name:0.5:0.8>, <lora:name:te=0.5:unet=0.8:dyn=4>, <lora:name:0.7@0-0.5>, "
    "<lora:name:0.7:lbw=1,0,0,...>"
)


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag of a prompt.

    Args:
        name: the adapter's.
        text: strength in the text encoders.
        unet: strength in the denoiser.
        start: where its window begins, as a fraction of the steps.
        end: where it ends.
        ranks: how many of its ranks are kept; None for all.
        blocks: what the strength is multiplied by in each block of a UNet, the first for the text encoders.
    """

    name: str
    text: float = 1.0
    unet: float = 1.0
    start: float = 0.0
    end: float = 1.0
    ranks: int | None = None
    blocks: tuple[float, ...] | None = None

    @property
    def windowed(self) -> bool:
        """Whether it holds for a part of the steps only."""
        return (self.start, self.end) != (0.0, 1.0)

    @property
    def strengths(self) -> str:
        """Its strengths as they are written in a tag: one number if both are the same."""
        return f"{self.unet:g}" if self.text == self.unet else f"{self.text:g}:{self.unet:g}"

    def times(self, factor: float) -> Tag:
        """The same with both strengths multiplied."""
        return replace(self, text=self.text * factor, unet=self.unet * factor)

    @property
    def course(self) -> Shape:
        """The strength in the denoiser over the steps."""
        return Shape("constant", self.unet, start=self.start, end=self.end)


def parse_tags(prompt: str) -> tuple[str, list[Tag]]:
    """Return the prompt without its tags, and the tags.

    Raises:
        ConfigError: if a tag cannot be read; it quotes the tag and shows the forms.
    """
    tags = [_parse(found.group(0), found.group(1)) for found in _TAG.finditer(prompt)]
    if not tags:
        return prompt, []
    return re.sub(r"[ \t]{2,}", " ", _TAG.sub("", prompt)).strip(), tags


def _parse(tag: str, body: str) -> Tag:
    name, colon, options = body.partition(":")
    window = None if colon else _WINDOW.match(name)
    if window:
        name, options = window["head"], name.removeprefix(window["head"])
    if not name.strip() or (colon and not options):
        raise ConfigError(f"{tag} cannot be read: something is missing. Its forms are {FORMS}.")
    return read_tag(tag, name.strip(), options)


def read_tag(shown: str, name: str, options: str) -> Tag:
    """Tag of an adapter from all that stands behind its name, such as ``0.7:lbw=1,0,...@0-0.5``.

    Args:
        shown: the whole as it was typed, for messages.
        name: the adapter's.
        options: the strengths, options and window; empty for strength 1.

    Raises:
        ConfigError: if it cannot be read.
    """
    window = _WINDOW.match(options)
    start, end = (window["start"], window["end"]) if window else ("", "")
    head = window["head"] if window else options
    parts = head.split(":") if head else []
    positional = [part for part in parts if "=" not in part]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(positional) > 2 or not named.keys() <= set(KEYS):
        raise ConfigError(f"{shown} cannot be read. Its forms are {FORMS}.")
    text = _number(shown, named.get("te", positional[0] if positional else "1"))
    fallback = positional[1] if len(positional) > 1 else positional[0] if positional else named.get("te", "1")
    unet = _number(shown, named.get("unet", fallback))
    ranks = _ranks(shown, named["dyn"]) if "dyn" in named else None
    begin, finish = _number(shown, start or "0"), _number(shown, end or "1")
    if not 0.0 <= begin < finish <= 1.0:
        raise ConfigError(f"the window of {shown} must lie inside 0 to 1 and begin before it ends.")
    blocks = _blocks(shown, named["lbw"]) if "lbw" in named else None
    return Tag(name, text, unet, begin, finish, ranks, blocks)


def _number(tag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{tag} has {text!r} where a number is expected. Its forms are {FORMS}.")
    return value


def _ranks(tag: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{tag} has dyn={text}; it is how many ranks to keep, a whole number from 1.")
    return int(text)


def _blocks(tag: str, text: str) -> tuple[float, ...]:
    parts = text.split(",")
    if len(parts) not in LAYOUTS:
        sizes = ", ".join(f"{size} for {layout.family}" for size, layout in LAYOUTS.items())
        raise ConfigError(
            f"{tag} cannot be read: lbw= takes a number for each block, with commas between ({sizes}), got "
            f"{len(parts)}: {text!r}. Named presets are not known here."
        )
    return tuple(_number(tag, part) for part in parts)
