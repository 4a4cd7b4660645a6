"""A trained adapter on a plain linear layer as one node of autograd: six thin products, few saved tensors.

With ``g`` the gradient of the output, ``s`` the scaling and ``W`` the frozen weight::

    h = x down^T        y = layer(x) + s h up^T
    k = g up            d down += s k^T x        d up += s g^T h        dx = g W + s k down

All additions are in place: to the layer's fresh output, to the flat gradient, to ``g W``. The layer's own product is
hidden from autograd, as its backward pass is done here. Only ``x`` and ``h`` are saved. (Decision 0018.)
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from lorica.errors import TrainingError


class FlatFactors:
    """The factors of one component as one flat parameter: fp32 master with its gradient, and half copies of it.

    Args:
        count: number of elements.
        device: that of the component.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.master = nn.Parameter(torch.zeros(count, device=device))
        self.master.grad = torch.zeros_like(self.master)
        self._values = {self.master.dtype: self.master.detach()}

    def values(self, dtype: torch.dtype) -> Tensor:
        """The elements as constants: the master itself, or a copy as of the last :meth:`refresh`."""
        if dtype not in self._values:
            self._values[dtype] = self.master.detach().to(dtype)
        return self._values[dtype]

    def view(self, start: int, shape: tuple[int, ...], *, transposed: bool = False) -> nn.Parameter:
        """A parameter that is a view of the master, and whose gradient is the same view of its gradient.

        Args:
            start: first element.
            shape: that of the parameter.
            transposed: whether it lies in memory column by column.
        """
        piece = slice(start, start + math.prod(shape))
        views = [
            row[piece].view(shape[::-1]).t() if transposed else row[piece].view(shape)
            for row in (self.master.data, cast("Tensor", self.master.grad))
        ]
        view = nn.Parameter(views[0])
        view.grad = views[1]
        return view

    def refresh(self, *_: object) -> None:
        """Update the copies: a hook before each forward pass, one kernel for all layers."""
        for dtype, values in self._values.items():
            if dtype is not self.master.dtype:
                values.copy_(self.master.detach())


class TrainedLinear:
    """The change of one linear layer. ``before`` and ``after`` are called around the layer's own forward pass.

    Args:
        flat: holds the factors.
        start: first element of ``down`` ``(r, in)`` in it; ``up`` follows, transposed to ``(r, out)``: faster to read.
        layer: the layer, for its shape.
        rank: the inner size ``r``.
        scaling: the change is ``scaling * up @ down``.
    """

    def __init__(self, flat: FlatFactors, start: int, layer: nn.Linear, rank: int, scaling: float) -> None:
        self.flat, self.scaling = flat, scaling
        self._start, self._shapes = start, ((rank, layer.in_features), (rank, layer.out_features))
        self._views: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self.gradients = self._cut(cast("Tensor", flat.master.grad))
        self._x: Tensor | None = None

    @property
    def waits(self) -> bool:
        """Whether ``before`` took an input that ``after`` has not used yet."""
        return self._x is not None

    def before(self, layer: nn.Module, x: Tensor | None) -> tuple[Tensor] | None:
        """Take the input of the layer and return the one it is to see; None leaves this call to autograd."""
        self._x = x if x is not None and _is_frozen(layer) else None
        return None if self._x is None else (self._x.detach(),)

    def after(self, layer: nn.Module, y: Tensor) -> Tensor:
        """Output of the layer with the change added, in place."""
        x, self._x = cast("Tensor", self._x), None
        master = None if x.requires_grad else self.flat.master  # autograd skips a node without any trained input
        return cast("Tensor", _Change.apply(x, master, self, [y, layer.weight]))

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``(r, in)`` and ``(r, out)``, constants."""
        if dtype not in self._views:
            self._views[dtype] = self._cut(self.flat.values(dtype))
        return self._views[dtype]

    def _cut(self, row: Tensor) -> tuple[Tensor, Tensor]:
        down, up = self._shapes
        middle = self._start + math.prod(down)
        return row[self._start : middle].view(down), row[middle : middle + math.prod(up)].view(up)


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the backward pass of a layer can be done here: an ``nn.Linear`` whose weight is not packed.

    Fake weights count too, so that an estimate of memory sees the same operations.
    """
    return (
        type(layer) is nn.Linear
        and type(layer.weight) in (nn.Parameter, FakeTensor)
        and layer.weight.is_floating_point()
    )


def _is_frozen(layer: nn.Module) -> bool:
    bias = cast("Tensor | None", layer.bias)
    return not cast("Tensor", layer.weight).requires_grad and (bias is None or not bias.requires_grad)


class _Change(torch.autograd.Function):
    """The formulas at the top of the file. A Python call costs as much as a small kernel, so there are few."""

    @staticmethod
    def forward(  # type: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, master: Tensor | None, site: TrainedLinear, hidden_from_autograd: list[Tensor]
    ) -> Tensor:
        del master
        own, ctx.weight = hidden_from_autograd
        y = own.data  # not detach(): autograd must see a new tensor, not a view of the layer's output
        down, up = site.factors(y.dtype)
        rows = (x if x.dtype is y.dtype else x.to(y.dtype)).reshape(-1, down.shape[1])
        thin = torch.mm(rows, down.t())
        y.view(-1, up.shape[1]).addmm_(thin, up, alpha=site.scaling)
        ctx.save_for_backward(x, thin)  # x itself, not a copy: it may be computed again (recompute.py)
        ctx.site, ctx.shape = site, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:  # type: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise TrainingError("the gradient of a gradient was asked for, which a trained adapter does not have.")
        x, thin = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        site = cast("TrainedLinear", ctx.site)
        down, up = site.factors(gradient.dtype)
        rows = (x if x.dtype is gradient.dtype else x.to(gradient.dtype)).reshape(-1, down.shape[1])
        arriving = gradient.reshape(-1, up.shape[1])
        through = torch.mm(arriving, up.t())
        d_down, d_up = site.gradients
        _add_product(d_down, through.t(), rows, site.scaling)
        _add_product(d_up, thin.t(), arriving, site.scaling)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        weight = ctx.weight if ctx.weight.dtype is arriving.dtype else ctx.weight.to(arriving.dtype)
        return torch.mm(arriving, weight).addmm_(through, down, alpha=site.scaling).view(ctx.shape), None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor, scaling: float) -> None:
    """Add ``scaling * left @ right`` to an fp32 total."""
    if left.dtype is total.dtype:
        total.addmm_(left, right, alpha=scaling)
    else:
        total.add_(torch.mm(left, right), alpha=scaling)
