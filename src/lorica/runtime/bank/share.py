"""What one adapter brings to the bank on one layer: thin factors, as far as it has them, and what runs beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from lorica.adapters import AdapterLayer, Factors, Full, LoCon, LoRA, Norm
from lorica.runtime.bank.formula import is_channels_second
from lorica.runtime.model.supported_layers import SUPPORTED, is_plain, weight_shape

Base = Callable[[str], "Tensor | None"]  # fetches a layer's weight or bias as it is without anything fused into it


@dataclass(frozen=True, slots=True)
class Direct:
    """A change of the output that an adapter computes without thin factors.

    Args:
        layers: methods that run by their bypass; their changes add up.
        bias: change of the bias ``(out,)``, if there is one.
        base_bias: the layer's own bias, kept where an offload hook takes it away between forwards.
    """

    layers: tuple[AdapterLayer, ...]
    bias: Tensor | None = None
    base_bias: Tensor | None = None

    def change(self, layer: nn.Module, x: Tensor, y: Tensor, *, own: bool) -> Tensor:
        """Change of the output at strength 1, to be spread over ``y``.

        Args:
            layer: what the bank stands on.
            x: the layer's input.
            y: the layer's output, nothing added to it yet.
            own: whether ``y`` is just what the layer computes: then methods that turn or scale it compute nothing anew.
        """
        product = self._product(layer, y) if own and any(part.reads_weight for part in self.layers) else None
        total = None if self.bias is None else _along_channels(self.bias, layer, y.ndim)
        for part in self.layers:
            change = part.bypass(x, layer, product)
            if change is None:
                raise TypeError(type(layer).__name__)  # unreachable: has_bypass was asked when the adapter came
            total = change if total is None else total + change
        return cast("Tensor", total)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Direct:
        """The same on another device or in another precision."""
        layers = tuple(part.map(move) for part in self.layers)
        bias, base_bias = (None if one is None else move(one) for one in (self.bias, self.base_bias))
        return Direct(layers, bias, base_bias)

    def _product(self, layer: nn.Module, y: Tensor) -> Tensor:
        bias = cast("Tensor | None", getattr(layer, "bias", None)) if self.base_bias is None else self.base_bias
        return y if bias is None else y - _along_channels(bias.to(y.device, y.dtype), layer, y.ndim)


def _along_channels(numbers: Tensor, layer: nn.Module, ndim: int) -> Tensor:
    """One number for each output channel, shaped to spread over an output of this many axes."""
    return numbers.view(-1, *[1] * (ndim - 2)) if is_channels_second(layer) else numbers


@dataclass(frozen=True, slots=True)
class Share:
    """What one adapter brings to one layer.

    Args:
        factors: thin factors, in the file's precision.
        direct: what it has beside them, in the bank's precision.
    """

    factors: Factors | None
    direct: Direct | None


class Casts:
    """Copies of tensors in the precision of banks; what several layers share (VeRA's two matrices) is copied once.

    Args:
        tensors: all that are going to be copied: of views that begin alike the widest is what the others are cut from.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._widest: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self._copies: dict[tuple[int, tuple[int, ...], torch.device, torch.dtype], Tensor] = {}
        for tensor in tensors:
            key = (tensor.data_ptr(), tensor.stride())
            if key not in self._widest or tensor.numel() > self._widest[key].numel():
                self._widest[key] = tensor

    def __call__(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A copy of a tensor on a device in a precision."""
        wide = self._widest.get((tensor.data_ptr(), tensor.stride()))
        if wide is None:  # computed just now: its address may be another tensor's soon
            return tensor.to(device, dtype, copy=True)
        key = (wide.data_ptr(), wide.stride(), device, dtype)
        if key not in self._copies:
            self._copies[key] = wide.to(device, dtype, copy=True)
        return self._copies[key][tuple(slice(size) for size in tensor.shape)]


@dataclass(frozen=True, slots=True)
class Road:
    """What decides how a method runs on a layer.

    Args:
        in_weights: whether something is fused into the layer, so that its own product is not that of the base weight.
        reserved: whether only factors have room, so that a method that has them gives them.
    """

    in_weights: bool = False
    reserved: bool = False


def share_of(layer: nn.Module, change: AdapterLayer, base: Base, casts: Casts, road: Road) -> Share:
    """What an adapter's layer brings to the bank on a layer of the model: as little as its method needs.

    Args:
        layer: a layer that it fits.
        change: the adapter's part for it.
        base: fetches the layer's base weight and bias.
        casts: makes the copies.
        road: what decides how it runs.
    """
    if type(change) is LoRA and "bias" not in change.tensors and isinstance(layer, SUPPORTED):  # as most are
        return Share(change.factors(), None)
    home = home_of(layer)
    weight = cache(lambda: cast("Tensor", base("weight")).reshape(weight_shape(layer)))
    bias = change.bias_delta(base("bias"))
    factors: list[Factors] = []
    direct: list[AdapterLayer] = []
    for part in change.parts_on(weight) if change.rank else ():
        found = _factors_of(layer, part, weight, reserved=road.reserved)
        if found is not None:
            factors.append(found)
        elif part.has_bypass(layer) and not (road.in_weights and part.reads_weight):
            direct.append(part.cast(casts, *home))
        else:
            direct.append(_whole(part.delta(weight()), home))
    kept = _away_bias(layer, base) if any(part.reads_weight for part in direct) else None
    beside = (
        Direct(tuple(direct), bias if bias is None else bias.to(*home), kept) if direct or bias is not None else None
    )
    return Share(_joined(factors), beside)


def _factors_of(
    layer: nn.Module, part: AdapterLayer, weight: Callable[[], Tensor], *, reserved: bool
) -> Factors | None:
    """Thin factors of a method, unless its bypass takes less memory."""
    if not isinstance(layer, SUPPORTED) or (part.prefers_bypass and part.has_bypass(layer) and not reserved):
        return None
    found = part.factors()
    if found is None and type(part).factors_on is not AdapterLayer.factors_on:
        found = part.factors_on(weight())
    return found


def _joined(factors: list[Factors]) -> Factors | None:
    if len(factors) < 2:
        return factors[0] if factors else None
    up = torch.cat([one.up.float() * one.scaling for one in factors], dim=1)
    return Factors(torch.cat([one.down.float() for one in factors]), up, 1.0)


def _whole(delta: Tensor, home: tuple[torch.device, torch.dtype]) -> AdapterLayer:
    delta = delta.to(*home)
    return Norm(delta) if delta.ndim == 1 else Full(delta)


def _away_bias(layer: nn.Module, base: Base) -> Tensor | None:
    """A copy of a layer's bias if an offload hook takes it away between forwards."""
    own = cast("Tensor | None", getattr(layer, "bias", None))
    kept = None if own is None or is_plain(own) else base("bias")
    return None if kept is None else kept.clone()


def home_of(layer: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and precision of a bank.

    It has the layer's own precision, float32 where that is packed or has few digits. It stands beside the weight, or on
    the CPU while an offload hook keeps the weight away.
    """
    weight = cast("Tensor", layer.weight)
    dtype, device = weight.dtype, weight.device
    plain = dtype.is_floating_point and dtype.itemsize >= 2
    return (torch.device("cpu") if device.type == "meta" else device), dtype if plain else torch.float32


def size_of(layer: nn.Module, change: AdapterLayer) -> int:
    """Bytes that a change takes in the bank of a layer: its tensors, or else a whole weight."""
    count = sum(tensor.numel() for tensor in change.tensors.values())
    if not (isinstance(change, (LoRA, LoCon)) or change.has_bypass(layer)):
        count = max(count, math.prod(weight_shape(layer)))
    return count * home_of(layer)[1].itemsize
