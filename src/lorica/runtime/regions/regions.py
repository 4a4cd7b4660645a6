"""Adapters limited to regions of the picture: a strength for each of its tokens or points.

``y = layer(x) + ((x . down^T) * strength * mask) . up^T``, the mask shrunk to the grid of the layer's output. For each
layer by itself this is the adapter at the tokens inside and the base at those outside, exactly. Attention then mixes
tokens, so what lies inside still reaches what lies outside, through the base's own weights.

A layer whose output is no picture has no place for a mask: it takes the adapter at its strength times ``elsewhere``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lorica.errors import ModelError, StateError
from lorica.runtime.bank.bank import PointFactors
from lorica.runtime.bank.formula import is_channels_second
from lorica.runtime.model.layers import Place, has_hook, remove_hook
from lorica.runtime.model.owner import owner_of
from lorica.runtime.regions.masks import shrunk
from lorica.runtime.regions.picture_layers import Side, side_of
from lorica.runtime.regions.token_grids import Canvas, Grid, canvas_of


class Limitable(Protocol):
    """A bank, as the regions see it."""

    limit: PointFactors | None


class ThreadPictures(threading.local):
    """What one thread's forward has met so far: its pictures, the adapters asked for, and those that were limited."""

    def __init__(self) -> None:
        self.canvases: dict[nn.Module, Canvas | None] = {}
        self.asked: set[str] = set()
        self.limited: set[str] = set()


class RegionLimits:
    """The masks of one model's adapters, and what stands in its forwards while there are any.

    Args:
        acting: the adapters whose strength is not 0 everywhere.
    """

    def __init__(self, acting: Callable[[], Collection[str]]) -> None:
        self.masks: Mapping[str, Tensor] = {}
        self.elsewhere = 1.0
        self._acting = acting
        self._here = ThreadPictures()
        self._lines: dict[tuple[str, Grid, torch.device], Tensor] = {}
        self._limited: list[tuple[nn.Module, Limitable]] = []

    def put(
        self,
        masks: Mapping[str, Tensor],
        elsewhere: float,
        components: Mapping[str, nn.Module],
        banks: Mapping[Place, Limitable],
    ) -> None:
        """Limit banks to these masks, in the place of any others.

        Args:
            masks: adapter to mask.
            elsewhere: what strengths are multiplied by in layers that do not act on the picture itself.
            components: the model's parts.
            banks: those that hold a masked adapter.
        """
        if not (banks or self._limited):
            self.masks, self.elsewhere = masks, elsewhere
            return
        for component, bank in self._limited:
            remove_hook(component, _before)
            remove_hook(component, _after)
            bank.limit = None
        self.masks, self.elsewhere, self._lines, self._limited = masks, elsewhere, {}, []
        for (part, path), bank in banks.items():
            component = components[part]
            self._limited.append((component, bank))
            bank.limit = LayerLimit(self, component, path)
            if not has_hook(component, _before):
                component.register_forward_pre_hook(_before, with_kwargs=True)
                component.register_forward_hook(_after)

    def before(self, component: nn.Module, args: Any, kwargs: Any) -> None:
        """Begin a forward: look at the picture."""
        here = self._here
        here.canvases[component] = canvas_of(component, args, kwargs)
        here.asked, here.limited = set(), set()

    def after(self, component: nn.Module) -> None:
        """End a forward.

        Raises:
            ModelError: if an adapter with a mask acted, and none of its layers was limited.
        """
        here = self._here
        canvas = here.canvases.pop(component, None)
        free = sorted((here.asked - here.limited) & set(self._acting()))
        if canvas is not None and free:
            raise ModelError(
                f"the mask of {free[0]!r} limits nothing: no layer that the adapter changes in this "
                f"{type(component).__name__} acts on the picture itself, only on the text or the time. Give it no mask."
            )

    def canvas(self, component: nn.Module) -> Canvas | None:
        """The picture of the forward that runs.

        Raises:
            StateError: if none runs, because a part of the component was called by itself.
        """
        if component not in self._here.canvases:
            raise StateError(
                f"a part of this {type(component).__name__} was called by itself, so the size of the picture is not "
                "known, and adapters cannot be limited to a region. Call the whole model, or end the regions with "
                "loras.regions({})."
            )
        return self._here.canvases[component]

    def note(self, names: Iterable[str], *, limited: bool) -> None:
        """Record that a layer was asked for these adapters, and whether it has a place for masks."""
        self._here.asked.update(names)
        if limited:
            self._here.limited.update(names)

    def line(self, name: str, grid: Grid, device: torch.device) -> Tensor:
        """Factor on the strength of an adapter at each token of a sequence."""
        key = (name, grid, device)
        if key not in self._lines:
            plane = shrunk(self.masks[name], grid.rows, grid.columns).flatten().repeat(grid.frames)
            around = (plane.new_full((count,), self.elsewhere) for count in (grid.before, grid.after))
            before, after = around
            self._lines[key] = torch.cat([before, plane, after]).to(device)
        return self._lines[key]


class LayerLimit:
    """Where the adapters on one layer act.

    Args:
        limits: the masks.
        component: what the layer is a part of.
        path: the layer's, there.
    """

    def __init__(self, limits: RegionLimits, component: nn.Module, path: str) -> None:
        self._limits, self._component, self._path = limits, component, path
        self._side = side_of(component, path)

    def factors(self, layer: nn.Module, names: list[str], y: Tensor) -> dict[str, Tensor]:
        """Factor on the strength of each adapter with a mask, shaped to spread over ``y``.

        Args:
            layer: what the bank stands on.
            names: the adapters that it holds.
            y: its output.

        Raises:
            StateError: in a graph that is being compiled.
            ModelError: if a sequence of tokens cannot be told from a picture.
        """
        if torch.compiler.is_compiling():
            raise StateError(COMPILED)
        masked = [name for name in self._limits.masks if name in names]
        canvas = self._limits.canvas(self._component)
        spot = None if canvas is None else self._spot(canvas, layer, y)
        self._limits.note(masked, limited=spot is not None)
        return {name: self._factor(name, spot, y) for name in masked}

    def _factor(self, name: str, spot: tuple[Grid, tuple[int, ...]] | None, y: Tensor) -> Tensor:
        """Factor on a strength, shaped to spread over ``y``."""
        if spot is None:
            return torch.full([1] * y.ndim, self._limits.elsewhere, dtype=torch.float32, device=y.device)
        grid, shape = spot
        line = self._limits.line(name, grid, y.device)
        return line.repeat(y.shape[0] // len(line) if shape[0] != 1 else 1).view(shape)

    def _spot(self, canvas: Canvas, layer: nn.Module, y: Tensor) -> tuple[Grid, tuple[int, ...]] | None:
        """Return the grid on the output of the layer, and the shape that spreads its tokens over it."""
        if self._side is Side.MINGLED:
            return self._refuse(canvas, y.shape[0])
        if self._side is Side.CONDITION or y.ndim < 3:
            return None
        ones = [1] * y.ndim
        if self._side is Side.TIME and y.ndim == 3:
            grid = next((one for one in canvas.grids.values() if one.tokens * canvas.batch == len(y)), None)
            return (grid, (len(y), 1, 1)) if grid else self._refuse(canvas, y.shape[0])
        if is_channels_second(layer) and y.ndim > 3:
            return Grid(1, *y.shape[-2:]), (*ones[:-2], *y.shape[-2:])
        if y.ndim > 3 and tuple(y.shape[-3:-1]) in canvas.sizes():
            return Grid(1, *y.shape[-3:-1]), (*ones[:-3], *y.shape[-3:-1], 1)
        axes = [2] if is_channels_second(layer) else list(range(1, y.ndim - 1))
        found = {axis: grid for axis in axes if (grid := self._sequence(canvas, y.shape[axis])) is not None}
        if found:
            axis, grid = max(found.items(), key=lambda item: item[1].tokens)  # and not the heads of an attention
            return grid, tuple(y.shape[axis] if place == axis else 1 for place in range(y.ndim))
        if y.shape[axes[0]] in (1, canvas.text):
            return None
        return self._refuse(canvas, y.shape[axes[0]])

    def _sequence(self, canvas: Canvas, count: int) -> Grid | None:
        """Return the grid that a sequence of this many tokens is, or holds beside the text."""
        if count in canvas.grids:
            return canvas.grids[count]
        own = canvas.grids.get(count - (canvas.text or 0))
        if own is None or self._side not in (Side.TEXT_THEN_PICTURE, Side.PICTURE_THEN_TEXT) or count == canvas.text:
            return None
        text = count - own.before - own.tokens - own.after
        if self._side is Side.TEXT_THEN_PICTURE:
            return replace(own, before=own.before + text)
        return replace(own, after=own.after + text)

    def _refuse(self, canvas: Canvas, count: int) -> None:
        known = ", ".join(f"{count} ({grid.rows} x {grid.columns})" for count, grid in canvas.grids.items())
        raise ModelError(
            f"adapters cannot be limited to a region in this {type(self._component).__name__}: {self._path} gives a "
            f"sequence of {count}, and it is not known where the picture stands in it; the picture's own have {known}. "
            "Give the adapter no mask, or a strength of 0 there."
        )


COMPILED = (
    "adapters cannot be limited to a region inside a compiled model: its graphs hold no sizes of pictures. Run it with "
    "torch.compiler.set_stance('force_eager') while regions hold, or end them with loras.regions({})."
)


def _before(component: nn.Module, args: Any, kwargs: Any) -> None:
    if not torch.compiler.is_compiling() and (owner := owner_of(component)) is not None:
        owner.regions.before(component, args, kwargs)


def _after(component: nn.Module, args: Any, output: Any) -> None:
    del args, output
    if not torch.compiler.is_compiling() and (owner := owner_of(component)) is not None:
        owner.regions.after(component)
