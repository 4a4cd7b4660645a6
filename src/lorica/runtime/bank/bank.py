"""The bank: all adapters on one layer, as a child of that layer, and the forward hook that adds what they change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from lorica.errors import StateError
from lorica.runtime.bank.active_rows import ActiveRows
from lorica.runtime.bank.batch import context, for_batch, for_compiled_batch
from lorica.runtime.bank.content import Content
from lorica.runtime.bank.fast import add, add_apart, has_fast_form
from lorica.runtime.bank.formula import along, change, is_channels_second
from lorica.runtime.bank.strength_table import StrengthTable
from lorica.runtime.model.layers import BANK, has_hook, remove_hook

# How layers whose output is a new tensor compute it; a class of its own may give its input, or what it keeps.
FRESH = frozenset((nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Embedding.forward))


class PointFactors(Protocol):
    """What limits adapters to regions: it gives a factor for each point of a layer's output."""

    def factors(self, layer: nn.Module, names: list[str], y: Tensor) -> Mapping[str, Tensor]:
        """What the strength of each limited adapter is multiplied by, shaped to spread over ``y``."""
        ...


class Bank(nn.Module):
    """All adapters on one layer, and what they add to its output.

    Its tensors follow the layer through ``.to()``, but they are no buffers: so they never enter a ``state_dict``, and
    offload hooks, which would take them away while strengths are written, do not see them.

    Args:
        layer: what it stands on.
        content: what it holds at first.
        table: where its strengths stand.
        axes: how many the layer's output has with its batch axis at least; see :func:`axes_of`.
        training: whether the layer is being trained.
    """

    content: Content
    table: StrengthTable
    strength: Tensor  # (1 or samples, width), a view of the table on this device
    axes: int
    start: int  # where it begins in the table
    batch_layout: Tensor  # for compiled graphs: see for_compiled_batch
    limit: PointFactors | None  # where on the picture its adapters act, if not everywhere
    _seen: int  # the version of the strengths that what follows was made for
    _active: ActiveRows | None
    _layer: tuple[nn.Module]  # in a tuple, so that the layer does not become a child of its own bank

    def __init__(self, layer: nn.Module, content: Content, table: StrengthTable, *, axes: int, training: bool) -> None:
        super().__init__()
        # in one step, which is quicker than one by one
        vars(self).update(_layer=(layer,), table=table, training=training, limit=None, axes=axes)
        self.hold(content)

    @property
    def layer(self) -> nn.Module:
        """What it stands on."""
        return self._layer[0]

    def hold(self, content: Content) -> None:
        """Hold something else from now on."""
        vars(self).update(content=content, _seen=-1, _active=None)

    def read_from(self, start: int, strength: Tensor, batch_layout: Tensor) -> None:
        """Take strengths ``(rows, width)`` from now on, which begin at ``start`` in the table."""
        vars(self).update(start=start, strength=strength, batch_layout=batch_layout, _seen=-1)

    def put_on(self) -> None:
        """Make it a child of its layer, and register the hook."""
        setattr(self.layer, BANK, self)
        if not has_hook(self.layer, serve):
            self.layer.register_forward_hook(serve, with_kwargs=True)

    def take_off(self) -> None:
        """Leave nothing behind on the layer."""
        remove_hook(self.layer, serve)
        if BANK in self.layer._modules:  # pyright: ignore[reportPrivateUsage]
            delattr(self.layer, BANK)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``y``, the layer's own output for ``x``, with what the adapters add."""
        layer = self._layer[0]
        if torch.compiler.is_compiling():
            return self._in_graph(layer, x, y)
        if context.called is not None:
            context.called.add(id(layer))
        if self._seen != self.table.version:
            self._look()
        active = self._active
        if active is None:
            return y
        if x.device != y.device or self.content.down.device != y.device:  # CPU offload: it computes elsewhere
            self._move(partial(Tensor.to, device=y.device))
            return self.forward(x.to(y.device), y)
        if y.ndim < self.axes:  # one sample, without a batch axis
            return self.forward(x[None], y[None])[0]
        return self._eager(active, layer, x, y)

    def _eager(self, active: ActiveRows, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The rows and direct changes that act."""
        if self.limit is not None:
            return self._within(active, layer, x, y, self.limit)
        changed = y
        for column in active.directs:
            direct = self.content.directs[column - len(self.content.down)][1]
            scale = for_batch(active.strength[:, column : column + 1], len(x), active.guidance)
            changed = changed + _scaled(direct.change(layer, x, y, own=_is_own(layer)), scale, layer, y)
        if not active.slots:
            return changed
        quick = not torch.is_grad_enabled() and x.dtype is y.dtype and x.dtype is active.down.dtype
        if quick and changed is y:  # in place only into a new tensor that nobody else has
            quick = type(layer).forward in FRESH and "forward" not in vars(layer) and _is_own(layer)
        if quick and active.apart is not None and has_fast_form(layer):
            return add_apart(layer, x, changed, active.apart, active.guidance)
        strength = active.row_strength
        if isinstance(strength, Tensor):
            strength = for_batch(strength, len(x), active.guidance)
        return (add if quick else change)(layer, x, changed, active.down, active.up, strength)

    def _within(self, active: ActiveRows, layer: nn.Module, x: Tensor, y: Tensor, limit: PointFactors) -> Tensor:
        """The same with a factor for each point of the output."""
        content, last = self.content, not is_channels_second(layer)
        factors = limit.factors(layer, list(content.held), y)
        rows = for_batch(active.strength, len(x), active.guidance)
        changed = y
        for column in active.directs:
            name, direct = content.directs[column - len(content.down)]
            added = _scaled(direct.change(layer, x, y, own=_is_own(layer)), rows[:, column : column + 1], layer, y)
            changed = changed + (added * factors[name] if name in factors else added)
        if not active.slots:
            return changed
        first, stop = active.span
        field = cast("Tensor", along(rows[:, first:stop], y.ndim, last=last))  # (1 or b, *ones, R), or (.., R, *ones)
        field = field.expand(torch.broadcast_shapes(field.shape, *(one.shape for one in factors.values()))).clone()
        for name, factor in factors.items():
            own = content.rows.get(name)
            if own is not None and first <= own.start < stop:
                field.narrow(-1 if last else 1, own.start - first, own.stop - own.start).mul_(factor)
        return change(layer, x, changed, content.down[first:stop], content.up[:, first:stop], field)

    def _in_graph(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The same in a graph that is being compiled: all rows, whether they act or not."""
        if self.limit is not None:
            self.limit.factors(layer, [], y)  # which says that it cannot be
        if y.ndim < self.axes:
            return self._in_graph(layer, x[None], y[None])[0]
        content, count = self.content, len(self.content.down)
        strength = for_compiled_batch(self.strength, len(x), self.batch_layout)
        changed = y
        for column, (_, direct) in enumerate(content.directs, count):
            added = direct.change(layer, x, y, own=False)
            changed = changed + _scaled(added, strength[:, column : column + 1], layer, y)
        return change(layer, x, changed, content.down, content.up, strength[:, :count]) if count else changed

    def _look(self) -> None:
        """Note which rows act."""
        values = self.table.host[self.start : self.start + self.strength.numel()].view(self.strength.shape)
        self._active = ActiveRows.of(self.content, self.table, values, self.strength)
        self._seen = self.table.version

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        """Follow the model's moves and casts; only the strengths stay in float32."""
        super()._apply(fn, recurse)
        self._move(fn)
        return self

    def _move(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.hold(self.content.moved(fn))
        device = self.content.down.device
        with torch.inference_mode(mode=False):
            self.strength, self.batch_layout = self.strength.to(device), self.batch_layout.to(device)
        self.table.stale = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Bank:
        """A bank for the copy of the layer, with strengths of its own.

        Raises:
            StateError: while it is limited to regions, which a copy would not know of.
        """
        if self.limit is not None:
            raise StateError(
                "a model cannot be copied while its adapters are limited to regions: the copy's would act everywhere. "
                "End them first with loras.regions({})."
            )
        layer = copy.deepcopy(self.layer, memo)  # which may be half copied yet
        content, table = self.content.moved(Tensor.clone), self.table.snapshot(memo)
        twin = memo[id(self)] = Bank(layer, content, table, axes=self.axes, training=self.training)
        twin.strength, twin.batch_layout, twin.start = self.strength.clone(), self.batch_layout.clone(), self.start
        return twin


def _scaled(change: Tensor, strength: Tensor, layer: nn.Module, y: Tensor) -> Tensor:
    scale = along(strength, y.ndim, last=not is_channels_second(layer))
    return (change * scale).to(y.dtype)


def _is_own(layer: nn.Module) -> bool:
    """Whether the output that the bank gets is just what the layer computes: nobody changed it before."""
    hooks = layer._forward_hooks  # pyright: ignore[reportPrivateUsage]
    first = next(iter(hooks.values())) is serve and not every_module._global_forward_hooks  # pyright: ignore[reportPrivateUsage]
    if not first or "forward" not in layer.__dict__:
        return first
    return hasattr(layer, "_hf_hook") or hasattr(layer, "_diffusers_hook")  # whose forward calls the layer's own


def serve(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Add what the layer's bank adds: the forward hook of every layer with a bank."""
    bank = cast("Bank", layer._modules[BANK])  # pyright: ignore[reportPrivateUsage]  # quicker than getattr
    return bank.forward(args[0] if args else next(iter(kwargs.values())), output)  # a bank has no hooks of its own
