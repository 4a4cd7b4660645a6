"""LoHa: the element-wise product of two low-rank matrices (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098).

The layout, the scaling and the form with Tucker cores are those of LyCORIS (Yeh et al. 2023, arXiv:2309.14859).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorica.adapters.base import AdapterLayer, Factors, is_matrix_of, shapes_of
from lorica.errors import ShapeError
from lorica.linalg import Pair, is_thin, product_of_products


class LoHa(AdapterLayer):
    """``delta = (alpha / r) * (w1_a @ w1_b) * (w2_a @ w2_b)``, where the middle ``*`` is element by element.

    With cores ``t1``, ``t2``, half ``n`` is ``sum_pq t_n[p, q, *k] * w_n_a[p, o] * w_n_b[q, i]``.

    Args:
        w1_a: ``(out, r)``; with cores ``(r, out)``.
        w1_b: ``(r, in * kernel)``; with cores ``(r, in)``.
        w2_a: like ``w1_a``.
        w2_b: like ``w1_b``.
        alpha: strength stored in the file; None stands for ``r``.
        t1: the core of the first half, ``(r, r, *kernel)``.
        t2: the core of the second half.
        shape: the shape of the weight, which the tensors of a convolution without cores do not tell.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if they do not fit each other.
    """

    kind = "loha"
    __slots__ = ("shape",)
    shape: tuple[int, ...] | None

    def __init__(  # noqa: PLR0913  # the leaves of the files
        self,
        w1_a: Tensor,
        w1_b: Tensor,
        w2_a: Tensor,
        w2_b: Tensor,
        alpha: float | None = None,
        *,
        t1: Tensor | None = None,
        t2: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.shape = None if shape is None else tuple(shape)
        self._hold(alpha, w1_a=w1_a, w1_b=w1_b, w2_a=w2_a, w2_b=w2_b, t1=t1, t2=t2, bias=bias)
        if self.shape == self._shape_of_tensors():  # told what the tensors tell: the same value as without
            object.__setattr__(self, "shape", None)

    @property
    def rank(self) -> int:
        """The inner size ``r`` of each half; the change itself has rank up to ``r^2``."""
        return self.tensors["w1_b"].shape[0]

    @property
    def scaling(self) -> float:
        """``alpha / r``."""
        return self.alpha / self.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight, as a matrix ``(out, in * kernel)`` if no one said it and the tensors do not."""
        return self.shape or self._shape_of_tensors()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this layer changes a weight of the given shape."""
        known = self.shape is not None or "t1" in self.tensors
        return super().fits(shape) if known else is_matrix_of(self._shape_of_tensors(), shape)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        (up1, down1), (up2, down2) = self._halves()
        return (((up1 @ down1) * (up2 @ down2)).view(weight.shape) * self.scaling).to(weight.device)

    def factors(self) -> Factors | None:
        """Return factors of rank ``r^2`` by the Khatri-Rao identity, or None where they are not thin."""
        if not is_thin(self.rank**2, self.weight_shape):
            return None
        up, down = product_of_products(*self._halves())
        return Factors(down.reshape(-1, *self.weight_shape[1:]), up, self.scaling)

    def _halves(self) -> tuple[Pair, Pair]:
        """Return each half as ``(out, r)`` and ``(r, in * kernel)``, in float32."""
        return self._half("w1_a", "w1_b", "t1"), self._half("w2_a", "w2_b", "t2")

    def _half(self, a: str, b: str, core: str) -> Pair:
        up, down = self.tensors[a].float(), self.tensors[b].float()
        if core not in self.tensors:
            return up, down
        return up.T, torch.einsum("pq...,qi->pi...", self.tensors[core].float(), down).flatten(1)

    def _shape_of_tensors(self) -> tuple[int, ...]:
        a, b = self.tensors["w1_a"], self.tensors["w1_b"]
        if "t1" in self.tensors:
            return (a.shape[1], b.shape[1], *self.tensors["t1"].shape[2:])
        return (a.shape[0], b.shape[1])

    def _check(self) -> None:
        leaves = {name: tensor for name, tensor in self.tensors.items() if name != "bias"}
        shapes = shapes_of(leaves)
        if ("t1" in leaves) != ("t2" in leaves):
            raise ShapeError(f"LoHa has either two cores, t1 and t2, or none; got {shapes}.")
        if any(leaves[name].ndim != 2 or not leaves[name].numel() for name in ("w1_a", "w1_b", "w2_a", "w2_b")):
            raise ShapeError(f"the four matrices of LoHa need two dimensions, none of them 0; got {shapes}.")
        rank, cores = self.rank, "t1" in leaves
        of_rank = [leaves[name].shape[0 if cores or name.endswith("b") else 1] for name in ("w1_a", "w2_a", "w2_b")]
        of_out = [leaves[name].shape[1 if cores else 0] for name in ("w1_a", "w2_a")]
        if of_rank != [rank] * 3 or of_out[0] != of_out[1] or leaves["w1_b"].shape != leaves["w2_b"].shape:
            layout = "a (r, out), b (r, in)" if cores else "a (out, r), b (r, in * kernel)"
            raise ShapeError(f"the halves of LoHa do not fit each other: expected {layout} twice, got {shapes}.")
        if cores and (leaves["t1"].shape != leaves["t2"].shape or leaves["t1"].shape[:2] != (rank, rank)):
            raise ShapeError(f"the cores of LoHa must both be ({rank}, {rank}, *kernel), got {shapes}.")
        if self.shape is not None and not is_matrix_of(self._shape_of_tensors(), self.shape):
            raise ShapeError(f"a weight of shape {self.shape} cannot be changed by LoHa tensors {shapes}.")
