"""LoKr: the Kronecker product of a small matrix and a larger one (Edalati et al. 2022, KronA, arXiv:2212.10650).

The layout and the scaling are those of LyCORIS (Yeh et al. 2023, arXiv:2309.14859, section 3).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters.base import AdapterLayer, Factors, is_matrix_of, shapes_of
from lorica.adapters.operation import convolve, mixes_channels
from lorica.errors import ShapeError
from lorica.linalg import Pair, is_thin, kron_of_products, trivial_factors

LEAVES = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")


class LoKr(AdapterLayer):
    """``delta = scaling * kron(w1, w2)``, where ``w1 = w1_a @ w1_b`` and ``w2 = w2_a @ w2_b`` may be factored.

    ``scaling`` is ``alpha / r`` with ``r`` the rank of the last factored one, and 1 if both are whole: alpha is then
    kept but means nothing (some trainers write 1e10 there).

    Args:
        w1: ``(l, m)``, or in its place ``w1_a (l, r)`` and ``w1_b (r, m)``.
        w1_a: see ``w1``.
        w1_b: see ``w1``.
        w2: ``(k, n)`` or ``(k, n, *kernel)``, or in its place ``w2_a (k, r)`` and ``w2_b (r, n * kernel)``, for a
            weight of shape ``(l * k, m * n, *kernel)``.
        w2_a: see ``w2``; with a core ``(r, k)``.
        w2_b: see ``w2``; with a core ``(r, n)``.
        t2: the core of the second, ``(r, r, *kernel)``.
        alpha: strength stored in the file; None stands for ``r``.
        shape: the shape of the weight, which the tensors of a factored convolution without a core do not tell.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if they do not fit each other, or something is missing.
    """

    kind = "lokr"
    prefers_bypass = True
    __slots__ = ("shape",)
    shape: tuple[int, ...] | None

    def __init__(  # noqa: PLR0913  # the leaves of the files
        self,
        *,
        w1: Tensor | None = None,
        w1_a: Tensor | None = None,
        w1_b: Tensor | None = None,
        w2: Tensor | None = None,
        w2_a: Tensor | None = None,
        w2_b: Tensor | None = None,
        t2: Tensor | None = None,
        alpha: float | None = None,
        shape: tuple[int, ...] | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.shape = None if shape is None else tuple(shape)
        self._hold(alpha, w1=w1, w1_a=w1_a, w1_b=w1_b, w2=w2, w2_a=w2_a, w2_b=w2_b, t2=t2, bias=bias)
        if self.shape == self._shape_of_tensors():  # told what the tensors tell: the same value as without
            object.__setattr__(self, "shape", None)

    @property
    def rank(self) -> int:
        """The ``r`` of the last factored one; if both are whole, the largest rank that the change can have."""
        for factored in ("w2_b", "w1_b"):
            if factored in self.tensors:
                return self.tensors[factored].shape[0]
        w1, w2 = self.tensors["w1"], self.tensors["w2"].flatten(1)
        return min(w1.shape) * min(w2.shape)

    @property
    def scaling(self) -> float:
        """``alpha / r``, or 1 if both are whole."""
        return 1.0 if {"w1", "w2"} <= self.tensors.keys() else self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight, as a matrix ``(out, in * kernel)`` if no one said it and the tensors do not."""
        return self.shape or self._shape_of_tensors()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this layer changes a weight of the given shape."""
        whole = self.tensors.get("w2")
        known = self.shape is not None or "t2" in self.tensors or (whole is not None and whole.ndim > 2)
        return super().fits(shape) if known else is_matrix_of(self._shape_of_tensors(), shape)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        product = torch.kron(self._first(), self._second())
        return (product.view(weight.shape) * self.scaling).to(weight.device)

    def factors(self) -> Factors | None:
        """Return ``kron(a, b) @ kron(c, d)`` for ``w1 = a @ c`` and ``w2 = b @ d``, or None where that is not thin."""
        first, second = self._pair("w1"), self._pair("w2")
        one = trivial_factors(self._first()) if first is None else first
        two = trivial_factors(self._second()) if second is None else second
        if not is_thin(one[1].shape[0] * two[1].shape[0], self.weight_shape):
            return None
        up, down = kron_of_products(one, two)
        return Factors(down.reshape(-1, *self.weight_shape[1:]), up, self.scaling)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether all outputs see the same inputs: grouped convolutions and embeddings have no bypass."""
        return mixes_channels(layer)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """``w1 X w2^T`` for each input read as a matrix ``X (m, n)``: the Kronecker product is never built.

        ``kron(w1, w2) vec(X) = vec(w1 X w2^T)`` by rows (Van Loan 2000, "The ubiquitous Kronecker product"). Grouped
        convolutions and embeddings have no bypass.
        """
        del product
        if isinstance(layer, nn.Linear):
            rows = x.unflatten(-1, (-1, self._width_of_second(1)))  # (*, m, n)
            for part in self._second_parts(x):
                rows = F.linear(rows, part.flatten(1))
            return (self._first(x) @ rows).flatten(-2) * self.scaling
        if not mixes_channels(layer):
            return None
        window = cast("nn.Conv2d", layer).kernel_size
        kernel, *mixes = self._second_parts(x)
        planes = x.unflatten(1, (-1, self._width_of_second(math.prod(window))))  # (b, m, n, *size)
        planes = convolve(
            layer, planes.flatten(0, 1), kernel.reshape(len(kernel), -1, *window), 1
        )  # (b * m, k or r, *)
        for mix in mixes:
            planes = torch.einsum("kr,br...->bk...", mix, planes)
        planes = planes.unflatten(0, (len(x), -1))
        return torch.einsum("lm,bmk...->blk...", self._first(x), planes).flatten(1, 2) * self.scaling

    def _first(self, like: Tensor | None = None) -> Tensor:
        """Return the first factor, whole, ``(l, m)``, in float32 or as ``like`` is."""
        if "w1" in self.tensors:
            return _cast(self.tensors["w1"], like)
        return _cast(self.tensors["w1_a"], like) @ _cast(self.tensors["w1_b"], like)

    def _second(self) -> Tensor:
        """Return the second factor, whole, ``(k, n * kernel)``, in float32."""
        pair = self._pair("w2")
        return self.tensors["w2"].float().flatten(1) if pair is None else pair[0] @ pair[1]

    def _second_parts(self, like: Tensor) -> list[Tensor]:
        """The products of the second factor with an input, in turn: its whole, or from ``n`` to ``r`` to ``k``."""
        pair = self._pair("w2")
        parts = [self.tensors["w2"]] if pair is None else [pair[1], pair[0]]
        return [_cast(part, like) for part in parts]

    def _pair(self, name: str) -> Pair | None:
        """Return the factors of ``w1`` or ``w2`` in float32, a core folded in and flattened; None if it is whole."""
        if name in self.tensors:
            return None
        up, down = self.tensors[f"{name}_a"].float(), self.tensors[f"{name}_b"].float()
        if name == "w2" and "t2" in self.tensors:
            return up.T, torch.einsum("pq...,qi->pi...", self.tensors["t2"].float(), down).flatten(1)
        return up, down

    def _width_of_second(self, kernel: int) -> int:
        """Return ``n``, for a kernel of that many points."""
        pair = self._pair("w2")
        return (self.tensors["w2"].flatten(1) if pair is None else pair[1]).shape[1] // kernel

    def _shape_of_tensors(self) -> tuple[int, ...]:
        found = self.tensors
        first = found["w1"].shape if "w1" in found else (found["w1_a"].shape[0], found["w1_b"].shape[1])
        if "w2" in found:
            second = tuple(found["w2"].shape)
        elif "t2" in found:
            second = (found["w2_a"].shape[1], found["w2_b"].shape[1], *found["t2"].shape[2:])
        else:
            second = (found["w2_a"].shape[0], found["w2_b"].shape[1])
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def _check(self) -> None:
        leaves = {name: self.tensors[name] for name in LEAVES if name in self.tensors}
        shapes = shapes_of(leaves)
        for name in ("w1", "w2"):
            found = {leaf for leaf in leaves if leaf.startswith(name)}
            if found not in ({name}, {f"{name}_a", f"{name}_b"}) or ("t2" in leaves and "w2" in leaves):
                raise ShapeError(f"LoKr needs {name} or both {name}_a and {name}_b, got {shapes}.")
        if any(tensor.ndim < 2 or (tensor.ndim > 2 and name not in ("w2", "t2")) for name, tensor in leaves.items()):
            raise ShapeError(
                f"the matrices of LoKr need two dimensions, only w2 and t2 may have a kernel; got {shapes}."
            )
        if not all(tensor.numel() for tensor in leaves.values()) or not self._ranks_fit():
            raise ShapeError(
                "the factors of LoKr do not fit each other: expected a (rows, r) and b (r, columns), with a core a (r, "
                f"rows), b (r, columns) and t2 (r, r, *kernel); got {shapes}."
            )
        if self.shape is not None and not is_matrix_of(self._shape_of_tensors(), self.shape):
            raise ShapeError(f"a weight of shape {self.shape} cannot be changed by LoKr tensors {shapes}.")

    def _ranks_fit(self) -> bool:
        found = self.tensors
        pairs = [(found[f"{name}_a"], found[f"{name}_b"]) for name in ("w1", "w2") if f"{name}_a" in found]
        if "t2" in found:
            a, b = pairs.pop()
            pairs.append((a.T, b))
            if tuple(found["t2"].shape[:2]) != (len(b), len(b)):
                return False
        return all(a.shape[1] == len(b) for a, b in pairs)


def _cast(tensor: Tensor, like: Tensor | None) -> Tensor:
    return tensor.float() if like is None else tensor.to(like.device, like.dtype)
