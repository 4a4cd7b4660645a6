"""``lorica.prompt``: adapters as tags of a prompt, applied while a picture is made and then taken off again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from lorica.adapters import Adapter, AdapterLayer, LoRA
from lorica.errors import ConfigError, ModelError
from lorica.formats import read
from lorica.runtime.attach import attach
from lorica.runtime.loras import Loras
from lorica.runtime.pipeline.schedule import ByModule, Shape, Sum
from lorica.runtime.prompt.lookup import checked_folder, find_adapter
from lorica.runtime.prompt.tags import Tag, parse_tags
from lorica.runtime.strengths import UNET, resolve


def prompt(pipe: Any, text: str, folder: str | Path | None = None) -> Prompted:
    """Read the adapters named in a prompt as tags, for one picture or as long as a ``with`` block lasts.

    ``lorica.prompt(pipe, "a cat <lora:ikea:0.7>", folder="loras")(num_inference_steps=20)`` calls the pipeline;
    ``with lorica.prompt(pipe, ...) as text: pipe(text)`` does the same step by step. Adapters that are live stay so
    beside those of the tags. Nothing is loaded before it is applied.

    Args:
        pipe: a diffusers pipeline.
        text: the prompt; :mod:`lorica.runtime.prompt.tags` lists the forms of a tag.
        folder: where files are looked for, also in its folders: by file name, by path (``sub/name``), by the folder's
            name or by the title that the trainer left in the file. Adapters that are loaded are found without it.

    Raises:
        ConfigError: if a tag cannot be read.
        FileError: if there is no such folder.
    """
    return Prompted(pipe, text, None if folder is None else checked_folder(folder))


class Prompted:
    """A prompt with its adapters; made by :func:`prompt`.

    Args:
        pipe: a diffusers pipeline.
        text: the prompt with its tags; the attribute ``text`` is without them.
        folder: where files are looked for.
    """

    def __init__(self, pipe: Any, text: str, folder: Path | None) -> None:
        self.text, self.tags = parse_tags(text)
        self._pipe, self._folder = pipe, folder
        self._stack = ExitStack()

    def __call__(self, **given: Any) -> Any:
        """Call the pipeline with the bare prompt and these arguments, the adapters applied."""
        with self as text:
            return self._pipe(prompt=text, **given)

    def __enter__(self) -> str:
        """Apply the adapters and return the bare prompt.

        Raises:
            UnknownNameError: if a tag names no adapter; it lists those that there are.
            ConfigError: if a tag names several.
            LoRAError: if a file cannot be read or does not fit. The model is unchanged after any error.
        """
        if self.tags:
            with ExitStack() as stack:
                apply_tags(stack, attach(self._pipe), self.tags, self._folder)
                self._stack = stack.pop_all()
        return self.text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the adapters off that were loaded, and restore the strengths."""
        self._stack.__exit__(kind, error, trace)


def apply_tags(stack: ExitStack, loras: Loras, tags: Sequence[Tag], folder: Path | None) -> None:
    """Make the adapters of these tags live beside those that are, until the stack is closed."""
    by_name: dict[tuple[str, int | None], list[Tag]] = {}
    for tag in tags:
        by_name.setdefault((tag.name, tag.ranks), []).append(tag)
    values = {key: _adapter(loras, *key, folder) for key in by_name}  # all are read before anything changes
    before = loras.strengths
    stack.enter_context(loras.using(before))
    applied = {_load(stack, loras, *key, values[key]): found for key, found in by_name.items()}
    weights = {name: [_weights(name, loras.modules(name), tag) for tag in found] for name, found in applied.items()}
    loras.set({**before, **{name: _strengths(found, weights[name]) for name, found in applied.items()}})
    windowed = {name: found for name, found in applied.items() if any(tag.windowed for tag in found)}
    courses = {name: _courses(found, weights[name]) for name, found in windowed.items()}
    if courses:
        stack.enter_context(loras.schedule(courses))


def _adapter(loras: Loras, name: str, ranks: int | None, folder: Path | None) -> Adapter:
    known = loras.names
    adapter = loras[name] if name in known else read(find_adapter(folder, name, known), target=loras.target())
    return adapter if ranks is None else truncated(adapter, ranks, name)


def _load(stack: ExitStack, loras: Loras, name: str, ranks: int | None, adapter: Adapter) -> str:
    """Return the name of a tag's adapter; unless it is loaded already, it is now, until the stack is closed."""
    label = name if ranks is None else f"{name} (dyn={ranks})"
    if label not in loras.names:
        loras.load(adapter, name=label)
        stack.callback(loras.remove, label)
    return label


Weights = dict[str, dict[str, float]]  # component to module to what the strength of a tag is multiplied by


def _weights(name: str, modules: Mapping[str, list[str]], tag: Tag) -> Weights:
    """Factors on a tag's strength in each module, by its block weights: 1 without them.

    Raises:
        ConfigError: if the list is for another model's blocks.
    """
    if tag.blocks is None:
        return {part: dict.fromkeys(paths, 1.0) for part, paths in modules.items()}
    for part, paths in modules.items():
        if "text_encoder" not in part and not any(path.startswith(UNET) for path in paths):
            raise ConfigError(f"lbw= names the blocks of a UNet, but {name!r} changes the component {part!r}.")
    try:
        return resolve(tag.blocks, modules)
    except ConfigError as error:
        raise ConfigError(f"lbw= of <lora:{tag.name}>: {error}") from error


def _strengths(tags: Sequence[Tag], weights: Sequence[Weights]) -> dict[str, Any]:
    """Return the strength of each component, or of each of its modules where tags have block weights."""
    found: dict[str, Any] = {}
    for part in weights[0]:
        shapes = [Shape("constant", tag.text if "text_encoder" in part else tag.unet) for tag in tags]
        whole = sum(shape.first for shape in shapes)
        found[part] = whole if _is_plain(tags) else _by_module(shapes, weights, part).first
    return found


def _courses(tags: Sequence[Tag], weights: Sequence[Weights]) -> dict[str, Any]:
    """Return the schedule of each component: text encoders keep their strengths."""
    found: dict[str, Any] = _strengths(tags, weights)
    for part in weights[0]:
        if "text_encoder" not in part:
            shapes = [tag.course for tag in tags]
            found[part] = Sum(tuple(shapes)) if _is_plain(tags) else _by_module(shapes, weights, part)
    return found


def _is_plain(tags: Sequence[Tag]) -> bool:
    return all(tag.blocks is None for tag in tags)


def _by_module(shapes: Sequence[Shape], weights: Sequence[Weights], part: str) -> ByModule:
    return ByModule(tuple((shape, one[part]) for shape, one in zip(shapes, weights, strict=True)))


def truncated(adapter: Adapter, ranks: int, name: str) -> Adapter:
    """Return an adapter with the first ranks only, each as strong as it was.

    Raises:
        ModelError: if a layer is of a kind whose ranks are not rows of factors.
    """
    parts = {
        part: {path: _truncate(layer, ranks, f"{name}: {part}.{path}") for path, layer in layers.items()}
        for part, layers in adapter.components.items()
    }
    return replace(adapter, components=parts)


def _truncate(layer: AdapterLayer, ranks: int, where: str) -> AdapterLayer:
    if not isinstance(layer, LoRA):
        raise ModelError(f"{where} is of kind {layer.kind!r}; dyn= keeps the first ranks of a plain LoRA only.")
    if ranks >= layer.rank:
        return layer
    down, up = layer.tensors["down"][:ranks], layer.tensors["up"][:, :ranks]
    return LoRA(down, up, layer.alpha * ranks / layer.rank, bias=layer.tensors.get("bias"))
