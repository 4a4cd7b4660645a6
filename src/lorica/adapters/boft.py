"""BOFT: orthogonal matrices in a butterfly, so that every output can meet every other.

Source: Liu et al. 2023, arXiv:2311.06243. The layout, the constraint and the rescaling are those of LyCORIS.
"""

from __future__ import annotations

from torch import Tensor, nn

from lorica.adapters.base import ANY, AdapterLayer
from lorica.adapters.oft import check_rescale, rescaled
from lorica.adapters.operation import channels_last, mixes_channels, own
from lorica.adapters.rotation import butterfly, cayley, limited, skew
from lorica.errors import ShapeError


class BOFT(AdapterLayer):
    """``delta = rescale * (R_m ... R_1 W) - W``: stage ``i`` turns blocks of outputs that lie ``2^i * b / 2`` apart.

    Args:
        blocks: the ``B`` of each stage, shape ``(m, n, b, b)`` for ``n * b`` outputs; ``R`` is made as in OFT.
        constraint: ``Q`` is made at most ``constraint * out`` long, all stages together; 0 for no limit. Files hold it
            as ``alpha``.
        rescale: a factor for each output, ``(out, *ones)``.
        bias: change of the bias at strength 1, shape ``(out,)``.

    Raises:
        ShapeError: if the blocks are not square and even, there are more stages than the outputs have room for, or
            ``rescale`` has another length.
    """

    kind = "boft"
    reads_weight = True
    __slots__ = ()

    def __init__(
        self, blocks: Tensor, constraint: float = 0.0, rescale: Tensor | None = None, *, bias: Tensor | None = None
    ) -> None:
        self._hold(constraint, blocks=blocks, rescale=rescale, bias=bias)

    @property
    def constraint(self) -> float:
        """The stored limit, which counts times the number of outputs; the same as ``alpha``."""
        return self.alpha

    @property
    def rank(self) -> int:
        """The size ``b`` of a block."""
        return self.tensors["blocks"].shape[-1]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(out, ANY)``."""
        _, n, b, _ = self.tensors["blocks"].shape
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

    def _change(self, y: Tensor) -> Tensor:
        """Change of outputs ``(*, out)``."""
        q = limited(skew(self.tensors["blocks"]), self.constraint * self.weight_shape[0])
        return rescaled(y, butterfly(y, cayley(q).to(y.device)), self.tensors.get("rescale"))

    def _check(self) -> None:
        blocks = self.tensors["blocks"]
        if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3] or not blocks.numel():
            raise ShapeError(f"the blocks of BOFT have shape {tuple(blocks.shape)}; expected (m, n, b, b).")
        m, n, b, _ = blocks.shape
        if b % 2 or n % 2 ** (m - 1):
            raise ShapeError(
                f"the blocks of BOFT have shape {tuple(blocks.shape)}; {m} stages need an even b, and an n that "
                f"{2 ** (m - 1)} divides."
            )
        check_rescale(self.tensors, self.weight_shape[0])
