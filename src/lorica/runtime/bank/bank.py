"""The bank: all adapters on one layer, as a child of that layer, which a forward hook asks for what they add."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.utils.hooks import RemovableHandle

from lorica.adapters import AdapterLayer, Factors, LoRA
from lorica.errors import LoRAError, ModelError, StateError
from lorica.runtime.bank.limited import change_within
from lorica.runtime.bank.stack import Biases, Stack, Weights
from lorica.runtime.bank.thin import Thin
from lorica.runtime.filling import Filling, Home
from lorica.runtime.model.supported_layers import SERVED, base_weight, weight_shape
from lorica.runtime.regions.regions import Limit

CHILD = "lorica_bank"  # the name of a bank among the children of the layer that it serves

THIN_KINDS = ("lora", "locon")  # kinds that a bank holds as they are, whatever the layer

# How layers whose output is a new tensor compute it; a class of its own may give its input, or what it keeps.
FRESH = frozenset((nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, nn.Embedding.forward))

# The number of the hook on every layer, which no other hook has.
HOOK = RemovableHandle(OrderedDict[int, Any]()).id

Part = Thin | Stack
CPU = torch.device("cpu")


@dataclass(slots=True)
class Shares:
    """What adapters bring to one layer, by the road that each part of it takes."""

    thin: dict[str, Factors] = field(default_factory=dict[str, Factors])
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    biases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, slots=True)
class Content:
    """What a bank holds: factors, whole changes of the weight, changes of the bias, as far as there are any."""

    thin: Thin | None = None
    weights: Stack | None = None
    biases: Stack | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return self.thin is None and self.weights is None and self.biases is None

    def parts(self) -> list[Part]:
        """Return what is there."""
        return [part for part in (self.thin, self.weights, self.biases) if part is not None]

    def edited(self, layer: nn.Module, gone: set[str], shares: Shares, filling: Filling) -> Content:
        """Return the content without some adapters and with what others bring. This one goes on as it is.

        Factors are there when ``filling`` is finished.
        """
        thin, weights, biases = self.thin, self.weights, self.biases
        if shares.thin or (thin is not None and gone & thin.slots.keys()):
            thin = _first(layer, shares.thin, filling) if thin is None else thin.edited(gone, shares.thin, filling)
        if shares.weights or (weights is not None and gone & weights.slots.keys()):
            weights = (weights or Weights(_nothing(layer, weight_shape(layer)), ())).edited(gone, shares.weights)
        if shares.biases or (biases is not None and gone & biases.slots.keys()):
            biases = (biases or Biases(_nothing(layer, weight_shape(layer)[:1]), ())).edited(gone, shares.biases)
        return Content(_kept(thin), _kept(weights), _kept(biases))

    def exchanged(self, names: set[str], shares: Shares) -> Content | None:
        """Return the content for when other factors were written into the rows of these adapters; None if they differ.

        It shares all memory with this one, which goes on as it is until then.
        """
        factors_alone = not (self.weights or self.biases or shares.weights or shares.biases)
        if self.thin is None or not factors_alone or names & self.thin.slots.keys() != shares.thin.keys():
            return None
        thin = self.thin.exchanged(shares.thin)
        return thin and Content(thin)

    def with_room(self, layer: nn.Module, rank: int) -> Content:
        """Return the same with room for this many rows of factors."""
        return replace(self, thin=(self.thin or _empty(layer)).with_room(rank))

    def copy(self) -> Content:
        """Return a content that shares no memory with this."""
        thin, weights, biases = self.thin, self.weights, self.biases
        return Content(thin and thin.copy(), weights and weights.copy(), biases and biases.copy())


Kept = TypeVar("Kept", Thin, Stack)


def _kept(part: Kept | None) -> Kept | None:
    """Return a part if it holds an adapter or room for one."""
    return part if part is not None and (part.slots or part.reserved) else None


class Bank(nn.Module):
    """What adapters add to one layer's output.

    Its tensors follow the layer through ``.to()``, but they are no buffers: so they never enter a ``state_dict``, and
    offload hooks, which would take them away while strengths are written, do not see them.

    Args:
        layer: what it serves.
        content: what it holds at first.
        training: whether the layer is being trained.
    """

    content: Content
    limit: Limit | None  # where on the picture its adapters act, if not everywhere
    _served: tuple[nn.Module]  # in a tuple, so that the layer does not become a child of its own bank

    def __init__(self, layer: nn.Module, content: Content, *, training: bool) -> None:
        super().__init__()
        vars(self).update(content=content, _served=(layer,), training=training, limit=None)  # quicker than one by one

    def put_in(self) -> None:
        """Begin to act: as ``add_module`` and ``register_forward_hook`` do it, without their checks."""
        layer: Any = self._served[0]
        layer._modules[CHILD] = self
        layer._forward_hooks[HOOK] = serve
        layer._forward_hooks_with_kwargs[HOOK] = True

    def take_out(self) -> None:
        """Act no longer, and leave nothing behind."""
        layer: Any = self._served[0]
        layer._modules.pop(CHILD, None)
        layer._forward_hooks.pop(HOOK, None)
        layer._forward_hooks_with_kwargs.pop(HOOK, None)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y``, the layer's own output for ``x``, with what the adapters add."""
        content, layer = self.content, self._served[0]
        if x.device != y.device:
            x = x.to(y.device)
        factors = None if self.limit is None else self.limit.factors(layer, content.parts(), y)
        if factors is not None:
            for part in content.parts():
                _follow(part, y)
                y = change_within(part, layer, x, y, factors)
            return y
        thin, weights, biases = content.thin, content.weights, content.biases
        if thin is not None and thin.acts():
            _follow(thin, y)
            y = thin.forward(layer, x, y, in_place=not torch.is_grad_enabled() and _is_fresh(layer))
        if weights is not None:
            _follow(weights, y)
            y = weights.forward(layer, x, y)
        if biases is not None:
            _follow(biases, y)
            y = biases.forward(layer, x, y)
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        """Follow the model's moves and casts; only the strengths stay in float32."""
        super()._apply(fn, recurse)
        for part in self.content.parts():
            part.moved(fn)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Bank:
        """Return a bank for the copy of the layer, without the memory that is set aside.

        Raises:
            StateError: while it is limited to regions, which a copy would not know of.
        """
        if self.limit is not None:
            raise StateError(
                "a model cannot be copied while its adapters are limited to regions: the copy's would act everywhere. "
                "End them first with loras.regions({})."
            )
        twin = Bank(copy.deepcopy(self._served[0], memo), self.content.copy(), training=self.training)
        memo[id(self)] = twin
        return twin


def _follow(part: Part, y: Tensor) -> None:
    """Move a part to where the layer computes: with CPU offload that is elsewhere than it rests."""
    if part.strength.device != y.device:
        part.moved(partial(Tensor.to, device=y.device))


def _is_fresh(layer: nn.Module) -> bool:
    """Tell whether nobody else has a layer's output: a known class made it, and no other hook saw it before."""
    hooks = layer._forward_hooks  # pyright: ignore[reportPrivateUsage]
    return (
        type(layer).forward in FRESH
        and not every_module._global_forward_hooks  # pyright: ignore[reportPrivateUsage]  # they come before the layer's
        and "forward" not in layer.__dict__
        and (len(hooks) == 1 or next(iter(hooks.values())) is serve)
    )


Original = Callable[[tuple[str, str], str], "Tensor | None"]


def serve(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Add what the layer's bank adds: the forward hook of every served layer."""
    bank = cast("Bank", layer._modules[CHILD])  # pyright: ignore[reportPrivateUsage]  # quicker than getattr
    return bank.forward(args[0] if args else next(iter(kwargs.values())), output)  # a bank has no hooks of its own


def share_of(
    layer: nn.Module, changes: Mapping[str, AdapterLayer], original: Original, place: tuple[str, str]
) -> Shares:
    """Return what adapters bring to a layer: thin factors where they have them, else the change of the weight itself.

    Args:
        layer: a layer that they fit.
        changes: adapter to its part for this layer.
        original: returns a layer's ``weight`` or ``bias`` before anything was fused into it; None if nothing was.
        place: where the layer is.

    Raises:
        ModelError: if a change needs the base weight, and that is away or cannot be unpacked.
    """
    shares = Shares()
    try:
        for name, change in changes.items():
            if type(change) is LoRA and "bias" not in change.tensors and isinstance(layer, SERVED):  # as most are
                shares.thin[name] = change.factors()
            else:
                _share(shares, layer, name, change, partial(original, place))
    except LoRAError as error:
        raise ModelError(f"{'.'.join(place)}: {error}") from error
    return shares


def _share(
    shares: Shares, layer: nn.Module, name: str, change: AdapterLayer, original: Callable[[str], Tensor | None]
) -> None:
    kept = original("bias")
    bias = change.bias_delta(cast("Tensor | None", getattr(layer, "bias", None)) if kept is None else kept)
    if bias is not None:
        shares.biases[name] = bias
    factors = change.factors() if isinstance(layer, SERVED) else None
    if factors is None and change.rank:
        why = f"an adapter of kind {change.kind!r} is computed from it"
        held = original("weight")
        weight = base_weight(layer, why) if held is None else held
        factors = change.factors_on(weight) if isinstance(layer, SERVED) else None
        if factors is None:
            shares.weights[name] = change.delta(weight.reshape(weight_shape(layer)))
    if factors is not None:
        shares.thin[name] = factors


def size_of(layer: nn.Module, change: AdapterLayer) -> int:
    """Return how many bytes a change takes in the bank of a layer: its factors, or else a whole weight."""
    count = sum(tensor.numel() for tensor in change.tensors.values())
    if change.kind not in THIN_KINDS:
        count = max(count, math.prod(weight_shape(layer)))
    return count * _home(layer)[0].itemsize


def _empty(layer: nn.Module) -> Thin:
    return Thin.empty(weight_shape(layer), *_home(layer))


def _first(layer: nn.Module, new: Mapping[str, Factors], filling: Filling) -> Thin:
    """Return the factors of adapters on a layer that had none."""
    if len(new) > 1:
        return _empty(layer).edited((), new, filling)
    [(name, part)] = new.items()
    return Thin.of(name, part, weight_shape(layer), _home(layer), filling)


def _nothing(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    dtype, device = _home(layer)
    return torch.empty(0, *shape, dtype=dtype, device=device)


def _home(layer: nn.Module) -> Home:
    """Return the precision of a bank, and where it is made.

    It has the layer's own precision, float32 where that is packed or has few digits. It stands beside the weight, or on
    the CPU while an offload hook keeps the weight away.
    """
    weight = cast("Tensor", layer.weight)
    dtype, device = weight.dtype, weight.device
    plain = dtype.is_floating_point and dtype.itemsize >= 2
    return dtype if plain else torch.float32, CPU if device.type == "meta" else device
