"""OFT: each block of outputs is turned by an orthogonal matrix (Qiu et al. 2023, arXiv:2306.07280).

The layout, the constraint and the rescaling are those of LyCORIS' "diag-oft" and kohya's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorica.adapters.base import ANY, AdapterLayer, Copied, shapes_of
from lorica.adapters.operation import channels_last, mixes_channels, own
from lorica.adapters.rotation import cayley, limited, skew, turn
from lorica.errors import ShapeError


class OFT(AdapterLayer):
    """``delta = rescale * (R^T W) - W`` by blocks of outputs, ``R = (I + Q)(I - Q)^-1`` with ``Q = B - B^T``.

    LyCORIS before 2.0 stored ``R`` itself, whatever constraint and rescaling made it.

    Args:
        blocks: ``B``, shape ``(n, b, b)`` for ``n * b`` outputs.
        constraint: ``Q`` is made at most ``constraint * out`` long, all blocks together; 0 for no limit. Files hold it
            as ``alpha``.
        rescale: a factor for each output, ``(out, *ones)``.
        rotations: ``R`` in place of ``blocks``, in the same shape; a constraint then means nothing.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if there are not either blocks or rotations, they are not square, or ``rescale`` has another length.
    """

    kind = "oft"
    reads_weight = True
    __slots__ = ()

    def __init__(
        self,
        blocks: Tensor | None = None,
        constraint: float = 0.0,
        rescale: Tensor | None = None,
        *,
        rotations: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self._hold(constraint, blocks=blocks, rotations=rotations, rescale=rescale, bias=bias)

    @property
    def constraint(self) -> float:
        """The stored limit, which counts times the number of outputs; the same as ``alpha``."""
        return self.alpha

    @property
    def rank(self) -> int:
        """The size ``b`` of a block."""
        return self._stored.shape[-1]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(out, ANY)``."""
        n, b, _ = self._stored.shape
        return (n * b, ANY)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change at strength 1, float32, in the shape of ``weight``."""
        columns = weight.float().flatten(1).T  # (in * kernel, out)
        return self._change(columns).T.reshape(weight.shape)

    def has_bypass(self, layer: nn.Module) -> bool:
        """Whether all outputs see the same inputs."""
        return mixes_channels(layer)

    def bypass(self, x: Tensor, layer: nn.Module, product: Tensor | None = None) -> Tensor | None:
        """What turning and rescaling the layer's output adds; None where outputs see different inputs."""
        if not mixes_channels(layer):
            return None
        y = own(layer, x) if product is None else product
        return channels_last(layer, self._change(channels_last(layer, y)).to(y.dtype))

    def cast(self, copied: Copied, device: torch.device, dtype: torch.dtype) -> OFT:
        """The same for computing; whole rotations in float32, as half precision would round away what they turn."""
        return super().cast(copied, device, torch.float32 if "rotations" in self.tensors else dtype)

    def _change(self, y: Tensor) -> Tensor:
        """Change of outputs ``(*, out)``."""
        return rescaled(y, turn(y, self._turned().to(y.device)), self.tensors.get("rescale"))

    def _turned(self) -> Tensor:
        """Return ``R - I`` of each block, float32."""
        if "rotations" in self.tensors:
            rotations = self.tensors["rotations"].float()
            return rotations - torch.eye(rotations.shape[-1], device=rotations.device)
        return cayley(limited(skew(self.tensors["blocks"]), self.constraint * self.weight_shape[0]))

    @property
    def _stored(self) -> Tensor:
        return self.tensors["rotations" if "rotations" in self.tensors else "blocks"]

    def _check(self) -> None:
        if ("blocks" in self.tensors) == ("rotations" in self.tensors):
            raise ShapeError(f"OFT has either blocks or rotations, got {shapes_of(self.tensors) or 'neither'}.")
        blocks = self._stored
        if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2] or not blocks.numel():
            raise ShapeError(f"the blocks of OFT have shape {tuple(blocks.shape)}; expected (n, b, b).")
        check_rescale(self.tensors, self.weight_shape[0])


def rescaled(y: Tensor, added: Tensor, rescale: Tensor | None) -> Tensor:
    """Return ``rescale * (y + added) - y``, with a small change kept exact; ``added`` itself without a rescale."""
    if rescale is None:
        return added
    factor = rescale.flatten().to(y.device, y.dtype)
    return factor * added + (factor - 1) * y


def check_rescale(tensors: Mapping[str, Tensor], out: int) -> None:
    """Raise ShapeError unless a ``rescale``, if there is one, has a number for each output."""
    rescale = tensors.get("rescale")
    if rescale is not None and (rescale.numel() != out or rescale.shape[0] != out):
        raise ShapeError(f"rescale needs a number for each of {out} outputs, got {shapes_of(tensors)}.")
