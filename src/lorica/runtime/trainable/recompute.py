"""Recomputation of cheap activations: fewer saved tensors, the same gradients bit for bit (decision 0024).

Autograd saves the tensors that every operation asks for. Three kinds need no memory:

* The output of a norm or an activation function, which the layer behind it saves. The node that computed it has saved
  its own input, so the same operation on the same numbers computes it again when it is asked for.
* The input of a convolution that is not trained: the backward pass needs its shape and the weight alone.
* The parts of the output of a narrow linear layer that is many times wider, for a gate (GEGLU): the product that
  computes it again is a small part of the work.

All are seen where tensors are saved (``saved_tensors_hooks``), so the network is not changed, and need not be known by
its class.
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

# The product of a linear layer is repeated if it has at most so many inputs, and at least so many outputs for each.
NARROW, WIDER = 384, 4
SOURCE = "lorica.source"  # in the metadata of an autograd node: the norm or the wide product that it belongs to

Recompute = Callable[[], Tensor]


def recompute_activations(network: nn.Module) -> list[RemovableHandle]:
    """Save fewer tensors in the forward passes of a network; return the hooks that do it."""
    saving = _SavedTensors()
    handles = [
        network.register_forward_pre_hook(saving.begin),
        network.register_forward_hook(saving.end, always_call=True),
    ]
    for layer in network.modules():
        if type(layer) in (nn.GroupNorm, nn.LayerNorm):
            handles.append(layer.register_forward_hook(saving.note_norm, prepend=True))
        elif type(layer) is nn.Linear and layer.in_features <= min(NARROW, layer.out_features // WIDER):
            handles.append(layer.register_forward_hook(saving.note_product, prepend=True))
        elif type(layer) in CONVOLUTIONS and cast("nn.Conv2d", layer).padding_mode == "zeros":
            handles.append(layer.register_forward_pre_hook(saving.enter_convolution))
            handles.append(layer.register_forward_hook(saving.leave_convolution, prepend=True, always_call=True))
    return handles


class _SavedTensors:
    """Hooks on the tensors that autograd saves in one network, from :meth:`begin` to :meth:`end`."""

    def __init__(self) -> None:
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
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
        """Note on the node of a norm which one it is: the node alone does not hold the bias."""
        if self._on and output.grad_fn is not None:
            cast("Any", output.grad_fn).metadata[SOURCE] = norm

    def note_product(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Note on the node of a linear layer how to repeat its product; a layer that is trained has no node here."""
        if self._on and output.grad_fn is not None and len(args) == 1:
            product = _WideProduct(cast("nn.Linear", layer), self._pack(args[0]), output.dtype)
            node = cast("Any", output.grad_fn)
            node.metadata[SOURCE] = product
            node.register_hook(product.forget)

    def _pack(self, tensor: Tensor) -> Tensor | Recompute:
        """The tensor, or a function that computes it again."""
        if self._in_convolution and tensor.requires_grad:  # the input; the weight is saved too, and requires none
            return _shape_of(tensor)
        node = tensor.grad_fn
        find = None if node is None else OPERATIONS.get(node.name())
        return (find and find(node, tensor.output_nr)) or tensor


class _WideProduct:
    """The wide output of a linear layer: computed again once in the backward pass, and held until the layer's node."""

    def __init__(self, layer: nn.Linear, packed: Tensor | Recompute, dtype: torch.dtype) -> None:
        self._layer, self._packed, self._dtype = layer, packed, dtype
        self._output: Tensor | None = None

    def output(self) -> Tensor:
        if self._output is None:
            factors = (_unpack(self._packed), self._layer.weight, cast("Tensor | None", self._layer.bias))
            x, weight, bias = (None if one is None else one.to(self._dtype) for one in factors)  # as autocast does
            self._output = F.linear(cast("Tensor", x), cast("Tensor", weight), bias)
        return self._output

    def forget(self, *_: object) -> None:
        self._output = None


@torch.no_grad()
def _unpack(packed: Tensor | Recompute) -> Tensor:
    return packed if isinstance(packed, Tensor) else packed()


def _shape_of(tensor: Tensor) -> Recompute:
    """Function that gives a tensor of the same shape, filled with NaN: a wrong use of its numbers would show."""
    shape, stride, dtype, device = tensor.shape, tensor.stride(), tensor.dtype, tensor.device
    return lambda: torch.empty_strided(shape, stride, dtype=dtype, device=device).fill_(torch.nan)


def _silu(node: Any, _: int) -> Recompute:
    return lambda: F.silu(node._saved_self)


def _gelu(node: Any, _: int) -> Recompute:
    return lambda: F.gelu(node._saved_self, approximate=node._saved_approximate)


def _norm(node: Any, _: int) -> Recompute | None:
    """The output of a norm. Its mean and deviation are saved too, before it is noted, and stay as they are."""
    norm = cast("nn.GroupNorm | nn.LayerNorm | None", node.metadata.get(SOURCE))
    return None if norm is None else lambda: _normed(norm, node._saved_input, node._saved_weight)


def _normed(norm: nn.GroupNorm | nn.LayerNorm, x: Tensor, weight: Tensor | None) -> Tensor:
    bias = cast("Tensor | None", norm.bias)
    bias = bias if bias is None or weight is None else bias.to(weight.dtype)  # autocast casts the weight
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _part(node: Any, number: int) -> Recompute | None:
    """Part of a wide product, if the node split one."""
    source = node.next_functions[0][0]
    product = None if source is None else source.metadata.get(SOURCE)
    if not isinstance(product, _WideProduct):
        return None
    dim = node._saved_dim - 2**64 if node._saved_dim > 2**32 else node._saved_dim  # -1 is stored unsigned
    return lambda: torch.split(product.output(), node._saved_split_size, dim)[number]


# By the name of the autograd node that computed a tensor.
OPERATIONS: dict[str, Callable[[Any, int], Recompute | None]] = {
    "SiluBackward0": _silu,
    "GeluBackward0": _gelu,
    "NativeGroupNormBackward0": _norm,
    "NativeLayerNormBackward0": _norm,
    "SplitBackward0": _part,
}
