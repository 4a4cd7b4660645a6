"""GLoRA: a low-rank change in proportion to the weight, and one beside it.

Source: Chavan et al. 2023, arXiv:2306.07967. The layout and the scaling are those of LyCORIS.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorica.adapters.base import AdapterLayer, Factors, shapes_of
from lorica.adapters.operation import channels_last, mixes_channels, own, thin
from lorica.errors import ShapeError
from lorica.linalg import is_thin


class _Parts(NamedTuple):
    """The four matrices in the order in which they multiply: ``W @ near @ far + left @ right``."""

    near: Tensor  # (in, r)
    far: Tensor  # (r, in)
    left: Tensor  # (out, r)
    right: Tensor  # (r, in, *kernel), a core folded in


class GLoRA(AdapterLayer):
    """``delta = (alpha / r) * (W a1 a2 + b1 b2)``, with ``W`` the base weight, whatever else changes it.

    Files of old LyCORIS mean ``W a2 a1 + b2 b1``: their tensors are kept as they are, and told by their shapes.

    Args:
        a1: ``(in, r, *ones)``; in the old layout ``(r, in, *ones)``.
        a2: ``(r, in, *ones)``; in the old layout ``(in, r, *ones)``.
        b1: ``(out, r, *ones)``; in the old layout ``(r, in, *kernel)``.
        b2: ``(r, in, *kernel)``; in the old layout ``(out, r, *ones)``.
        alpha: strength stored in the file; None stands for ``r``.
        mid: the core between ``b1`` and ``b2``, ``(r, r, *kernel)``; ``b2`` is then ``(r, in, *ones)``.
        old: the old layout. None for what the shapes tell; where both are possible, the one of smaller rank, and the
            new one if that is the same too.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if they fit each other in neither layout, or not in the given one.
    """

    kind = "glora"
    reads_weight = True
    __slots__ = ("old",)
    old: bool

    def __init__(  # the leaves of the files
        self,
        a1: Tensor,
        a2: Tensor,
        b1: Tensor,
        b2: Tensor,
        alpha: float | None = None,
        *,
        mid: Tensor | None = None,
        old: bool | None = None,
        bias: Tensor | None = None,
    ) -> None:
        tensors = {"a1": a1, "a2": a2, "b1": b1, "b2": b2} | ({} if mid is None else {"mid": mid})
        self.old = _layout_of(tensors) if old is None else old
        self._hold(alpha, **tensors, bias=bias)

    @property
    def rank(self) -> int:
        """The inner size ``r``; the change itself has rank up to ``2 r``."""
        return self.tensors["a1"].shape[0 if self.old else 1]

    @property
    def scaling(self) -> float:
        """``alpha / r``."""
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes, ``(out, in, *kernel)``."""
        names = ("b2", "b1") if self.old else ("b1", "b2")
        left, right = (self.tensors[name] for name in names)
        return (left.shape[0], right.shape[1], *self.tensors.get("mid", right).shape[2:])

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        near, far, left, right = self._parts(weight)
        base = weight.float()
        inner = torch.einsum("oi...,ir->or...", base, near)
        proportional = torch.einsum("or...,ri->oi...", inner, far)
        return (proportional + (left @ right.flatten(1)).view(base.shape)) * self.scaling

    def factors_on(self, weight: Tensor) -> Factors | None:
        """Return ``[W a1, b1] @ [a2; b2]``, of rank ``r * (kernel + 1)``, or None where that is not thin."""
        near, far, left, right = self._parts(weight)
        points = math.prod(weight.shape[2:])
        if not is_thin(self.rank * (points + 1), weight.shape):
            return None
        inner = torch.einsum("oi...,ir->or...", weight.float(), near).flatten(1)  # (out, r * kernel)
        outer = torch.kron(far, torch.eye(points, dtype=far.dtype, device=far.device))  # (r * kernel, in * kernel)
        down = torch.cat([outer, right.flatten(1)]).view(-1, *weight.shape[1:])
        return Factors(down, torch.cat([inner, left], dim=1), self.scaling)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether all outputs see the same inputs."""
        return mixes_channels(layer)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """``W (a1 a2 x) + b1 b2 x``; None for grouped convolutions and layers that are neither."""
        del product
        if not mixes_channels(layer):
            return None
        near, far, left, right = (part.to(x.device, x.dtype) for part in self._parts(x))
        mixed = channels_last(layer, channels_last(layer, x) @ far.T @ near.T)
        return (own(layer, mixed) + thin(layer, x, right, left)) * self.scaling

    def _parts(self, like: Tensor) -> _Parts:
        """Return the four matrices in float32, beside ``like``, in the order in which they multiply."""
        names = ("a2", "a1", "b2", "b1") if self.old else ("a1", "a2", "b1", "b2")
        near, far, left, right = (self.tensors[name].to(like.device, torch.float32) for name in names)
        if "mid" in self.tensors:
            right = torch.einsum("pq...,qi->pi...", self.tensors["mid"].to(right), right.flatten(1))
        return _Parts(near.flatten(1), far.flatten(1), left.flatten(1), right)

    def _check(self) -> None:
        tensors = {name: tensor for name, tensor in self.tensors.items() if name != "bias"}
        if not _fit(tensors, old=self.old):
            layout = "a1 (r, in), a2 (in, r), b1 (r, in, *kernel), b2 (out, r)"
            if not self.old:
                layout = "a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in, *kernel)"
            raise ShapeError(f"the parts of GLoRA do not fit each other: expected {layout}, got {shapes_of(tensors)}.")


def _layout_of(tensors: dict[str, Tensor]) -> bool:
    """Whether the shapes are of the old layout."""
    fitting = [old for old in (False, True) if _fit(tensors, old=old)]
    return min(fitting, key=lambda old: tensors["a1"].shape[0 if old else 1], default=False)


def _fit(tensors: dict[str, Tensor], *, old: bool) -> bool:
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    near, far, left, right = (tuple(tensors[name].shape) for name in names)
    if len({len(near), len(far), len(left), len(right)}) > 1 or len(near) < 2 or 0 in (*near, *far, *left, *right):
        return False
    width, rank = near[:2]
    sizes = far[:2] == (rank, width) and left[1] == rank and right[:2] == (rank, width)
    ones = (*near[2:], *far[2:], *left[2:])
    if "mid" in tensors:
        core = tuple(tensors["mid"].shape)
        sizes, ones = sizes and len(core) == len(near) and core[:2] == (rank, rank), (*ones, *right[2:])
    return sizes and all(size == 1 for size in ones)
