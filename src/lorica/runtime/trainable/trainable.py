"""Trainable low-rank factors on chosen layers of a model: fp32 masters, whatever the model's own precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lorica.adapters import Adapter, LoRA
from lorica.errors import ConfigError, ModelError, ShapeError, UnknownNameError
from lorica.rng import generator
from lorica.runtime.bank.formula import change as change_output
from lorica.runtime.model.layers import Place
from lorica.runtime.model.supported_layers import SUPPORTED, weight_shape
from lorica.runtime.model.targets import components_of, modules_of
from lorica.runtime.trainable.initials import as_plain, gaussian
from lorica.runtime.trainable.linear import FlatFactors, TrainedLinear, is_plain
from lorica.runtime.trainable.norms import shrinking
from lorica.runtime.trainable.recompute import recompute_activations


@dataclass(slots=True)
class _TrainedFactors:
    """The factors of one layer: views of the flat parameter of their component."""

    down: nn.Parameter  # (r, in, *kernel)
    up: nn.Parameter  # (out, r)
    alpha: float
    first: tuple[Tensor, Tensor] | None = None  # first values, if the change is counted from them
    site: TrainedLinear | None = None  # for a plain linear layer

    @property
    def scaling(self) -> float:
        return self.alpha / len(self.down)

    def of_change(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Factors of the change, ``(R, in, *kernel)`` and ``(out, R)``: twice the rank if counted from first values."""
        down, up = self.down.to(dtype), self.up.to(dtype)
        if self.first is None:
            return down, up
        down0, up0 = (tensor.to(dtype) for tensor in self.first)
        return torch.cat([down, down0]), torch.cat([up, -up0], dim=1)

    def layer(self) -> LoRA:
        """Copy as a value, in float32 on the CPU."""
        down, up = (factor.detach().to("cpu", copy=True) for factor in (self.down, self.up))
        if self.first is not None:
            down0, up0 = self.first
            return as_plain(down, up, down0.cpu(), up0.cpu(), self.scaling)
        return LoRA(down, up.contiguous().view(*up.shape, *[1] * (down.ndim - 2)), self.alpha)

    def copy_from(self, layer: object, where: str) -> None:
        """Set both factors to those of a layer of the same shape and alpha."""
        if not isinstance(layer, LoRA):
            raise ShapeError(f"{where}: expected a LoRA layer to start from, got {type(layer).__name__}.")
        shapes = (layer.down.shape, layer.up.shape[:2])
        if shapes != (self.down.shape, self.up.shape) or layer.alpha != self.alpha:
            raise ShapeError(
                f"{where}: expected down {tuple(self.down.shape)}, up {tuple(self.up.shape)} and alpha {self.alpha:g}, "
                f"got {layer}."
            )
        self.down.data.copy_(layer.down)
        self.up.data.copy_(layer.up.flatten(1))


class Trainable:
    """A new LoRA on chosen layers, with parameters to optimize. The model itself is neither frozen nor changed.

    All factors of a component are views of one flat parameter, and their gradients of its gradient, so that clipping
    and the optimizer cost one kernel each. So gradients must be zeroed in place (:meth:`zero_grad`), never set to None.

    Args:
        model: a pipeline, a module, or modules by component.
        modules: component to the paths of the layers to train.
        rank: the inner size ``r``, one for all or by place (component and path).
        alpha: ``alpha / r`` scales the change, one for all or by place; None stands for ``r``.
        seed: ``down`` is drawn from N(0, 1/r), a function of this seed, the layer's path and its rank; ``up`` starts
            at 0. None for a fresh seed from torch's own generator, which ``torch.manual_seed`` fixes.
        dropout: share of a layer's inputs that its adapter drops, see :meth:`set_dropout_key`; one for all or by place.

    Raises:
        UnknownNameError: if a component or path does not exist.
        ModelError: if a layer cannot carry an adapter.
        ConfigError: if a rank, alpha or dropout is out of range.
    """

    def __init__(
        self,
        model: Any,
        modules: Mapping[str, Sequence[str]],
        *,
        rank: int | Mapping[Place, int],
        alpha: float | Mapping[Place, float] | None = None,
        seed: int | str | None = None,
        dropout: float | Mapping[Place, float] = 0.0,
    ) -> None:
        parts = cast("Mapping[str, nn.Module]", model) if isinstance(model, Mapping) else components_of(model)
        self._layers = _find_layers(parts, modules)
        ranks = {place: rank if isinstance(rank, int) else rank[place] for place in self._layers}
        alphas = {place: _alpha_of(place, alpha, ranks[place]) for place in self._layers}
        dropouts = {place: dropout if isinstance(dropout, float | int) else dropout[place] for place in self._layers}
        _check(min(ranks.values()), min(alphas.values()), dropouts.values())
        self._dropouts, self._key, self._on = dropouts, "", True
        self._flat: dict[str, FlatFactors] = {}
        self._factors: dict[Place, _TrainedFactors] = {}
        # One seed for all runs would let adapters of different subjects share their inputs, and disturb each other.
        first = int(torch.randint(2**62, ()).item()) if seed is None else seed
        for component in modules:
            self._make_component(component, ranks, alphas, first)
        self._handles = [parts[name].register_forward_pre_hook(flat.refresh) for name, flat in self._flat.items()]
        self._parts = {component: parts[component] for component in self._flat}
        for place in self._layers:
            self._handles += self._hook(place)

    def parameters(self) -> list[nn.Parameter]:
        """Parameters for an optimizer: one flat fp32 parameter a component, with its gradient already in place."""
        return [flat.master for flat in self._flat.values()]

    def by_component(self) -> dict[str, nn.Parameter]:
        """The flat parameter of each component, for learning rates of their own."""
        return {component: flat.master for component, flat in self._flat.items()}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The factors by name, such as ``unet/mid_block.attentions.0.proj_in/down``, in a fixed order."""
        named: dict[str, nn.Parameter] = {}
        for (component, path), factors in self._factors.items():
            named[f"{component}/{path}/down"], named[f"{component}/{path}/up"] = factors.down, factors.up
        return named

    @property
    def modules(self) -> dict[str, list[str]]:
        """Paths of the layers that are trained, by component."""
        found: dict[str, list[str]] = {}
        for component, path in self._factors:
            found.setdefault(component, []).append(path)
        return found

    def zero_grad(self) -> None:
        """Zero all gradients in place."""
        for flat in self.parameters():
            cast("Tensor", flat.grad).zero_()

    def adapter(self) -> Adapter:
        """Copy of the factors as a value, in float32 on the CPU."""
        components: dict[str, dict[str, LoRA]] = {}
        for (component, path), factors in self._factors.items():
            components.setdefault(component, {})[path] = factors.layer()
        return Adapter(components)

    @torch.no_grad()
    def copy_from(self, adapter: Adapter) -> None:
        """Set the factors to those of an adapter with the same layers, ranks and alpha."""
        given = {(component, path): layer for component, path, layer in adapter.layers()}
        if given.keys() != self._factors.keys():
            difference = sorted(f"{component}.{path}" for component, path in given.keys() ^ self._factors.keys())
            raise ShapeError(f"the adapter and the layers to train differ; not in both: {', '.join(difference[:5])}.")
        for place, factors in self._factors.items():
            factors.copy_from(given[place], ".".join(place))

    @torch.no_grad()
    def count_from_here(self) -> None:
        """Count the change from the factors as they are now: ``scaling * (up @ down - up0 @ down0)``.

        So first values that are not 0, as those of PiSSA, leave the model as it is. :meth:`adapter` has twice the rank.
        """
        for factors in self._factors.values():
            factors.first = factors.down.detach().clone(), factors.up.detach().clone()

    @torch.no_grad()
    def limit_norms(self, longest: float) -> None:
        """Shrink both factors of each layer whose change has a Frobenius norm above ``longest``, in place."""
        for factors in self._factors.values():
            factor = shrinking(factors.down, factors.up, factors.scaling, longest).to(factors.down)
            factors.down.mul_(factor)
            factors.up.mul_(factor)

    def set_dropout_key(self, key: str) -> None:
        """Set the key of the step and micro-batch that follow: dropout masks are a function of it and the layer."""
        self._key = key

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """Switch the adapter on or off within the ``with`` block."""
        before, self._on = self._on, on
        try:
            yield
        finally:
            self._on = before

    def recompute_activations(self) -> None:
        """Save fewer activations for the backward pass and compute them again there: a few percent slower.

        The gradients stay the same, bit for bit.
        """
        for part in self._parts.values():
            self._handles += recompute_activations(part)

    def detach(self) -> None:
        """Remove all hooks: the model is what it was."""
        for handle in self._handles:
            handle.remove()

    def _make_component(
        self, component: str, ranks: Mapping[Place, int], alphas: Mapping[Place, float], seed: int | str
    ) -> None:
        """Make the flat parameter of a component, its gradient, and the views that are the factors."""
        places = [place for place in self._layers if place[0] == component]
        shapes = {place: _factor_shapes(self._layers[place], ranks[place]) for place in places}
        count = sum(math.prod(down) + math.prod(up) for down, up in shapes.values())
        device = cast("Tensor", self._layers[places[0]].weight).device
        flat = self._flat[component] = FlatFactors(count, device)
        start = 0
        for place, (down, up) in shapes.items():
            middle = start + math.prod(down)
            factors = _TrainedFactors(flat.view(start, down), flat.view(middle, up, transposed=True), alphas[place])
            if is_plain(layer := self._layers[place]):
                factors.site = TrainedLinear(flat, start, layer, ranks[place], factors.scaling)
            source = generator(seed, "initial", component, place[1], ranks[place])
            factors.down.data.copy_(gaussian(weight_shape(self._layers[place]), ranks[place], source).down)
            self._factors[place] = factors
            start = middle + math.prod(up)

    def _hook(self, place: Place) -> list[RemovableHandle]:
        """Hook a layer: its change is one node of autograd where that is possible, and otherwise plain operations."""
        layer, factors, slow = self._layers[place], self._factors[place], self._plain_hook(place)
        share = self._dropouts[place]
        if (site := factors.site) is None:
            return [layer.register_forward_hook(slow, with_kwargs=True)]

        # Whatever the node cannot do (dropout, first values, compiled graphs) is left to the plain hook, call by call.
        def before(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
            lean = self._on and factors.first is None and not (share and layer.training) and len(args) == 1
            return site.before(layer, args[0] if lean and not torch.compiler.is_compiling() else None)

        def after(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            return site.after(layer, output) if site.waits else slow(layer, args, kwargs, output)

        return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after, with_kwargs=True)]

    def _plain_hook(self, place: Place) -> Any:
        factors, share, name = self._factors[place], self._dropouts[place], f"{place[0]}/{place[1]}"

        def add_change(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            if not self._on:
                return output
            x = args[0] if args else kwargs["input"]
            dtype = output.dtype
            if x.is_floating_point():
                x = self._drop(x.to(dtype), name, share if layer.training else 0.0)
            return change_output(layer, x, output, *factors.of_change(dtype), factors.scaling)

        return add_change

    def _drop(self, x: Tensor, name: str, share: float) -> Tensor:
        if not share:
            return x
        source = generator(self._key, "dropout", name)
        kept = torch.rand(x.shape, generator=source) >= share
        return x * kept.to(x.device, x.dtype) / (1 - share)


def _alpha_of(place: Place, alpha: float | Mapping[Place, float] | None, rank: int) -> float:
    if alpha is None:
        return float(rank)
    return float(alpha if isinstance(alpha, float | int) else alpha.get(place, rank))


def _check(rank: int, alpha: float, dropouts: Iterable[float]) -> None:
    if rank < 1:
        raise ConfigError(f"the rank must be at least 1, got {rank}.")
    if not alpha > 0:
        raise ConfigError(f"alpha must be above 0, got {alpha}.")
    wrong = next((share for share in dropouts if not 0 <= share < 1), None)
    if wrong is not None:
        raise ConfigError(f"the dropout must be at least 0 and below 1, got {wrong}.")


def _find_layers(parts: Mapping[str, nn.Module], modules: Mapping[str, Sequence[str]]) -> dict[Place, nn.Module]:
    layers: dict[Place, nn.Module] = {}
    for component, paths in modules.items():
        if component not in parts:
            raise UnknownNameError.choose("component", component, parts)
        if not paths:
            raise ConfigError(f"no layer of {component!r} is named to be trained; leave the component out instead.")
        known = modules_of(parts[component])
        for path in paths:
            if path not in known:
                raise UnknownNameError.among_many("module", path, list(known))
            layers[component, path] = known[path]
    return layers


def _factor_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(layer, SUPPORTED):
        raise ModelError(f"a {type(layer).__name__} cannot carry a trainable adapter.")
    out, *rest = weight_shape(layer)
    return (rank, *rest), (out, rank)
