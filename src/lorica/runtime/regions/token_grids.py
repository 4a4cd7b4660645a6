"""How a picture lies in the tensors of a model: which sequence of tokens is which grid of rows and columns.

A component sees latents ``(B, C, H, W)`` or, of a video, ``(B, C, F, H, W)``; some transformers see them already cut
into tokens, and are told their places beside. What a layer deep inside sees follows: a UNet halves the grid from level
to level, rounding up; a transformer cuts it into patches once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorica.errors import ModelError

# What the forward of a model calls its picture.
PICTURES = ("sample", "hidden_states", "latents", "pixels", "x")

# What it calls its text, which is a sequence of vectors.
TEXTS = ("encoder_hidden_states", "c", "clip")

# Words in the names of models that cut a picture into patches and then halve it too.
HALVING = ("UNet", "DiffNeXt")

# Models whose videos come as (B, F, C, H, W).
FRAMES_BEFORE_CHANNELS = ("CogVideoX", "ConsisID")


@dataclass(frozen=True, slots=True)
class Grid:
    """A picture's tokens in one sequence: row by row, frame after frame, perhaps between others.

    Args:
        frames: how often the rows and columns follow each other.
        rows: of the picture.
        columns: of the picture.
        before: tokens in front of the picture's, such as a text's.
        after: tokens behind the picture's.
    """

    frames: int
    rows: int
    columns: int
    before: int = 0
    after: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens are the picture's."""
        return self.frames * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Canvas:
    """The picture as one forward of a component sees it.

    Args:
        batch: how many pictures (or videos) there are.
        grids: number of tokens in a sequence to the grid that they are.
        text: how many tokens the text has, if it is given as a sequence.
    """

    batch: int
    grids: Mapping[int, Grid] = field(default_factory=dict[int, Grid])
    text: int | None = None

    @property
    def largest(self) -> Grid:
        """The grid with the most tokens."""
        return max(self.grids.values(), key=lambda grid: grid.tokens)

    def sizes(self) -> set[tuple[int, int]]:
        """Return the rows and columns of every grid."""
        return {(grid.rows, grid.columns) for grid in self.grids.values()}


def canvas_of(component: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Canvas | None:
    """Return the picture that a call of a component is about, None if it is about none (a text encoder, a prior).

    Args:
        component: what is called.
        args: what it is called with.
        kwargs: likewise.

    Raises:
        ModelError: if there is a sequence of tokens, but nothing tells where on the picture they lie.
    """
    given = _given(component, args, kwargs)
    picture = _picture(given)
    if isinstance(picture, Tensor) and picture.ndim == 3 and not picture.is_floating_point():
        grids = _levels(*picture.shape[1:])  # a picture of tokens that are numbers in a code book
    elif isinstance(picture, Tensor) and (picture.ndim < 3 or "input_ids" in given or "inputs_embeds" in given):
        return None
    elif isinstance(picture, Tensor) and picture.ndim in (4, 5):
        grids = _of_latents(component, picture)
    elif isinstance(picture, Tensor) and picture.ndim == 3:
        grids = _of_tokens(component, picture.shape[1], given)
    else:
        raise _unknown(component, f"its input is a {type(picture).__name__}")
    return Canvas(len(picture), grids, _text(component, given))


def batch_of(component: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return how many pictures, or texts, a component is called with; None if the call does not tell."""
    picture = _picture(_given(component, args, kwargs))
    if isinstance(picture, Tensor):
        return picture.shape[0] if picture.ndim else None
    return len(cast("Sequence[Any]", picture)) if isinstance(picture, (list, tuple)) else None


def _given(component: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return inspect.signature(component.forward).bind(*args, **kwargs).arguments


def _picture(given: Mapping[str, Any]) -> Any:
    return next((given[name] for name in PICTURES if given.get(name) is not None), next(iter(given.values()), None))


def _text(component: nn.Module, given: Mapping[str, Any]) -> int | None:
    """Return how many tokens the text has, as far as a call tells it."""
    times = _config(component).get("clip_seq")  # Stable Cascade makes so many tokens of each pooled text and picture
    names = {"clip_text": 1, "clip_text_pooled": times, "clip_img": times} if times else dict.fromkeys(TEXTS, 1)
    counts = [
        given[name].shape[1] * repeated
        for name, repeated in names.items()
        if isinstance(given.get(name), Tensor) and given[name].ndim == 3
    ]
    registers: Any = getattr(component, "register_tokens", None)  # AuraFlow's, which stand before the text
    return sum(counts) + (registers.shape[1] if isinstance(registers, Tensor) else 0) if counts else None


def _config(component: nn.Module) -> Mapping[str, Any]:
    config: Any = getattr(component, "config", None)
    return cast("Mapping[str, Any]", config) if isinstance(config, Mapping) else {}


def _of_latents(component: nn.Module, picture: Tensor) -> dict[int, Grid]:
    """Return the grids of latents, which the component cuts into patches or halves from level to level."""
    config = _config(component)
    patch = config.get("patch_size")
    deep, high, wide = _patch(patch or 1, config.get("patch_size_t") or 1)
    rows, columns = (-(-size // cut) for size, cut in zip(picture.shape[-2:], (high, wide), strict=True))
    if patch is None or any(word in type(component).__name__ for word in HALVING):
        return _levels(rows, columns)
    frames = 1 if picture.ndim == 4 else picture.shape[_frames_axis(component)]
    whole = Grid(-(-frames // deep), rows, columns)
    return {rows * columns: Grid(1, rows, columns), whole.tokens: whole}


def _frames_axis(component: nn.Module) -> int:
    return 1 if type(component).__name__.startswith(FRAMES_BEFORE_CHANNELS) else 2


def _patch(patch: Any, deep: int) -> tuple[int, int, int]:
    """Return the frames, rows and columns of one patch."""
    if isinstance(patch, int):
        return deep, patch, patch
    sizes = [int(size) for size in patch]
    return (deep, sizes[-2], sizes[-1]) if len(sizes) < 3 else (sizes[0], sizes[1], sizes[2])


def _levels(rows: int, columns: int) -> dict[int, Grid]:
    """Return a grid and what halving makes of it, by the number of tokens."""
    grids: dict[int, Grid] = {}
    while rows * columns not in grids:
        grids[rows * columns] = Grid(1, rows, columns)
        rows, columns = -(-rows // 2), -(-columns // 2)
    return grids


def _of_tokens(component: nn.Module, count: int, given: Mapping[str, Any]) -> dict[int, Grid]:
    """Return the grid of tokens whose places are told beside them."""
    if isinstance(given.get("img_ids"), Tensor):
        grid = _of_places(component, given["img_ids"])
    elif given.get("img_shapes"):
        shape: Any = given["img_shapes"][0]
        frames, rows, columns = shape[0] if isinstance(shape[0], (tuple, list)) else shape
        grid = Grid(frames, rows, columns)
    elif isinstance(given.get("height"), int) and isinstance(given.get("width"), int):
        grid = Grid(given.get("num_frames") or 1, given["height"], given["width"])
    else:
        raise _unknown(component, f"its input is a sequence of {count} tokens, and nothing tells where they lie")
    if grid.tokens > count:
        raise _unknown(component, f"its input has {count} tokens for a grid of {grid.rows} x {grid.columns}")
    return {count: Grid(grid.frames, grid.rows, grid.columns, after=count - grid.tokens)}


def _of_places(component: nn.Module, places: Tensor) -> Grid:
    """Return the grid of tokens from their places ``(..., tokens, (picture, row, column, ...))``.

    Tokens of further pictures, which are there to look at, stand behind those of the picture that is made.
    """
    ids = places.reshape(-1, *places.shape[-2:])[0].detach().cpu()
    own = ids[ids[:, 0] == ids[0, 0]]
    rows, columns = (int(own[:, axis].max()) + 1 for axis in (1, 2))
    down, across = (torch.arange(size, device="cpu") for size in (rows, columns))
    expected = torch.stack([down.repeat_interleave(columns), across.repeat(rows)], dim=1)
    if len(own) != rows * columns or not torch.equal(ids[: len(own), 1:3].long(), expected):
        raise _unknown(component, f"the {len(own)} places of its tokens are not those of a grid, row by row")
    return Grid(1, rows, columns)


def _unknown(component: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"adapters cannot be limited to a region in this {type(component).__name__}: {why}. End the regions with "
        "loras.regions({}), or give the adapter that changes this model no mask."
    )
