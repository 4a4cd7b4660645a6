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
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lorica.errors import ModelError, StateError
from lorica.runtime.bank.products import is_channels_second
from lorica.runtime.model.owner import owner_of
from lorica.runtime.regions.masks import shrunk
from lorica.runtime.regions.picture_layers import Side, side_of
from lorica.runtime.regions.token_grids import Canvas, Grid, canvas_of

if TYPE_CHECKING:
    from lorica.runtime.bank.bank import Bank, Part
    from lorica.runtime.banks import Banks


class Passage(threading.local):
    """What one thread's forward has met so far."""

    def __init__(self) -> None:
        self.canvases: dict[nn.Module, Canvas | None] = {}
        self.asked: set[str] = set()
        self.limited: set[str] = set()


class Bounds:
    """The masks of one model's adapters, and what stands in its forwards while there are any.

    Args:
        acting: returns the adapters whose strength is not 0 everywhere.
    """

    def __init__(self, acting: Callable[[], Collection[str]]) -> None:
        self.masks: dict[str, Tensor] = {}
        self.elsewhere = 1.0
        self._acting = acting
        self._passage = Passage()
        self._lines: dict[tuple[str, Grid, torch.device], Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._limits: list[Bank] = []
        self._held: object = None

    def set(self, masks: Mapping[str, Tensor], elsewhere: float) -> None:
        """Take these masks in the place of any others; :meth:`stand` lets them act."""
        self.masks, self.elsewhere = dict(masks), elsewhere
        self._lines, self._held = {}, None

    def forget(self, name: str) -> None:
        """Drop the mask of an adapter that is gone."""
        if name in self.masks:
            self.set({other: mask for other, mask in self.masks.items() if other != name}, self.elsewhere)

    def check_free(self, names: Iterable[str]) -> None:
        """Raise if one of these adapters is limited to a region.

        Raises:
            StateError: if so.
        """
        for name in names:
            if name in self.masks:
                raise StateError(
                    f"{name!r} is limited to a region, and inside the weights it would act everywhere. Leave it live, "
                    "or end its region first with loras.regions({})."
                )

    def stand(self, components: Mapping[str, nn.Module], banks: Banks) -> None:
        """Stand in the forwards of what masked adapters change, as far as banks hold them now."""
        if banks.plans is self._held or not (self.masks or self._limits or self._handles):
            return
        self._leave()
        self._held, held = banks.plans, banks.held
        places = {place for name in self.masks for place in banks.plans.get(name, ())}
        for part in {place[0] for place in places}:
            self._handles.append(components[part].register_forward_pre_hook(_before, with_kwargs=True))
            self._handles.append(components[part].register_forward_hook(_after))
        for part, path in places & held.keys():
            bank = held[part, path]
            self._limits.append(bank)
            bank.limit = Limit(self, components[part], path)

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        for bank in self._limits:
            bank.limit = None
        self._handles, self._limits = [], []

    def before(self, component: nn.Module, args: Any, kwargs: Any) -> None:
        """Begin a forward: look at the picture."""
        passage = self._passage
        passage.canvases[component] = canvas_of(component, args, kwargs)
        passage.asked, passage.limited = set(), set()

    def after(self, component: nn.Module) -> None:
        """End a forward.

        Raises:
            ModelError: if an adapter with a mask acted, and none of its layers was limited.
        """
        passage = self._passage
        canvas = passage.canvases.pop(component, None)
        free = sorted((passage.asked - passage.limited) & set(self._acting()))
        if canvas is not None and free:
            raise ModelError(
                f"the mask of {free[0]!r} limits nothing: no layer that the adapter changes in this "
                f"{type(component).__name__} acts on the picture itself, only on the text or the time. Give it no mask."
            )

    def canvas(self, component: nn.Module) -> Canvas | None:
        """Return the picture of the forward that runs.

        Raises:
            StateError: if none runs, because a part of the component was called by itself.
        """
        if component not in self._passage.canvases:
            raise StateError(
                f"a part of this {type(component).__name__} was called by itself, so the size of the picture is not "
                "known, and adapters cannot be limited to a region. Call the whole model, or end the regions with "
                "loras.regions({})."
            )
        return self._passage.canvases[component]

    def note(self, names: Iterable[str], *, limited: bool) -> None:
        """Note that a layer was asked for these adapters, and whether it has a place for masks."""
        self._passage.asked.update(names)
        if limited:
            self._passage.limited.update(names)

    def line(self, name: str, grid: Grid, device: torch.device) -> Tensor:
        """Return what the strength of an adapter is multiplied by at each token of a sequence."""
        key = (name, grid, device)
        if key not in self._lines:
            plane = shrunk(self.masks[name], grid.rows, grid.columns).flatten().repeat(grid.frames)
            around = (plane.new_full((count,), self.elsewhere) for count in (grid.before, grid.after))
            before, after = around
            self._lines[key] = torch.cat([before, plane, after]).to(device)
        return self._lines[key]


class Regions:
    """The regions that :meth:`Loras.regions` set. At the end of a ``with`` block those before hold again.

    Args:
        put: sets masks and what is multiplied elsewhere, at the caller's turn.
        before: what held until now.
    """

    def __init__(
        self, put: Callable[[Mapping[str, Tensor], float], None], before: tuple[dict[str, Tensor], float]
    ) -> None:
        self._put, self._before = put, before

    def __enter__(self) -> Regions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._put(*self._before)


class Limit:
    """Where the adapters on one layer act.

    Args:
        bounds: the masks.
        component: what the layer is a part of.
        path: the layer's, there.
    """

    def __init__(self, bounds: Bounds, component: nn.Module, path: str) -> None:
        self._bounds, self._component, self._path = bounds, component, path
        self._side = side_of(component, path)

    def factors(self, layer: nn.Module, parts: Iterable[Part], y: Tensor) -> dict[str, Tensor]:
        """Return what the strength of each adapter with a mask is multiplied by, to be spread over ``y``.

        Raises:
            StateError: in a graph that is being compiled.
            ModelError: if a sequence of tokens cannot be told from a picture.
        """
        if torch.compiler.is_compiling():
            raise StateError(COMPILED)
        held = {name for part in parts for name in part.slots}
        names = [name for name in self._bounds.masks if name in held]
        canvas = self._bounds.canvas(self._component)
        spot = None if canvas is None else self._spot(canvas, layer, y)
        self._bounds.note(names, limited=spot is not None)
        return {name: self._factor(name, spot, y) for name in names}

    def _factor(self, name: str, spot: tuple[Grid, tuple[int, ...]] | None, y: Tensor) -> Tensor:
        """Return what the strength is multiplied by, shaped to be spread over ``y``."""
        if spot is None:
            return torch.full([1] * y.ndim, self._bounds.elsewhere, dtype=torch.float32, device=y.device)
        grid, shape = spot
        line = self._bounds.line(name, grid, y.device)
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
    bounds = _bounds_of(component)
    if bounds is not None and not torch.compiler.is_compiling():
        bounds.before(component, args, kwargs)


def _after(component: nn.Module, args: Any, output: Any) -> None:
    del args, output
    bounds = _bounds_of(component)
    if bounds is not None and not torch.compiler.is_compiling():
        bounds.after(component)


def _bounds_of(component: nn.Module) -> Bounds | None:
    owner = owner_of(component)
    return None if owner is None or owner.loras is None else owner.loras.bounds
