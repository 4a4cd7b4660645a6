"""VeRA: two random matrices shared by all layers, and two small vectors for each.

Source: Kopiczko et al. 2023, arXiv:2310.11454, eq. 2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lorica.adapters.base import AdapterLayer, Factors, shapes_of
from lorica.errors import ShapeError


class VeRA(AdapterLayer):
    """``delta = diag(lambda_b) B diag(lambda_d) A``, ``A`` and ``B`` the shared matrices.

    Args:
        lambda_b: ``(out,)``.
        lambda_d: ``(r,)``.
        shared_a: this layer's part of ``A``, ``(r, in)``.
        shared_b: this layer's part of ``B``, ``(out, r)``.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if they do not fit each other.
    """

    kind = "vera"
    prefers_bypass = True
    __slots__ = ()

    def __init__(
        self, lambda_b: Tensor, lambda_d: Tensor, shared_a: Tensor, shared_b: Tensor, *, bias: Tensor | None = None
    ) -> None:
        self._hold(None, lambda_b=lambda_b, lambda_d=lambda_d, shared_a=shared_a, shared_b=shared_b, bias=bias)

    @property
    def rank(self) -> int:
        """The inner size ``r``."""
        return self.tensors["shared_a"].shape[0]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that this layer changes, ``(out, in)``."""
        return (self.tensors["shared_b"].shape[0], self.tensors["shared_a"].shape[1])

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        down, up, _ = self.factors()
        return (up @ down).view(weight.shape).to(weight.device)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether it is a Linear."""
        return isinstance(layer, nn.Linear)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """The two shared products with the vectors between and after them; None for other layers."""
        del product
        if not isinstance(layer, nn.Linear):
            return None
        lambda_d, lambda_b, a, b = (
            self.tensors[name].to(x.dtype) for name in ("lambda_d", "lambda_b", "shared_a", "shared_b")
        )
        return F.linear(F.linear(x, a) * lambda_d, b) * lambda_b

    def factors(self) -> Factors:
        """Return both matrices with their vector multiplied in, in float32."""
        down = self.tensors["shared_a"].float() * self.tensors["lambda_d"].float()[:, None]
        return Factors(down, self.tensors["shared_b"].float() * self.tensors["lambda_b"].float()[:, None], 1.0)

    def _check(self) -> None:
        a, b = self.tensors["shared_a"], self.tensors["shared_b"]
        found = tuple(tuple(self.tensors[name].shape) for name in ("lambda_b", "lambda_d"))
        if a.ndim != 2 or b.ndim != 2 or not a.numel() or a.shape[0] != b.shape[1] or found != ((len(b),), (len(a),)):
            raise ShapeError(
                "VeRA needs lambda_b (out,), lambda_d (r,), shared_a (r, in) and shared_b (out, r), got "
                f"{shapes_of({name: tensor for name, tensor in self.tensors.items() if name != 'bias'})}."
            )
