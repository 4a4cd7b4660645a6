"""Changes of parts of a weight, one below the other: what adapters of q, k and v are to a fused projection.

No file holds this kind. A live model whose projections were fused calls one weight in the place of several, and the
layers that an adapter has for the several are joined to a change of the one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters.base import AdapterLayer, Factors
from lorica.adapters.operation import thin

Range = tuple[int, int]  # the first row and the one behind the last


class JoinedRows(AdapterLayer):
    """``delta[start:stop] = delta of the part of these rows``; rows without a part stay.

    Args:
        parts: rows of the weight to the layer that changes them.
        shape: the shape of the whole weight.

    Raises:
        ShapeError: if a part changes a weight of another shape than its rows have.
    """

    kind = "joined_rows"
    prefers_bypass = True
    __slots__ = ("parts", "shape")
    parts: Mapping[Range, AdapterLayer]
    shape: tuple[int, ...]

    def __init__(self, parts: Mapping[Range, AdapterLayer], shape: tuple[int, ...]) -> None:
        self.parts, self.shape = dict(parts), tuple(shape)
        self._hold(None, **{f"{rows[0]}.{n}": leaf for rows, part in parts.items() for n, leaf in part.tensors.items()})

    @property
    def rank(self) -> int:
        """The sum of the parts' ranks."""
        return sum(part.rank for part in self.parts.values())

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the whole weight."""
        return self.shape

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32: each part's, computed from its own rows."""
        total = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for (start, stop), part in self.parts.items():
            total[start:stop] = part.delta(weight[start:stop])
        return total

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether it is a Linear, and every part has thin factors."""
        return isinstance(layer, nn.Linear) and all(part.factors() is not None for part in self.parts.values())

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """Each part's factors on its own rows; None if a part has none, and for other layers than a Linear."""
        del product
        if not self.has_bypass(layer):
            return None
        change = x.new_zeros(*x.shape[:-1], self.shape[0])
        for (start, stop), part in self.parts.items():
            down, up, scaling = cast("Factors", part.factors())
            change[..., start:stop] = thin(layer, x, down.to(x.dtype), up.to(x.dtype)) * scaling
        return change

    def bias_delta(self, bias: Tensor | None = None) -> Tensor | None:
        """Return the change of the bias at strength 1, zero where no part changes it; None if none does."""
        found = {
            (start, stop): part.bias_delta(None if bias is None else bias[start:stop])
            for (start, stop), part in self.parts.items()
        }
        if all(change is None for change in found.values()):
            return None
        total = torch.zeros(self.shape[0], dtype=torch.float32, device="cpu")
        for (start, stop), change in found.items():
            if change is not None:
                total = total.to(change.device)
                total[start:stop] = change
        return total

    def factors(self) -> Factors | None:
        """Return the parts' factors, ``down`` stacked and ``up`` block-diagonal, or None if a part has none."""
        return self._stacked({rows: part.factors() for rows, part in self.parts.items()})

    def factors_on(self, weight: Tensor) -> Factors | None:
        """Return the parts' factors on their rows of this weight, stacked, or None if a part has none."""
        return self._stacked({rows: part.factors_on(weight[slice(*rows)]) for rows, part in self.parts.items()})

    def map(self, change: Callable[[Tensor], Tensor]) -> JoinedRows:
        """Return the same layer with ``change`` applied to each tensor."""
        return JoinedRows({rows: part.map(change) for rows, part in self.parts.items()}, self.shape)

    def _stacked(self, found: Mapping[Range, Factors | None]) -> Factors | None:
        thin = {rows: factors for rows, factors in found.items() if factors is not None}
        if len(thin) < len(found):
            return None
        down = torch.cat([part.down for part in thin.values()])
        up = torch.zeros(self.shape[0], len(down), dtype=torch.float32, device=down.device)
        column = 0
        for (start, stop), part in thin.items():
            up[start:stop, column : column + len(part.down)] = part.up.float() * part.scaling
            column += len(part.down)
        return Factors(down, up, 1.0)

    def _check(self) -> None:
        for (start, stop), part in self.parts.items():
            part.check_fits((stop - start, *self.shape[1:]))
