"""What a network remembers for its way back, less all that is cheaply made again: the gradients stay bit for bit.

Autograd keeps what every operation asks for. Three kinds of it need no memory:

* The output of a norm or an activation, which the layer behind it remembers. The node that made it remembers its own
  input, so the same operation on the same numbers makes it again when it is asked for.
* The input of a convolution that is not trained: its way back needs the shape of it and the weight alone.
* The parts of what a narrow linear layer makes many times wider for a gate (GEGLU): the product that makes them again
  is a small part of the work.

All are seen where tensors are handed over to autograd (``saved_tensors_hooks``), so the network is not changed, and
need not be known by its class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lorica.adapters.operation import CONVOLUTIONS

# A linear layer's product is repeated if it has at most so many inputs, and at least so many outputs for each.
NARROW, WIDER = 384, 4
OWNER = "lorica.owner"  # in the metadata of a node of autograd: the norm that made it, or the wide product

Make = Callable[[], Tensor]


def remember_less(network: nn.Module) -> list[RemovableHandle]:
    """Let a network remember less; return the hooks that do it."""
    watch = _Watch()
    handles = [
        network.register_forward_pre_hook(watch.begin),
        network.register_forward_hook(watch.end, always_call=True),
    ]
    for layer in network.modules():
        if type(layer) in (nn.GroupNorm, nn.LayerNorm):
            handles.append(layer.register_forward_hook(watch.note_norm, prepend=True))
        elif type(layer) is nn.Linear and layer.in_features <= min(NARROW, layer.out_features // WIDER):
            handles.append(layer.register_forward_hook(watch.note_product, prepend=True))
        elif type(layer) in CONVOLUTIONS and cast("nn.Conv2d", layer).padding_mode == "zeros":
            handles.append(layer.register_forward_pre_hook(watch.enter_convolution))
            handles.append(layer.register_forward_hook(watch.leave_convolution, prepend=True, always_call=True))
    return handles


class _Watch:
    """Stands where one network hands tensors over to autograd, from :meth:`begin` to :meth:`end`."""

    def __init__(self) -> None:
        self._hooks = saved_tensors_hooks(self._keep, _give)
        self._on = self._in_convolution = False

    def begin(self, *_: object) -> None:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not self._on:
            self._hooks.__enter__()
            self._on = True

    def end(self, *_: object) -> None:
        if self._on:
            self._on = self._in_convolution = False
            self._hooks.__exit__()

    def enter_convolution(self, layer: nn.Module, _: object) -> None:
        self._in_convolution = self._on and not cast("Tensor", layer.weight).requires_grad

    def leave_convolution(self, *_: object) -> None:
        self._in_convolution = False

    def note_norm(self, norm: nn.Module, _: object, output: Tensor) -> None:
        """Note on the node of a norm which one it is: a node does not know all that made its output."""
        if self._on and output.grad_fn is not None:
            cast("Any", output.grad_fn).metadata[OWNER] = norm

    def note_product(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Note on the node of a linear layer what can repeat it; a layer that is trained leaves no node here."""
        if self._on and output.grad_fn is not None and len(args) == 1:
            product = _Product(cast("nn.Linear", layer), self._keep(args[0]), output.dtype)
            node = cast("Any", output.grad_fn)
            node.metadata[OWNER] = product
            node.register_hook(product.forget)

    def _keep(self, tensor: Tensor) -> Tensor | Make:
        """Return a tensor, or what can make it again."""
        if self._in_convolution and tensor.requires_grad:  # the weight, which is kept too, does not
            return _outline(tensor)
        node = tensor.grad_fn
        find = None if node is None else AGAIN.get(node.name())
        return (find and find(node, tensor.output_nr)) or tensor


class _Product:
    """The wide output of a linear layer: made again once on the way back, and held until the layer's own turn."""

    def __init__(self, layer: nn.Linear, kept: Tensor | Make, dtype: torch.dtype) -> None:
        self._layer, self._kept, self._dtype = layer, kept, dtype
        self._output: Tensor | None = None

    def output(self) -> Tensor:
        if self._output is None:
            factors = (_give(self._kept), self._layer.weight, cast("Tensor | None", self._layer.bias))
            x, weight, bias = (None if one is None else one.to(self._dtype) for one in factors)  # as autocast does
            self._output = F.linear(cast("Tensor", x), cast("Tensor", weight), bias)
        return self._output

    def forget(self, *_: object) -> None:
        self._output = None


@torch.no_grad()
def _give(kept: Tensor | Make) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept()


def _outline(tensor: Tensor) -> Make:
    """Return what makes a tensor of the same shape; if its numbers were used after all, nobody could overlook it."""
    shape, stride, dtype, device = tensor.shape, tensor.stride(), tensor.dtype, tensor.device
    return lambda: torch.empty_strided(shape, stride, dtype=dtype, device=device).fill_(torch.nan)


def _silu(node: Any, _: int) -> Make:
    return lambda: F.silu(node._saved_self)


def _gelu(node: Any, _: int) -> Make:
    return lambda: F.gelu(node._saved_self, approximate=node._saved_approximate)


def _norm(node: Any, _: int) -> Make | None:
    """Return what makes the output of a norm; it hands over mean and deviation itself, before it is noted."""
    norm = cast("nn.GroupNorm | nn.LayerNorm | None", node.metadata.get(OWNER))
    return None if norm is None else lambda: _normed(norm, node._saved_input, node._saved_weight)


def _normed(norm: nn.GroupNorm | nn.LayerNorm, x: Tensor, weight: Tensor | None) -> Tensor:
    bias = cast("Tensor | None", norm.bias)
    bias = bias if bias is None or weight is None else bias.to(weight.dtype)  # autocast makes another weight of it
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _part(node: Any, number: int) -> Make | None:
    """Return what makes a part of a wide product, if the node took one apart."""
    made = node.next_functions[0][0]
    product = None if made is None else made.metadata.get(OWNER)
    if not isinstance(product, _Product):
        return None
    dim = node._saved_dim - 2**64 if node._saved_dim > 2**32 else node._saved_dim  # -1 is told unsigned
    return lambda: torch.split(product.output(), node._saved_split_size, dim)[number]


# By the name of the node of autograd that made a tensor: what can make it again.
AGAIN: dict[str, Callable[[Any, int], Make | None]] = {
    "SiluBackward0": _silu,
    "GeluBackward0": _gelu,
    "NativeGroupNormBackward0": _norm,
    "NativeLayerNormBackward0": _norm,
    "SplitBackward0": _part,
}
